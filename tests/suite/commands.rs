//! The commands that work on the machine itself, run as the real program.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sqlx::{AssertSqlSafe, Connection, MySqlConnection, PgConnection, Row, SqliteConnection};
use wxtoken::clock::Clock;
use wxtoken::config::{Settings, Sources};
use wxtoken::seal::MasterKey;
use wxtoken::startup::{StartError, open_database};
use wxtoken::store::db::Db;

use crate::support::database::{Kind, TestDatabase, on_every_database};
use crate::support::process::MASTER_KEY;

const CONFIGURATION: Option<i32> = Some(78);
const OTHER_MASTER_KEY: &str = "Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=";

fn run(directory: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_wxtoken"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .current_dir(directory)
        .output()
        .expect("the program can be started")
}

fn talk(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// One command against a database, with or without a master key, in a directory of its own.
fn on(database: &TestDatabase, command: &str, master_key: Option<&str>) -> Output {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let mut environment = vec![
        ("DATABASE_URL", database.url()),
        ("WXTOKEN_LISTEN", "127.0.0.1:0"),
        ("WXTOKEN_WECHAT_URL", "http://127.0.0.1:9"),
    ];
    environment.extend(master_key.map(|key| ("WXTOKEN_MASTER_KEY", key)));
    run(directory.path(), &[command], &environment)
}

async fn execute(database: &TestDatabase, script: &'static str) {
    // Closed before anybody looks: SQLite moves its log into the file when the last connection goes.
    macro_rules! run_script {
        ($connection:ty) => {{
            let mut connection = <$connection>::connect(database.url()).await.expect("the database answers");
            sqlx::raw_sql(AssertSqlSafe(script)).execute(&mut connection).await.expect("the script runs");
            connection.close().await.expect("a connection can be closed");
        }};
    }
    match database.kind() {
        Kind::Sqlite => run_script!(SqliteConnection),
        Kind::Postgres => run_script!(PgConnection),
        Kind::Mysql => run_script!(MySqlConnection),
    }
}

/// What must not change: an SQLite database's files as they are, a server's rows on keys and migrations.
async fn state(database: &TestDatabase) -> Vec<Vec<u8>> {
    const ROWS: &str = "SELECT key_id, check_value FROM wx_master_key ORDER BY key_id";
    const STEPS: &str = "SELECT description, CAST(version AS CHAR(20)) FROM wx_migrations ORDER BY version";
    macro_rules! dump {
        ($connection:expr) => {{
            let mut connection = $connection.expect("the server answers");
            let mut cells = Vec::new();
            for sql in [ROWS, STEPS] {
                for row in sqlx::query(sql).fetch_all(&mut connection).await.expect("the tables are there") {
                    cells.extend([row.get::<String, _>(0).into_bytes(), row.get::<String, _>(1).into_bytes()]);
                }
            }
            cells
        }};
    }
    match database.kind() {
        Kind::Sqlite => {
            let path = database.path().expect("SQLite has a file");
            let log = path.with_extension("db-wal");
            vec![fs::read(path).expect("the file is there"), fs::read(log).unwrap_or_default()]
        }
        Kind::Postgres => dump!(PgConnection::connect(database.url()).await),
        Kind::Mysql => dump!(MySqlConnection::connect(database.url()).await),
    }
}

/// Opens the database as a start does, and closes it again. Answers the key file that this made.
async fn open(database: &TestDatabase, master_key: Option<&str>) -> Result<Option<PathBuf>, StartError> {
    let no_file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    let given = [("DATABASE_URL", database.url()), ("WXTOKEN_MASTER_KEY", master_key.unwrap_or_default())];
    let environment = given.map(|(name, value)| (name.into(), value.into()));
    let sources = Sources::gather(Some(no_file.path()), environment, []);
    let settings = Settings::parse(&sources).expect("the settings are right");
    let opened = open_database(&settings, &Clock::new()).await?;
    opened.db.close().await;
    Ok(opened.made_key_file)
}

/// A database that has been served under [`MASTER_KEY`].
async fn sealed(database: &TestDatabase) {
    assert_eq!(open(database, Some(MASTER_KEY)).await.expect("a fresh database takes every key"), None);
}

#[test]
fn a_generated_master_key_can_be_used_and_is_all_of_the_output() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let keys = [(); 2].map(|()| {
        let output = run(directory.path(), &["master-key", "generate"], &[]);
        assert_eq!(output.status.code(), Some(0), "{}", talk(&output));
        assert!(talk(&output).contains("WXTOKEN_MASTER_KEY"));
        String::from_utf8(output.stdout).expect("base64 is text")
    });
    assert!(keys.iter().all(|key| MasterKey::parse(key).is_ok() && key.lines().count() == 1));
    assert_ne!(keys[0], keys[1]);
    assert_eq!(fs::read_dir(directory.path()).expect("it is there").count(), 0);
}

#[test]
fn every_wrong_setting_is_told_at_once() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    fs::write(directory.path().join(".env"), "WXTOKEN_LISTEN=nowhere\nWXTOKEN_ADMIN_KEY=canary with spaces\n")
        .expect("a file can be written");
    let environment = [("WXTOKEN_LOG_FORMAT", "canary"), ("WXTOKEN_LISTENS", "x")];
    for arguments in [&["serve"][..], &["migrate"], &[]] {
        let output = run(directory.path(), arguments, &environment);
        let talk = talk(&output);
        assert_eq!(output.status.code(), CONFIGURATION, "{talk}");
        for part in
            [".env, line 2", "WXTOKEN_LISTEN must be", "WXTOKEN_LOG_FORMAT must be", "did you mean WXTOKEN_LISTEN?"]
        {
            assert!(talk.contains(part), "{part} is missing in:\n{talk}");
        }
        assert!(!talk.contains("canary") && output.stdout.is_empty(), "{talk}");
    }
}

#[test]
fn words_that_are_no_command_are_a_usage_error() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    assert_eq!(run(directory.path(), &["sevre"], &[]).status.code(), Some(2));
    let help = run(directory.path(), &["--help"], &[]);
    assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("migrate"));
}

#[test]
fn a_server_that_is_away_is_told_from_a_mistake() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    for (url, code) in [
        ("postgres://u:canary@127.0.0.1:9/db", 69),
        ("mysql://u:canary@127.0.0.1:9/db", 69),
        ("postgres://u:canary@127.0.0.1:port/db", 78),
        ("sqlite::memory:", 78),
        ("sqlite://no/such/folder/wx.db", 69),
    ] {
        let output = run(directory.path(), &["migrate"], &[("DATABASE_URL", url)]);
        assert_eq!(output.status.code(), Some(code), "{url}: {}", talk(&output));
        assert!(!talk(&output).contains("canary"), "{}", talk(&output));
    }
}

on_every_database! {
    async fn migrating_twice_changes_nothing_the_second_time(db: TestDatabase) {
        for words in ["made the schema", "is up to date"] {
            let output = on(&db, "migrate", None);
            assert_eq!(output.status.code(), Some(0), "{}", talk(&output));
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(said.contains(words) && said.lines().count() == 1, "{said}");
        }
    }

    async fn a_newer_schema_is_refused_without_a_write(db: TestDatabase) {
        sealed(&db).await;
        // The second names a program that is later than this one.
        for step in [
            "INSERT INTO wx_migrations (version, description, success, checksum, execution_time)
             SELECT 9999, 'later', success, checksum, 0 FROM wx_migrations WHERE version = 1",
            "UPDATE wx_migrations SET description = 'later (works with 9998 and later)' WHERE version = 9999",
        ] {
            execute(&db, step).await;
            let before = state(&db).await;
            for command in ["migrate", "serve"] {
                let output = on(&db, command, Some(MASTER_KEY));
                assert_eq!(output.status.code(), Some(1), "{}", talk(&output));
                assert!(talk(&output).contains("schema version 9999"), "{}", talk(&output));
                assert!(state(&db).await == before, "{command} changed the database");
            }
        }
    }

    async fn migrate_leaves_a_newer_schema_that_works_with_this_program_as_it_is(db: TestDatabase) {
        sealed(&db).await;
        execute(
            &db,
            "INSERT INTO wx_migrations (version, description, success, checksum, execution_time)
             SELECT 9999, 'later (works with 8 and later)', success, checksum, 0 FROM wx_migrations WHERE version = 1",
        )
        .await;
        let before = state(&db).await;
        let output = on(&db, "migrate", None);
        assert_eq!(output.status.code(), Some(0), "{}", talk(&output));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("9999, and works with this program") && said.lines().count() == 1, "{said}");
        assert!(state(&db).await == before);
    }

    async fn an_unusable_master_key_stops_the_start_and_leaves_the_database_as_it_was(db: TestDatabase) {
        sealed(&db).await;
        let before = state(&db).await;
        for (key, words) in [
            (Some(OTHER_MASTER_KEY), "this database is sealed under"),
            (Some("c2hvcnQ="), "5 bytes"),
            (Some("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="), "placeholder"),
            (Some("change me"), "not base64"),
            (None, "WXTOKEN_MASTER_KEY"),
        ] {
            let output = on(&db, "serve", key);
            assert_eq!(output.status.code(), CONFIGURATION, "{key:?}: {}", talk(&output));
            assert!(talk(&output).contains(words), "{key:?}: {}", talk(&output));
            assert!(state(&db).await == before, "{key:?} changed the database");
            if key.is_some() {
                assert_eq!(on(&db, "migrate", key).status.code(), CONFIGURATION, "{key:?}");
                assert!(state(&db).await == before, "{key:?} changed the database");
            }
        }
        assert_eq!(on(&db, "migrate", Some(MASTER_KEY)).status.code(), Some(0));
    }
}

#[tokio::test]
async fn on_sqlite_the_first_start_makes_a_key_that_later_ones_find() {
    for is_migrated in [false, true] {
        let db = TestDatabase::create(Kind::Sqlite).await;
        let path = db.path().expect("SQLite has a file");
        let key_file = path.with_extension("master-key");
        if is_migrated {
            assert_eq!(on(&db, "migrate", None).status.code(), Some(0));
        } else {
            fs::write(&path, "").expect("an empty file can be made");
        }
        assert!(!key_file.exists(), "no schema needs a key");
        assert_eq!(open(&db, None).await.expect("a first start succeeds"), Some(key_file.clone()));
        let key = fs::read_to_string(&key_file).expect("the key file was made");
        assert_eq!(fs::metadata(&key_file).expect("it is there").permissions().mode() & 0o777, 0o600);

        assert_eq!(open(&db, None).await.expect("the key is found"), None);
        assert_eq!(open(&db, Some(&key)).await.expect("the key is that of the database"), None);
        assert_eq!(fs::read_to_string(&key_file).expect("it is still there"), key);
    }
}

#[tokio::test]
async fn on_sqlite_a_key_file_that_is_lost_or_exposed_stops_the_start() {
    let db = TestDatabase::create(Kind::Sqlite).await;
    let key_file = open(&db, None).await.expect("a first start succeeds").expect("it makes a key");
    let before = state(&db).await;
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o640)).expect("the mode can be changed");
    let output = on(&db, "serve", None);
    assert_eq!(output.status.code(), CONFIGURATION);
    assert!(talk(&output).contains(&format!("chmod 600 '{}'", key_file.display())), "{}", talk(&output));

    fs::remove_file(&key_file).expect("the file can be removed");
    let output = on(&db, "serve", None);
    assert_eq!(output.status.code(), CONFIGURATION);
    assert!(talk(&output).contains(&key_file.display().to_string()), "{}", talk(&output));
    assert!(!key_file.exists() && state(&db).await == before);
}

#[tokio::test]
async fn a_sqlite_file_in_use_is_told_from_a_mistake() {
    let db = TestDatabase::create(Kind::Sqlite).await;
    let in_use = Db::open(db.url()).await.expect("the database opens");
    let output = on(&db, "serve", Some(MASTER_KEY));
    assert_eq!(output.status.code(), Some(69), "{}", talk(&output));
    in_use.close().await;
}
