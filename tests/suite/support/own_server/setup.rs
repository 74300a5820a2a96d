//! How a server is made and started: its directory, its user, its settings.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::support::database::Kind;

/// Whom the program is to connect as.
pub(super) const USER: &str = "wxtoken";
/// Who may do everything, where that is not [`USER`]: on MariaDB such a one may write to a server that is read-only.
pub(super) const KEEPER: &str = "keeper";

/// What a killed server has committed is with the operating system, which does not die with it.
const POSTGRES: &[(&str, &str)] = &[
    ("listen_addresses", "127.0.0.1"),
    ("unix_socket_directories", ""),
    ("max_connections", "50"),
    ("shared_buffers", "16MB"),
    ("fsync", "off"),
    ("full_page_writes", "off"),
    // One that is killed leaves nothing outside its directory.
    ("dynamic_shared_memory_type", "mmap"),
];
const MARIADB: &[(&str, &str)] = &[
    ("bind-address", "127.0.0.1"),
    ("max-connections", "50"),
    ("innodb-buffer-pool-size", "16M"),
    ("innodb-log-file-size", "4M"),
    ("innodb-flush-log-at-trx-commit", "2"),
    ("innodb-doublewrite", "0"),
    ("loose-innodb-flush-method", "nosync"),
    ("loose-debug-no-sync", "1"),
    ("skip-log-bin", "1"),
    ("skip-name-resolve", "1"),
];

/// A server on the disk.
pub(super) struct Setup {
    pub(super) kind: Kind,
    pub(super) password: String,
    home: TempDir,
    /// Whom the server runs as, where the tests run as root: both kinds refuse that.
    owner: Option<(u32, u32)>,
    settings: Vec<(String, String)>,
    /// What the server finds in its environment besides what the tests have.
    pub(super) environment: Vec<(&'static str, String)>,
}

impl Setup {
    pub(super) fn new(kind: Kind, settings: &[(&str, &str)]) -> Self {
        let given = match kind {
            Kind::Sqlite => panic!("SQLite has no server"),
            Kind::Postgres => POSTGRES,
            Kind::Mysql => MARIADB,
        };
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let settings = given.iter().chain(settings).map(owned).collect();
        Self::at_home(kind, format!("{:032x}", rand::random::<u128>()), settings)
    }

    /// A place for a server that has the users of this one.
    pub(super) fn for_standby(&self) -> Self {
        Self::at_home(self.kind, self.password.clone(), self.settings.clone())
    }

    fn at_home(kind: Kind, password: String, settings: Vec<(String, String)>) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory can be made");
        let is_root = fs::metadata(home.path()).expect("it was just made").uid() == 0;
        let owner = is_root.then(|| account(if kind == Kind::Postgres { "postgres" } else { "mysql" }));
        let setup = Self { kind, password, home, owner, settings, environment: Vec::new() };
        setup.give(setup.home.path());
        setup
    }

    pub(super) fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// What its programs printed.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }

    /// Makes the data of an empty server.
    pub(super) fn initialise(&self) {
        if self.kind == Kind::Postgres {
            let password_file = self.file("password", &self.password);
            let mut command = self.command(postgres_program("initdb"));
            // Passwords go in the clear over loopback: SCRAM in a debug build costs every connection tens of milliseconds.
            command.args(["--auth=password", "--encoding=UTF8", "--locale=C", "--no-sync", "--username", USER]);
            self.run(command.arg("--pwfile").arg(password_file).arg("--pgdata").arg(self.data()));
        } else {
            let mut command = self.command(mariadb_install_db());
            command.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
            command.arg("--innodb-log-file-size=4M");
            self.run(command.arg(format!("--datadir={}", self.data().display())));
        }
    }

    /// Copies a running primary, whose standby this server is to be.
    pub(super) fn copy_from_primary(&self, port: u16) {
        let mut command = self.command(postgres_program("pg_basebackup"));
        command.env("PGPASSWORD", &self.password).args(["-h", "127.0.0.1", "-U", USER, "-p", &port.to_string()]);
        self.run(command.args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "-D"]).arg(self.data()));
    }

    /// Starts the server; whether it takes connections is for the caller to find out.
    pub(super) fn spawn(&self, port: u16) -> Child {
        let mut command = if self.kind == Kind::Postgres {
            let mut command = self.command(postgres_program("postgres"));
            command.arg("-D").arg(self.data()).args(["-c", &format!("port={port}")]);
            command.args(self.settings.iter().flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")]));
            command
        } else {
            let users = format!(
                "CREATE DATABASE IF NOT EXISTS wxtoken;\n\
                 CREATE USER IF NOT EXISTS '{USER}'@'127.0.0.1' IDENTIFIED BY '{password}';\n\
                 GRANT ALL ON wxtoken.* TO '{USER}'@'127.0.0.1';\n\
                 CREATE USER IF NOT EXISTS '{KEEPER}'@'127.0.0.1' IDENTIFIED BY '{password}';\n\
                 GRANT ALL ON *.* TO '{KEEPER}'@'127.0.0.1';\n",
                password = self.password
            );
            let (data, first) = (self.data(), self.file("users.sql", &users));
            let mut command = self.command(mariadbd());
            command.arg("--no-defaults").arg(format!("--datadir={}", data.display())).arg(format!("--port={port}"));
            command.arg(format!("--socket={}/socket", data.display())).arg(format!("--init-file={}", first.display()));
            command.args(self.settings.iter().map(|(name, value)| format!("--{name}={value}")));
            command
        };
        command.envs(self.environment.iter().cloned()).spawn().expect("the server's program can be started")
    }

    /// A program that runs as the server's user, and prints into the log.
    fn command(&self, program: PathBuf) -> Command {
        let log = File::options().create(true).append(true).open(self.home.path().join("log")).expect("a log");
        let mut command = Command::new(program);
        command.current_dir(self.home.path()).env("TMPDIR", self.home.path()).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        if let Some((user, group)) = self.owner {
            command.uid(user).gid(group);
        }
        command
    }

    fn run(&self, command: &mut Command) {
        let status = command.status().expect("the server's program can be started");
        assert!(status.success(), "{command:?} ended with {status}:\n{}", self.log());
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.home.path().join(name);
        fs::write(&path, text).expect("a file can be written");
        self.give(&path);
        path
    }

    fn give(&self, path: &Path) {
        if let Some((user, group)) = self.owner {
            chown(path, Some(user), Some(group)).expect("root can give files away");
        }
    }
}

/// Copies a directory with its owners and modes.
pub(super) fn copy_tree(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-pR").args([from, to]).status().expect("`cp` can be started");
    assert!(status.success(), "{} could not be copied", from.display());
}

/// The ids of a system user and of its group.
fn account(name: &str) -> (u32, u32) {
    let id = |which| {
        let asked = Command::new("id").args([which, name]).output().expect("`id` can be started");
        let text = String::from_utf8_lossy(&asked.stdout).trim().to_owned();
        text.parse().unwrap_or_else(|_| panic!("the server's package has made no user {name}"))
    };
    (id("-u"), id("-g"))
}

fn postgres_program(name: &str) -> PathBuf {
    told("WXTOKEN_TEST_POSTGRES_BIN").join(name)
}

fn mariadbd() -> PathBuf {
    told("WXTOKEN_TEST_MARIADBD")
}

/// In PATH or, with Homebrew, beside the server.
fn mariadb_install_db() -> PathBuf {
    let name = "mariadb-install-db";
    let beside = mariadbd().with_file_name(name);
    if beside.exists() { beside } else { name.into() }
}

fn told(name: &str) -> PathBuf {
    match std::env::var_os(name) {
        Some(value) => value.into(),
        None => panic!("{name} is not set: tests/run.sh, which finds the programs of the servers, sets it"),
    }
}
