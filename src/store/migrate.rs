//! The schema and its steps, embedded in the binary: the same numbers and names for each database.

use std::borrow::Cow;

use sqlx::migrate::{Migration, MigrationType, Migrator};

use super::StoreError;
use super::db::{Db, Dialect, migration_kind_of};

const TABLE: &str = "wx_migrations";

struct Step {
    version: i64,
    name: &'static str,
    sqlite: &'static str,
    postgres: &'static str,
    mysql: &'static str,
}

/// Embeds one step's three files; a file that one of the trees lacks does not compile.
macro_rules! step {
    ($version:literal, $name:literal) => {
        Step {
            version: $version,
            name: $name,
            sqlite: include_str!(concat!("../../migrations/sqlite/000", $version, "_", $name, ".sql")),
            postgres: include_str!(concat!("../../migrations/postgres/000", $version, "_", $name, ".sql")),
            mysql: include_str!(concat!("../../migrations/mysql/000", $version, "_", $name, ".sql")),
        }
    };
}

/// Every step in order. One that has been released is never edited; a change is a new step.
const STEPS: &[Step] = &[
    step!(1, "accounts"),
    step!(2, "tokens"),
    step!(3, "history"),
    step!(4, "keys"),
    step!(5, "audit"),
    step!(6, "master_key"),
    step!(7, "report_refreshes"),
    step!(8, "report_accounts"),
];

/// How a database's schema stands against this program's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// No table of ours yet.
    Empty,
    /// Some steps are missing.
    Older {
        /// The last step found.
        found: i64,
    },
    /// Every step is there.
    Current,
}

/// The last step that this program knows.
pub const fn latest() -> i64 {
    STEPS[STEPS.len() - 1].version
}

/// Reads how the schema stands, without a write.
///
/// # Errors
/// [`StoreError::NewerSchema`] when the database has steps that this program does not know.
pub async fn inspect(db: &Db) -> Result<Schema, StoreError> {
    if !db.table_exists(TABLE).await? {
        return Ok(Schema::Empty);
    }
    // MySQL commits in the middle of a step, so that one may be seen, or left for good, begun and not done.
    let steps: Vec<(i64, bool)> =
        db.fetch_all("SELECT version, success FROM wx_migrations ORDER BY version DESC", &[]).await?;
    if let Some(&(found, _)) = steps.first().filter(|(version, _)| *version > latest()) {
        return Err(StoreError::NewerSchema { found, known: latest() });
    }
    Ok(match steps.iter().find(|(_, success)| *success) {
        None => Schema::Empty,
        Some(&(found, _)) if found < latest() => Schema::Older { found },
        Some(_) => Schema::Current,
    })
}

/// Applies the steps that are missing. Several instances may do so at once: one works, the others wait.
///
/// # Errors
/// [`StoreError::NewerSchema`] before any write, or what the database said.
pub async fn bring_up_to_date(db: &Db) -> Result<Schema, StoreError> {
    let before = inspect(db).await?;
    if before != Schema::Current {
        let steps = STEPS.iter().map(|step| migration(step, db.dialect())).collect();
        let mut migrator = Migrator::with_migrations(steps);
        migrator.dangerous_set_table_name(TABLE);
        db.migrate(migrator).await.map_err(|source| {
            let kind = migration_kind_of(&source);
            StoreError::Migration { kind, source: source.into() }
        })?;
    }
    Ok(before)
}

fn migration(step: &Step, dialect: Dialect) -> Migration {
    let sql = match dialect {
        Dialect::Sqlite => step.sqlite,
        Dialect::Postgres => step.postgres,
        Dialect::Mysql => step.mysql,
    };
    let kind = MigrationType::Simple;
    Migration::new(step.version, Cow::Borrowed(step.name), kind, sqlx::SqlSafeStr::into_sql_str(sql), false)
}
