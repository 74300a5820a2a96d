//! The proxy that leads to one place only: here.
//!
//! An SDK with `HTTPS_PROXY` asks for a tunnel with `CONNECT api.weixin.qq.com:443`. It gets one, at whose other end is this very process,
//! with its certificate for that host. Nothing is ever connected to, so nothing can be reached through it. Whoever asks for something else is
//! told what there is, and that is the end of the connection.

use std::io::{self, Cursor};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::header::{ALLOW, CONNECTION};
use axum::http::{HeaderValue, Method, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum_server::accept::Accept;
use futures_util::future::BoxFuture;
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Chain, Join, join};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::connection::{Connection, within};
use super::door::{Door, Visitor};
use super::problem::{Code, Problem};
use super::tls::{HOST, shake_hands};
use super::{LARGEST_HEAD, MOST_HEADERS, context};
use crate::clock::Clock;

/// How long the request for a tunnel may take.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
const PORT: &str = "443";
const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// Takes connections in that ask for a tunnel.
#[derive(Clone)]
pub(super) struct TunnelReception {
    tls: Arc<ServerConfig>,
    refusals: Door,
}

impl TunnelReception {
    /// Tunnels end with the certificate of `tls`.
    pub(super) fn new(tls: Arc<ServerConfig>, clock: Clock) -> Self {
        let refusals = Router::new().fallback(refuse).layer(from_fn_with_state(clock, context::surround));
        Self { tls, refusals: Door::before(refusals) }
    }

    async fn receive(self, mut stream: TcpStream, visitor: Visitor) -> io::Result<(Received, Visitor)> {
        stream.set_nodelay(true)?;
        let (mut read, is_for_us) = within(HEAD_DEADLINE, &visitor, read_head(&mut stream)).await?;
        let Some(length) = is_for_us else {
            // The server for HTTP reads it again and finds the words.
            let refused = Visitor::new(self.refusals);
            return Ok((Connection::new(Either::Right(resume(read, stream)), &refused), refused));
        };
        let early = read.split_off(length);
        within(HEAD_DEADLINE, &visitor, stream.write_all(ESTABLISHED)).await?;
        let stream = shake_hands(self.tls, resume(early, stream), &visitor).await?;
        Ok((Connection::new(Either::Left(Box::new(stream)), &visitor), visitor))
    }
}

/// A tunnel, or a request that is refused.
type Received = Connection<Either<Box<TlsStream<Resumed>>, Resumed>>;
type Resumed = Join<Chain<Cursor<Vec<u8>>, OwnedReadHalf>, OwnedWriteHalf>;

impl Accept<TcpStream, Visitor> for TunnelReception {
    type Stream = Received;
    type Service = Visitor;
    type Future = BoxFuture<'static, io::Result<(Received, Visitor)>>;

    fn accept(&self, stream: TcpStream, visitor: Visitor) -> Self::Future {
        Box::pin(self.clone().receive(stream, visitor))
    }
}

/// The stream from the place at which `unread` was read.
fn resume(unread: Vec<u8>, stream: TcpStream) -> Resumed {
    let (reader, writer) = stream.into_split();
    join(Cursor::new(unread).chain(reader), writer)
}

/// Reads until it is clear what is asked for. Answers what was read and, if it asks for a tunnel to us, the length of that request.
async fn read_head(stream: &mut TcpStream) -> io::Result<(Vec<u8>, Option<usize>)> {
    let mut read = Vec::with_capacity(1_024);
    loop {
        let known = read.len();
        if stream.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let is_full = read.len() >= LARGEST_HEAD;
        // A head is complete, or spoilt, at the end of a line; what is no HTTP at all shows in its first bytes.
        if known > 0 && !is_full && !read[known..].contains(&b'\n') {
            continue;
        }
        match wish(&read) {
            Wish::Unclear if !is_full => {}
            Wish::Unclear | Wish::Other => return Ok((read, None)),
            Wish::Tunnel(length) => return Ok((read, Some(length))),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Wish {
    /// There must be more.
    Unclear,
    /// A tunnel to us; its request is this long.
    Tunnel(usize),
    /// Anything else.
    Other,
}

fn wish(read: &[u8]) -> Wish {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(read) {
        Ok(httparse::Status::Partial) => Wish::Unclear,
        Ok(httparse::Status::Complete(length))
            if request.method == Some("CONNECT") && request.path.is_some_and(is_us) =>
        {
            Wish::Tunnel(length)
        }
        Ok(httparse::Status::Complete(_)) | Err(_) => Wish::Other,
    }
}

/// Whether `host:port` is the place that we pass for.
fn is_us(authority: &str) -> bool {
    authority
        .rsplit_once(':')
        .is_some_and(|(host, port)| host.strip_suffix('.').unwrap_or(host).eq_ignore_ascii_case(HOST) && port == PORT)
}

async fn refuse(method: Method, uri: Uri) -> Response {
    let mut response = refusal(&method, &uri).into_response();
    let headers = response.headers_mut();
    // A tunnel can only be asked for at the start of a connection.
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if method != Method::CONNECT {
        headers.insert(ALLOW, HeaderValue::from_static("CONNECT"));
    }
    response
}

fn refusal(method: &Method, uri: &Uri) -> Problem {
    if *method == Method::CONNECT {
        let detail = "this proxy leads to api.weixin.qq.com:443 and to no other host or port; name it as the proxy for WeChat only";
        return Problem::new(Code::HostNotServed, detail);
    }
    let detail = if uri.scheme().is_some() {
        "this proxy only opens tunnels to api.weixin.qq.com:443; WeChat is served on https:// alone, so ask for an https:// URL"
    } else {
        "this is a proxy for https://api.weixin.qq.com: name it in HTTPS_PROXY; the API has an address of its own, see WXTOKEN_LISTEN"
    };
    Problem::new(Code::MethodNotAllowed, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish_of(text: &str) -> Wish {
        wish(text.as_bytes())
    }

    #[test]
    fn only_the_one_host_on_the_one_port_gets_a_tunnel() {
        for authority in ["api.weixin.qq.com:443", "API.weixin.qq.COM:443", "api.weixin.qq.com.:443"] {
            for version in ["1.0", "1.1"] {
                let head = format!("CONNECT {authority} HTTP/{version}\r\nProxy-Authorization: Basic eA==\r\n\r\n");
                assert_eq!(wish_of(&format!("{head}early")), Wish::Tunnel(head.len()), "{head}");
                assert_eq!(wish_of(&head[..head.len() - 1]), Wish::Unclear);
            }
        }
        for authority in [
            "api.weixin.qq.com",
            "api.weixin.qq.com:",
            "api.weixin.qq.com:80",
            "api.weixin.qq.com:0443",
            "api.weixin.qq.com:443:443",
            "api.weixin.qq.com..:443",
            "x@api.weixin.qq.com:443",
            "https://api.weixin.qq.com:443",
            "//api.weixin.qq.com:443",
            "xapi.weixin.qq.com:443",
            "api.weixin.qq.com.example:443",
            "[::1]:443",
            ":443",
            "/",
        ] {
            assert_eq!(wish_of(&format!("CONNECT {authority} HTTP/1.1\r\n\r\n")), Wish::Other, "{authority}");
        }
    }

    #[test]
    fn what_asks_for_no_tunnel_is_seen_at_once() {
        for head in [
            "GET / HTTP/1.1\r\n\r\n",
            "connect api.weixin.qq.com:443 HTTP/1.1\r\n\r\n",
            "CONNECT api.weixin.qq.com:443 HTTP/2.0\r\n\r\n",
            "\u{16}\u{3}\u{1}",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ] {
            assert_eq!(wish_of(head), Wish::Other, "{head:?}");
        }
        let many = format!("CONNECT api.weixin.qq.com:443 HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MOST_HEADERS + 1));
        assert_eq!(wish_of(&many), Wish::Other);
    }
}
