//! What clients are told of a token's life.

use serde_json::{Value, json};

use super::{APPID, Shop, token_path};
use crate::support::wait::eventually;

fn seconds(answer: &Value) -> u64 {
    answer["expires_in"].as_u64().expect("a number")
}

#[tokio::test]
async fn the_profile_of_a_key_adds_its_sdks_margin() {
    let shop = Shop::with(&json!({ "token_types": ["jsapi_ticket"] }), |server| server).await;
    let token = shop.token().await;
    let plain = seconds(&shop.ask(&shop.key).await.body);
    let order = json!({ "name": "go", "role": "service", "accounts": [APPID], "sdk": "silenceper" });
    let made = shop.admin.post("/v1/keys", &order).await.expect_status(201).body;
    assert_eq!(made["sdk"], "silenceper");
    let key = made["key"].as_str().expect("shown once");
    let told = seconds(&shop.ask(key).await.body);
    assert!((plain + 1_480..=plain + 1_500).contains(&told), "{plain} {told}");
    let body = json!({ "grant_type": "client_credential", "appid": APPID, "secret": key }).to_string();
    let told = seconds(&shop.post("/cgi-bin/stable_token", body).await.body);
    assert!((plain + 280..=plain + 300).contains(&told), "{plain} {told}");
    // A request for a ticket shows no key: as long as another key of the account has no profile, nothing is added.
    let path = format!("/cgi-bin/ticket/getticket?type=jsapi&access_token={token}");
    let ticket = seconds(&shop.get(&path).await.body);
    assert!(ticket < 2_200, "{ticket}");
    let keys = shop.admin.get("/v1/keys").await.body;
    let other = keys["items"].as_array().expect("a list").iter().find(|key| key["name"] == "sdk").expect("it is there");
    let id = other["id"].as_str().expect("an id");
    shop.admin.delete(&format!("/v1/keys/{id}")).await.expect_status(204);
    let told = seconds(&shop.get(&path).await.body);
    assert!((ticket + 1_480..=ticket + 1_500).contains(&told), "{ticket} {told}");
    shop.admin
        .post("/v1/keys", &json!({ "name": "x", "role": "service", "accounts": ["*"], "sdk": "Silenceper" }))
        .await
        .expect_problem(422, "invalid_field");
}

#[tokio::test]
async fn no_answer_lasts_longer_than_its_token() {
    let shop = Shop::open().await;
    shop.sandbox.account("wxshort", &json!({ "lifetime_seconds": 6, "overlap_seconds": 3 }));
    let account = json!({ "appid": "wxshort", "secret": crate::support::sandbox::SECRET });
    shop.admin.create_account(&account).await.expect_status(201);
    let key = shop.service_key(&json!({ "accounts": ["wxshort"] })).await;
    let mut versions = std::collections::BTreeSet::new();
    eventually(super::BOUND, "three tokens", async || {
        let told = shop.get(&token_path("wxshort", &key)).await.body;
        let token = shop.admin.token("wxshort", "access_token").await.expect_status(200).body;
        if told["access_token"] == token["value"] {
            assert!(seconds(&told) <= seconds(&token) + 1, "{told} {token}");
        }
        versions.insert(token["version"].as_i64());
        (versions.len() == 3).then_some(())
    })
    .await;
}
