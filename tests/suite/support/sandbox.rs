//! WeChat, simulated: our own sandbox, in the process of the test.

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use wxtoken::wechat::sandbox::{CallKind, Entry, Line, Sandbox, Witness};

pub(crate) const SECRET: &str = "5f4dcc3b5aa765d61d8327deb882cf99";

/// A sandbox that listens on a port of its own until this value goes.
pub(crate) struct TestSandbox {
    pub(crate) sandbox: Sandbox,
    url: String,
    shutdown: CancellationToken,
}

impl TestSandbox {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port can be bound");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let (sandbox, shutdown) = (Sandbox::new(), CancellationToken::new());
        tokio::spawn({
            let (sandbox, shutdown) = (sandbox.clone(), shutdown.clone());
            async move { sandbox.serve(listener, shutdown).await }
        });
        Self { sandbox, url, shutdown }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Makes or changes an account at WeChat; its AppSecret is [`SECRET`] unless `settings` says another.
    pub(crate) fn account(&self, appid: &str, settings: &Value) {
        if self.sandbox.state(appid).is_none() {
            self.sandbox.configure(appid, &json!({ "secret": SECRET })).expect("sound settings");
        }
        self.sandbox.configure(appid, settings).expect("sound settings");
    }

    /// Sets the faults of an account; an empty list ends them.
    pub(crate) fn faults(&self, appid: &str, faults: &Value) {
        self.account(appid, &json!({ "faults": faults }));
    }

    pub(crate) fn kill(&self, appid: &str, line: Line) {
        self.sandbox.kill(appid, line).expect("the account is there");
    }

    /// Whether WeChat accepts the token or ticket now.
    pub(crate) fn accepts(&self, value: &str) -> bool {
        self.sandbox.judge(value).accepted
    }

    /// How a token of the account was asked for.
    pub(crate) fn witness(&self, appid: &str, token_type: &str) -> Witness {
        let mut found = self.sandbox.witnesses().into_iter();
        found
            .find(|witness| witness.appid == appid && witness.token_type == token_type)
            .unwrap_or_else(|| panic!("nobody asked for the {token_type} of {appid}"))
    }

    /// The calls that clients made for an account, oldest first; what tests did through the control API is left out.
    pub(crate) fn calls(&self, appid: &str) -> Vec<Entry> {
        let log = self.sandbox.log(0, Some(appid));
        log.into_iter().filter(|entry| !matches!(entry.call, CallKind::ForeignMint | CallKind::Kill)).collect()
    }
}

impl Drop for TestSandbox {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}
