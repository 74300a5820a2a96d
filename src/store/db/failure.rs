//! What each driver's errors mean to us.

use sqlx::migrate::MigrateError;
use sqlx::mysql::MySqlDatabaseError;
use sqlx::sqlite::SqliteError;

use crate::store::FailureKind;

/// What the caller of a failed statement needs to know about it.
pub(in crate::store) fn kind_of(error: &sqlx::Error) -> FailureKind {
    let sqlx::Error::Database(error) = error else {
        return match error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => FailureKind::Unavailable,
            _ => FailureKind::Other,
        };
    };
    if error.is_unique_violation() {
        return FailureKind::Duplicate;
    }
    if let Some(error) = error.try_downcast_ref::<MySqlDatabaseError>() {
        return match error.number() {
            1205 | 1213 => FailureKind::Conflict,
            1044 | 1045 | 1049 | 1146 | 1698 => FailureKind::Closed,
            1021 | 1040 | 1053 | 1114 | 1203 | 1226 | 1290 | 1792 | 1836 | 1927 => FailureKind::Unavailable,
            _ => FailureKind::Other,
        };
    }
    let code = error.code().unwrap_or_default();
    if error.try_downcast_ref::<SqliteError>().is_some() {
        // The low byte is the kind of failure; what stands above it, which of that kind.
        return match code.parse::<i32>().map(|code| code & 0xff) {
            Ok(5 | 6) => FailureKind::Conflict,
            Ok(8 | 10 | 13 | 14) => FailureKind::Unavailable,
            _ => FailureKind::Other,
        };
    }
    match &*code {
        "40001" | "40P01" | "55P03" => FailureKind::Conflict,
        "3D000" | "42P01" => FailureKind::Closed,
        code if code.starts_with("28") => FailureKind::Closed,
        "25006" | "25P03" | "57014" => FailureKind::Unavailable,
        // Connection exceptions, insufficient resources, operator intervention, system errors.
        code if ["08", "53", "57P", "58"].iter().any(|class| code.starts_with(class)) => FailureKind::Unavailable,
        _ => FailureKind::Other,
    }
}

/// The same of a migration that failed.
pub(in crate::store) fn migration_kind_of(error: &MigrateError) -> FailureKind {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => kind_of(error),
        _ => FailureKind::Other,
    }
}

/// The step that MySQL refused because a column that it adds is there.
pub(super) fn step_with_columns_that_are_there(error: &MigrateError) -> Option<i64> {
    let MigrateError::ExecuteMigration(sqlx::Error::Database(error), version) = error else {
        return None;
    };
    let error = error.try_downcast_ref::<MySqlDatabaseError>()?;
    (error.number() == 1060).then_some(*version)
}
