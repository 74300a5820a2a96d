//! The schema and its steps, embedded in the binary: the same numbers and names for each database.
//!
//! # Adding a step
//!
//! While a fleet is upgraded, the first new instance brings the schema up to date and the old ones go on with it. So a step after the
//! eighth only adds: a table, an index, a column that may be NULL or has a default, a view in place of one with the same columns first. It
//! never drops, renames or narrows what an older program reads or writes; that waits until no program that does so is left, at least one
//! level later. A test holds the files to this.
//!
//! A step names the oldest level whose program works on a schema that has it: `step!(9, "key_profile", works_with 8)`. That goes into the
//! description in `wx_migrations`, where an older program finds it: one that reads `key_profile (works with 8 and later)` and knows level
//! 8 serves, one that knows 7 refuses the database and leaves it alone. The steps up to 8 say nothing, and say the same for ever.

use std::borrow::Cow;

use sqlx::migrate::{Migration, MigrationType, Migrator};

use super::StoreError;
use super::db::{Db, Dialect, migration_kind_of};

const TABLE: &str = "wx_migrations";

struct Step {
    version: i64,
    description: &'static str,
    sqlite: &'static str,
    postgres: &'static str,
    mysql: &'static str,
}

/// The zeros before a step's number in the name of its files, which has four digits.
macro_rules! zeros {
    (1) => {
        "000"
    };
    (2) => {
        "000"
    };
    (3) => {
        "000"
    };
    (4) => {
        "000"
    };
    (5) => {
        "000"
    };
    (6) => {
        "000"
    };
    (7) => {
        "000"
    };
    (8) => {
        "000"
    };
    (9) => {
        "000"
    };
    ($of_two_digits:tt) => {
        "00"
    };
}

/// Embeds one step's three files; a file that one of the trees lacks does not compile.
macro_rules! step {
    ($version:tt, $name:literal, works_with $oldest:literal) => {
        step!($version, $name, concat!($name, " (works with ", $oldest, " and later)"))
    };
    ($version:tt, $name:literal) => {
        step!($version, $name, $name)
    };
    ($version:tt, $name:literal, $description:expr) => {
        Step {
            version: $version,
            description: $description,
            sqlite: include_str!(concat!("../../migrations/sqlite/", zeros!($version), $version, "_", $name, ".sql")),
            postgres: include_str!(concat!(
                "../../migrations/postgres/",
                zeros!($version),
                $version,
                "_",
                $name,
                ".sql"
            )),
            mysql: include_str!(concat!("../../migrations/mysql/", zeros!($version), $version, "_", $name, ".sql")),
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
    step!(9, "key_profile", works_with 8),
    step!(10, "mirrors", works_with 8),
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
    /// Every step is there, and later ones that work with this program.
    Newer {
        /// The last step found.
        found: i64,
    },
}

/// The last step that this program knows.
pub const fn latest() -> i64 {
    STEPS[STEPS.len() - 1].version
}

/// Reads how the schema stands, without a write.
///
/// # Errors
/// [`StoreError::NewerSchema`] when the database has steps that this program does not know and that do not work with it.
pub async fn inspect(db: &Db) -> Result<Schema, StoreError> {
    if !db.table_exists(TABLE).await? {
        return Ok(Schema::Empty);
    }
    // MySQL commits in the middle of a step, so that one may be seen, or left for good, begun and not done.
    let sql = "SELECT version, description, success FROM wx_migrations ORDER BY version DESC";
    let steps: Vec<(i64, String, bool)> = db.fetch_all(sql, &[]).await?;
    let (newer, known): (Vec<_>, Vec<_>) = steps.into_iter().partition(|(version, ..)| *version > latest());
    let newest = newer.first().map(|(version, ..)| *version);
    if let Some(found) = newest
        && !newer.iter().all(|(_, description, _)| works_with(description).is_some_and(|oldest| oldest <= latest()))
    {
        return Err(StoreError::NewerSchema { found, known: latest() });
    }
    let done = known.iter().find(|(.., success)| *success).map(|(version, ..)| *version);
    Ok(match (done, newest) {
        (None, _) => Schema::Empty,
        (Some(found), _) if found < latest() => Schema::Older { found },
        (_, Some(found)) => Schema::Newer { found },
        (_, None) => Schema::Current,
    })
}

/// The oldest level whose program works on a schema with this step, by its description.
fn works_with(description: &str) -> Option<i64> {
    let (_, words) = description.rsplit_once(" (works with ")?;
    words.strip_suffix(" and later)")?.parse().ok()
}

/// Applies the steps that are missing. Several instances may do so at once: one works, the others wait.
///
/// # Errors
/// [`StoreError::NewerSchema`] before any write, or what the database said.
pub async fn bring_up_to_date(db: &Db) -> Result<Schema, StoreError> {
    let before = inspect(db).await?;
    if matches!(before, Schema::Empty | Schema::Older { .. }) {
        let steps = STEPS.iter().map(|step| migration(step, db.dialect())).collect();
        let mut migrator = Migrator::with_migrations(steps);
        migrator.dangerous_set_table_name(TABLE);
        // A later program may have been quicker; whether we work with its steps is seen afterwards.
        migrator.set_ignore_missing(true);
        db.migrate(migrator).await.map_err(|source| {
            let kind = migration_kind_of(&source);
            StoreError::Migration { kind, source: source.into() }
        })?;
        inspect(db).await?;
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
    Migration::new(step.version, Cow::Borrowed(step.description), kind, sqlx::SqlSafeStr::into_sql_str(sql), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_says_whom_the_step_works_with() {
        assert_eq!(works_with(step!(8, "report_accounts", works_with 7).description), Some(7));
        assert_eq!(works_with("a (works with 3 and later) (works with 12 and later)"), Some(12));
        for silent in ["accounts", "", "a (works with 8)", "a (works with eight and later)", "works with 8 and later)"]
        {
            assert_eq!(works_with(silent), None, "{silent}");
        }
        assert!(STEPS.iter().all(|step| (step.version > 8) == works_with(step.description).is_some()));
    }
}
