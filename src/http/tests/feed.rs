//! A subscriber of the change feed who falls behind.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout};

use super::house::{APPID, House, token_path};
use crate::domain::account::{AppId, TokenType};
use crate::domain::token::TokenKey;

/// More than the view holds for anybody.
const CHANGES: i64 = 10_000;

#[tokio::test]
async fn who_falls_behind_is_told_of_the_newest_state_once() {
    let house = House::open().await;
    house.register().await.expect(201);
    house.get(&token_path("")).await.expect(200);
    let request = Request::builder().uri("/v1/events").header("authorization", format!("Bearer {}", house.admin));
    let response = house.door().answer(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = std::pin::pin!(response.into_body());

    let key = TokenKey::new(AppId::parse(APPID).unwrap(), TokenType::AccessToken);
    let mut token = house.rooms.refresher.held(&key).unwrap().token.clone();
    for _ in 0..CHANGES {
        token.version += 1;
        token.revision += 1;
        if let Some(value) = &mut token.value {
            value.life.until = value.life.until.minus(Duration::from_millis(1));
        }
        house.rooms.live.publish_token(token.clone(), Instant::now());
    }
    let mut events = Vec::new();
    while let Ok(frame) = timeout(Duration::from_millis(500), body.frame()).await {
        let block = String::from_utf8(frame.unwrap().unwrap().into_data().unwrap().to_vec()).unwrap();
        events.extend(block.contains("event: token").then_some(block));
    }
    assert_eq!(events.len(), 1, "{:?}", events.first());
    assert!(events[0].contains(&format!("\"version\":{},", token.version)), "{}", events[0]);
}
