//! A Redis or Memcached server that one test owns, so that it may break it. It runs on a port of 127.0.0.1, keeps nothing on a disk, and ends with
//! this value.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::wait::within;

const START_BOUND: Duration = Duration::from_secs(20);
const ANSWER_BOUND: Duration = Duration::from_secs(10);
const PORTS_TRIED: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CacheKind {
    Redis,
    Memcached,
}

/// The server; it runs unless a test has stopped it.
pub(crate) struct CacheServer {
    kind: CacheKind,
    password: Option<String>,
    port: u16,
    running: Mutex<Option<Child>>,
}

impl CacheServer {
    /// A new, empty server.
    pub(crate) async fn start(kind: CacheKind) -> Self {
        Self::start_with(kind, None).await
    }

    /// A Redis server that asks for a password.
    pub(crate) async fn start_with_password() -> Self {
        // Characters that a URL must escape.
        Self::start_with(CacheKind::Redis, Some(format!("p@ss/{:016x}", rand::random::<u64>()))).await
    }

    async fn start_with(kind: CacheKind, password: Option<String>) -> Self {
        let mut server = Self { kind, password, port: 0, running: Mutex::default() };
        for _ in 0..PORTS_TRIED {
            server.port = super::own_server::free_port();
            if server.try_start().await {
                return server;
            }
        }
        panic!("the test's own {kind:?} server did not start");
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn password(&self) -> &str {
        self.password.as_deref().unwrap_or_default()
    }

    /// What a mirror of it is given.
    pub(crate) fn target(&self) -> String {
        match (self.kind, &self.password) {
            (CacheKind::Memcached, _) => format!("memcached://127.0.0.1:{}", self.port),
            (CacheKind::Redis, None) => format!("redis://127.0.0.1:{}/0", self.port),
            (CacheKind::Redis, Some(password)) => {
                let escaped = password.replace('@', "%40").replace('/', "%2F");
                format!("redis://:{escaped}@127.0.0.1:{}/0", self.port)
            }
        }
    }

    /// The target as it is shown.
    pub(crate) fn shown(&self) -> String {
        match self.kind {
            CacheKind::Memcached => self.target(),
            CacheKind::Redis => format!("redis://127.0.0.1:{}/0", self.port),
        }
    }

    /// Ends it at once; what it held is gone.
    pub(crate) fn kill_9(&self) {
        if let Some(mut child) = self.lock().take() {
            child.kill().expect("a child can be killed");
            child.wait().expect("a child can be waited for");
        }
    }

    /// Starts it again, empty.
    pub(crate) async fn start_again(&self) {
        assert!(self.try_start().await, "the test's own {:?} server did not start again", self.kind);
    }

    /// Stops it in its tracks; connections stay open and nothing answers.
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets a frozen one go on.
    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    /// What stands under a key.
    pub(crate) async fn get(&self, key: &str) -> Option<String> {
        match self.kind {
            CacheKind::Redis => self.ask(&["GET", key]).await,
            CacheKind::Memcached => self.tell(&format!("get {key}\r\n")).await.map(|(_, body)| body),
        }
    }

    /// Writes something else under a key, for ever.
    pub(crate) async fn set(&self, key: &str, value: &str) {
        let done = match self.kind {
            CacheKind::Redis => self.ask(&["SET", key, value]).await,
            CacheKind::Memcached => {
                let head = format!("set {key} 0 0 {}\r\n{value}\r\n", value.len());
                self.tell(&head).await.map(|(line, _)| line)
            }
        };
        assert!(matches!(done.as_deref(), Some("OK" | "STORED")), "{done:?}");
    }

    /// Empties it.
    pub(crate) async fn flush(&self) {
        let done = match self.kind {
            CacheKind::Redis => self.ask(&["FLUSHALL"]).await,
            CacheKind::Memcached => self.tell("flush_all\r\n").await.map(|(line, _)| line),
        };
        assert_eq!(done.as_deref(), Some("OK"));
    }

    /// How long a key stays: in seconds, as the server counts them; negative when it is for ever or is not there.
    pub(crate) async fn seconds_left(&self, key: &str) -> i64 {
        let left = match self.kind {
            CacheKind::Redis => self.ask(&["TTL", key]).await,
            // `HD t123` of the meta protocol.
            CacheKind::Memcached => {
                self.tell(&format!("mg {key} t\r\n")).await.map(|(line, _)| line.replace("HD t", ""))
            }
        };
        left.and_then(|left| left.parse().ok()).unwrap_or(-3)
    }

    /// Any command of Redis, and its answer as text; `None` for nothing.
    pub(crate) async fn ask(&self, command: &[&str]) -> Option<String> {
        let answer = tokio::time::timeout(ANSWER_BOUND, self.exchange(command)).await.expect("an answer in time");
        answer.unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    async fn exchange(&self, command: &[&str]) -> std::io::Result<Option<String>> {
        let mut connection = BufReader::new(TcpStream::connect(self.address()).await?);
        if let Some(password) = &self.password {
            send(&mut connection, &["AUTH", password]).await?;
        }
        send(&mut connection, command).await
    }

    /// Sends lines of Memcached's protocol, and gives the first line of the answer with the value behind it, if there is one.
    async fn tell(&self, lines: &str) -> Option<(String, String)> {
        let work = async {
            let mut connection = BufReader::new(TcpStream::connect(self.address()).await?);
            connection.write_all(lines.as_bytes()).await?;
            let first = line(&mut connection).await?;
            let body = if first.starts_with("VALUE ") { line(&mut connection).await? } else { String::new() };
            std::io::Result::Ok((first, body))
        };
        let answer = tokio::time::timeout(ANSWER_BOUND, work).await.expect("an answer in time").expect("an answer");
        (answer.0 != "END").then_some(answer)
    }

    fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    async fn try_start(&self) -> bool {
        *self.lock() = Some(self.spawn());
        let answers = async || {
            let ended = self.lock().as_mut().and_then(|child| child.try_wait().expect("a child can be waited for"));
            if ended.is_some() {
                return Some(false);
            }
            match self.kind {
                CacheKind::Redis => (self.exchange(&["PING"]).await.ok()?.as_deref() == Some("PONG")).then_some(true),
                CacheKind::Memcached => TcpStream::connect(self.address()).await.is_ok().then_some(true),
            }
        };
        let started = within(START_BOUND, answers).await.unwrap_or(false);
        if !started {
            self.kill_9();
        }
        started
    }

    fn spawn(&self) -> Child {
        let port = self.port.to_string();
        let mut command = match self.kind {
            CacheKind::Redis => {
                let mut command = Command::new(told("WXTOKEN_TEST_REDIS_SERVER"));
                command.args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no"]);
                command.args(self.password.iter().flat_map(|password| ["--requirepass", password]));
                command
            }
            CacheKind::Memcached => {
                let mut command = Command::new(told("WXTOKEN_TEST_MEMCACHED"));
                // It refuses to run as root unless told to.
                command.args(["-l", "127.0.0.1", "-p", &port, "-U", "0", "-m", "16", "-t", "1", "-u", "root"]);
                command
            }
        };
        let place = std::env::temp_dir();
        command.current_dir(place).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("the server's program can be started")
    }

    fn signal(&self, name: &str) {
        let id = self.lock().as_ref().expect("it runs").id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &id]).status();
        assert!(sent.expect("`kill` can be started").success(), "SIG{name} could not be sent");
    }

    fn lock(&self) -> MutexGuard<'_, Option<Child>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for CacheServer {
    fn drop(&mut self) {
        self.kill_9();
    }
}

/// One command and its answer, in Redis's protocol.
async fn send(connection: &mut BufReader<TcpStream>, command: &[&str]) -> std::io::Result<Option<String>> {
    let parts: Vec<_> = command.iter().map(|part| format!("${}\r\n{part}\r\n", part.len())).collect();
    connection.write_all(format!("*{}\r\n{}", command.len(), parts.concat()).as_bytes()).await?;
    let first = line(connection).await?;
    match first.split_at_checked(1) {
        Some(("+" | ":", text)) => Ok(Some(text.to_owned())),
        Some(("$", "-1")) => Ok(None),
        Some(("$", length)) => {
            let mut body = vec![0; length.parse::<usize>().expect("a length") + 2];
            connection.read_exact(&mut body).await?;
            body.truncate(body.len() - 2);
            Ok(Some(String::from_utf8(body).expect("text")))
        }
        _ => Err(std::io::Error::other(first)),
    }
}

async fn line(connection: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut line = String::new();
    connection.read_line(&mut line).await?;
    Ok(line.trim_end_matches("\r\n").to_owned())
}

fn told(name: &str) -> PathBuf {
    match std::env::var_os(name) {
        Some(value) => value.into(),
        None => panic!("{name} is not set: tests/run.sh, which finds the programs of the servers, sets it"),
    }
}
