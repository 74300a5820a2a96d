//! `master-key`: the key that seals the database.

use clap::Subcommand;
use secrecy::ExposeSecret;

use super::{Failure, say};
use crate::seal::MasterKey;

/// The commands of the group.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print a new random key; nothing is stored
    Generate,
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Generate => generate(),
    }
}

fn generate() -> Result<(), Failure> {
    let key = MasterKey::generate()?.to_base64();
    say::data(key.expose_secret()).map_err(Failure::Output)?;
    say::talk(
        "Keep a copy apart from the database: nothing in it opens without this key. Give it as WXTOKEN_MASTER_KEY, or in a \
         file named by WXTOKEN_MASTER_KEY_FILE.",
    );
    Ok(())
}
