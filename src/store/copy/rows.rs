//! The tables and columns that are copied, written once. A test holds them against the schema of each database.

use std::sync::LazyLock;

use sqlx::FromRow;

use crate::store::db::{Record, Value};

/// Rows that are written with one statement: over a network each statement costs a round trip.
pub(super) const MANY: usize = 100;

/// A table and its columns.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// Every column.
    pub columns: &'static [&'static str],
}

/// A row as it is stored, with the statements of its table. Keys sort in the same order on every database: byte by byte.
pub(super) trait Stored: Record + PartialEq + Sync {
    const TABLE: Table;
    /// How many columns make up the key.
    const KEYS: usize;
    const COUNT: &'static str;
    /// Rows behind a key, in the order of their keys.
    const PAGE: &'static str;
    /// Locks the rows behind a key up to another one.
    const LOCK: &'static str;
    const DELETE: &'static str;
    const INSERT: &'static str;

    /// Inserts [`MANY`] rows.
    fn insert_many() -> &'static str;

    fn key(&self) -> Vec<&str>;

    /// Every column's value, in the order of the columns.
    fn values(&self) -> Vec<Value<'_>>;
}

/// A column's type, as it is bound to a placeholder.
trait Column {
    fn value(&self) -> Value<'_>;
}

macro_rules! column {
    ($($type:ty => |$column:ident| $value:expr,)+) => {
        $(impl Column for $type {
            fn value(&self) -> Value<'_> {
                let $column = self;
                Value::from($value)
            }
        })+
    };
}

column! {
    String => |column| column,
    i64 => |column| *column,
    bool => |column| *column,
    Option<String> => |column| column.as_deref(),
    Option<i64> => |column| *column,
}

/// A further placeholder.
macro_rules! mark {
    ($column:ident) => {
        ", ?"
    };
}

/// Declares the row of a table, by its key and its columns.
macro_rules! stored {
    ($row:ident = $table:literal by ($key:ident $(, $more:ident)?) { $first:ident: $first_type:ty $(, $column:ident: $type:ty)+ $(,)? }) => {
        #[derive(FromRow, PartialEq)]
        pub(super) struct $row {
            pub(super) $first: $first_type,
            $(pub(super) $column: $type,)+
        }

        impl Stored for $row {
            const TABLE: Table =
                Table { name: $table, columns: &[stringify!($first) $(, stringify!($column))+] };
            const KEYS: usize = [stringify!($key) $(, stringify!($more))?].len();
            const COUNT: &'static str = concat!("SELECT COUNT(*) FROM ", $table);
            const PAGE: &'static str = concat!(
                "SELECT ", stringify!($first) $(, ", ", stringify!($column))+, " FROM ", $table,
                " WHERE (", stringify!($key) $(, ", ", stringify!($more))?, ") > (?" $(, mark!($more))?,
                ") ORDER BY ", stringify!($key) $(, ", ", stringify!($more))?, " LIMIT ?"
            );
            const LOCK: &'static str = concat!(
                "SELECT ", stringify!($first) $(, ", ", stringify!($column))+, " FROM ", $table,
                " WHERE (", stringify!($key) $(, ", ", stringify!($more))?, ") > (?" $(, mark!($more))?,
                ") AND (", stringify!($key) $(, ", ", stringify!($more))?, ") <= (?" $(, mark!($more))?,
                ") ORDER BY ", stringify!($key) $(, ", ", stringify!($more))?, " {for_update}"
            );
            const DELETE: &'static str =
                concat!("DELETE FROM ", $table, " WHERE ", stringify!($key), " = ?" $(, " AND ", stringify!($more), " = ?")?);
            const INSERT: &'static str = concat!(
                "INSERT INTO ", $table, " (", stringify!($first) $(, ", ", stringify!($column))+, ") VALUES (?"
                $(, mark!($column))+, ")"
            );

            fn insert_many() -> &'static str {
                static SQL: LazyLock<String> = LazyLock::new(|| {
                    let row = concat!(", (?" $(, mark!($column))+, ")");
                    <$row as Stored>::INSERT.to_owned() + &row.repeat(MANY - 1)
                });
                &SQL
            }

            fn key(&self) -> Vec<&str> {
                vec![&self.$key $(, &self.$more)?]
            }

            fn values(&self) -> Vec<Value<'_>> {
                vec![self.$first.value() $(, self.$column.value())+]
            }
        }
    };
}

stored! { MasterKeyRow = "wx_master_key" by (key_id) {
    key_id: String, check_value: String, position: i64, created_at: i64,
} }

stored! { HistoryRow = "wx_refresh_history" by (id) {
    id: String, appid: String, token_type: String, generation: i64, call_kind: String, trigger_name: String,
    outcome: String, errcode: Option<i64>, errmsg: Option<String>, started_at: i64, duration_ms: Option<i64>,
    expires_in: Option<i64>, fingerprint: Option<String>, version: i64, instance: String,
} }

stored! { AuditRow = "wx_audit" by (id) {
    id: String, happened_at: i64, actor: String, action: String, subject: String, detail: String,
    request_id: Option<String>,
} }

stored! { KeyRow = "wx_key" by (id) {
    id: String, name: String, role: String, accounts: String, actions: String, key_hash: String, hint: String,
    created_at: i64, expires_at: i64, revoked_at: Option<i64>, changed_at: i64, sdk: Option<String>,
    allowed_paths: Option<String>, denied_paths: Option<String>,
} }

stored! { MirrorRow = "wx_mirror" by (id) {
    id: String, appid: String, format: String, target_sealed: Option<String>, secret_sealed: Option<String>,
    prefix: Option<String>, app: Option<String>, serializer: Option<String>, token_type: Option<String>,
    key_template: Option<String>, value_template: Option<String>, revision: i64, created_at: i64, changed_at: i64,
    removed_at: Option<i64>,
} }

stored! { AccountRow = "wx_account" by (appid) {
    appid: String, name: String, mode: String, token_types: String, enabled: bool, note: String,
    secret_sealed: Option<String>, revision: i64, created_at: i64, updated_at: i64, changed_at: i64,
    removed_at: Option<i64>,
} }

stored! { TokenRow = "wx_token" by (appid, token_type) {
    appid: String, token_type: String, mode: String, kept: bool, value_sealed: Option<String>,
    fingerprint: Option<String>, obtained_at: i64, expires_at: i64, previous_sealed: Option<String>, in_doubt: bool,
    version: i64, generation: i64, revision: i64, refresh_at: i64, leased_until: i64, leased_by: Option<String>,
    leased_at: i64, lease_trigger: Option<String>, lease_call: Option<String>, failures: i64, last_success_at: i64,
    last_call_at: i64, last_outcome: Option<String>, last_trigger: Option<String>, last_errcode: Option<i64>,
    last_errmsg: Option<String>, budget_day: i64, calls_today: i64, forced_today: i64, plain_today: i64,
    forced_at: i64, budget_limit: i64, changed_at: i64,
} }
