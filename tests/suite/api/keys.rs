//! Keys: made, listed, revoked, and kept within the rights of their maker.

use std::time::Duration;

use serde_json::{Value, json};

use super::{House, is_time, items, members, text};
use crate::support::api::Api;
use crate::support::database::on_every_database;
use crate::support::process::ADMIN_KEY;

const RECORD: [&str; 12] = [
    "accounts",
    "actions",
    "allow_paths",
    "created_at",
    "deny_paths",
    "expires_at",
    "hint",
    "id",
    "name",
    "revoked_at",
    "role",
    "sdk",
];

async fn all_keys(api: &Api) -> Vec<Value> {
    items(&api.get("/v1/keys?limit=500").await.expect_status(200).body).clone()
}

on_every_database! {
    async fn a_key_is_shown_once_and_works_until_it_is_revoked(db: TestDatabase) {
        let house = House::on(db).await;
        house.register("wx1", json!({})).await;
        let order = json!({ "name": "店 1", "role": "service", "accounts": ["wx1"], "expires_in_days": 30 });
        let made = house.admin.post("/v1/keys", &order).await.expect_status(201);
        assert_eq!(made.header("cache-control"), "no-store");
        let mut record = made.body;
        let key = text(&record["key"]);
        record.as_object_mut().expect("an object").remove("key");
        assert_eq!(members(&record), RECORD);
        assert_eq!(record["name"], "店 1");
        assert_eq!((&record["role"], &record["accounts"]), (&json!("service"), &json!(["wx1"])));
        assert_eq!(record["actions"], json!(["token:read", "token:report"]));
        assert_eq!(record["hint"].as_str(), key.get(..10), "the hint is how the key begins");
        assert!(is_time(&record["created_at"]) && is_time(&record["expires_at"]) && record["revoked_at"].is_null());
        assert!(key.starts_with("wxt_s_") && key.len() >= 40, "{key}");

        let service = house.admin.with_key(&key);
        service.token("wx1", "access_token").await.expect_status(200);
        let listed = house.admin.get("/v1/keys").await.expect_status(200);
        assert!(!listed.text.contains(&key) && !listed.text.contains(ADMIN_KEY), "a list shows no key");
        assert!(items(&listed.body).contains(&record), "the list has what the creation answered");

        let path = format!("/v1/keys/{}", text(&record["id"]));
        let gone = house.admin.delete(&path).await.expect_status(204);
        assert_eq!(gone.text, "");
        service.token("wx1", "access_token").await.expect_problem(401, "invalid_key");
        house.admin.delete(&path).await.expect_problem(404, "unknown_key");
        let revoked = all_keys(&house.admin).await.into_iter().find(|found| found["id"] == record["id"]);
        assert!(is_time(&revoked.expect("a revoked key stays in the list")["revoked_at"]));
    }

    async fn a_list_of_keys_comes_in_pages(db: TestDatabase) {
        let house = House::on(db).await;
        for number in 0..6 {
            house.admin.create_key(&json!({ "name": format!("k{number}"), "role": "service", "accounts": ["*"] })).await;
        }
        let all = all_keys(&house.admin).await;
        let mut walked = Vec::new();
        let mut path = "/v1/keys?limit=3".to_owned();
        loop {
            let page = house.admin.get(&path).await.expect_status(200).body;
            assert!(items(&page).len() <= 3);
            walked.extend(items(&page).clone());
            let Some(next) = page["next"].as_str() else { break };
            path = format!("/v1/keys?limit=3&cursor={next}");
        }
        assert_eq!(walked, all);
        assert_eq!(walked.len(), 7, "six and the admin's own");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_that_make_no_sense_are_refused_with_their_field() {
    let house = House::open().await;
    let good = json!({ "name": "x", "role": "service", "accounts": ["wx1"] });
    let many: Vec<_> = (0..201).map(|number| format!("wx{number}")).collect();
    for (field, value) in [
        ("name", json!("")),
        ("name", json!("  ")),
        ("name", json!("x".repeat(101))),
        ("name", json!("a\u{0}b")),
        ("role", json!("root")),
        ("accounts", json!([])),
        ("accounts", json!(["*", "wx1"])),
        ("accounts", json!(["w x"])),
        ("accounts", json!(many)),
        ("actions", json!([])),
        ("actions", json!(["token:write"])),
        ("expires_in_days", json!(0)),
        ("expires_in_days", json!(3_651)),
        ("expires_in_days", json!(u64::MAX)),
    ] {
        let mut order = good.clone();
        order[field] = value;
        let reply = house.admin.post("/v1/keys", &order).await.expect_problem(422, "invalid_field");
        assert_eq!(reply.body["errors"][0]["pointer"], format!("/{field}"), "{}", reply.text);
    }
    for (field, value) in
        [("expires_in_days", json!(-1)), ("expires_in_days", json!(1.5)), ("accounts", json!("*")), ("key", json!("x"))]
    {
        let mut order = good.clone();
        order[field] = value;
        house.admin.post("/v1/keys", &order).await.expect_problem(400, "invalid_request");
    }
    let admin_with_actions = json!({ "name": "x", "role": "admin", "accounts": ["*"], "actions": ["token:read"] });
    house.admin.post("/v1/keys", &admin_with_actions).await.expect_problem(422, "invalid_field");
    assert_eq!(all_keys(&house.admin).await.len(), 1, "nothing was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_hands_out_sees_or_revokes_more_than_their_own_rights() {
    let house = House::open().await;
    let manager = house.key(&json!(["wx1", "wx2"]), &json!(["token:read", "key:manage"])).await;
    for (role, accounts, actions) in [
        ("admin", json!(["wx1"]), Value::Null),
        ("service", json!(["*"]), json!(["token:read"])),
        ("service", json!(["wx1", "wx3"]), json!(["token:read"])),
        ("service", json!(["wx1"]), json!(["token:read", "token:report"])),
        ("service", json!(["wx1"]), Value::Null),
    ] {
        let order = json!({ "name": "x", "role": role, "accounts": accounts, "actions": actions });
        manager.post("/v1/keys", &order).await.expect_problem(403, "insufficient_scope");
    }
    let within = json!({ "name": "x", "role": "service", "accounts": ["wx2"], "actions": ["token:read"] });
    let made = manager.post("/v1/keys", &within).await.expect_status(201).body;
    house.key(&json!(["wx3"]), &json!(["token:read"])).await;
    let seen = all_keys(&manager).await;
    assert_eq!(seen.len(), 2, "the manager's own key and the one it made: {seen:?}");

    let all = all_keys(&house.admin).await;
    for foreign in all.iter().filter(|key| !seen.contains(key)) {
        let reply = manager.delete(&format!("/v1/keys/{}", text(&foreign["id"]))).await;
        let absent = manager.delete("/v1/keys/0190a0a0-0000-7000-8000-000000000000").await;
        let [reply, absent] = [reply, absent].map(|reply| reply.expect_problem(404, "unknown_key").body);
        assert_eq!(reply["detail"], absent["detail"], "a foreign key looks like none");
    }
    manager.delete(&format!("/v1/keys/{}", text(&made["id"]))).await.expect_status(204);
    assert_eq!(all_keys(&house.admin).await.iter().filter(|key| !key["revoked_at"].is_null()).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_admin_key_that_does_not_end_stays() {
    let house = House::open().await;
    let own = format!("/v1/keys/{}", text(&all_keys(&house.admin).await[0]["id"]));
    house.admin.delete(&own).await.expect_problem(409, "last_admin_key");
    house.key(&json!(["*"]), &json!(["token:read", "key:manage"])).await;
    house.admin.delete(&own).await.expect_problem(409, "last_admin_key");
    let narrow = json!({ "name": "x", "role": "admin", "accounts": ["wx1"] });
    house.admin.create_key(&narrow).await;
    house.admin.delete(&own).await.expect_problem(409, "last_admin_key");
    let second = house.admin.create_key(&json!({ "name": "second", "role": "admin", "accounts": ["*"] })).await;
    house.admin.delete(&own).await.expect_status(204);
    house.admin.get("/v1/keys").await.expect_problem(401, "invalid_key");
    let second = house.admin.with_key(&second);
    second.get("/v1/keys").await.expect_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_for_all_accounts_reaches_those_registered_later() {
    let house = House::open().await;
    let (everywhere, one) =
        (house.key(&json!(["*"]), &Value::Null).await, house.key(&json!(["wx1"]), &Value::Null).await);
    for appid in ["wx1", "wx2"] {
        house.register(appid, json!({})).await;
        everywhere.token(appid, "access_token").await.expect_status(200);
    }
    one.token("wx1", "access_token").await.expect_status(200);
    one.token("wx2", "access_token").await.expect_problem(403, "account_out_of_scope");
    // A key may name an account that is registered later, and keeps its reach when the account is removed.
    house.admin.delete("/v1/accounts/wx1").await.expect_status(204);
    one.token("wx1", "access_token").await.expect_problem(404, "unknown_account");
}

on_every_database! {
    async fn a_revocation_reaches_the_other_instance_within_five_seconds(db: TestDatabase) {
        if db.kind() == crate::support::database::Kind::Sqlite {
            return; // one instance
        }
        let house = House::on(db).await;
        let other = crate::support::process::Server::builder().database(&house.database).wechat(house.sandbox.url());
        let other = other.start().await;
        let order = json!({ "name": "x", "role": "admin", "accounts": ["*"] });
        let made = house.admin.post("/v1/keys", &order).await.expect_status(201).body;
        let there = other.admin().with_key(&text(&made["key"]));
        let bound = Duration::from_secs(5);
        crate::support::wait::eventually(bound, "the new key", async || {
            (there.get("/v1/accounts").await.status == 200).then_some(())
        })
        .await;
        house.admin.delete(&format!("/v1/keys/{}", text(&made["id"]))).await.expect_status(204);
        crate::support::wait::eventually(bound, "the revocation", async || {
            (there.get("/v1/accounts").await.status == 401).then_some(())
        })
        .await;
    }
}
