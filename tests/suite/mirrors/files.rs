//! JSON files.

use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::{AT_ONCE, BOUND, LOOK_BOUND, Stage, TOKEN_TYPES, value};
use crate::support::wait::eventually;

fn object(path: &Path) -> Option<Value> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(serde_json::from_str(&text).unwrap_or_else(|error| panic!("half a file: {error}: {text:?}")))
}

async fn has(path: &Path, token: &str, bound: std::time::Duration) -> Value {
    eventually(bound, "the file", async || object(path).filter(|object| object["access_token"]["value"] == token)).await
}

/// A stage whose files go into a directory of their own.
async fn stage() -> (Stage, tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let path = directory.path().to_str().expect("UTF-8").to_owned();
    let stage = Stage::set_with(|server| server.env("WXTOKEN_MIRROR_DIR", &path)).await;
    let file = directory.path().join("shop.json");
    (stage, directory, file)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_holds_every_token_for_its_owner_alone() {
    let (stage, directory, file) = stage().await;
    let token = stage.register("wx1", &TOKEN_TYPES).await;
    let mirror = stage.mirror("wx1", &json!({ "format": "json", "target": "file:shop.json" })).await;
    let object = has(&file, &token, BOUND).await;
    assert_eq!(object["appid"], "wx1");
    assert_eq!(object.as_object().expect("an object").len(), 4);
    for token_type in TOKEN_TYPES {
        let read = stage.admin.token("wx1", token_type).await.expect_status(200).body;
        assert_eq!(object[token_type]["value"], read["value"]);
        assert_eq!(object[token_type]["version"], read["version"]);
        let until = object[token_type]["expires_at"].as_str().expect("a time");
        assert!(until <= read["expires_at"].as_str().expect("a time"), "{token_type}: {until}");
    }
    let mode = std::fs::metadata(&file).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    stage.has_state(&mirror, "ok", BOUND).await;
    std::fs::remove_file(&file).expect("it can be removed");
    has(&file, &token, LOOK_BOUND).await;
    let path = format!("/v1/accounts/wx1/mirrors/{}", mirror["id"].as_str().expect("an id"));
    stage.admin.delete(&path).await.expect_status(204);
    eventually(AT_ONCE, "the file to go", async || (!file.exists()).then_some(())).await;
    assert_eq!(std::fs::read_dir(directory.path()).expect("it reads").count(), 0, "no draft is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_never_sees_a_part_of_a_file() {
    let (stage, _directory, file) = stage().await;
    let token = stage.register("wx1", &TOKEN_TYPES).await;
    stage.mirror("wx1", &json!({ "format": "json", "target": "file:shop.json" })).await;
    has(&file, &token, BOUND).await;
    let stop = Arc::new(AtomicBool::new(false));
    let reader = std::thread::spawn({
        let (stop, file) = (Arc::clone(&stop), file.clone());
        move || {
            let (mut reads, mut values) = (0_u64, Vec::new());
            loop {
                // Once more after the end, for the last of them.
                let is_last = stop.load(Ordering::Relaxed);
                let object = object(&file).expect("it is always there");
                assert_eq!(object.as_object().expect("an object").len(), 4);
                let value = object["access_token"]["value"].as_str().expect("a string").to_owned();
                if values.last() != Some(&value) {
                    values.push(value);
                }
                reads += 1;
                if is_last {
                    return (reads, values);
                }
            }
        }
    });
    for _ in 0..20 {
        let next = stage.rotate("wx1").await;
        has(&file, &next, AT_ONCE).await;
    }
    stop.store(true, Ordering::Relaxed);
    let (reads, values) = reader.join().expect("it saw whole files only");
    assert!(reads > 100 && values.len() == 21, "{reads} reads, {} values", values.len());
}

/// Of Linux: to open without waiting.
const O_NONBLOCK: i32 = 0o4000;

/// Reading a pipe that nobody writes hangs, as on a disk that does not answer.
#[tokio::test(flavor = "multi_thread")]
async fn files_that_hang_take_few_threads() {
    let (stage, directory, _) = stage().await;
    let mut pipes = Vec::new();
    for number in 0..20 {
        let path = directory.path().join(format!("{number}.json"));
        let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo is there");
        assert!(made.success());
        pipes.push(path);
    }
    stage.register("wx1", &["access_token"]).await;
    let mut mirrors = Vec::new();
    for number in 0..20 {
        let order = json!({ "format": "json", "target": format!("file:{number}.json") });
        mirrors.push(stage.mirror("wx1", &order).await);
    }
    for mirror in &mirrors {
        stage.has_state(mirror, "failing", LOOK_BOUND).await;
    }
    // A pipe opens for writing without waiting where somebody reads, and keeps them reading.
    let held: Vec<_> = pipes
        .iter()
        .filter_map(|path| std::fs::File::options().write(true).custom_flags(O_NONBLOCK).open(path).ok())
        .collect();
    assert_eq!(held.len(), 8, "accesses that hang");
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_refuses_is_told() {
    let (stage, directory, file) = stage().await;
    stage.register("wx1", &["access_token"]).await;
    let mirror = stage.mirror("wx1", &json!({ "format": "json", "target": "file:shop.json" })).await;
    stage.has_state(&mirror, "ok", BOUND).await;
    let elsewhere = tempfile::tempdir().expect("a temporary directory can be made");
    let away = elsewhere.path().join("away");
    std::fs::rename(directory.path(), &away).expect("it can be moved");
    let health = stage.has_state(&mirror, "failing", LOOK_BOUND).await;
    assert!(health["last_error"].as_str().is_some_and(|error| error.contains("WXTOKEN_MIRROR_DIR")), "{health}");
    std::fs::rename(&away, directory.path()).expect("it can be moved back");
    let token = stage.rotate("wx1").await;
    has(&file, &token, std::time::Duration::from_secs(40)).await;
    assert_eq!(value(&stage.admin, "wx1", "access_token").await, token);
}
