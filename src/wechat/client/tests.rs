//! The client against raw sockets that say what the test wants, byte for byte.

mod connecting;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use socket2::{Domain, Socket, Type};

use super::*;
use crate::wechat::{ConnectFault, Language};

const SECRET: &str = "canary+secret/%&=#?";
const TOKEN: &str = "84_canary-TOKEN/+%&=";
const MINTED: &str = r#"{"access_token":"84_new","expires_in":7200}"#;

/// A host on this machine, and the requests that it received.
struct Peer {
    address: SocketAddr,
    requests: Receiver<String>,
}

impl Peer {
    /// Answers every connection with `respond`, which gets the request's text and the connection.
    fn with(respond: impl Fn(&str, &mut TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, requests) = mpsc::channel();
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let request = read_request(&mut stream);
                let _ = sender.send(request.clone());
                respond(&request, &mut stream);
            }
        });
        Self { address, requests }
    }

    /// Answers with these bytes and closes.
    fn saying(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::with(move |_, stream| {
            let _ = stream.write_all(&bytes);
        })
    }

    /// Answers with HTTP status 200 and this body.
    fn answering(body: &str) -> Self {
        Self::saying(response("200 OK", "", body))
    }

    /// Takes the request and then says nothing until the client gives up.
    fn silent() -> Self {
        Self::with(|_, stream| wait_for_end(stream))
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn client(&self) -> Client {
        client(self.url(), None)
    }

    fn request(&self) -> String {
        self.requests.recv_timeout(Duration::from_secs(5)).unwrap()
    }
}

fn response(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n{body}", body.len())
}

fn wait_for_end(stream: &mut TcpStream) {
    let _ = stream.read_to_end(&mut Vec::new());
}

/// The head, and as much of the body as its length says.
fn read_request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&request);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return text.into_owned();
            }
        }
        match stream.read(&mut buffer) {
            Ok(read) if read > 0 => request.extend_from_slice(&buffer[..read]),
            _ => return String::from_utf8_lossy(&request).into_owned(),
        }
    }
}

/// A port that refuses connections for as long as the socket lives.
fn refusing() -> (Socket, String) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, format!("http://{address}"))
}

fn settings(base_url: String, fallback_url: Option<String>) -> ClientSettings {
    let limit = Duration::from_secs(5);
    ClientSettings { base_url, fallback_url, connect_timeout: limit, deadline: limit }
}

fn client(base_url: String, fallback_url: Option<String>) -> Client {
    Client::new(&settings(base_url, fallback_url)).unwrap()
}

fn hurried(base_url: String) -> Client {
    let limit = Duration::from_millis(200);
    Client::new(&ClientSettings { deadline: limit, connect_timeout: limit, ..settings(base_url, None) }).unwrap()
}

fn appid() -> AppId {
    AppId::parse("wx448f04719cd48f69").unwrap()
}

fn secret() -> AppSecret {
    AppSecret::parse(SECRET).unwrap()
}

fn token() -> TokenValue {
    TokenValue::parse(TOKEN).unwrap()
}

async fn plain_error(client: &Client) -> CallError {
    checked(client.plain_token(&appid(), &secret()).await.unwrap_err())
}

/// Fails the test when the error shows what no error may show.
fn checked(error: CallError) -> CallError {
    let hints = [Language::English, Language::Chinese].map(|language| error.hint(language));
    let shown = format!("{error} {error:?} {error:#?} {:?} {hints:?}", error.failure());
    for hidden in ["canary", "://", "127.0.0.1", "cgi-bin", "wx448f"] {
        assert!(!shown.contains(hidden), "{hidden} in {shown}");
    }
    error
}

#[tokio::test]
async fn a_stable_token_is_asked_for_with_json() {
    let peer = Peer::answering(MINTED);
    let client = peer.client();
    for force in [false, true] {
        let answer = client.stable_token(&appid(), &secret(), force).await.unwrap();
        assert_eq!((answer.value.expose(), answer.expires_in.as_secs()), ("84_new", 7_200));
        let request = peer.request();
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("POST /cgi-bin/stable_token HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("content-type: application/json\r\n"), "{head}");
        let sent: serde_json::Value = serde_json::from_str(body).unwrap();
        let wanted = json!({"grant_type": "client_credential", "appid": "wx448f04719cd48f69", "secret": SECRET, "force_refresh": force});
        assert_eq!(sent, wanted);
    }
}

#[tokio::test]
async fn the_other_calls_carry_their_words_in_the_query_percent_encoded() {
    let peer = Peer::answering(r#"{"ticket":"K","access_token":"T","expires_in":7200,"ip_list":[]}"#);
    let client = peer.client();
    let line = || peer.request().lines().next().unwrap().to_owned();

    client.plain_token(&appid(), &secret()).await.unwrap();
    let wanted = "GET /cgi-bin/token?grant_type=client_credential&appid=wx448f04719cd48f69\
        &secret=canary%2Bsecret%2F%25%26%3D%23%3F HTTP/1.1";
    assert_eq!(line(), wanted);

    for (token_type, name) in [(TokenType::JsapiTicket, "jsapi"), (TokenType::WxCardTicket, "wx_card")] {
        assert_eq!(client.ticket(&token(), token_type).await.unwrap().value.expose(), "K");
        let wanted =
            format!("GET /cgi-bin/ticket/getticket?access_token=84_canary-TOKEN%2F%2B%25%26%3D&type={name} HTTP/1.1");
        assert_eq!(line(), wanted);
    }

    client.probe(&token()).await.unwrap();
    assert_eq!(line(), "GET /cgi-bin/get_api_domain_ip?access_token=84_canary-TOKEN%2F%2B%25%26%3D HTTP/1.1");
}

#[tokio::test]
async fn requests_say_who_asks_and_want_no_compression() {
    let peer = Peer::answering(MINTED);
    peer.client().plain_token(&appid(), &secret()).await.unwrap();
    let request = peer.request();
    assert!(request.contains(concat!("user-agent: wxtoken/", env!("CARGO_PKG_VERSION"), "\r\n")), "{request}");
    assert!(request.contains("accept-encoding: identity\r\n"), "{request}");
    assert!(!request.contains("referer"), "{request}");
}

#[tokio::test]
async fn an_access_token_is_not_fetched_as_a_ticket() {
    let (_port, url) = refusing();
    let error = client(url, None).ticket(&token(), TokenType::AccessToken).await.unwrap_err();
    assert_eq!(checked(error), CallError::NotATicket);
}

#[tokio::test]
async fn the_body_counts_and_not_its_label() {
    for headers in [
        "content-type: text/html; charset=gbk\r\n",
        "content-type: application/json; encoding=utf-8\r\n",
        "content-encoding: identity\r\n",
    ] {
        let peer = Peer::saying(response("200 OK", headers, MINTED));
        peer.client().plain_token(&appid(), &secret()).await.unwrap();
    }
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
        1\r\n{\r\n2a\r\n\"access_token\":\"84_new\",\"expires_in\":7200}\r\n0\r\n\r\n";
    Peer::saying(chunked).client().plain_token(&appid(), &secret()).await.unwrap();
}

#[tokio::test]
async fn a_refusal_keeps_its_call_and_hides_what_was_sent() {
    let echo = format!(
        r#"{{"errcode":40125,"errmsg":"invalid appsecret {SECRET} or canary%2bsecret%2F%25%26%3d%23%3F\r\n rid: 1"}}"#
    );
    let error = plain_error(&Peer::answering(&echo).client()).await;
    assert_eq!(error.to_string(), "WeChat refused with errcode 40125: invalid appsecret *** or *** rid: 1");

    let echo = format!(r#"{{"errcode":40001,"errmsg":"invalid credential {TOKEN}"}}"#);
    let peer = Peer::answering(&echo);
    let error = checked(peer.client().ticket(&token(), TokenType::JsapiTicket).await.unwrap_err());
    assert!(error.token_refused());
    let error = checked(peer.client().probe(&token()).await.unwrap_err());
    assert!(error.token_refused());
    let peer = Peer::answering(r#"{"errcode":40001,"errmsg":"invalid credential"}"#);
    let error = checked(peer.client().stable_token(&appid(), &secret(), true).await.unwrap_err());
    assert!(!error.token_refused());
}

#[tokio::test]
async fn a_status_of_failure_is_told_unless_wechat_explains_it() {
    for (status, body, code) in [
        ("502 Bad Gateway", "<html>", 502),
        ("500 Oops", "", 500),
        ("404 Not Found", MINTED, 404),
        ("503 Busy", r#"{"errcode":0}"#, 503),
    ] {
        let error = plain_error(&Peer::saying(response(status, "", body)).client()).await;
        assert_eq!(error, CallError::Status(code));
    }
    let explained = response("412 Precondition Failed", "", r#"{"errcode":45011,"errmsg":"slower"}"#);
    let error = plain_error(&Peer::saying(explained).client()).await;
    assert_eq!(error.failure().errcode, Some(45_011));
    let torn = "HTTP/1.1 504 Gateway Timeout\r\ncontent-length: 100\r\n\r\n{";
    assert_eq!(plain_error(&Peer::saying(torn).client()).await, CallError::Status(504));
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let elsewhere = Peer::answering(MINTED);
    for status in ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let location = format!("location: {}/cgi-bin/token?secret=canary\r\n", elsewhere.url());
        let error = plain_error(&Peer::saying(response(status, &location, "")).client()).await;
        assert_eq!(error, CallError::Redirected(status[..3].parse().unwrap()));
    }
    assert!(elsewhere.requests.try_recv().is_err());
}

#[tokio::test]
async fn bodies_are_read_up_to_the_cap_and_no_further() {
    let filled = |length: usize| format!("{}{}", MINTED, " ".repeat(length - MINTED.len()));
    Peer::answering(&filled(LARGEST_ANSWER)).client().plain_token(&appid(), &secret()).await.unwrap();
    let error = plain_error(&Peer::answering(&filled(LARGEST_ANSWER + 1)).client()).await;
    assert_eq!(error, CallError::TooLarge);

    let endless = Peer::with(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b' '; 8192]).is_ok() {}
    });
    assert_eq!(plain_error(&endless.client()).await, CallError::TooLarge);
}

#[tokio::test]
async fn compressed_answers_are_refused_unread() {
    for encoding in ["gzip", "br", "identity, gzip"] {
        let headers = format!("content-encoding: {encoding}\r\n");
        let error = plain_error(&Peer::saying(response("200 OK", &headers, MINTED)).client()).await;
        assert!(matches!(error, CallError::Unreadable { .. }), "{encoding}: {error}");
    }
}

#[tokio::test]
async fn connections_that_break_are_told_and_may_have_been_heard() {
    for part in ["", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{\"access_token\":\"T\""] {
        let error = plain_error(&Peer::saying(part).client()).await;
        assert_eq!((error.is_unsent(), &error), (false, &CallError::Broken), "{part}");
    }
    let reset = Peer::with(|_, stream| {
        let socket = Socket::from(stream.try_clone().unwrap());
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    });
    assert_eq!(plain_error(&reset.client()).await, CallError::Broken);
}

#[tokio::test]
async fn what_is_not_http_is_unreadable() {
    for nonsense in
        ["SSH-2.0-OpenSSH_9.2\r\n".to_owned(), format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(1 << 20))]
    {
        let error = plain_error(&Peer::saying(nonsense).client()).await;
        assert!(matches!(error, CallError::Unreadable { .. } | CallError::Broken), "{error}");
    }
}

#[tokio::test]
async fn one_deadline_covers_head_and_body() {
    let within = Duration::from_millis(200);
    let continuing = Peer::with(|_, stream| {
        while stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").is_ok() {
            thread::sleep(Duration::from_millis(1));
        }
    });
    let dripping = Peer::with(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 60000\r\n\r\n{");
        wait_for_end(stream);
    });
    for peer in [Peer::silent(), continuing, dripping] {
        let error = plain_error(&hurried(peer.url())).await;
        assert_eq!((error.is_unsent(), &error), (false, &CallError::TimedOut { within }));
        assert_eq!(error.to_string(), "no answer from WeChat within 0.2 s");
    }
}

#[test]
fn settings_are_checked_in_sentences_that_repeat_nothing() {
    let refuse = |settings| Client::new(&settings).unwrap_err().to_string();
    let good = || settings("https://api.weixin.qq.com".to_owned(), None);
    let shown = refuse(ClientSettings { base_url: "http://u:canary@example.com".to_owned(), ..good() });
    assert_eq!(shown, "the WeChat URL must not hold a user name or a password");
    let shown = refuse(ClientSettings { fallback_url: Some("http://api2.weixin.qq.com".to_owned()), ..good() });
    assert!(shown.starts_with("the WeChat fallback URL must begin with https://"), "{shown}");
    let hasty = ClientSettings { connect_timeout: Duration::from_secs(9), deadline: Duration::from_secs(8), ..good() };
    assert_eq!(Client::new(&hasty).unwrap_err(), ClientError::Deadlines);
    assert!(Client::new(&good()).is_ok());
}
