//! SDKs for Node, all of which take another base URL.

use wxtoken::wechat::sandbox::Line;

use super::script::{Runtime, Script};
use super::{ASK, Calls, Client, GET_TICKET, LINES, Shop, sent};

async fn client(name: &str, calls: Calls) {
    for line in LINES {
        let shop = Shop::open(line, Some("co-wechat-api")).await;
        let script = Script::start(Runtime::Node, name, shop.settings(calls), &[]);
        Client::new(script, calls).works_on_when_its_token_is_killed(&shop).await;
    }
}

#[tokio::test]
async fn co_wechat_api_calls_through_us() {
    client("co_wechat_api.js", Calls::Here).await;
}

#[tokio::test]
async fn co_wechat_api_asks_us_again_when_wechat_refuses_its_token() {
    client("co_wechat_api.js", Calls::AtWechat).await;
}

#[tokio::test]
async fn wechat_api_calls_through_us() {
    client("wechat_api.js", Calls::Here).await;
}

/// Which of WeChat's endpoints it asks for its token is its own setting, and has nothing to do with the account's mode here.
#[tokio::test]
async fn node_easywechat_calls_through_us() {
    for (line, is_stable) in [(Line::Stable, true), (Line::Stable, false), (Line::Plain, true), (Line::Plain, false)] {
        let shop = Shop::open(line, Some("easywechat")).await;
        let mut settings = shop.settings(Calls::Here);
        settings["stable"] = is_stable.into();
        let script = Script::start(Runtime::Node, "node_easywechat.js", settings, &[]);
        let ask = if is_stable { "POST /cgi-bin/stable_token" } else { ASK };
        let client = Client { ask, ..Client::new(script, Calls::Here) };
        client.works_on_when_its_token_is_killed(&shop).await;
    }
}

/// It calls nothing with its token but the ticket's endpoint, and keeps both as long as it was told.
#[tokio::test]
async fn wechat_jssdk_signs_and_gets_another_token_when_it_is_told_to_renew() {
    for line in LINES {
        let shop = Shop::open(line, None).await;
        let old = shop.served("access_token").await;
        let mut script = Script::start(Runtime::Node, "wechat_jssdk.js", shop.settings(Calls::Here), &[]);
        let token = script.tell("token").await;
        assert_eq!((token.text(), sent(&token)), (old.as_str(), vec![ASK, GET_TICKET]));
        let ticket = script.tell("ticket").await;
        assert_eq!((ticket.text(), sent(&ticket)), (shop.served("jsapi_ticket").await.as_str(), vec![]));
        shop.mint_elsewhere();
        let signed = script.tell("call").await;
        assert_eq!((signed.value["signature"].as_str().map(str::len), sent(&signed)), (Some(40), vec![]));
        assert!(shop.sandbox.accepts(ticket.text()), "a ticket outlives the token that it was fetched with");
        let renewed = script.tell("renew").await;
        assert_eq!(sent(&renewed), [ASK, GET_TICKET]);
        assert!(renewed.text() != old && shop.sandbox.accepts(renewed.text()));
    }
}
