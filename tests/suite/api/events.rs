//! The change feed.

use std::time::Duration;

use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::{BOUND, House, assert_wait, members, text};
use crate::support::api::{Api, Reply};
use crate::support::database::{Kind, TestDatabase};
use crate::support::process::Server;
use crate::support::wait::eventually;

/// By when a change is heard of: at the instance that made it, and at the others.
const AT_ONCE: Duration = Duration::from_secs(1);
const ELSEWHERE: Duration = Duration::from_secs(2);
/// What is repeated beyond what was asked for, and a little.
const OVERLAP: Duration = Duration::from_millis(5_100);
const REVOKED_WITHIN: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Somebody who listens.
struct Subscriber {
    answer: Response,
    unread: String,
    /// As a browser remembers it, also from blocks that are no events.
    last_id: String,
    /// Everything that came.
    heard: String,
}

impl Subscriber {
    async fn to(api: &Api, last_id: Option<&str>) -> Self {
        let request = api.request(Method::GET, "/v1/events");
        let request = last_id.into_iter().fold(request, |request, id| request.header("last-event-id", id));
        let answer = request.send().await.expect("the server answers");
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        assert_eq!(answer.headers()["cache-control"], "no-store");
        let mut subscriber = Self { answer, unread: String::new(), last_id: String::new(), heard: String::new() };
        let greeting = subscriber.block().await.expect("the feed begins with an id");
        assert!(greeting.starts_with(": keep-alive\n") && greeting.contains("retry: 1000"), "{greeting}");
        subscriber
    }

    /// The next block, with its line ends; `None` when the stream has ended.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.unread.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.unread = rest;
                let id = block.lines().find_map(|line| line.strip_prefix("id: "));
                id.expect("each block has an id").clone_into(&mut self.last_id);
                return Some(block);
            }
            let chunk = self.answer.chunk().await.ok().flatten()?;
            let chunk = std::str::from_utf8(&chunk).expect("whole characters");
            self.unread.push_str(chunk);
            self.heard.push_str(chunk);
        }
    }

    /// The data of the next event.
    async fn event(&mut self) -> Option<Value> {
        loop {
            let block = self.block().await?;
            if let Some(data) = block.lines().find_map(|line| line.strip_prefix("data: ")) {
                assert!(block.contains("event: token"), "{block}");
                return Some(serde_json::from_str(data).expect("JSON"));
            }
        }
    }

    /// Appid and version of the next event, which comes within `bound`.
    async fn change(&mut self, bound: Duration) -> (String, i64) {
        let event = timeout(bound, self.event()).await.unwrap_or_else(|_| panic!("nothing in {bound:?}"));
        let event = event.expect("the stream goes on");
        (text(&event["appid"]), event["version"].as_i64().expect("a number"))
    }

    /// Waits for the version of an account's token; what comes twice is passed over.
    async fn until(&mut self, appid: &str, version: i64, bound: Duration) {
        let wanted = (appid.to_owned(), version);
        let heard = async { while self.change(bound).await != wanted {} };
        timeout(bound, heard)
            .await
            .unwrap_or_else(|_| panic!("version {version} of {appid} did not come in {bound:?}"));
    }

    /// Waits for the end of the stream.
    async fn ends(mut self, bound: Duration) {
        let ended = async { while self.block().await.is_some() {} };
        timeout(bound, ended).await.unwrap_or_else(|_| panic!("the stream goes on after {bound:?}"));
    }
}

impl House {
    /// Accounts in plain mode, each with a token of version 1.
    async fn with_accounts(&self, appids: &[&str]) {
        for appid in appids {
            self.register(appid, json!({ "mode": "plain" })).await;
            self.value(appid).await;
        }
    }

    async fn renew(&self, appid: &str) {
        self.admin.refresh(appid, "access_token", false).await.expect_status(200);
    }

    /// Another instance on the same database.
    async fn neighbour(&self) -> Server {
        Server::builder().database(&self.database).wechat(self.sandbox.url()).start().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_heard_of_at_once_and_without_its_value() {
    let house = House::open().await;
    let mut subscriber = Subscriber::to(&house.admin, None).await;
    house.register("wx1", json!({ "token_types": ["jsapi_ticket"] })).await;
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let event = timeout(BOUND, subscriber.event()).await.expect("the first values").expect("the stream goes on");
        assert_eq!(members(&event), ["appid", "expires_at", "fingerprint", "token_type", "version"]);
        let kind = text(&event["token_type"]);
        let token = house.admin.token("wx1", &kind).await.expect_status(200).body;
        for field in ["appid", "expires_at", "fingerprint", "version"] {
            assert_eq!(event[field], token[field], "{field}");
        }
        assert!(!subscriber.heard.contains(&text(&token["value"])));
        kinds.push(kind);
    }
    assert_eq!(kinds, ["access_token", "jsapi_ticket"]);
    house.admin.refresh("wx1", "access_token", true).await.expect_status(200);
    assert_eq!(subscriber.change(AT_ONCE).await, ("wx1".to_owned(), 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_heard_of_at_other_instances_and_after_coming_back_to_any_on_postgres() {
    at_any_instance(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_heard_of_at_other_instances_and_after_coming_back_to_any_on_mysql() {
    at_any_instance(Kind::Mysql).await;
}

async fn at_any_instance(kind: Kind) {
    let house = House::on(TestDatabase::create(kind).await).await;
    let other = house.neighbour().await;
    house.with_accounts(&["wx1", "wx2"]).await;
    let mut near = Subscriber::to(&house.admin, None).await;
    let mut far = Subscriber::to(&other.admin(), None).await;
    house.renew("wx1").await;
    near.until("wx1", 2, AT_ONCE).await;
    far.until("wx1", 2, ELSEWHERE).await;
    let heard_at = wxtoken::clock::Clock::default().now();
    // Past the overlap, so that what comes next is only what was missed.
    let left = near.last_id.clone();
    let seen = eventually(BOUND, "an id past the overlap", async || {
        let id = Subscriber::to(&house.admin, None).await.last_id;
        (id.parse::<i64>().expect("milliseconds") > heard_at.plus(OVERLAP).as_millis()).then_some(id)
    })
    .await;
    assert!(left < seen);
    drop((near, far));
    house.renew("wx2").await;
    for api in [other.admin(), house.admin.clone()] {
        let mut back = Subscriber::to(&api, Some(&seen)).await;
        assert_eq!(back.change(ELSEWHERE).await, ("wx2".to_owned(), 2), "the first change is not repeated");
        // Nor does one miss anything who was told of the first change a moment before.
        let mut careful = Subscriber::to(&api, Some(&left)).await;
        careful.until("wx2", 2, AT_ONCE).await;
        let mut everything = Subscriber::to(&api, Some("0")).await;
        let mut heard = [everything.change(AT_ONCE).await, everything.change(AT_ONCE).await];
        heard.sort();
        assert_eq!(heard, [("wx1".to_owned(), 2), ("wx2".to_owned(), 2)]);
    }

    // A restart in between.
    other.terminate();
    other.wait_exit(BOUND).await;
    house.renew("wx1").await;
    let again = house.neighbour().await;
    Subscriber::to(&again.admin(), Some(&seen)).await.until("wx1", 3, AT_ONCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_begins_hears_of_what_comes_and_an_account_that_is_gone_is_silent() {
    let house = House::open().await;
    house.with_accounts(&["wx1", "wx2", "wx3"]).await;
    house.admin.patch("/v1/accounts/wx1", &json!({ "enabled": false })).await.expect_status(200);
    house.admin.delete("/v1/accounts/wx2").await.expect_status(204);
    let mut new = Subscriber::to(&house.admin, None).await;
    let mut all = Subscriber::to(&house.admin, Some("0")).await;
    let mut future = Subscriber::to(&house.admin, Some("99999999999999")).await;
    for subscriber in [&mut all, &mut future] {
        assert_eq!(subscriber.change(AT_ONCE).await, ("wx3".to_owned(), 1));
    }
    house.renew("wx3").await;
    for subscriber in [&mut new, &mut all, &mut future] {
        assert_eq!(subscriber.change(AT_ONCE).await, ("wx3".to_owned(), 2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_in_use_again_is_told_of() {
    let house = House::open().await;
    house.register("wx1", json!({})).await;
    house.value("wx1").await;
    house.admin.patch("/v1/accounts/wx1", &json!({ "enabled": false })).await.expect_status(200);
    let mut subscriber = Subscriber::to(&house.admin, Some("0")).await;
    house.admin.patch("/v1/accounts/wx1", &json!({ "enabled": true })).await.expect_status(200);
    // In stable mode WeChat names the same value again, which is no change.
    assert_eq!(subscriber.change(AT_ONCE).await, ("wx1".to_owned(), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_hears_of_its_accounts_until_it_is_revoked() {
    let house = House::open().await;
    house.with_accounts(&["wx1", "wx2"]).await;
    let order = json!({ "name": "narrow", "role": "service", "accounts": ["wx2"] });
    let made = house.admin.post("/v1/keys", &order).await.expect_success().body;
    let narrow = house.admin.with_key(&text(&made["key"]));
    let mut back = Subscriber::to(&narrow, Some("0")).await;
    let mut listening = Subscriber::to(&narrow, None).await;
    assert_eq!(back.change(AT_ONCE).await, ("wx2".to_owned(), 1));
    house.renew("wx1").await;
    house.renew("wx2").await;
    for subscriber in [&mut back, &mut listening] {
        assert_eq!(subscriber.change(AT_ONCE).await, ("wx2".to_owned(), 2));
        assert!(!subscriber.heard.contains("wx1"), "{}", subscriber.heard);
    }
    let mut admins = Subscriber::to(&house.admin, None).await;
    house.admin.delete(&format!("/v1/keys/{}", text(&made["id"]))).await.expect_status(204);
    listening.ends(REVOKED_WITHIN).await;
    house.renew("wx2").await;
    assert_eq!(admins.change(AT_ONCE).await, ("wx2".to_owned(), 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_stream_is_kept_alive_and_its_id_young() {
    let house = House::open().await;
    let mut subscriber = Subscriber::to(&house.admin, None).await;
    let (first, since) = (subscriber.last_id.clone(), Instant::now());
    let block = timeout(KEEP_ALIVE + BOUND, subscriber.block()).await.expect("a sign of life").expect("it goes on");
    assert!(block.starts_with(": keep-alive\n") && !block.contains("data:"), "{block}");
    assert!(since.elapsed() + AT_ONCE >= KEEP_ALIVE, "{:?}", since.elapsed());
    let age = |id: &str| id.parse::<i64>().expect("milliseconds");
    assert!(age(&subscriber.last_id) - age(&first) > 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_ends_every_stream_and_does_not_wait_for_them() {
    let house = House::open().await;
    let mut subscribers = Vec::new();
    for _ in 0..8 {
        subscribers.push(Subscriber::to(&house.admin, None).await);
    }
    let told = Instant::now();
    house.server.terminate();
    for subscriber in subscribers {
        subscriber.ends(ELSEWHERE).await;
    }
    assert!(house.server.wait_exit(BOUND).await.success());
    assert!(told.elapsed() < Duration::from_secs(5), "{:?}", told.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_so_many_streams_and_each_that_ends_makes_room() {
    let house = House::open().await;
    let service = house.key(&json!(["*"]), &Value::Null).await;
    let mut open = Vec::new();
    for _ in 0..64 {
        open.push(Subscriber::to(&service, None).await);
    }
    let refused = service.get("/v1/events").await.expect_problem(429, "too_many_streams");
    assert_wait(refused.header("retry-after"), 10);
    open.push(Subscriber::to(&house.admin, None).await);
    open.remove(0);
    eventually(BOUND, "the place of the one who left", async || {
        let answer = service.request(Method::GET, "/v1/events").send().await.expect("the server answers");
        (answer.status() == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused() {
    let house = House::open().await;
    for id in ["-1", "x", "1.5", "99999999999999999999", "0x10"] {
        let request = house.admin.request(Method::GET, "/v1/events").header("last-event-id", id);
        Reply::of(request).await.expect_problem(400, "invalid_request");
    }
    house.admin.get("/v1/events?appid=wx1").await.expect_problem(400, "invalid_request");
    let powerless = house.key(&json!(["*"]), &json!(["history:read"])).await;
    powerless.get("/v1/events").await.expect_problem(403, "insufficient_scope");
}
