//! `demo`: the simulator and the server with sample accounts, and a line for each thing that happens.

use std::io;
use std::time::Duration;

use super::serve::ServeFlags;
use super::{Context, Failure, block_on, say};
use crate::domain::refresh::{Outcome, Trigger};
use crate::domain::timestamp::Timestamp;
use crate::startup::{Demo, Happening, Happenings, SAMPLES};

const LOOK_EVERY: Duration = Duration::from_millis(250);

pub(super) fn demo(context: Context, flags: ServeFlags) -> Result<(), Failure> {
    // The lines below say what the log would say.
    let mut settings = flags.into_settings();
    settings.push(("WXTOKEN_LOG", "error".to_owned()));
    let settings = context.settings(settings)?;
    block_on(async {
        let Some(demo) = Box::pin(Demo::start(settings)).await? else {
            return Ok(());
        };
        say::data(&introduction(&demo))?;
        let happenings = tokio::spawn(tell(demo.happenings()));
        let ended = demo.run_until_told_to_stop().await;
        happenings.abort();
        ended
    })?;
    Ok(())
}

/// Prints a line for each call to WeChat.
async fn tell(mut happenings: Happenings) -> io::Result<()> {
    loop {
        // The database of the demonstration is a file that is ours alone; if it fails once, the next look will tell.
        for happening in happenings.look().await.unwrap_or_default() {
            say::data(&line(&happening))?;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn introduction(demo: &Demo) -> String {
    let (server, sandbox) = (demo.service.facts.addresses.main, demo.sandbox);
    let (service, admin) = (demo.service_key.expose(), demo.admin_key.expose());
    let [stable, plain, wrong] = SAMPLES.each_ref().map(|sample| sample.appid);
    let accounts = SAMPLES.each_ref().map(|sample| format!("  {}  {}", sample.appid, sample.name)).join("\n");
    format!(
        "wxtoken demo: the server is listening on http://{server}, a simulated WeChat on http://{sandbox}\n\
         Tokens live for a minute here, so that you can watch them being refreshed. The accounts:\n\n{accounts}\n\n\
         Read a token, as a service does:\n  \
         curl -sS -H 'Authorization: Bearer {service}' http://{server}/v1/accounts/{stable}/tokens/access_token\n\n\
         Sign a page for the JS-SDK:\n  \
         curl -sS -H 'Authorization: Bearer {service}' 'http://{server}/v1/accounts/{plain}/jsapi-signature?url=https%3A%2F%2Fexample.com%2F'\n\n\
         Let a second system fetch a token of its own, the classic accident, and report the one that died:\n  \
         curl -sS -X POST http://{sandbox}/sandbox/accounts/{plain}/kill -d '{{\"line\": \"plain\"}}'\n  \
         T=$(curl -sS -H 'Authorization: Bearer {service}' http://{server}/v1/accounts/{plain}/tokens/access_token | sed 's/.*\"value\":\"\\([^\"]*\\).*/\\1/')\n  \
         curl -sS -H 'Authorization: Bearer {service}' -H 'Content-Type: application/json' -d \"{{\\\"value\\\": \\\"$T\\\"}}\" http://{server}/v1/accounts/{plain}/tokens/access_token/report\n\n\
         See why the third account has no token, as an admin does:\n  \
         curl -sS -H 'Authorization: Bearer {admin}' http://{server}/v1/accounts/{wrong}\n\n\
         The history, as CSV:\n  \
         curl -sS -H 'Authorization: Bearer {admin}' -H 'Accept: text/csv' http://{server}/v1/refreshes\n\n\
         What happens, one line for each call to WeChat (Ctrl-C ends it and removes its files):\n"
    )
}

fn line(Happening { refresh, next }: &Happening) -> String {
    let time = clock_time(refresh.started_at);
    let what = match refresh.outcome {
        Outcome::Success => format!("new value, version {}", refresh.version),
        Outcome::Unchanged => "the same value, still good".to_owned(),
        Outcome::Failure => "FAILED".to_owned(),
        Outcome::StillValid => "probed: WeChat accepts it".to_owned(),
        Outcome::ForeignRefresh => "probed: dead before its time, somebody else fetched a token".to_owned(),
        Outcome::Refused => "probed: dead".to_owned(),
        Outcome::Lost => "a call was lost".to_owned(),
        Outcome::Superseded => "an answer came too late".to_owned(),
    };
    let why = match refresh.trigger {
        Trigger::Schedule => "on schedule",
        Trigger::FirstUse => "for a reader",
        Trigger::Report => "a caller reported it",
        Trigger::Manual => "an admin asked",
        Trigger::Recovery => "recovery",
    };
    let took = refresh.duration_ms.map(|millis| format!(", {millis} ms")).unwrap_or_default();
    let error = refresh.errmsg.as_ref().map(|text| format!(": {text}")).unwrap_or_default();
    let next = next.map(|at| format!("; next at {}", clock_time(at))).unwrap_or_default();
    format!("{time}  {}  {:<14}  {what} ({why}{took}){error}{next}", refresh.appid, refresh.token_type.as_str())
}

/// The time of day in UTC.
fn clock_time(moment: Timestamp) -> String {
    moment.to_rfc3339().get(11..19).unwrap_or_default().to_owned()
}
