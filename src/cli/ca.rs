//! `ca`: a CA of our own, for SDKs that have WeChat's host compiled in.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::{Context, Failure, say};
use crate::clock::Clock;
use crate::config::Settings;
use crate::http::HOST;
use crate::startup::{Issued, StartError, init_ca};

/// The commands of the group.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a CA that vouches for api.weixin.qq.com only, and a certificate by it
    Init(InitFlags),
}

/// What `ca init` takes.
#[derive(Debug, Args)]
pub(super) struct InitFlags {
    /// The directory to make the files in [default: the setting, or wxtoken-ca]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Make a new certificate with the CA that is there
    #[arg(long)]
    renew: bool,
}

pub(super) fn run(context: Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Init(flags) => init(context, flags),
    }
}

fn init(context: Context, flags: InitFlags) -> Result<(), Failure> {
    let settings: Settings = context.settings(Vec::new())?;
    let directory = flags.dir.unwrap_or_else(|| settings.tls_dir.clone());
    let issued = init_ca(&directory, flags.renew, Clock::new().now()).map_err(StartError::from)?;
    for file in &issued.files {
        say::data(&file.display().to_string()).map_err(Failure::Output)?;
    }
    let until = issued.until.to_rfc3339();
    let day = until.split('T').next().unwrap_or_default();
    let next = if flags.renew {
        "Start the servers anew that show it; who trusts the CA need do nothing.".to_owned()
    } else {
        advice(&issued, &directory, &settings)
    };
    say::talk(&format!(
        "The certificate for {HOST} is good until {day}; renew it before with `wxtoken ca init --renew`.\n{next}"
    ));
    Ok(())
}

fn advice(issued: &Issued, directory: &Path, settings: &Settings) -> String {
    let ca = issued.ca.display();
    let mut lines = vec!["Set one of these, or both:".to_owned()];
    if directory != settings.tls_dir {
        lines.push(format!("  WXTOKEN_TLS_DIR={}  in any case", directory.display()));
    }
    lines.push(format!(
        "  WXTOKEN_TLS_LISTEN=0.0.0.0:443       for machines whose hosts file has this one's address for {HOST}"
    ));
    lines.push("  WXTOKEN_CONNECT_LISTEN=0.0.0.0:8443  for SDKs with HTTPS_PROXY=http://THIS-MACHINE:8443".to_owned());
    lines.push(format!("Let these SDKs trust {ca}, for example with"));
    lines.push(format!("  REQUESTS_CA_BUNDLE={ca}   (Python)"));
    lines.push(format!("  NODE_EXTRA_CA_CERTS={ca}  (Node); for PHP, Java and Go see the README"));
    lines.push("ca-key.pem is needed for renewals only. Keep it from others: with it they can pass for WeChat before these SDKs.".to_owned());
    lines.join("\n")
}
