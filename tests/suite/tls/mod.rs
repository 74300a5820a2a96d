//! WeChat's name: the CA that vouches for it, and the two listeners that serve it.

mod ca;
mod listening;
mod problems;
mod shutdown;
mod tunnels;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Certificate, Client, ClientBuilder, Proxy};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::support::api::http_client;
use crate::support::process::{Server, ServerBuilder};
use crate::support::wait::eventually;

const HOST: &str = "api.weixin.qq.com";
const CONNECT: &str = "CONNECT api.weixin.qq.com:443 HTTP/1.1\r\nHost: api.weixin.qq.com:443\r\n\r\n";
const ESTABLISHED: &str = "HTTP/1.1 200 Connection established\r\n\r\n";
const BOUND: Duration = Duration::from_secs(20);
const CHAIN: &str = "api.weixin.qq.com.pem";
const KEY: &str = "api.weixin.qq.com-key.pem";

/// A directory with a CA that the program itself has made.
pub(crate) struct Ca(TempDir);

impl Ca {
    pub(crate) fn new() -> Self {
        let ca = Self(tempfile::tempdir().expect("a temporary directory can be made"));
        let output = ca.init(&[]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        ca
    }

    /// `ca init` for this directory, with further words.
    fn init(&self, words: &[&str]) -> Output {
        let directory = self.path("");
        let mut arguments = vec!["ca", "init", "--dir", directory.to_str().expect("it is UTF-8")];
        arguments.extend(words);
        run(self.0.path(), &arguments)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join("ca").join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn certificate(&self, name: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.text(name).as_bytes()).expect("a certificate")
    }

    /// Both listeners, on ports that the system chooses.
    pub(crate) fn served_by(&self, server: ServerBuilder) -> ServerBuilder {
        let directory = self.path("");
        server
            .env("WXTOKEN_TLS_DIR", directory.to_str().expect("it is UTF-8"))
            .env("WXTOKEN_TLS_LISTEN", "127.0.0.1:0")
            .env("WXTOKEN_CONNECT_LISTEN", "127.0.0.1:0")
    }

    /// A client that trusts this CA and nobody else.
    fn client(&self) -> ClientBuilder {
        // Installs the provider for TLS.
        http_client();
        let ca = Certificate::from_pem(self.text("ca.pem").as_bytes()).expect("a certificate");
        Client::builder().no_proxy().tls_certs_only([ca]).timeout(BOUND)
    }

    /// The server as an SDK sees it whose hosts file leads here, and as one with a proxy sees it.
    fn ways(&self, tls: SocketAddr, connect: SocketAddr) -> [(Client, String); 2] {
        let direct = self.client().resolve(HOST, tls).build().expect("sound settings");
        let proxy = Proxy::https(format!("http://{connect}")).expect("a URL");
        let through = self.client().proxy(proxy).build().expect("sound settings");
        [(direct, format!("https://{HOST}:{}", tls.port())), (through, format!("https://{HOST}"))]
    }

    /// The same for tests that shake hands themselves.
    fn trust(&self) -> ClientConfig {
        http_client();
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate("ca.pem")).expect("a certificate");
        ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()
    }
}

/// A server with both listeners.
struct Scene {
    ca: Ca,
    server: Server,
    tls: SocketAddr,
    connect: SocketAddr,
}

impl Scene {
    async fn start(change: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Self {
        let ca = Ca::new();
        let server = ca.served_by(change(Server::builder())).start().await;
        let (tls, connect) = announced_listeners(&server).await;
        Self { ca, server, tls, connect }
    }

    fn ways(&self) -> [(Client, String); 2] {
        self.ca.ways(self.tls, self.connect)
    }

    async fn is_well(&self) {
        for (client, base) in self.ways() {
            let answer = client.get(format!("{base}/livez")).send().await;
            let answer = answer.unwrap_or_else(|error| panic!("{error:?}: {}", self.server.output()));
            assert_eq!(answer.status().as_u16(), 200);
        }
    }
}

/// Where the server listens for TLS, and where for tunnels.
pub(crate) async fn announced_listeners(server: &Server) -> (SocketAddr, SocketAddr) {
    (announced(server, &format!("https://{HOST} on ")).await, announced(server, " alone on http://").await)
}

/// An address that the server names after `words`.
async fn announced(server: &Server, words: &str) -> SocketAddr {
    eventually(BOUND, words, async || {
        server.output().split_once(words).and_then(|(_, rest)| rest.lines().next()?.parse().ok())
    })
    .await
}

/// Runs the program to its end, with nothing in its environment.
fn run(directory: &Path, arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_wxtoken");
    Command::new(program)
        .args(arguments)
        .env_clear()
        .current_dir(directory)
        .output()
        .expect("the program can be started")
}

fn name() -> ServerName<'static> {
    ServerName::try_from(HOST).expect("a name")
}

async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.expect("the server listens")
}

fn connector(client: ClientConfig) -> tokio_rustls::TlsConnector {
    Arc::new(client).into()
}
