//! WeChat is busy, away, or has had enough of us.

mod busy;
mod fallback;
mod lost_answers;
mod outage;
mod quota;

use std::time::Duration;

use serde_json::Value;

use super::watch::{Reader, Seen, Watch};
use super::{ACCESS_TOKEN, Stage, history, measured, register, value};
use crate::support::sandbox::TestSandbox;
use crate::support::wait::eventually;

/// The longest backoff of what passes by itself, the look for due tokens and the call.
const FRESH_AGAIN: Duration = Duration::from_secs(60 + 4);
const JSAPI_TICKET: &str = "jsapi_ticket";

impl Stage {
    fn reader(&self, appid: &str, token_type: &'static str) -> Reader {
        Watch::new(&self.sandbox, appid, token_type).read(&self.admin)
    }

    /// How an account's first token is doing, in admins' words.
    async fn token_health(&self, appid: &str) -> Value {
        let account = self.admin.get(&format!("/v1/accounts/{appid}")).await.expect_status(200);
        account.body["tokens"][0].clone()
    }

    /// Waits until each call has its history row, one for one.
    async fn one_row_for_each_call(&self, appid: &str) {
        eventually(Duration::from_secs(10), "one history row for each call", async || {
            let calls = self.sandbox.calls(appid);
            let rows = history(&self.admin, appid).await;
            let ended = calls.iter().all(|call| call.ended_ms.is_some());
            (ended && calls.len() == rows.len()).then_some(())
        })
        .await;
    }
}

/// Every refusal said that there is no token now and when to come again.
fn assert_told_when_to_come_again(seen: Seen, who: &str) {
    for reply in seen.refused {
        let seconds: u64 = reply.header("retry-after").parse().unwrap_or(0);
        assert!((1..=70).contains(&seconds), "{who}: Retry-After {seconds}: {}", reply.text);
        // A ticket that came a moment before its end is over by our count when it is stored.
        let code = reply.body["code"].clone();
        assert!(reply.status == 503 && (code == "no_valid_token" || code == "refresh_busy"), "{who}: {}", reply.text);
    }
}
