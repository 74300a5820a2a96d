//! The questions that the README answers in SQL: each runs unchanged on each database, and finds what it is asked for.

use wxtoken::clock::Clock;
use wxtoken::domain::refresh::CallKind;

use super::fixture::{ACCESS, Home, JSAPI, TWO_HOURS, failed, key, refused};
use super::raw::TextRow;
use crate::support::database::on_every_database;

const README: &str = include_str!("../../../README.md");

/// Every block of SQL in the README, under its heading.
fn questions() -> Vec<(&'static str, &'static str)> {
    let mut questions = Vec::new();
    for section in README.split("\n### ").skip(1) {
        let heading = section.lines().next().unwrap_or_default();
        for block in section.split("```sql\n").skip(1) {
            questions.push((heading, block.split("```").next().expect("the block ends")));
        }
    }
    questions
}

/// One healthy account, one whose token somebody else keeps ending, and one with a wrong secret.
async fn tell_a_story(home: &Home) {
    let now = Clock::new().now();
    for name in ["wx_good", "wx_shared", "wx_broken"] {
        home.register(name, &[ACCESS], now).await;
    }
    home.register("wx_waiting", &[ACCESS, JSAPI], now).await;
    home.give(&key("wx_good", ACCESS), "good-value", now).await;
    home.give(&key("wx_shared", ACCESS), "shared-value", now).await;
    let probe = home.claim(&key("wx_shared", ACCESS), CallKind::Probe, now).await;
    let replacement =
        home.settle(&probe, &refused(now)).await.and_then(|settled| settled.next).expect("a call follows");
    home.settle(&replacement, &home.brought("newer-value", TWO_HOURS, now)).await.expect("the claim holds");
    for _ in 0..3 {
        let claim = home.claim(&key("wx_broken", ACCESS), CallKind::Mint, now).await;
        home.settle(&claim, &failed(40_125, "invalid appsecret", now)).await.expect("the claim holds");
    }
}

fn cells(row: &TextRow, wanted: &[&str]) -> bool {
    wanted.iter().all(|wanted| row.iter().flatten().any(|cell| cell == wanted))
}

on_every_database! {
    async fn the_readme_answers_its_questions(database: TestDatabase) {
        let home = Home::new(database).await;
        tell_a_story(&home).await;
        let questions = questions();
        let expected: [(usize, &[&str]); 5] = [
            (1, &["wx_broken", "Account wx_broken", "access_token", "down", "3", "40125", "invalid appsecret"]),
            (1, &["wx_shared", "Account wx_shared", "1"]),
            (3, &["wx_broken", "access_token", "3", "120"]),
            (3, &["one", "manual", "failure", "3"]),
            (4, &["wx_shared", "Account wx_shared", "stable", "2", "1"]),
        ];
        assert_eq!(questions.len(), expected.len(), "{questions:?}");
        let mut raw = home.raw().await;
        for ((question, sql), (rows, first)) in questions.into_iter().zip(expected) {
            let found = raw.rows(sql).await;
            assert_eq!(found.len(), rows, "{question} {found:?}");
            assert!(cells(&found[0], first), "{question} {found:?}");
        }
    }
}
