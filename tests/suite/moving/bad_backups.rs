//! A file that is no good backup is told from a good one, and stays as it is.

use std::fs;
use std::path::{Path, PathBuf};

use sqlx::Connection;
use sqlx::SqliteConnection;
use tempfile::TempDir;

use super::backups::{backed_up, backup, checked};
use super::{Deployment, ended};
use crate::support::database::TestDatabase;

const OTHER_MASTER_KEY: &str = "Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=";
const BAD: Option<i32> = Some(1);
const WRONG_KEY: Option<i32> = Some(78);

/// A good backup in a directory of its own.
struct Backup {
    deployment: Deployment,
    directory: TempDir,
    file: PathBuf,
}

impl Backup {
    async fn new() -> Self {
        let deployment = Deployment::new().await;
        deployment.add_history(500).await;
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let file = backed_up(&deployment.database, directory.path(), "backup ?#%41.db").await;
        Self { deployment, directory, file }
    }

    fn database(&self) -> &TestDatabase {
        &self.deployment.database
    }

    /// Every file of the directory with its bytes.
    fn state(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let entries = fs::read_dir(self.directory.path()).expect("it reads");
        let mut files: Vec<_> = entries
            .map(|entry| entry.expect("it reads").path())
            .map(|path| (path.clone(), fs::read(path).expect("it reads")))
            .collect();
        files.sort();
        files
    }

    /// Checks a file and finds everything as it was.
    async fn check(&self, file: &Path) -> (Option<i32>, String) {
        let before = self.state();
        let answer = checked(self.database(), file).await;
        assert!(self.state() == before, "the check changed something");
        answer
    }

    async fn is_refused(&self, file: &Path, code: Option<i32>, words: &str) {
        let (found, output) = self.check(file).await;
        assert_eq!(found, code, "{output}");
        assert!(output.contains(words), "{words} is missing in:\n{output}");
    }

    /// A changed copy of the backup.
    fn spoilt(&self, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
        let mut bytes = fs::read(&self.file).expect("it reads");
        change(&mut bytes);
        let file = self.directory.path().join("spoilt.db");
        fs::write(&file, bytes).expect("it can be written");
        file
    }

    /// A copy of the backup after a statement.
    async fn altered(&self, sql: &'static str) -> PathBuf {
        let file = self.spoilt(|_| {});
        let url = format!("sqlite://{}", file.display());
        let mut connection = SqliteConnection::connect(&url).await.expect("it opens");
        sqlx::raw_sql(sql).execute(&mut connection).await.expect("it runs");
        connection.close().await.expect("it closes");
        file
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_backup_is_proven_without_a_change() {
    let backup = Backup::new().await;
    let (code, output) = backup.check(&backup.file).await;
    assert_eq!(code, Some(0), "{output}");
    for words in
        ["is good", "wx_account: 4 rows", "wx_token: 5 rows", "3 AppSecrets, 4 token values and 2 mirror texts opened"]
    {
        assert!(output.contains(words), "{words} is missing in:\n{output}");
    }
    // The database file of a server that has ended may stand in for one.
    let plain = backup.directory.path().join("plain.db");
    fs::copy(backup.database().path().expect("SQLite has a file"), &plain).expect("it can be copied");
    let (code, output) = backup.check(&plain).await;
    assert_eq!(code, Some(0), "{output}");
    // One that a step of the schema is missing from: a start would bring it up to date.
    let older =
        backup.altered("DELETE FROM wx_migrations WHERE version = (SELECT MAX(version) FROM wx_migrations)").await;
    let (code, output) = backup.check(&older).await;
    assert_eq!(code, Some(0), "{output}");
    assert!(output.contains("which a start brings to"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_found_out() {
    let backup = Backup::new().await;
    let length = fs::metadata(&backup.file).expect("it is there").len();
    let page = 4096;
    let last_page = usize::try_from(length).expect("it is small") - page;
    for spoilt in [
        backup.spoilt(|bytes| bytes.truncate(bytes.len() / 2)),
        backup.spoilt(|bytes| bytes[last_page..].fill(0)),
        backup.spoilt(|bytes| bytes[page..3 * page].fill(0xa5)),
        backup.spoilt(|bytes| bytes[120..page].fill(0xff)),
    ] {
        backup.is_refused(&spoilt, BAD, "is not good").await;
    }
    backup.is_refused(&backup.spoilt(|bytes| bytes[..64].fill(b'x')), BAD, "not a database").await;
    backup.is_refused(&backup.spoilt(|bytes| *bytes = b"a text".repeat(1_000)), BAD, "not a database").await;
    let nothing = "there is no database of a token server in";
    backup.is_refused(&backup.spoilt(Vec::clear), BAD, nothing).await;
    backup.is_refused(&backup.directory.path().join("absent.db"), BAD, nothing).await;
    backup.is_refused(backup.directory.path(), BAD, nothing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_does_not_fit_the_master_key_or_this_program_is_found_out() {
    let backup = Backup::new().await;
    let file = backup.file.to_str().expect("UTF-8");
    let before = backup.state();
    let check = || self::backup(backup.database(), &["--check", file]);
    let (code, output) = ended(check().env("WXTOKEN_MASTER_KEY", OTHER_MASTER_KEY)).await;
    assert_eq!(code, WRONG_KEY, "{output}");
    assert!(output.contains("is sealed under"), "{output}");
    let (code, output) = ended(check().without_env("WXTOKEN_MASTER_KEY")).await;
    assert_eq!(code, WRONG_KEY, "{output}");
    assert!(output.contains("there is no key"), "{output}");
    assert!(backup.state() == before, "the check changed something");

    let newer =
        "INSERT INTO wx_migrations SELECT 9999, 'later', installed_on, success, checksum, 0 FROM wx_migrations LIMIT 1";
    backup.is_refused(&backup.altered(newer).await, BAD, "schema version 9999").await;
    for (sql, row) in [
        ("UPDATE wx_account SET secret_sealed = substr(secret_sealed, 9) WHERE appid = 'wx_plain'", "row wx_plain"),
        ("UPDATE wx_token SET previous_sealed = value_sealed WHERE appid = 'wx_plain'", "row wx_plain access_token"),
    ] {
        backup.is_refused(&backup.altered(sql).await, BAD, row).await;
    }
    let other = "DROP VIEW wx_report_accounts; DROP VIEW wx_report_refreshes; DROP TABLE wx_migrations";
    backup.is_refused(&backup.altered(other).await, BAD, "there is no database of a token server in").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_in_use_is_not_taken_for_a_backup() {
    let backup = Backup::new().await;
    let server = super::server_on(backup.database(), &backup.deployment.sandbox).start().await;
    let path = backup.database().path().expect("SQLite has a file");
    let (code, output) = checked(backup.database(), &path).await;
    assert_eq!(code, BAD, "{output}");
    assert!(output.contains("has a log beside it"), "{output}");
    drop(server);
}
