//! An SDK in a process of its own, that does what it is told line by line, so that it keeps in memory what it would keep in a shop.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::mpsc;

/// Loading an SDK takes seconds on a machine that has much else to do.
const BOUND: Duration = Duration::from_secs(60);
const ERRORS: &str = "stderr";

/// What runs a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Runtime {
    /// Python with wechatpy 1 and `WeRoBot`.
    Python,
    /// Python with the alpha of wechatpy 2.
    PythonNext,
    Node,
}

impl Runtime {
    fn command(self) -> Command {
        match self {
            Self::Python => Command::new(installed("WXTOKEN_TEST_PYTHON")),
            Self::PythonNext => Command::new(installed("WXTOKEN_TEST_PYTHON_NEXT")),
            Self::Node => Command::new(installed("WXTOKEN_TEST_NODE")),
        }
    }

    /// No more of the environment than the SDK needs to be found, and nothing written beside the scripts.
    fn environment(self) -> (&'static str, String) {
        match self {
            Self::Python | Self::PythonNext => ("PYTHONDONTWRITEBYTECODE", "1".to_owned()),
            Self::Node => ("NODE_PATH", installed("WXTOKEN_TEST_NODE_PATH")),
        }
    }
}

/// What `tests/run.sh` has installed.
fn installed(name: &str) -> String {
    let found = std::env::var_os(name).and_then(|path| path.into_string().ok()).filter(|path| Path::new(path).exists());
    found.unwrap_or_else(|| {
        panic!("{name} names nothing that is there: run the tests with tests/run.sh, which installs the SDKs")
    })
}

/// What an SDK did.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) value: Value,
    /// The requests that it sent for that, as `GET /path`, wherever they went.
    pub(super) requests: Vec<String>,
}

impl Answer {
    #[track_caller]
    pub(super) fn text(&self) -> &str {
        self.value.as_str().unwrap_or_else(|| panic!("no text: {self:?}"))
    }
}

/// A script of `tests/sdk`, which is killed when this value goes.
pub(super) struct Script {
    child: Child,
    commands: ChildStdin,
    answers: mpsc::UnboundedReceiver<String>,
    directory: TempDir,
}

impl Script {
    /// Starts a script with these settings, and with a directory of its own.
    pub(super) fn start(runtime: Runtime, name: &str, mut settings: Value, environment: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        settings["directory"] = directory.path().to_str().expect("it is UTF-8").into();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk").join(name);
        let errors = File::create(directory.path().join(ERRORS)).expect("a file can be made");
        let mut child = runtime
            .command()
            .arg(script)
            .arg(settings.to_string())
            .env_clear()
            .envs([runtime.environment()])
            .envs(environment.iter().copied())
            .current_dir(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .expect("the script can be started");
        let commands = child.stdin.take().expect("piped");
        let (sender, answers) = mpsc::unbounded_channel();
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, commands, answers, directory }
    }

    /// Has the SDK do one thing, and waits until it is done.
    pub(super) async fn tell(&mut self, command: &str) -> Answer {
        writeln!(self.commands, "{command}").unwrap_or_else(|error| panic!("{error}: {}", self.errors()));
        let Ok(Some(line)) = tokio::time::timeout(BOUND, self.answers.recv()).await else {
            panic!("no answer to {command}: {}", self.errors());
        };
        let answer: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
        assert!(answer.get("error").is_none(), "{command} failed: {answer} {}", self.errors());
        let requests = answer["requests"].as_array().expect("a list").iter();
        let requests = requests.map(|request| request.as_str().expect("text").to_owned()).collect();
        Answer { value: answer["value"].clone(), requests }
    }

    fn errors(&self) -> String {
        fs::read_to_string(self.directory.path().join(ERRORS)).unwrap_or_default()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
