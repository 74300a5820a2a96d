//! A token killed at WeChat while many clients are at work.

use reqwest::Method;
use serde_json::json;
use wxtoken::wechat::sandbox::Line;

use super::{APPID, Shop, access_token, token_path};
use crate::support::api::Reply;

const CLIENTS: usize = 50;
const CALLS: usize = 20;

#[tokio::test]
async fn every_call_of_fifty_clients_succeeds_with_one_probe_and_one_mint() {
    for (mode, line) in [("stable", Line::Stable), ("plain", Line::Plain)] {
        let shop = Shop::with(&json!({ "mode": mode }), |server| server).await;
        shop.sandbox.account(APPID, &json!({ "latency_ms": { "min": 5, "max": 40 } }));
        shop.token().await;
        let (ready, go) = (tokio::sync::Barrier::new(CLIENTS + 1), tokio::sync::Barrier::new(CLIENTS + 1));
        let (ready, go) = (std::sync::Arc::new(ready), std::sync::Arc::new(go));
        let clients = (0..CLIENTS).map(|_| {
            let (api, ask) = (shop.admin.clone(), token_path(APPID, &shop.key));
            let (ready, go) = (std::sync::Arc::clone(&ready), std::sync::Arc::clone(&go));
            tokio::spawn(async move {
                // As an SDK does: ask once, keep the token, call.
                let token = access_token(&Reply::of(api.keyless(Method::GET, &ask)).await);
                for call in 0..CALLS {
                    if call == CALLS / 2 {
                        ready.wait().await;
                        go.wait().await;
                    }
                    let path = format!("/cgi-bin/echo/x?access_token={token}&call={call}");
                    let reply = Reply::of(api.keyless(Method::POST, &path).body("{}")).await;
                    assert_eq!(reply.body["errcode"], 0, "call {call}: {}", reply.text);
                }
            })
        });
        let clients: Vec<_> = clients.collect();
        ready.wait().await;
        let (probes, mints) = shop.spent();
        shop.sandbox.kill(APPID, line);
        go.wait().await;
        for client in clients {
            client.await.expect("every call succeeds");
        }
        let after = shop.spent();
        assert_eq!((after.0 - probes, after.1 - mints), (1, 1), "{mode}");
    }
}
