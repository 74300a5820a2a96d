//! `backup`: a copy of an SQLite database, and the proof that it is good.

use std::path::PathBuf;

use clap::Args;

use super::{Context, Failure, block_on, migrate, say};
use crate::config::Settings;
use crate::startup::{self, BackedUp, Checked, KeyPlace};
use crate::store::migrate::{Schema, latest};
use crate::store::proof::Opened;

/// What `backup` takes.
#[derive(Debug, Args)]
pub(super) struct BackupFlags {
    /// Prove that FILE, made earlier, is whole and opens under this master key; changes nothing
    #[arg(long)]
    check: bool,
    /// The file to make; none must be there
    file: PathBuf,
}

pub(super) fn backup(context: Context, flags: &BackupFlags) -> Result<(), Failure> {
    let settings = context.settings(Vec::new())?;
    if flags.check { check(&settings, flags) } else { make(&settings, flags) }
}

fn make(settings: &Settings, flags: &BackupFlags) -> Result<(), Failure> {
    let BackedUp { from, bytes, key } = block_on(startup::back_up(settings, &flags.file))?;
    let file = flags.file.display();
    say::data(&format!("{}: copied to {file}, {bytes} bytes", from.display())).map_err(Failure::Output)?;
    let place = match key {
        KeyPlace::Setting => "in WXTOKEN_MASTER_KEY".to_owned(),
        KeyPlace::File(path) => format!("in {}", path.display()),
    };
    say::talk(&format!(
        "The master key is not in the backup, and without it nothing there opens: it is {place}; keep a copy of it in another place.\n\
         Prove that both fit: wxtoken backup --check {file}"
    ));
    Ok(())
}

fn check(settings: &Settings, flags: &BackupFlags) -> Result<(), Failure> {
    let Checked { schema, tallies, opened: seen } = block_on(startup::check_backup(settings, &flags.file))?;
    let version = match schema {
        Schema::Older { found } => format!("{found}, which a start brings to {}", latest()),
        Schema::Newer { found } => format!("{found}, which is newer and works with this program"),
        Schema::Empty | Schema::Current => latest().to_string(),
    };
    let tables = migrate::lines(&tallies);
    let file = flags.file.display();
    let text = format!("{file} is good\n{tables}\nschema version {version}; {} opened", opened(seen));
    say::data(&text).map_err(Failure::Output)
}

/// What was opened, in words.
pub(super) fn opened(Opened { secrets, values, mirrors }: Opened) -> String {
    let (secrets, values) = (say::counted(secrets, "AppSecret"), say::counted(values, "token value"));
    match mirrors {
        0 => format!("{secrets} and {values}"),
        _ => format!("{secrets}, {values} and {}", say::counted(mirrors, "mirror text")),
    }
}
