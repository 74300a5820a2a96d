//! The sandbox over real sockets.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;

mod proxied;

const APPID: &str = "wx448f04719cd48f69";
const PATIENCE: Duration = Duration::from_secs(10);

/// A sandbox on a port of its own, with one account.
struct Served {
    sandbox: Sandbox,
    address: SocketAddr,
    _shutdown: DropGuard,
}

struct Reply {
    head: String,
    body: Vec<u8>,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| Value::from(format!("{error}: {}", String::from_utf8_lossy(&self.body))))
    }

    fn status(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }
}

impl Served {
    async fn start(settings: Value) -> Self {
        let sandbox = Sandbox::new();
        sandbox.configure(APPID, &settings).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let serving = sandbox.clone();
        let until = shutdown.clone();
        tokio::spawn(async move { serving.serve(listener, until).await });
        Self { sandbox, address, _shutdown: shutdown.drop_guard() }
    }

    async fn send(&self, method: &str, target: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let length = body.len();
        let request = format!(
            "{method} {target} HTTP/1.1\r\nhost: sandbox\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    /// Everything that comes back, or how the connection broke.
    async fn raw(&self, method: &str, target: &str, body: &str) -> io::Result<Vec<u8>> {
        let mut stream = self.send(method, target, body).await;
        let mut received = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut received)).await.unwrap()?;
        Ok(received)
    }

    async fn call(&self, method: &str, target: &str, body: &str) -> Reply {
        let received = self.raw(method, target, body).await.unwrap();
        let end = received.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        Reply {
            head: String::from_utf8(received[..end].to_vec()).unwrap().to_lowercase(),
            body: received[end + 4..].to_vec(),
        }
    }

    async fn get(&self, target: &str) -> Value {
        self.call("GET", target, "").await.json()
    }

    async fn plain(&self) -> Value {
        self.get(&plain_target()).await
    }

    async fn stable(&self, force: bool) -> Value {
        let body = json!({
            "grant_type": "client_credential", "appid": APPID, "secret": DEFAULT_SECRET, "force_refresh": force,
        });
        self.call("POST", "/cgi-bin/stable_token", &body.to_string()).await.json()
    }

    async fn probe(&self, token: &str) -> Value {
        self.get(&format!("/cgi-bin/get_api_domain_ip?access_token={token}")).await
    }

    async fn fault(&self, fault: Value) {
        let reply = self.call("PUT", &format!("/sandbox/accounts/{APPID}/faults"), &json!([fault]).to_string()).await;
        assert_eq!(reply.status(), "200", "{}", reply.json());
    }

    fn mints(&self) -> usize {
        self.sandbox.log(0, Some(APPID)).iter().filter(|entry| entry.minted).count()
    }

    /// Waits until every logged call has ended.
    async fn settled(&self) {
        let ended = async {
            while self.sandbox.log(0, None).iter().any(|entry| entry.ended_ms.is_none()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.unwrap();
    }
}

fn plain_target() -> String {
    format!("/cgi-bin/token?grant_type=client_credential&appid={APPID}&secret={DEFAULT_SECRET}")
}

fn token_of(answer: &Value) -> String {
    answer["access_token"].as_str().unwrap_or_else(|| answer["ticket"].as_str().unwrap()).to_owned()
}

#[tokio::test]
async fn a_plain_token_is_minted_probed_replaced_and_judged() {
    let served = Served::start(json!({"overlap_seconds": 0})).await;
    let reply = served.call("GET", &plain_target(), "").await;
    assert!(reply.head.contains("content-type: application/json; encoding=utf-8"), "{}", reply.head);
    let first = reply.json();
    assert_eq!(first["expires_in"], 7_200);
    assert!(served.probe(&token_of(&first)).await["ip_list"].is_array());
    let second = served.plain().await;
    let refused = served.probe(&token_of(&first)).await;
    assert_eq!(refused["errcode"], 40001);
    assert!(refused["errmsg"].as_str().unwrap().contains("is invalid or not latest rid: "), "{refused}");
    assert_eq!(served.probe("98_nobody").await["errcode"], 40014);
    assert_eq!(served.get("/cgi-bin/menu/get").await["errcode"], 41001);
    let business = served.call("POST", &format!("/cgi-bin/menu/create?access_token={}", token_of(&second)), "{}").await;
    assert_eq!(business.json(), json!({"errcode": 0, "errmsg": "ok"}));
    let judged = served.get(&format!("/sandbox/judge?access_token={}", token_of(&first))).await;
    assert_eq!((&judged["verdict"], &judged["line"]), (&json!("superseded"), &json!("plain")));
    assert_eq!(served.sandbox.judge(&token_of(&second)).verdict, Verdict::Current);
}

#[tokio::test]
async fn the_stable_endpoint_repeats_itself_and_refuses_what_is_not_json() {
    let served = Served::start(json!({})).await;
    let first = token_of(&served.stable(false).await);
    assert_eq!(token_of(&served.stable(false).await), first);
    let forced = token_of(&served.stable(true).await);
    assert_ne!(forced, first);
    assert_eq!(token_of(&served.stable(true).await), forced);
    assert_eq!(served.sandbox.judge(&first).verdict, Verdict::Previous);
    for (method, body, errcode) in
        [("GET", "", 43002), ("POST", "", 44002), ("POST", "{", 47001), ("POST", "appid=wx&secret=s", 41002)]
    {
        assert_eq!(served.call(method, "/cgi-bin/stable_token", body).await.json()["errcode"], errcode);
    }
}

#[tokio::test]
async fn tickets_are_fetched_with_an_access_token() {
    let served = Served::start(json!({})).await;
    let token = token_of(&served.stable(false).await);
    let first = served.get(&format!("/cgi-bin/ticket/getticket?access_token={token}&type=jsapi")).await;
    assert_eq!((&first["errcode"], &first["expires_in"]), (&json!(0), &json!(7_200)));
    let again = served.get(&format!("/cgi-bin/ticket/getticket?type=jsapi&access_token={token}")).await;
    assert_eq!(first["ticket"], again["ticket"]);
    let card = served.get(&format!("/cgi-bin/ticket/getticket?type=wx_card&access_token={token}")).await;
    assert_ne!(first["ticket"], card["ticket"]);
    let judged = served.get(&format!("/sandbox/judge?ticket={}", token_of(&first))).await;
    assert_eq!((&judged["verdict"], &judged["line"]), (&json!("current"), &json!("jsapi")));
    assert_eq!(served.get("/cgi-bin/ticket/getticket?type=jsapi&access_token=x").await["errcode"], 40014);
    assert_eq!(served.probe(&token_of(&first)).await["errcode"], 40014);
}

#[tokio::test]
async fn accounts_are_refused_in_the_words_of_wechat() {
    let served = Served::start(json!({"whitelist": ["10.0.0.0/8"], "errmsg_tail": "none"})).await;
    let refused = served.plain().await;
    assert_eq!(
        refused,
        json!({"errcode": 40164, "errmsg": "invalid ip 127.0.0.1 ipv6 ::ffff:127.0.0.1, not in whitelist"})
    );
    let unknown = served.get("/cgi-bin/token?grant_type=client_credential&appid=wx0&secret=s").await;
    assert_eq!(unknown["errcode"], 40013);
    served.sandbox.configure(APPID, &json!({"whitelist": [], "state": "secret_frozen"})).unwrap();
    assert_eq!(served.stable(false).await["errcode"], 40243);
}

#[tokio::test]
async fn a_second_system_mints_and_a_withdrawal_kills() {
    let served = Served::start(json!({})).await;
    let mine = token_of(&served.stable(false).await);
    let foreign = served.call("POST", &format!("/sandbox/accounts/{APPID}/mint"), r#"{"line":"stable"}"#).await.json();
    assert_eq!(served.sandbox.judge(&mine).verdict, Verdict::Previous);
    assert_eq!(token_of(&served.stable(false).await), token_of(&foreign));
    served.call("POST", &format!("/sandbox/accounts/{APPID}/kill"), r#"{"line":"stable"}"#).await;
    for token in [mine, token_of(&foreign)] {
        assert_eq!(served.probe(&token).await["errcode"], 40001);
        assert_eq!(served.sandbox.judge(&token).verdict, Verdict::Withdrawn);
    }
    let witness = served.get("/sandbox/witness").await["witnesses"][0].clone();
    assert_eq!((&witness["mints"], &witness["foreign_mints"], &witness["probes"]), (&json!(1), &json!(1), &json!(2)));
}

#[tokio::test]
async fn connections_break_before_or_after_the_call_is_processed() {
    for (kind, reset, minted) in
        [("reset_before", true, 0), ("reset_after", true, 1), ("close_before", false, 0), ("close_after", false, 1)]
    {
        let served = Served::start(json!({})).await;
        served.fault(json!({"kind": kind, "calls": ["token"], "times": 1})).await;
        match served.raw("GET", &plain_target(), "").await {
            Ok(received) => assert!(!reset && received.is_empty(), "{kind}"),
            Err(error) => assert!(reset && error.kind() == io::ErrorKind::ConnectionReset, "{kind}: {error}"),
        }
        assert_eq!(served.mints(), minted, "{kind}");
        assert!(served.plain().await["access_token"].is_string(), "{kind}");
    }
}

#[tokio::test]
async fn a_call_hangs_until_the_client_gives_up() {
    for (kind, minted) in [("hang_before", 0), ("hang_after", 1)] {
        let served = Served::start(json!({})).await;
        served.fault(json!({"kind": kind})).await;
        let stream = served.send("GET", &plain_target(), "").await;
        let in_flight = async {
            while served.sandbox.log(0, None).is_empty() || served.mints() < minted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, in_flight).await.unwrap();
        let entry = served.sandbox.log(0, None).remove(0);
        assert_eq!((entry.ended_ms, entry.minted), (None, minted == 1), "{kind}");
        assert_eq!(served.sandbox.witnesses()[0].in_flight, 1);
        drop(stream);
        served.settled().await;
        assert_eq!(served.sandbox.witnesses()[0].in_flight, 0);
    }
}

#[tokio::test]
async fn a_shutdown_ends_calls_that_hang() {
    let served = Served::start(json!({"faults": [{"kind": "hang_after"}]})).await;
    let mut stream = served.send("GET", &plain_target(), "").await;
    let processed = async {
        while served.mints() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, processed).await.unwrap();
    drop(served);
    let mut received = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut received)).await.unwrap().unwrap();
    assert!(received.is_empty());
}

#[tokio::test]
async fn bodies_arrive_slowly_or_not_in_full() {
    let served = Served::start(json!({})).await;
    served.fault(json!({"kind": "truncated_body"})).await;
    let received = String::from_utf8(served.raw("GET", &plain_target(), "").await.unwrap()).unwrap();
    let (head, body) = received.split_once("\r\n\r\n").unwrap();
    let promised: usize = head.to_lowercase().split("content-length: ").nth(1).unwrap()[..3].parse().unwrap();
    assert_eq!(body.len(), promised / 2);
    served.fault(json!({"kind": "slow_drip", "ms": 1})).await;
    let started = tokio::time::Instant::now();
    assert!(served.plain().await["access_token"].is_string());
    assert!(started.elapsed() >= Duration::from_millis(100));
}

#[tokio::test]
async fn answers_are_spoilt_as_configured() {
    let served = Served::start(json!({"bom": true, "content_type": "text_plain"})).await;
    let marked = served.call("GET", &plain_target(), "").await;
    assert!(marked.body.starts_with(b"\xef\xbb\xbf{") && marked.head.contains("content-type: text/plain"));
    served.sandbox.configure(APPID, &json!({"bom": false})).unwrap();
    for (fault, status, body) in [
        (json!({"kind": "http_502"}), "502", "<html>"),
        (json!({"kind": "html"}), "200", "<html>"),
        (json!({"kind": "empty_body"}), "200", ""),
        (json!({"kind": "wrong_shape_null"}), "200", "null"),
        (json!({"kind": "busy"}), "200", "{\"errcode\":-1,\"errmsg\":\"system error rid: "),
        (
            json!({"kind": "errcode", "errcode": 45011, "errmsg": "slower"}),
            "200",
            "{\"errcode\":45011,\"errmsg\":\"slower",
        ),
        (json!({"kind": "redirect", "location": "/elsewhere"}), "302", "<html>"),
        (json!({"kind": "false_gzip"}), "200", "{\"access_token\":"),
    ] {
        served.fault(fault.clone()).await;
        let reply = served.call("GET", &plain_target(), "").await;
        let text = String::from_utf8_lossy(&reply.body);
        assert!(reply.status() == status && text.starts_with(body), "{fault}: {} {text}", reply.head);
    }
}

#[tokio::test]
async fn a_refusal_can_follow_a_mint() {
    let served = Served::start(json!({})).await;
    for (processed, minted) in [(false, 0), (true, 1)] {
        served.fault(json!({"kind": "busy", "processed": processed})).await;
        assert_eq!(served.plain().await["errcode"], -1);
        assert_eq!(served.mints(), minted);
    }
    assert_eq!(served.sandbox.log(0, None).pop().unwrap().errcode, Some(-1));
}

#[tokio::test]
async fn calls_that_overlap_are_witnessed() {
    let served = Served::start(json!({"latency_ms": {"min": 200, "max": 200}})).await;
    let (_, _) = tokio::join!(served.plain(), served.stable(false));
    let witness = served.sandbox.witnesses().remove(0);
    assert_eq!((witness.calls, witness.mints, witness.most_in_flight, witness.in_flight), (2, 2, 2, 0));
    served.sandbox.clear_witnesses();
    served.sandbox.configure(APPID, &json!({"latency_ms": {"min": 0, "max": 0}})).unwrap();
    for _ in 0..50 {
        served.plain().await;
    }
    let witness = served.sandbox.witnesses().remove(0);
    assert_eq!((witness.calls, witness.most_in_flight), (50, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_no_longer_in_flight_when_its_answer_arrives() {
    let served = Served::start(json!({})).await;
    served.fault(json!({"kind": "slow_drip", "ms": 0, "times": 2})).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let request = format!("GET {} HTTP/1.1\r\nhost: sandbox\r\n\r\n", plain_target());
    for _ in 0..200 {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut received = Vec::new();
        while !received.ends_with(b"}") {
            let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut received)).await.unwrap().unwrap();
            assert_ne!(read, 0);
        }
        assert_eq!(served.sandbox.witnesses()[0].in_flight, 0);
    }
}

#[tokio::test]
async fn quotas_are_counted_shown_and_cleared() {
    let served = Served::start(json!({"plain_per_day": 1, "clear_quota_per_month": 1})).await;
    let token = token_of(&served.plain().await);
    assert_eq!(served.plain().await["errcode"], 45009);
    let target = format!("/cgi-bin/openapi/quota/get?access_token={token}");
    let quota = served.call("POST", &target, r#"{"cgi_path":"/cgi-bin/token"}"#).await.json();
    assert_eq!(quota["quota"], json!({"daily_limit": 1, "used": 1, "remain": 0}));
    let clear = format!("/cgi-bin/clear_quota/v2?appid={APPID}&appsecret={DEFAULT_SECRET}");
    assert_eq!(served.call("POST", &clear, "").await.json()["errcode"], 0);
    assert!(served.plain().await["access_token"].is_string());
    let clear = format!("/cgi-bin/clear_quota?access_token={token}");
    let body = json!({"appid": APPID}).to_string();
    assert_eq!(served.call("POST", &clear, &body).await.json()["errcode"], 48006);
}

#[tokio::test]
async fn a_refusal_can_be_asked_about_by_its_rid() {
    let served = Served::start(json!({})).await;
    let token = token_of(&served.plain().await);
    let target = format!("/cgi-bin/ticket/getticket?access_token={token}&type=nonsense");
    let refused = served.get(&target).await;
    let rid = refused["errmsg"].as_str().unwrap().split("rid: ").nth(1).unwrap().to_owned();
    let target = format!("/cgi-bin/openapi/rid/get?access_token={token}");
    let found = served.call("POST", &target, &json!({"rid": rid}).to_string()).await.json();
    assert_eq!(found["request"]["client_ip"], "127.0.0.1", "{found}");
}

#[tokio::test]
async fn the_control_api_refuses_with_a_sentence() {
    let served = Served::start(json!({})).await;
    for (method, target, body, status) in [
        ("PUT", "/sandbox/accounts/wx1", r#"{"lifetime":1}"#, "400"),
        ("PUT", "/sandbox/accounts/wx1", "{", "400"),
        ("PUT", "/sandbox/accounts/a%20b", "{}", "400"),
        ("GET", "/sandbox/accounts/wx1", "", "404"),
        ("POST", "/sandbox/accounts/wx1/mint", r#"{"line":"plain"}"#, "404"),
        ("POST", "/sandbox/accounts/wx1/mint", r#"{"line":"gold"}"#, "400"),
        ("GET", "/sandbox/judge", "", "400"),
        ("GET", "/sandbox/log?after=x", "", "400"),
        ("GET", "/sandbox/nothing", "", "404"),
        ("POST", "/sandbox/log", "", "405"),
    ] {
        let reply = served.call(method, target, body).await;
        assert!(reply.status() == status && reply.json()["error"].is_string(), "{method} {target}: {}", reply.head);
    }
    assert!(served.sandbox.log(0, None).is_empty());
    assert_eq!(served.call("PUT", "/sandbox/accounts/wx1", "").await.json()["settings"]["lifetime_seconds"], 7_200);
    assert_eq!(served.call("DELETE", "/sandbox/accounts/wx1", "").await.status(), "200");
}
