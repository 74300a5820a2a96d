//! `serve` and `sandbox`: the commands that run until they are told to end.

use std::net::SocketAddr;

use clap::Args;

use super::{Context, Failure, block_on, say};
use crate::config::listen_address;
use crate::http::HOST;
use crate::startup::{self, Addresses, Facts, Service};

/// What `serve` and `demo` take.
#[derive(Debug, Default, Args)]
pub(super) struct ServeFlags {
    /// The address and port to listen on [default: the setting, or 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
}

impl ServeFlags {
    pub(super) fn into_settings(self) -> Vec<(&'static str, String)> {
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
    block_on(async {
        let Some(service) = Service::start(settings).await? else {
            return Ok(());
        };
        say::talk(&welcome(&service.facts));
        service.run_until_told_to_stop().await
    })?;
    Ok(())
}

pub(super) fn sandbox(context: Context, flags: &SandboxFlags) -> Result<(), Failure> {
    context.settings(Vec::new())?;
    Ok(block_on(startup::sandbox(flags.listen, |address| say::talk(&sandbox_welcome(address))))?)
}

/// What a person who has just started the server wants to know.
fn welcome(facts: &Facts) -> String {
    let Facts {
        addresses: Addresses { main: address, tls, connect },
        database,
        made_key_file,
        made_admin_key,
        accounts,
    } = facts;
    let counted = say::counted(*accounts as u64, "account");
    let mut lines = vec![
        format!("wxtoken {} is listening on http://{address}", env!("CARGO_PKG_VERSION")),
        format!("  database    {database}, {counted}"),
    ];
    lines.extend(tls.map(|tls| format!("  tls         https://{HOST} on {tls}")));
    lines.extend(connect.map(|connect| format!("  proxy       for https://{HOST} alone on http://{connect}")));
    if let Some(path) = made_key_file {
        lines.push(format!("  master key  made in {}", path.display()));
        lines.push("              keep a copy elsewhere: without it nothing in the database opens".to_owned());
    }
    if let Some(key) = made_admin_key {
        lines.push(format!("  admin key   {}", key.expose()));
        lines.push("              shown this once; keep it in a safe place".to_owned());
    }
    if *accounts == 0 {
        let key = made_admin_key.as_ref().map_or("$KEY", |key| key.expose());
        lines.push(
            "  next        register an account: paste this line, then the JSON with your values, then Ctrl-D"
                .to_owned(),
        );
        lines.push(format!(
            "    curl -sS http://{address}/v1/accounts -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' -d @-"
        ));
        lines.push("    {\"appid\": \"wx…\", \"secret\": \"the AppSecret\", \"name\": \"my shop\"}".to_owned());
    }
    lines.join("\n")
}

fn sandbox_welcome(address: SocketAddr) -> String {
    format!(
        "the WeChat simulator is listening on http://{address}\n  \
         make an account:  curl -sS -X PUT http://{address}/sandbox/accounts/wx1 -d '{{\"secret\": \"0123456789abcdef0123456789abcdef\"}}'\n  \
         let it fail:      curl -sS -X PUT http://{address}/sandbox/accounts/wx1/faults -d '[{{\"kind\": \"busy\", \"times\": 3}}]'\n  \
         see what was asked: curl -sS http://{address}/sandbox/log\n  \
         point wxtoken here: WXTOKEN_WECHAT_URL=http://{address} wxtoken serve"
    )
}
