//! A fresh database for every test, on each of the three kinds.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use sqlx::{AssertSqlSafe, Connection, MySqlConnection, PgConnection};
use tempfile::TempDir;

const ADMIN_BOUND: Duration = Duration::from_secs(20);

/// The databases that the program supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
    Mysql,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Sqlite, Self::Postgres, Self::Mysql];
}

/// An empty database that nobody else uses and that goes when this value goes.
pub(crate) struct TestDatabase {
    kind: Kind,
    url: String,
    place: Place,
}

enum Place {
    File(TempDir),
    Server(ServerDatabase),
}

impl TestDatabase {
    pub(crate) async fn create(kind: Kind) -> Self {
        match kind {
            Kind::Sqlite => Self::in_a_file(),
            Kind::Postgres | Kind::Mysql => Self::on_a_server(kind).await,
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// What goes into `DATABASE_URL`.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The directory of the database file, where there is one.
    pub(crate) fn directory(&self) -> Option<&Path> {
        match &self.place {
            Place::File(directory) => Some(directory.path()),
            Place::Server(_) => None,
        }
    }

    /// The database file, where there is one. Making it is left to the program, as on a first start.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        self.directory().map(|directory| directory.join(FILE_NAME))
    }

    fn in_a_file() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let url = format!("sqlite://{}", directory.path().join(FILE_NAME).display());
        Self { kind: Kind::Sqlite, url, place: Place::File(directory) }
    }

    async fn on_a_server(kind: Kind) -> Self {
        let admin_url = server_url(kind);
        let name = format!("wxt_{:016x}", rand::random::<u64>());
        let mut url = admin_url.clone();
        url.set_path(&name);
        let database = ServerDatabase { kind, admin_url, name };
        database.create().await;
        Self { kind, url: url.into(), place: Place::Server(database) }
    }
}

const FILE_NAME: &str = "wxtoken.db";

fn server_url(kind: Kind) -> Url {
    let name = if kind == Kind::Postgres { "WXTOKEN_TEST_POSTGRES" } else { "WXTOKEN_TEST_MYSQL" };
    let Some(value) = std::env::var_os(name) else {
        panic!(
            "{name} is not set: run the tests with tests/run.sh, or start the servers with tests/run.sh --serve-databases"
        );
    };
    let text = value.to_str().unwrap_or_else(|| panic!("{name} is not UTF-8"));
    Url::parse(text).unwrap_or_else(|error| panic!("{name} is not a URL: {error}"))
}

struct ServerDatabase {
    kind: Kind,
    admin_url: Url,
    name: String,
}

impl ServerDatabase {
    async fn create(&self) {
        // On MySQL a default that ignores case: an identifier column without a collation of its own is found out.
        let options = if self.kind == Kind::Mysql { " CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci" } else { "" };
        let statement = format!("CREATE DATABASE {}{options}", self.name);
        if let Err(error) = administer(self.kind, &self.admin_url, statement).await {
            panic!("the {:?} server of the tests made no database: {error}", self.kind);
        }
    }
}

impl Drop for ServerDatabase {
    fn drop(&mut self) {
        // PostgreSQL refuses to drop a database that still has connections.
        let options = if self.kind == Kind::Postgres { " WITH (FORCE)" } else { "" };
        let statement = format!("DROP DATABASE {}{options}", self.name);
        let (kind, admin_url) = (self.kind, self.admin_url.clone());
        // A thread of its own, because the test's runtime can't be blocked on from inside. A database that stays is no
        // failure of the test that used it: the server is thrown away with all its data.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(administer(kind, &admin_url, statement)).map_err(std::io::Error::other)
        });
        dropping.join().ok();
    }
}

/// One statement on a connection of its own: the servers' connections are for the tests.
async fn administer(kind: Kind, url: &Url, statement: String) -> Result<(), sqlx::Error> {
    let work = async {
        let query = sqlx::raw_sql(AssertSqlSafe(statement));
        if kind == Kind::Postgres {
            let mut connection = PgConnection::connect(url.as_str()).await?;
            query.execute(&mut connection).await?;
            connection.close().await
        } else {
            let mut connection = MySqlConnection::connect(url.as_str()).await?;
            query.execute(&mut connection).await?;
            connection.close().await
        }
    };
    tokio::time::timeout(ADMIN_BOUND, work).await.map_err(|elapsed| sqlx::Error::Io(elapsed.into()))?
}

/// Stamps each `async fn name(db: TestDatabase)` into the tests `name::sqlite`, `name::postgres` and `name::mysql`.
macro_rules! on_every_database {
    ($($(#[$attribute:meta])* async fn $name:ident($database:ident: TestDatabase) $body:block)+) => {$(
        $(#[$attribute])*
        async fn $name($database: $crate::support::database::TestDatabase) $body

        $crate::support::database::tests_on!($name: sqlite Sqlite, postgres Postgres, mysql Mysql);
    )+};
}
pub(crate) use on_every_database;

/// The same without `name::sqlite`.
macro_rules! on_both_servers {
    ($(async fn $name:ident($database:ident: TestDatabase) $body:block)+) => {$(
        async fn $name($database: $crate::support::database::TestDatabase) $body

        $crate::support::database::tests_on!($name: postgres Postgres, mysql Mysql);
    )+};
}
pub(crate) use on_both_servers;

macro_rules! tests_on {
    ($name:ident: $($test:ident $kind:ident),+) => {
        mod $name {
            use $crate::support::database::{Kind, TestDatabase};
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $test() {
                    super::$name(TestDatabase::create(Kind::$kind).await).await;
                }
            )+
        }
    };
}
pub(crate) use tests_on;
