//! SDKs that have WeChat's host compiled in, unmodified, brought here by a proxy variable and by what a hosts entry does.

use serde_json::json;

use super::script::{Runtime, Script};
use super::{Calls, Client, LINES, Shop};
use crate::tls::{Ca, announced_listeners};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// `HTTPS_PROXY` names the listener for tunnels.
    Proxy,
    /// WeChat's name leads to the listener for TLS.
    Hosts,
}

async fn works(runtime: Runtime, name: &str, way: Way, has_tickets: bool) {
    for line in LINES {
        let ca = Ca::new();
        let shop = Shop::with(line, Some("wechatpy"), |server| ca.served_by(server)).await;
        let (tls, connect) = announced_listeners(&shop.server).await;
        let mut settings = shop.settings(Calls::Here);
        let (trust, proxy) = (ca.path("ca.pem"), format!("http://{connect}"));
        let mut environment = vec![("REQUESTS_CA_BUNDLE", trust.to_str().expect("it is UTF-8"))];
        match way {
            Way::Proxy => environment.push(("HTTPS_PROXY", &proxy)),
            Way::Hosts => settings["tls"] = json!([tls.ip(), tls.port()]),
        }
        let script = Script::start(runtime, name, settings, &environment);
        let client = Client { has_tickets, ..Client::new(script, Calls::Here) };
        client.works_on_when_its_token_is_killed(&shop).await;
    }
}

#[tokio::test]
async fn wechatpy_comes_by_the_proxy_variable() {
    works(Runtime::Python, "wechatpy_host.py", Way::Proxy, true).await;
}

#[tokio::test]
async fn wechatpy_comes_by_a_hosts_entry() {
    works(Runtime::Python, "wechatpy_host.py", Way::Hosts, true).await;
}

#[tokio::test]
async fn the_next_wechatpy_comes_by_a_hosts_entry() {
    works(Runtime::PythonNext, "wechatpy_host.py", Way::Hosts, true).await;
}

#[tokio::test]
async fn werobot_comes_by_the_proxy_variable() {
    works(Runtime::Python, "werobot_host.py", Way::Proxy, false).await;
}

#[tokio::test]
async fn werobot_comes_by_a_hosts_entry() {
    works(Runtime::Python, "werobot_host.py", Way::Hosts, false).await;
}
