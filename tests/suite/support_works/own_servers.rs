//! The servers that tests own break and mend as they are told.

use std::time::Duration;

use sqlx::{Connection, MySqlConnection, PgConnection};

use crate::support::database::Kind;
use crate::support::own_server::OwnServer;
use crate::support::wait::eventually;

const SERVERS: [Kind; 2] = [Kind::Postgres, Kind::Mysql];
const SOON: Duration = Duration::from_millis(500);
const BOUND: Duration = Duration::from_secs(10);
const NOTES: &str = "SELECT COUNT(*) FROM note";

/// Whether a new connection is made before long.
async fn answers(server: &OwnServer) -> bool {
    let url = server.url();
    let connecting = async {
        match server.kind() {
            Kind::Postgres => PgConnection::connect(&url).await.map(drop),
            _ => MySqlConnection::connect(&url).await.map(drop),
        }
    };
    matches!(tokio::time::timeout(SOON, connecting).await, Ok(Ok(())))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_survives_every_end() {
    for kind in SERVERS {
        let server = OwnServer::start(kind).await;
        server.execute("CREATE TABLE note (id INTEGER PRIMARY KEY)").await;
        server.execute("INSERT INTO note VALUES (1)").await;
        server.restart_after_kill_9().await;
        assert_eq!(server.number(NOTES).await, 1);
        server.execute("INSERT INTO note VALUES (2)").await;
        server.stop().await;
        assert!(!answers(&server).await);
        server.start_again().await;
        assert_eq!(server.number(NOTES).await, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_answers_nobody_until_it_is_thawed() {
    for kind in SERVERS {
        let server = OwnServer::start(kind).await;
        server.freeze();
        assert!(!answers(&server).await);
        server.thaw();
        eventually(BOUND, "an answer", async || answers(&server).await.then_some(())).await;
        server.freeze();
        server.restart_after_kill_9().await;
        assert!(answers(&server).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_put_back_to_a_copy() {
    for kind in SERVERS {
        let server = OwnServer::start(kind).await;
        server.execute("CREATE TABLE note (id INTEGER PRIMARY KEY)").await;
        server.stop().await;
        let copy = server.copy();
        server.start_again().await;
        server.execute("INSERT INTO note VALUES (1)").await;
        server.stop().await;
        server.restore(&copy);
        server.start_again().await;
        assert_eq!(server.number(NOTES).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_follows_and_is_promoted() {
    let primary = OwnServer::start(Kind::Postgres).await;
    let standby = primary.standby().await;
    primary.execute("CREATE TABLE note (id INTEGER PRIMARY KEY)").await;
    primary.replicated().await;
    primary.kill_9();
    standby.promote().await;
    standby.execute("INSERT INTO note VALUES (1)").await;
    assert_eq!(standby.number(NOTES).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_takes_effect() {
    let postgres = OwnServer::start_with(Kind::Postgres, &[("max_connections", "7")]).await;
    assert_eq!(postgres.number("SELECT CAST(current_setting('max_connections') AS BIGINT)").await, 7);
    let mariadb = OwnServer::start_with(Kind::Mysql, &[("max-connections", "11")]).await;
    assert_eq!(mariadb.number("SELECT CAST(@@max_connections AS SIGNED)").await, 11);
}
