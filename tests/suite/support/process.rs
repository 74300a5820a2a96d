//! The real program as a child process: started, watched, paused, killed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tempfile::TempDir;

use super::api::{self, Api};
use super::clock::HostClock;
use super::database::TestDatabase;
use super::wait::within;

/// 32 bytes in base64, the same for every instance: several of them share a database.
pub(crate) const MASTER_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
pub(crate) const ADMIN_KEY: &str = "wxt_admin_key_of_the_tests_0123456789abcdef";

const START_BOUND: Duration = Duration::from_secs(20);
const EXIT_BOUND: Duration = Duration::from_secs(20);
const LISTENING: &str = "listening on http://";
/// Refuses every connection, so that no test ever reaches the real WeChat.
const NOWHERE: &str = "http://127.0.0.1:9";

/// How a server is to be started.
pub(crate) struct ServerBuilder {
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
    directory: Option<PathBuf>,
    outlives_limits: bool,
}

impl ServerBuilder {
    pub(crate) fn database(self, database: &TestDatabase) -> Self {
        self.env("DATABASE_URL", database.url())
    }

    /// Where the server finds WeChat, for the first address and for the fallback.
    pub(crate) fn wechat(self, url: &str) -> Self {
        self.env("WXTOKEN_WECHAT_URL", url).env("WXTOKEN_WECHAT_FALLBACK_URL", url)
    }

    /// Lets a task go wrong where the code names this point: `name[:n][=stop|panic|hang]`.
    pub(crate) fn fail_point(self, name: &str) -> Self {
        self.env("WXTOKEN_FAIL_POINT", name)
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn without_env(mut self, name: &str) -> Self {
        self.environment.remove(name);
        self
    }

    /// Runs it on a host with this wall clock.
    pub(crate) fn under(self, clock: &HostClock) -> Self {
        clock.environment().iter().fold(self, |builder, (name, value)| builder.env(name, value))
    }

    /// Runs it in a directory that outlives it; without this it has one of its own.
    pub(crate) fn directory(mut self, directory: &Path) -> Self {
        self.directory = Some(directory.to_owned());
        self
    }

    /// Makes it one that [`Server::limit_files`] does not end: its writes fail instead, as on a full disk.
    pub(crate) fn outliving_limits(mut self) -> Self {
        self.outlives_limits = true;
        self
    }

    /// Starts the server and waits until it is ready for requests.
    pub(crate) async fn start(self) -> Server {
        let server = self.start_listening().await;
        server.ready().await;
        server
    }

    /// Starts it and waits until it says where it listens, for a program that is no token server.
    pub(crate) async fn start_listening(self) -> Server {
        let mut server = self.spawn();
        server.address = server.announced_address().await;
        server
    }

    /// Starts a server that ends by itself, and says how it ended and what it printed.
    pub(crate) async fn start_expecting_exit(self) -> (ExitStatus, String) {
        let server = self.spawn();
        let status = server.wait_exit(EXIT_BOUND).await;
        (status, server.output())
    }

    /// Starts it and waits for nothing.
    pub(crate) fn spawn(self) -> Server {
        let own_directory = tempfile::tempdir().expect("a temporary directory can be made");
        let directory = self.directory.unwrap_or_else(|| own_directory.path().to_owned());
        let program = env!("CARGO_BIN_EXE_wxtoken");
        let mut command = if self.outlives_limits { Command::new("sh") } else { Command::new(program) };
        if self.outlives_limits {
            command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", program]);
        }
        let mut child = command
            .args(self.arguments)
            .env_clear()
            .envs(self.environment)
            .current_dir(&directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program can be started");
        let output = Output::default();
        let readers =
            vec![output.copy(child.stdout.take().expect("piped")), output.copy(child.stderr.take().expect("piped"))];
        Server { child: Mutex::new(child), readers, output, address: String::new(), directory, _own: own_directory }
    }
}

/// A running `wxtoken serve`, or another of its commands that listens. It is killed when this value goes.
pub(crate) struct Server {
    child: Mutex<Child>,
    readers: Vec<JoinHandle<()>>,
    output: Output,
    address: String,
    directory: PathBuf,
    _own: TempDir,
}

impl Server {
    /// Any command of the program, with an empty environment.
    pub(crate) fn command(arguments: &[&str]) -> ServerBuilder {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        ServerBuilder { arguments, environment: BTreeMap::new(), directory: None, outlives_limits: false }
    }

    pub(crate) fn builder() -> ServerBuilder {
        Self::command(&["serve"])
            .env("WXTOKEN_LISTEN", "127.0.0.1:0")
            .env("WXTOKEN_MASTER_KEY", MASTER_KEY)
            .env("WXTOKEN_ADMIN_KEY", ADMIN_KEY)
            .wechat(NOWHERE)
    }

    pub(crate) fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A client with the admin key of the builder.
    pub(crate) fn admin(&self) -> Api {
        Api::new(&self.base_url(), ADMIN_KEY)
    }

    /// The working directory, which is the server's own.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child().id()
    }

    /// Everything printed so far, standard output and standard error in the order in which the lines came.
    pub(crate) fn output(&self) -> String {
        self.output.text()
    }

    /// Ends it as a power cut would, and returns once it is gone.
    pub(crate) fn kill_9(&self) {
        let mut child = self.child();
        child.kill().expect("a child can be killed");
        child.wait().expect("a child can be waited for");
    }

    /// Asks it to end, as a service manager does.
    pub(crate) fn terminate(&self) {
        self.signal("TERM");
    }

    /// Asks it to end, as Ctrl-C does.
    pub(crate) fn interrupt(&self) {
        self.signal("INT");
    }

    /// Freezes it; its sockets stay open.
    pub(crate) fn stop(&self) {
        self.signal("STOP");
    }

    /// Lets a frozen one go on.
    pub(crate) fn cont(&self) {
        self.signal("CONT");
    }

    /// Lets it write to files up to this length only; `None` for any length. Linux knows this for a process that runs.
    pub(crate) fn limit_files(&self, bytes: Option<u64>) {
        let limit = bytes.map_or_else(|| "unlimited".to_owned(), |bytes| bytes.to_string());
        let arguments = [format!("--pid={}", self.pid()), format!("--fsize={limit}:")];
        let limited = Command::new("prlimit").args(arguments).status().expect("`prlimit` can be started");
        assert!(limited.success(), "the limit could not be set");
    }

    pub(crate) fn has_exited(&self) -> bool {
        self.exit_status().is_some()
    }

    /// Waits until it has ended and all its output is here.
    pub(crate) async fn wait_exit(&self, bound: Duration) -> ExitStatus {
        let ended = async || self.exit_status().filter(|_| self.readers.iter().all(JoinHandle::is_finished));
        self.watched(bound, "the exit of the server", ended).await
    }

    fn exit_status(&self) -> Option<ExitStatus> {
        self.child().try_wait().expect("a child can be waited for")
    }

    /// A child that has been waited for is not signalled: its id may be somebody else's by now.
    fn signal(&self, name: &str) {
        let mut child = self.child();
        let running = child.try_wait().expect("a child can be waited for").is_none();
        assert!(running, "SIG{name} was meant for a server that has ended:\n{}", self.output());
        let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
        assert!(sent.expect("`kill` can be started").success(), "SIG{name} could not be sent");
    }

    async fn announced_address(&self) -> String {
        let announced = async || {
            let address = self.output().split_once(LISTENING).map(|(_, rest)| address_at_start(rest));
            self.unless_it_ended(address)
        };
        self.watched(START_BOUND, "the server to say where it listens", announced).await
    }

    async fn ready(&self) {
        let client = api::http_client();
        let url = format!("{}/readyz", self.base_url());
        let ready = async || {
            let answer = client.get(&url).send().await.ok().filter(|answer| answer.status().as_u16() == 200);
            self.unless_it_ended(answer)
        };
        self.watched(START_BOUND, "the server to be ready", ready).await;
    }

    fn unless_it_ended<T>(&self, answer: Option<T>) -> Option<T> {
        if answer.is_none()
            && let Some(status) = self.exit_status()
        {
            panic!("the server ended at its start with {status}:\n{}", self.output());
        }
        answer
    }

    /// Like `eventually`, and a failure shows what the server printed.
    async fn watched<T>(&self, bound: Duration, what: &str, probe: impl AsyncFnMut() -> Option<T>) -> T {
        match within(bound, probe).await {
            Some(answer) => answer,
            None => panic!("waited {bound:?} in vain for {what}; it printed:\n{}", self.output()),
        }
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut child = self.child();
        child.kill().ok();
        child.wait().ok();
    }
}

/// The address ends where the log line goes on: at a space, or at a quote in JSON.
fn address_at_start(text: &str) -> String {
    text.chars().take_while(|letter| letter.is_ascii_digit() || ".:".contains(*letter)).collect()
}

/// What the child printed, gathered by a thread for each of its two streams.
#[derive(Clone, Default)]
struct Output(Arc<Mutex<String>>);

impl Output {
    fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn copy(&self, stream: impl Read + Send + 'static) -> JoinHandle<()> {
        let output = self.clone();
        std::thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            // Whole lines, so that the two streams don't cut into each other.
            while stream.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                output.0.lock().unwrap_or_else(PoisonError::into_inner).push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        })
    }
}
