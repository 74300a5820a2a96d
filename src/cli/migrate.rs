//! `migrate`: the schema apart from serving.

use secrecy::ExposeSecret;

use super::{Context, Failure, block_on, say};
use crate::config::redacted;
use crate::startup;
use crate::store::migrate::Schema;

pub(super) fn migrate(context: Context) -> Result<(), Failure> {
    let settings = context.settings(Vec::new())?;
    let startup::Migrated { before, version } = block_on(startup::migrate(&settings))?;
    let place = redacted(settings.database_url.expose_secret());
    let line = match before {
        Schema::Empty => format!("{place}: made the schema, version {version}"),
        Schema::Older { found } => format!("{place}: brought the schema from version {found} to version {version}"),
        Schema::Current => format!("{place}: the schema is up to date, version {version}"),
    };
    say::data(&line).map_err(Failure::Output)
}
