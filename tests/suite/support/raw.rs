//! Requests byte by byte, for what no client library would send.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ANSWER_BOUND: Duration = Duration::from_secs(20);

/// What came back until the server closed the connection.
#[derive(Debug)]
pub(crate) struct RawReply {
    /// 0 where nothing came back.
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl RawReply {
    fn of(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    /// The stable code of a problem; empty where the answer is none.
    pub(crate) fn code(&self) -> String {
        let body: Value = serde_json::from_str(&self.body).unwrap_or(Value::Null);
        body["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// Sends `request` to the server at `base_url` and reads until it closes. A request of HTTP/1.1 should ask for that.
pub(crate) async fn send(base_url: &str, request: &[u8]) -> RawReply {
    let mut stream = connect(base_url).await;
    let exchange = async {
        // A server that has answered already may close before it has read everything.
        stream.write_all(request).await.ok();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok();
        RawReply::of(&answer)
    };
    let answered = tokio::time::timeout(ANSWER_BOUND, exchange).await;
    answered.unwrap_or_else(|_| panic!("no answer within {ANSWER_BOUND:?} to {:?}", String::from_utf8_lossy(request)))
}

/// A connection to the server at `base_url`.
pub(crate) async fn connect(base_url: &str) -> TcpStream {
    let address = base_url.strip_prefix("http://").expect("our servers speak plain HTTP");
    TcpStream::connect(address).await.expect("the server listens")
}
