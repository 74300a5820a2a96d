//! The command line: words in, words out.

mod account;
mod backup;
mod ca;
mod client;
mod demo;
pub mod exit;
mod logging;
mod master_key;
mod migrate;
mod say;
mod serve;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Settings, Sources};
use crate::startup::StartError;

/// A central token server for WeChat accounts.
#[derive(Debug, Parser)]
#[command(name = "wxtoken", version, after_help = "Without a command: serve. Settings are explained in .env.example.")]
struct Arguments {
    /// What to log: error, warn, info, debug or trace
    #[arg(long, global = true, value_name = "LEVEL")]
    log: Option<String>,
    /// The file of settings; must exist if it is named here [default: .env]
    #[arg(long, global = true, value_name = "PATH")]
    env_file: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the token server
    Serve(serve::ServeFlags),
    /// Try it out: the simulator and the server with sample accounts
    Demo(serve::ServeFlags),
    /// Run the WeChat simulator alone
    Sandbox(serve::SandboxFlags),
    /// Bring the database schema up to date, or move an SQLite deployment to PostgreSQL or MySQL
    Migrate(migrate::MigrateFlags),
    /// Copy an SQLite database while it is served, or check such a copy
    Backup(backup::BackupFlags),
    /// Make the certificate with which SDKs take this server for WeChat
    Ca {
        #[command(subcommand)]
        command: ca::Command,
    },
    /// Register accounts at a running server
    Account {
        #[command(subcommand)]
        command: account::Command,
    },
    /// Make the key that seals the database
    MasterKey {
        #[command(subcommand)]
        command: master_key::Command,
    },
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    #[error(transparent)]
    Api(#[from] client::ApiError),
    #[error(transparent)]
    Input(#[from] account::InputError),
    #[error(transparent)]
    MasterKey(#[from] crate::seal::MasterKeyError),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Start(error) => exit::code_for(error.remedy()),
            Self::Api(error) => error.exit_code(),
            Self::Input(_) => exit::USAGE,
            Self::Output(_) | Self::MasterKey(_) => exit::FAILURE,
        }
    }
}

/// Runs the command that `arguments` name, the program's own name first, and answers how it ended.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version come this way, too; a reader that went away is no failure.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(exit::USAGE));
        }
    };
    let Arguments { log, env_file, command } = arguments;
    let context = Context { log, env_file, environment: environment.into_iter().collect() };
    let done = match command.unwrap_or(Command::Serve(serve::ServeFlags::default())) {
        Command::Serve(flags) => serve::serve(context, flags),
        Command::Demo(flags) => demo::demo(context, flags),
        Command::Sandbox(flags) => serve::sandbox(context, &flags),
        Command::Migrate(flags) => migrate::migrate(context, flags),
        Command::Backup(flags) => backup::backup(context, &flags),
        Command::Ca { command } => ca::run(context, command),
        Command::Account { command } => account::run(context, command),
        Command::MasterKey { command } => master_key::run(&command),
    };
    match done {
        Ok(()) => ExitCode::from(exit::OK),
        Err(failure) => {
            say::talk(&format!("wxtoken: {}", say::chain(&failure)));
            ExitCode::from(failure.code())
        }
    }
}

/// What every command may need to know.
struct Context {
    log: Option<String>,
    env_file: Option<PathBuf>,
    environment: Vec<(OsString, OsString)>,
}

impl Context {
    /// Reads the settings, with `flags` over everything else, and starts logging as they say.
    fn settings(self, flags: Vec<(&'static str, String)>) -> Result<Settings, StartError> {
        let log = self.log.map(|level| ("WXTOKEN_LOG", level));
        let sources = Sources::gather(self.env_file.as_deref(), self.environment, flags.into_iter().chain(log));
        let settings = Settings::parse(&sources).inspect_err(|_| {
            // There is no log yet, and one of these may be the cause.
            for warning in sources.warnings() {
                say::talk(&format!("wxtoken: {warning}"));
            }
        })?;
        logging::start(&settings.log, settings.log_format).map_err(io::Error::other)?;
        for warning in sources.warnings() {
            tracing::warn!("{warning}");
        }
        Ok(settings)
    }
}

/// Runs a command's work to its end.
fn block_on<T, E: From<io::Error>>(work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(work);
    // A name that does not resolve is waited for in a thread that cannot be ended.
    runtime.shutdown_background();
    done
}
