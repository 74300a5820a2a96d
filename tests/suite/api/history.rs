//! The refresh history: filters, pages, CSV.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Method;
use serde_json::{Value, json};

use super::{House, is_time, items, members, text};
use crate::support::api::Reply;
use crate::support::database::on_every_database;

const COLUMNS: [&str; 14] = [
    "id",
    "started_at",
    "appid",
    "token_type",
    "call",
    "trigger",
    "outcome",
    "errcode",
    "errmsg",
    "duration_ms",
    "expires_in",
    "fingerprint",
    "version",
    "instance",
];

impl House {
    /// Two accounts with rows of several outcomes and triggers.
    async fn with_a_history() -> Self {
        Self::fill(Self::open().await).await
    }

    async fn fill(self) -> Self {
        self.register("wx1", json!({ "token_types": ["jsapi_ticket"] })).await;
        self.register("wx2", json!({ "mode": "plain" })).await;
        self.value("wx1").await;
        self.admin.token("wx1", "jsapi_ticket").await.expect_status(200);
        let value = self.value("wx2").await;
        for _ in 0..3 {
            self.admin.refresh("wx1", "access_token", false).await.expect_status(200);
        }
        self.admin.report("wx2", "access_token", &value).await.expect_status(200);
        let formula = json!([{ "kind": "errcode", "errcode": 99_999, "errmsg": "=cmd|' /C calc'!A0, \"x\"" }]);
        self.sandbox.account("wx2", &json!({ "errmsg_tail": "none", "faults": formula }));
        self.admin.refresh("wx2", "access_token", false).await.expect_problem(502, "refresh_failed");
        self
    }

    async fn rows(&self, query: &str) -> Vec<Value> {
        items(&self.admin.refreshes(&format!("limit=500&{query}")).await.expect_status(200).body).clone()
    }

    async fn csv(&self, query: &str) -> Vec<Vec<String>> {
        let request = self.admin.request(Method::GET, &format!("/v1/refreshes?{query}")).header("accept", "text/csv");
        let reply = Reply::of(request).await.expect_status(200);
        assert_eq!(reply.header("content-type"), "text/csv; charset=utf-8");
        assert_eq!(reply.header("cache-control"), "no-store");
        assert!(reply.header("content-disposition").contains(".csv"));
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(reply.text.as_bytes());
        reader.records().map(|row| row.expect("sound CSV").iter().map(str::to_owned).collect()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_has_its_members() {
    let house = House::with_a_history().await;
    let rows = house.rows("").await;
    let mut columns = COLUMNS;
    columns.sort_unstable();
    for row in &rows {
        assert_eq!(members(row), columns);
        assert!(is_time(&row["started_at"]) && row["version"].is_u64() && row["duration_ms"].is_u64(), "{row}");
        assert!(row["instance"].is_string() && row["id"].is_string(), "{row}");
        let brought_a_value = row["outcome"] == "success" || row["outcome"] == "unchanged";
        assert!(row["fingerprint"].is_string() || !brought_a_value, "{row}");
        assert_eq!(row["errmsg"].is_string(), row["outcome"] == "failure", "{row}");
    }
    let times: Vec<_> = rows.iter().map(|row| text(&row["started_at"])).collect();
    assert!(times.is_sorted_by(|newer, older| newer >= older), "newest first: {times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_filter_gives_the_rows_that_fit_and_no_others() {
    let house = House::with_a_history().await;
    let all = house.rows("").await;
    for (field, values) in [
        ("appid", vec!["wx1", "wx2", "wx3"]),
        ("token_type", vec!["access_token", "jsapi_ticket", "wx_card_ticket"]),
        ("trigger", vec!["schedule", "first_use", "report", "manual", "recovery"]),
        (
            "outcome",
            vec!["success", "unchanged", "failure", "still_valid", "foreign_refresh", "refused", "lost", "superseded"],
        ),
    ] {
        let mut found = 0;
        for value in values {
            let rows = house.rows(&format!("{field}={value}")).await;
            let expected: Vec<_> = all.iter().filter(|row| row[field] == value).cloned().collect();
            assert_eq!(rows, expected, "{field}={value}");
            assert_eq!(house.csv(&format!("{field}={value}")).await.len(), rows.len() + 1);
            found += rows.len();
        }
        assert_eq!(found, all.len(), "{field} sorts every row");
    }
    let both = house.rows("appid=wx2&outcome=failure&trigger=manual&token_type=access_token").await;
    assert_eq!(both.len(), 1);
    for query in ["outcome=ok", "trigger=cron", "token_type=x", "appid=a%20b", "from=yesterday", "to=1", "from="] {
        house.admin.refreshes(query).await.expect_problem(422, "invalid_field");
    }
    for query in ["result=failure", "appid=wx1&appid=wx2", "from=2026-01-01T00:00:00Z&from=2027-01-01T00:00:00Z"] {
        house.admin.refreshes(query).await.expect_problem(400, "invalid_request");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_and_to_cut_the_history_in_two() {
    let house = House::with_a_history().await;
    let all = house.rows("").await;
    let moment = text(&all[all.len() / 2]["started_at"]);
    let (before, since) = (house.rows(&format!("to={moment}")).await, house.rows(&format!("from={moment}")).await);
    assert!(!since.is_empty() && since.contains(&all[all.len() / 2]), "from includes its moment");
    assert_eq!([since, before].concat(), all, "to excludes its moment");
    let [far, past] = ["2999-01-01T00:00:00Z", "2001-01-01T00:00:00%2B08:00"];
    assert_eq!(house.rows(&format!("from={past}&to={far}")).await, all);
    assert!(house.rows(&format!("from={far}")).await.is_empty());
    assert!(house.rows(&format!("to={past}")).await.is_empty());
    assert!(house.rows(&format!("from={far}&to={past}")).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_says_what_json_says_and_disarms_formulas() {
    let house = House::with_a_history().await;
    let rows = house.rows("").await;
    let csv = house.csv("").await;
    assert_eq!(csv[0], COLUMNS);
    assert_eq!(csv.len(), rows.len() + 1);
    let mut disarmed = 0;
    for (cells, row) in csv[1..].iter().zip(&rows) {
        for (cell, column) in cells.iter().zip(COLUMNS) {
            let said = match &row[column] {
                Value::Null => String::new(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            if said.starts_with(['=', '+', '-', '@']) && column == "errmsg" {
                disarmed += 1;
                assert_eq!(cell, &format!("'{said}"));
            } else {
                assert_eq!(cell, &said, "{column}");
            }
        }
    }
    assert_eq!(disarmed, 1, "the formula went through both");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_is_not_of_this_list_is_refused() {
    let house = House::with_a_history().await;
    house.key(&json!(["wx1"]), &Value::Null).await;
    let next = async |list: &str| text(&house.admin.get(&format!("{list}?limit=1")).await.body["next"]);
    let (accounts, keys, refreshes) = (next("/v1/accounts").await, next("/v1/keys").await, next("/v1/refreshes").await);
    let cut = &refreshes[..refreshes.len() - 2];
    let forged = ["r", "r1", "r1.", "r-1.a", "r99999999999999999999.a", "r1.' OR '1'='1", "r1.\0", "x1.a"];
    let forged = forged.map(|place| URL_SAFE_NO_PAD.encode(place));
    let odd = ["", "%20", "!", "%00", "%FF", "null", "../..", cut, &accounts, &keys];
    for cursor in odd.into_iter().chain(forged.iter().map(String::as_str)).filter(|cursor| *cursor != cut) {
        house.admin.refreshes(&format!("cursor={cursor}")).await.expect_problem(400, "invalid_request");
    }
    // A cursor that was cut short may still name a place; it then gives rows of this list or is refused, never more.
    let status = house.admin.refreshes(&format!("cursor={cut}")).await.status.as_u16();
    assert!([200, 400].contains(&status), "{status}");
    for (list, cursor) in [("/v1/accounts", &refreshes), ("/v1/keys", &accounts), ("/v1/accounts", &keys)] {
        house.admin.get(&format!("{list}?cursor={cursor}")).await.expect_problem(400, "invalid_request");
    }
}

on_every_database! {
    async fn a_walk_over_all_pages_sees_each_row_once_while_new_ones_arrive(db: TestDatabase) {
        let house = House::on(db).await.fill().await;
        let before: BTreeSet<_> = house.rows("").await.iter().map(|row| text(&row["id"])).collect();
        assert!(before.len() >= 8);
        let mut walked = Vec::new();
        let mut query = "limit=2".to_owned();
        loop {
            let page = house.admin.refreshes(&query).await.expect_status(200).body;
            assert!(items(&page).len() <= 2);
            walked.extend(items(&page).iter().map(|row| text(&row["id"])));
            house.admin.refresh("wx1", "access_token", false).await.expect_status(200);
            let Some(next) = page["next"].as_str() else { break };
            query = format!("limit=2&cursor={next}");
        }
        assert_eq!(walked.len(), before.len(), "none twice, none of the new ones");
        assert_eq!(walked.into_iter().collect::<BTreeSet<_>>(), before);
        assert!(house.rows("").await.len() > before.len());
    }
}
