//! `serve`, `demo` and `sandbox`: the commands that run until they are told to end.

use std::net::SocketAddr;

use clap::Args;

use super::{Context, Failure, block_on};
use crate::config::listen_address;
use crate::startup;

/// What `serve` and `demo` take.
#[derive(Debug, Default, Args)]
pub(super) struct ServeFlags {
    /// The address and port to listen on [default: `WXTOKEN_LISTEN`, or 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
}

impl ServeFlags {
    fn into_settings(self) -> Vec<(&'static str, String)> {
        self.listen.map(|address| ("WXTOKEN_LISTEN", address)).into_iter().collect()
    }
}

/// What `sandbox` takes.
#[derive(Debug, Args)]
pub(super) struct SandboxFlags {
    /// The address and port to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8090", value_parser = sandbox_address)]
    listen: SocketAddr,
}

fn sandbox_address(text: &str) -> Result<SocketAddr, &'static str> {
    listen_address(text).ok_or("write an address and a port, like 127.0.0.1:8090")
}

pub(super) fn serve(context: Context, flags: ServeFlags) -> Result<(), Failure> {
    let settings = context.settings(flags.into_settings())?;
    Ok(block_on(startup::serve(settings))?)
}

pub(super) fn demo(context: Context, flags: ServeFlags) -> Result<(), Failure> {
    let settings = context.settings(flags.into_settings())?;
    Ok(block_on(startup::demo(settings))?)
}

pub(super) fn sandbox(context: Context, flags: &SandboxFlags) -> Result<(), Failure> {
    context.settings(Vec::new())?;
    Ok(block_on(startup::sandbox(flags.listen))?)
}
