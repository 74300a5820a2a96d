//! `migrate`: the schema apart from serving, and the way from SQLite to a server.

use std::io::{self, IsTerminal};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use secrecy::ExposeSecret;

use super::{Context, Failure, backup, block_on, say};
use crate::config::{Settings, redacted};
use crate::startup::{self, Moved};
use crate::store::copy::{Progress, Tally};
use crate::store::migrate::Schema;

/// What `migrate` takes.
#[derive(Debug, Args)]
pub(super) struct MigrateFlags {
    /// Copy this SQLite deployment to a PostgreSQL or MySQL database; without a URL, to the one in `WXTOKEN_MIGRATE_TO`, so that its
    /// password is not on the command line
    #[arg(long, value_name = "URL", num_args = 0..=1)]
    #[expect(clippy::option_option, reason = "the flag alone is not the same as no flag")]
    to: Option<Option<String>>,
}

pub(super) fn migrate(context: Context, flags: MigrateFlags) -> Result<(), Failure> {
    match flags.to {
        None => bring_up_to_date(&context.settings(Vec::new())?),
        Some(url) => {
            let url = url.map(|url| ("WXTOKEN_MIGRATE_TO", url));
            move_up(&context.settings(url.into_iter().collect())?)
        }
    }
}

fn bring_up_to_date(settings: &Settings) -> Result<(), Failure> {
    let startup::Migrated { before, version } = block_on(startup::migrate(settings))?;
    let place = redacted(settings.database_url.expose_secret());
    let line = match before {
        Schema::Empty => format!("{place}: made the schema, version {version}"),
        Schema::Older { found } => format!("{place}: brought the schema from version {found} to version {version}"),
        Schema::Newer { found } => {
            format!(
                "{place}: the schema is of a later version, {found}, and works with this program, which knows version {version}"
            )
        }
        Schema::Current => format!("{place}: the schema is up to date, version {version}"),
    };
    say::data(&line).map_err(Failure::Output)
}

fn move_up(settings: &Settings) -> Result<(), Failure> {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:40} {pos} of {len} rows, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    // A log file has no use for a bar.
    let is_terminal = io::stderr().is_terminal();
    let moved = block_on(startup::move_up(settings, &mut |progress| match progress {
        Progress::Total(rows) => bar.set_length(rows),
        Progress::Rows(rows) => bar.inc(rows),
        Progress::Copied(tally) if !is_terminal => say::talk(&format!("copied {}", line(tally))),
        Progress::Copied(_) => {}
    }));
    bar.finish_and_clear();
    say::data(&farewell(&moved?)).map_err(Failure::Output)
}

/// How much of a table there is.
fn line(Tally { table, rows }: Tally) -> String {
    format!("{table}: {}", say::counted(rows, "row"))
}

/// A line for each table.
pub(super) fn lines(tallies: &[Tally]) -> String {
    tallies.iter().map(|tally| format!("  {}", line(*tally))).collect::<Vec<_>>().join("\n")
}

/// What was moved, and what is left to do.
fn farewell(Moved { from, to, tallies, opened, key }: &Moved) -> String {
    let from = from.display();
    format!(
        "{from} is now in {to}, too\n{}\n\
         every row is the same in both; {} opened there\n\
         next:\n  \
         1. Start wxtoken with DATABASE_URL set to the new database, on as many machines as you like.\n  \
         2. Give each the same WXTOKEN_MASTER_KEY: {}\n  \
         3. Never start it on {from} again: two servers would end each other's tokens. Keep the file as a backup.",
        lines(tallies),
        backup::opened(*opened),
        match key {
            startup::KeyPlace::Setting => "the one that is set here.".to_owned(),
            startup::KeyPlace::File(path) => format!("what the file {} holds.", path.display()),
        }
    )
}
