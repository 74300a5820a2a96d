//! Registering, showing, listing, changing and removing accounts.

use serde_json::{Value, json};

use super::{House, is_time, items, members, text};
use crate::support::database::on_every_database;
use crate::support::sandbox::SECRET;

const ACCOUNT: [&str; 10] =
    ["appid", "created_at", "enabled", "health", "mode", "name", "note", "token_types", "tokens", "updated_at"];
const TOKEN: [&str; 15] = [
    "budget_left",
    "calls_today",
    "consecutive_failures",
    "forced_today",
    "health",
    "hint",
    "last_errcode",
    "last_errmsg",
    "last_outcome",
    "last_success_at",
    "plain_today",
    "refresh_at",
    "token_type",
    "valid_until",
    "version",
];

on_every_database! {
    async fn an_account_is_registered_shown_and_listed_alike(db: TestDatabase) {
        let house = House::on(db).await;
        house.sandbox.account("wx1", &json!({}));
        let types = json!(["access_token", "wx_card_ticket"]);
        let full = json!({ "appid": "wx1", "secret": SECRET, "name": "店铺 🛒", "mode": "plain", "token_types": types,
                           "enabled": true, "note": "line one\nline two" });
        let made = house.admin.create_account(&full).await.expect_status(201);
        assert_eq!(made.header("location"), "/v1/accounts/wx1");
        assert_eq!(made.header("cache-control"), "no-store");
        assert_eq!(members(&made.body), ACCOUNT);
        for field in ["appid", "name", "mode", "token_types", "enabled", "note"] {
            assert_eq!(made.body[field], full[field], "{field}");
        }
        assert!(is_time(&made.body["created_at"]) && is_time(&made.body["updated_at"]));
        assert!(!made.text.contains(SECRET));
        house.admin.create_account(&full).await.expect_problem(409, "account_exists");

        house.value("wx1").await;
        house.admin.token("wx1", "wx_card_ticket").await.expect_status(200);
        let shown = house.admin.get("/v1/accounts/wx1").await.expect_status(200);
        assert_eq!((members(&shown.body), &shown.body["health"]), (ACCOUNT.to_vec(), &json!("healthy")));
        let tokens = shown.body["tokens"].as_array().expect("a list");
        assert_eq!(tokens.len(), 2);
        for token in tokens {
            assert_eq!(members(token), TOKEN);
            assert!(is_time(&token["valid_until"]) && is_time(&token["refresh_at"]), "{token}");
            assert!(is_time(&token["last_success_at"]), "{token}");
            assert_eq!((&token["last_outcome"], &token["health"]), (&json!("success"), &json!("healthy")));
        }
        assert_eq!(tokens[0]["plain_today"], 1);
        assert!(!shown.text.contains(SECRET));
        let listed = house.admin.get("/v1/accounts").await.expect_status(200).body;
        assert_eq!((items(&listed), &listed["next"]), (&vec![shown.body], &Value::Null));
    }

    async fn a_list_of_accounts_comes_in_pages_in_the_order_of_appids(db: TestDatabase) {
        let house = House::on(db).await;
        let mut appids = ["wxB", "wxa", "wxA", "wx-1", "wx_1", "wx1", "wx10"];
        for appid in appids {
            house.register(appid, json!({ "enabled": false })).await;
        }
        appids.sort_unstable();
        let everybody = house.admin.clone();
        let some = house.key(&json!(appids), &json!(["account:read"])).await;
        for caller in [everybody, some] {
            let mut walked = Vec::new();
            let mut path = "/v1/accounts?limit=2".to_owned();
            loop {
                let page = caller.get(&path).await.expect_status(200).body;
                assert!(items(&page).len() <= 2);
                walked.extend(items(&page).iter().map(|account| text(&account["appid"])));
                let Some(next) = page["next"].as_str() else { break };
                path = format!("/v1/accounts?limit=2&cursor={next}");
            }
            assert_eq!(walked, appids);
        }
    }

    async fn a_removed_account_is_gone_and_can_be_registered_again(db: TestDatabase) {
        let house = House::on(db).await;
        house.register("wx1", json!({ "name": "first", "note": "canary" })).await;
        let value = house.value("wx1").await;
        assert_eq!(house.admin.delete("/v1/accounts/wx1").await.expect_status(204).text, "");
        house.admin.delete("/v1/accounts/wx1").await.expect_problem(404, "unknown_account");
        house.admin.get("/v1/accounts/wx1").await.expect_problem(404, "unknown_account");
        house.admin.patch("/v1/accounts/wx1", &json!({ "name": "x" })).await.expect_problem(404, "unknown_account");
        house.admin.token("wx1", "access_token").await.expect_problem(404, "unknown_account");
        house.admin.report("wx1", "access_token", &value).await.expect_problem(404, "unknown_account");
        house.admin.refresh("wx1", "access_token", false).await.expect_problem(404, "unknown_account");
        assert!(items(&house.admin.get("/v1/accounts").await.body).is_empty());
        let history = house.admin.refreshes("appid=wx1").await.expect_status(200).body;
        assert_eq!(items(&history).len(), 1, "the history stays");

        let again = house.register("wx1", json!({ "name": "second" })).await;
        assert_eq!((&again["name"], &again["note"], &again["health"]), (&json!("second"), &json!(""), &json!("pending")));
        let fresh = house.admin.token("wx1", "access_token").await.expect_status(200).body;
        assert!(house.sandbox.accepts(&text(&fresh["value"])));
        assert_eq!(house.sandbox.calls("wx1").len(), 2, "the old value was not kept");
    }

    async fn two_who_register_at_once_have_one_winner(db: TestDatabase) {
        let house = House::on(db).await;
        house.sandbox.account("wx1", &json!({}));
        let account = json!({ "appid": "wx1", "secret": SECRET });
        let tries = (0..8).map(|_| {
            let (admin, account) = (house.admin.clone(), account.clone());
            tokio::spawn(async move { admin.create_account(&account).await })
        });
        let mut won = 0;
        for reply in tries.collect::<Vec<_>>() {
            let reply = reply.await.expect("no panic");
            if reply.status == 201 {
                won += 1;
            } else {
                reply.expect_problem(409, "account_exists");
            }
        }
        assert_eq!(won, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_field_is_changed_alone() {
    let house = House::open().await;
    let before = house.register("wx1", json!({ "name": "old", "note": "n" })).await;
    house.value("wx1").await;
    let mut expected = before.clone();
    for (field, value, kept) in [
        ("name", json!("new"), json!("new")),
        ("name", json!(""), json!("")),
        ("note", json!("a\tb\r\nc"), json!("a\tb\r\nc")),
        ("token_types", json!(["jsapi_ticket"]), json!(["access_token", "jsapi_ticket"])),
        ("token_types", json!([]), json!(["access_token"])),
        ("mode", json!("plain"), json!("plain")),
        ("mode", json!("stable"), json!("stable")),
        ("enabled", json!(false), json!(false)),
        ("enabled", json!(true), json!(true)),
    ] {
        let reply = house.admin.patch("/v1/accounts/wx1", &json!({ field: value })).await.expect_status(200);
        expected[field] = kept;
        for settled in ["appid", "name", "note", "token_types", "mode", "enabled", "created_at"] {
            assert_eq!(reply.body[settled], expected[settled], "{field}: {settled}");
        }
        assert!(reply.body["updated_at"].as_str() >= before["updated_at"].as_str());
        let shown = house.admin.get("/v1/accounts/wx1").await.expect_status(200).body;
        assert_eq!(shown["updated_at"], reply.body["updated_at"]);
    }
    let nothing = house.admin.patch("/v1/accounts/wx1", &json!({})).await.expect_status(200);
    assert_eq!(nothing.body["name"], "");
    house.value("wx1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_come_and_go_with_the_types_kept() {
    let house = House::open().await;
    house.register("wx1", json!({})).await;
    house.admin.token("wx1", "jsapi_ticket").await.expect_problem(404, "token_type_not_kept");
    let patch = async |types: Value| {
        house.admin.patch("/v1/accounts/wx1", &json!({ "token_types": types })).await.expect_status(200);
    };
    patch(json!(["jsapi_ticket", "jsapi_ticket"])).await;
    let ticket = house.admin.token("wx1", "jsapi_ticket").await.expect_status(200).body;
    patch(json!(["access_token"])).await;
    house.admin.token("wx1", "jsapi_ticket").await.expect_problem(404, "token_type_not_kept");
    let query = "/v1/accounts/wx1/jsapi-signature?url=https://example.com/";
    house.admin.get(query).await.expect_problem(404, "token_type_not_kept");
    house.value("wx1").await;
    patch(json!(["jsapi_ticket"])).await;
    let again = house.admin.token("wx1", "jsapi_ticket").await.expect_status(200).body;
    assert_eq!(again["value"], ticket["value"], "WeChat still names the same ticket");
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_that_hold_nonsense_are_named() {
    let house = House::open().await;
    let good = json!({ "appid": "wx1", "secret": SECRET });
    let appids = ["", " ", "w x", "wx1\n", "ｗｘ１", "wx\u{202e}1", "wx1\u{0}", "../x", "a/b", "*", "w'x", "é"];
    let mut bad: Vec<_> = appids.into_iter().map(|appid| ("appid", json!(appid))).collect();
    bad.push(("appid", json!("w".repeat(10_000))));
    let secrets = ["", " ", " x", "x ", "a b", "密", "a\u{0}", "wxt_s_0123456789012345678901234567890123456789"];
    bad.extend(secrets.into_iter().map(|secret| ("secret", json!(secret))));
    bad.extend([
        ("secret", json!("x".repeat(129))),
        ("name", json!("x".repeat(101))),
        ("name", json!("a\nb")),
        ("note", json!("x".repeat(1_001))),
        ("note", json!("a\u{0}b")),
        ("mode", json!("Stable")),
        ("token_types", json!(["access_token", "refresh_token"])),
    ]);
    for (field, value) in bad {
        let mut account = good.clone();
        account[field] = value;
        let reply = house.admin.create_account(&account).await.expect_problem(422, "invalid_field");
        assert_eq!(reply.body["errors"][0]["pointer"], format!("/{field}"), "{}", reply.text);
        assert_eq!(members(&reply.body["errors"][0]), ["detail", "pointer"]);
        assert!(!reply.text.contains(SECRET) && !reply.text.contains("wxt_s_01"), "{}", reply.text);
        if field != "appid" {
            let patch = json!({ field: account[field] });
            house.register_once("wxpatched").await;
            house.admin.patch("/v1/accounts/wxpatched", &patch).await.expect_problem(422, "invalid_field");
        }
    }
    // 64 emoji of several code points each are more than 100 characters; 100 plain ones are not.
    let family = "👨‍👩‍👧‍👦".repeat(64);
    house.admin.create_account(&json!({ "appid": "wx1", "secret": SECRET, "name": family })).await.expect_status(422);
    house.register("wx3", json!({ "name": "😀".repeat(100) })).await;
}

impl House {
    /// Registers an account unless it is there.
    async fn register_once(&self, appid: &str) {
        if self.admin.get(&format!("/v1/accounts/{appid}")).await.status == 404 {
            self.register(appid, json!({})).await;
        }
    }
}
