//! SDKs for Python that take another base URL.

use super::script::{Runtime, Script};
use super::{Calls, Client, LINES, Shop};

async fn wechatpy(runtime: Runtime, calls: Calls) {
    for line in LINES {
        let shop = Shop::open(line, Some("wechatpy")).await;
        let script = Script::start(runtime, "wechatpy_base.py", shop.settings(calls), &[]);
        Client::new(script, calls).works_on_when_its_token_is_killed(&shop).await;
    }
}

#[tokio::test]
async fn wechatpy_calls_through_us() {
    wechatpy(Runtime::Python, Calls::Here).await;
}

#[tokio::test]
async fn wechatpy_asks_us_again_when_wechat_refuses_its_token() {
    wechatpy(Runtime::Python, Calls::AtWechat).await;
}

#[tokio::test]
async fn the_next_wechatpy_calls_through_us() {
    wechatpy(Runtime::PythonNext, Calls::Here).await;
}

#[tokio::test]
async fn the_next_wechatpy_asks_us_again_when_wechat_refuses_its_token() {
    wechatpy(Runtime::PythonNext, Calls::AtWechat).await;
}
