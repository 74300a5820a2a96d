//! The second host, for when no connection to the first one comes about.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::support::database::{Kind, TestDatabase};
use crate::support::process::Server;
use crate::support::proxy::{Fault, Proxy};

/// Slows nothing, and counts what passes.
const COUNTED: Fault = Fault::Delay(Duration::ZERO);
const APPIDS: [&str; 2] = ["wxstable", "wxplain"];

/// One WeChat behind two hosts.
struct Hosts {
    first: Proxy,
    second: Proxy,
    stage: Stage,
    _db: TestDatabase,
}

impl Hosts {
    /// The first host's address goes through `change`.
    async fn start(change: impl FnOnce(String) -> String) -> Self {
        let db = TestDatabase::create(Kind::Sqlite).await;
        let sandbox = TestSandbox::start().await;
        let (first, first_url) = Proxy::in_front_of(sandbox.url());
        let (second, second_url) = Proxy::in_front_of(sandbox.url());
        second.set(COUNTED);
        let server = Server::builder()
            .database(&db)
            .env("WXTOKEN_WECHAT_URL", change(first_url).trim_end_matches('/'))
            .env("WXTOKEN_WECHAT_FALLBACK_URL", second_url.trim_end_matches('/'))
            .env("WXTOKEN_CALL_TIMEOUT", "2s")
            .start()
            .await;
        let admin = server.admin();
        let hosts = Self { first, second, stage: Stage { sandbox, server, admin }, _db: db };
        for appid in APPIDS {
            hosts.stage.sandbox.account(appid, &json!({}));
            let mode = appid.trim_start_matches("wx");
            register(&hosts.stage.admin, appid, mode, json!([ACCESS_TOKEN, JSAPI_TICKET])).await;
            value(&hosts.stage.admin, appid, JSAPI_TICKET).await;
        }
        hosts
    }

    /// Each kind of call, in both modes, is answered. Says whether the second host had anything to do with it.
    async fn everything_works(&self) -> bool {
        let (admin, before) = (&self.stage.admin, self.second.struck_by(COUNTED));
        for appid in APPIDS {
            let calls = self.stage.sandbox.calls(appid).len();
            for kind in [ACCESS_TOKEN, JSAPI_TICKET] {
                admin.refresh(appid, kind, false).await.expect_status(200);
            }
            let served = value(admin, appid, ACCESS_TOKEN).await;
            let report = admin.report(appid, ACCESS_TOKEN, &served).await.expect_status(200);
            assert_eq!(report.body["verdict"], "still_valid", "{appid}");
            let made = self.stage.sandbox.calls(appid).len() - calls;
            assert!(made <= 3, "{appid}: {made} calls");
            self.stage.one_row_for_each_call(appid).await;
        }
        self.second.struck_by(COUNTED) > before
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_refuses_is_replaced_and_used_again_when_it_is_back() {
    let hosts = Hosts::start(|url| url).await;
    assert!(!hosts.everything_works().await, "the first host is there, and the second one was asked");
    hosts.first.set(Fault::Cut);
    assert!(hosts.everything_works().await);
    hosts.first.heal();
    assert!(!hosts.everything_works().await, "the first host is back, and the second one was asked");
    for host in [&hosts.first, &hosts.second] {
        host.set(Fault::Cut);
    }
    let admin = &hosts.stage.admin;
    for appid in APPIDS {
        let reply = admin.refresh(appid, ACCESS_TOKEN, false).await.expect_status(502);
        assert!(reply.text.contains("connection refused"), "{}", reply.text);
        admin.token(appid, ACCESS_TOKEN).await.expect_status(200);
    }
    hosts.first.heal();
    for appid in APPIDS {
        eventually(FRESH_AGAIN, "recovery", async || {
            (hosts.stage.token_health(appid).await["health"] == "healthy").then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_tls_a_silent_one_and_one_without_an_address_are_replaced() {
    let https = |url: String| url.replace("http://127.0.0.1", "https://localhost");
    // The sandbox answers the greeting of TLS in plain HTTP.
    let hosts = Hosts::start(https).await;
    assert!(hosts.everything_works().await);
    // The greeting is never answered, which takes half of the deadline.
    hosts.first.set(Fault::BlackHole);
    assert!(hosts.everything_works().await);
    assert!(hosts.first.struck_by(Fault::BlackHole) > 0);
    assert!(Hosts::start(|_| "https://wechat.invalid".to_owned()).await.everything_works().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_first_host_may_have_done_is_not_asked_of_the_second() {
    let hosts = Hosts::start(|url| url).await;
    let (admin, sandbox) = (&hosts.stage.admin, &hosts.stage.sandbox);
    for fault in [Fault::AnswersLost, Fault::BlackHole] {
        hosts.first.set(fault);
        let before = hosts.first.struck_by(fault);
        for appid in APPIDS {
            let good = value(admin, appid, ACCESS_TOKEN).await;
            admin.refresh(appid, ACCESS_TOKEN, false).await.expect_status(502);
            assert_eq!(value(admin, appid, ACCESS_TOKEN).await, good, "{appid}: the good value is served on");
        }
        assert!(hosts.first.struck_by(fault) > before);
        assert_eq!(hosts.second.struck_by(COUNTED), 0, "{fault:?}");
        hosts.first.heal();
        for appid in APPIDS {
            eventually(FRESH_AGAIN, "recovery", async || {
                (hosts.stage.token_health(appid).await["health"] == "healthy").then_some(())
            })
            .await;
            let served = value(admin, appid, ACCESS_TOKEN).await;
            assert!(sandbox.accepts(&served), "{appid}");
        }
    }
}
