//! A client that asks again for the token it was just given was refused by WeChat.

use std::time::Instant;

use reqwest::Method;
use serde_json::json;
use wxtoken::wechat::sandbox::CallKind;

use super::{APPID, Shop, access_token, token_path};
use crate::support::api::Reply;
use crate::support::wait::eventually;

#[tokio::test]
async fn a_client_whose_token_was_killed_gets_another_at_its_next_ask() {
    for mode in ["stable", "plain"] {
        let shop = Shop::with(&json!({ "mode": mode }), |server| server).await;
        let first = shop.token().await;
        shop.sandbox
            .kill(APPID, if mode == "plain" { wxtoken::wechat::sandbox::Line::Plain } else { super::Line::Stable });
        let (probes, mints) = shop.spent();
        let second = shop.token().await;
        assert_ne!(first, second, "{mode}");
        assert!(shop.sandbox.accepts(&second), "{mode}");
        let after = shop.spent();
        assert_eq!((after.0 - probes, after.1 - mints), (1, 1), "{mode}");
    }
}

#[tokio::test]
async fn many_processes_that_start_at_once_cost_one_probe_and_no_token() {
    let shop = Shop::open().await;
    let first = shop.token().await;
    let began = Instant::now();
    let starts = (0..200).map(|_| {
        let request = shop.admin.keyless(Method::GET, &token_path(APPID, &shop.key));
        tokio::spawn(async move { access_token(&Reply::of(request).await) })
    });
    for start in starts.collect::<Vec<_>>() {
        assert_eq!(start.await.expect("no panic"), first);
    }
    let (probes, mints) = shop.spent();
    assert_eq!(mints, 1);
    // One at once; on a machine that is so busy that the burst lasts, one more after each pause.
    let seconds = began.elapsed().as_secs();
    let most = [0, 1, 3, 7, 15].iter().filter(|at| **at <= seconds).count() as u64;
    assert!((1..=most).contains(&probes), "{probes} in {seconds} s");
}

#[tokio::test]
async fn a_crowd_whose_token_was_killed_costs_one_probe_and_one_mint() {
    let shop = Shop::open().await;
    let first = shop.token().await;
    // A burst of starts has just found the token alive: that answer must not be the answer to what happens next.
    assert_eq!(shop.token().await, first);
    shop.kill();
    let (probes, mints) = shop.spent();
    let clients = (0..100).map(|_| {
        let request = shop.admin.keyless(Method::GET, &token_path(APPID, &shop.key));
        tokio::spawn(async move { access_token(&Reply::of(request).await) })
    });
    let mut values: Vec<_> = Vec::new();
    for client in clients.collect::<Vec<_>>() {
        values.push(client.await.expect("no panic"));
    }
    values.dedup();
    assert_eq!(values.len(), 1, "everybody has the same token");
    assert!(
        values[0] != first && shop.sandbox.accepts(&values[0]),
        "{} {:?} {}",
        values[0] == first,
        shop.spent(),
        shop.server.output()
    );
    let after = shop.spent();
    assert_eq!((after.0 - probes, after.1 - mints), (1, 1));
}

#[tokio::test]
async fn a_client_that_asks_for_every_call_is_served_from_memory_nearly_always() {
    let shop = Shop::open().await;
    let began = Instant::now();
    let mut asked = 0_u32;
    while began.elapsed().as_secs() < 8 {
        shop.token().await;
        asked += 1;
    }
    let (probes, mints) = shop.spent();
    assert_eq!(mints, 1);
    // At 0, 1, 3 and 7 s.
    assert!((3..=4).contains(&probes), "{probes} probes for {asked} asks");
    assert!(asked > 100, "{asked}: the asks between two probes are answered at once");
}

#[tokio::test]
async fn forcing_is_a_report_and_no_order() {
    let shop = Shop::open().await;
    let first = shop.token().await;
    let body = json!({ "grant_type": "client_credential", "appid": APPID, "secret": shop.key, "force_refresh": true });
    let reply = shop.post("/cgi-bin/stable_token", body.to_string()).await;
    assert_eq!(access_token(&reply), first, "it is alive");
    assert_eq!(shop.spent(), (1, 1));
    shop.kill();
    let reply = shop.post("/cgi-bin/stable_token", body.to_string()).await;
    assert!(shop.sandbox.accepts(&access_token(&reply)));
    assert_eq!(shop.spent(), (2, 2));
}

#[tokio::test]
async fn a_key_that_may_not_report_is_never_taken_for_refused() {
    let shop = Shop::open().await;
    let reader = shop.service_key(&json!({ "accounts": [APPID], "actions": ["token:read"] })).await;
    let first = access_token(&shop.ask(&reader).await);
    shop.kill();
    assert_eq!(access_token(&shop.ask(&reader).await), first);
    assert!(shop.calls_of(CallKind::Probe).is_empty());
}

#[tokio::test]
async fn asking_again_for_a_token_that_was_replaced_is_no_hint() {
    let shop = Shop::open().await;
    shop.token().await;
    shop.admin.refresh(APPID, "access_token", true).await.expect_status(200);
    let fresh = eventually(super::BOUND, "the new token", async || {
        let told = shop.token().await;
        let stored = shop.admin.token(APPID, "access_token").await.body["value"].clone();
        (stored == *told).then_some(told)
    })
    .await;
    assert!(shop.sandbox.accepts(&fresh));
    assert!(shop.calls_of(CallKind::Probe).is_empty());
}

#[tokio::test]
async fn a_question_without_an_answer_keeps_nobody_waiting_for_long() {
    let shop = Shop::open().await;
    let first = shop.token().await;
    shop.sandbox.faults(APPID, &json!([{ "kind": "hang_before", "calls": ["probe"] }]));
    let began = Instant::now();
    assert_eq!(shop.token().await, first);
    for _ in 0..20 {
        assert_eq!(shop.token().await, first);
    }
    // The first waits for two and a half seconds, those after it for the same ones.
    assert!(began.elapsed().as_secs() < 6, "{:?}", began.elapsed());
    assert_eq!(shop.calls_of(CallKind::Probe).len(), 1);
}

#[tokio::test]
async fn a_token_that_was_found_dead_is_not_handed_out_for_want_of_another() {
    let shop = Shop::open().await;
    let first = shop.token().await;
    shop.kill();
    shop.sandbox.faults(APPID, &json!([{ "kind": "busy", "calls": ["stable_token"] }]));
    let reply = shop.ask(&shop.key).await;
    super::refused(&reply, -1, "system error, hint: [wxtoken: there is no valid token");
    shop.sandbox.faults(APPID, &json!([]));
    let fresh = eventually(super::BOUND, "another token", async || {
        shop.ask(&shop.key).await.body["access_token"].as_str().map(str::to_owned)
    })
    .await;
    assert!(fresh != first && shop.sandbox.accepts(&fresh));
}

#[tokio::test]
async fn another_keys_false_alarms_do_not_hide_a_dead_token() {
    let shop = Shop::open().await;
    let busy = shop.service_key(&json!({ "accounts": [APPID] })).await;
    let first = shop.token().await;
    // A client that asks for every call has driven its own pause up.
    let began = Instant::now();
    while began.elapsed().as_secs() < 4 {
        assert_eq!(access_token(&shop.ask(&busy).await), first);
    }
    shop.kill();
    let second = shop.token().await;
    assert!(second != first && shop.sandbox.accepts(&second));
}
