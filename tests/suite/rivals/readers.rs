//! Readers who note every value that they were given, and report those that WeChat refuses.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use wxtoken::clock::Clock;
use wxtoken::domain::timestamp::Timestamp;
use wxtoken::wechat::sandbox::Sandbox;

use super::instance::Instance;
use super::record::{Given, Read};
use crate::support::api::Api;

/// A reader who waits for a first value waits for a call and 2 s; this is a little more.
const READ_BOUND: Duration = Duration::from_millis(3_500);
const REPORT_BOUND: Duration = Duration::from_secs(6);

/// Where readers write.
#[derive(Default)]
pub(super) struct Log {
    pub(super) reads: Mutex<Vec<Read>>,
    /// The accounts of reports that were answered with a new token.
    pub(super) repairs: Mutex<Vec<String>>,
}

impl Log {
    fn read(&self, read: Read) {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner).push(read);
    }

    fn repair(&self, appid: &str) {
        self.repairs.lock().unwrap_or_else(PoisonError::into_inner).push(appid.to_owned());
    }
}

/// The reader of one token at one instance.
pub(super) struct Reader {
    pub(super) number: usize,
    pub(super) instance: Arc<Instance>,
    pub(super) appid: String,
    pub(super) token_type: &'static str,
    pub(super) sandbox: Sandbox,
    pub(super) clock: Clock,
    pub(super) pace: Duration,
    pub(super) log: Arc<Log>,
}

impl Reader {
    /// Reads at its pace until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(self.pace)).await.is_some() {
            let Some((start, admin)) = self.instance.admin() else { continue };
            let read = self.read(start, &admin).await;
            let refused = read.given.as_ref().filter(|given| !given.accepted).map(|given| given.value.clone());
            self.log.read(read);
            if let Some(value) = refused
                && self.token_type == "access_token"
            {
                self.report(&admin, &value).await;
            }
        }
    }

    async fn read(&self, start: u32, admin: &Api) -> Read {
        let path = format!("/v1/accounts/{}/tokens/{}", self.appid, self.token_type);
        let sent = self.now();
        let (status, body) = answer(admin.request(Method::GET, &path).timeout(READ_BOUND)).await;
        let received = self.now();
        let given = (status == 200).then(|| given(&body)).flatten();
        let given = given.map(|given| Given { accepted: self.sandbox.judge(&given.value).accepted, ..given });
        let Self { number, appid, token_type, .. } = self;
        Read { instance: *number, start, appid: appid.clone(), token_type, sent, received, status, given }
    }

    async fn report(&self, admin: &Api, value: &str) {
        let path = format!("/v1/accounts/{}/tokens/{}/report", self.appid, self.token_type);
        let request = admin.request(Method::POST, &path).header("content-type", "application/json");
        let request = request.body(json!({ "value": value }).to_string()).timeout(REPORT_BOUND);
        let (_, body) = answer(request).await;
        if body["verdict"] == "replaced" {
            self.log.repair(&self.appid);
        }
    }

    fn now(&self) -> i64 {
        self.clock.now().as_millis()
    }
}

/// Status and body; a status of 0 where no whole answer came.
async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let Ok(answer) = request.send().await else { return (0, Value::Null) };
    let status = answer.status().as_u16();
    match answer.text().await {
        Ok(text) => (status, serde_json::from_str(&text).unwrap_or(Value::Null)),
        Err(_) => (0, Value::Null),
    }
}

fn given(body: &Value) -> Option<Given> {
    Some(Given {
        value: body["value"].as_str()?.to_owned(),
        version: body["version"].as_i64()?,
        expires_at: Timestamp::parse_rfc3339(body["expires_at"].as_str()?)?.as_millis(),
        accepted: false,
    })
}
