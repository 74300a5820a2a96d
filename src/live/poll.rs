//! How the live view learns of what other instances change.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::LiveView;
use crate::clock::Clock;
use crate::domain::timestamp::Timestamp;
use crate::store::{Store, StoreError};

/// With the time that a poll takes this stays well under the 2 s within which an instance serves what another has fetched.
const INTERVAL: Duration = Duration::from_millis(500);
/// Transactions commit out of the order of their time stamps, and hosts' clocks differ: each poll looks this far back again.
const OVERLAP: Duration = Duration::from_secs(30);

impl LiveView {
    /// Takes in everything that changed at or after `since`; [`Timestamp::ZERO`] for all there is.
    ///
    /// Rows that do not read are logged and passed over: one bad row must not blind the view.
    pub async fn sync(&self, store: &Store, since: Timestamp, now: Timestamp) -> Result<(), StoreError> {
        let keys = readable(store.keys_changed_since(since).await?);
        let accounts = readable(store.accounts_changed_since(since).await?);
        let tokens = readable(store.tokens_changed_since(since).await?);
        self.publish_keys(&keys.filter(|hashed| self.is_news(hashed)).collect::<Vec<_>>());
        accounts.for_each(|change| self.publish_account(change));
        tokens.for_each(|token| self.publish_token(token));
        self.synced_at.store(now.as_millis(), Ordering::Relaxed);
        Ok(())
    }

    /// Takes in what changed since the last time, this instance's own changes too.
    pub async fn catch_up(&self, store: &Store, now: Timestamp) -> Result<(), StoreError> {
        self.sync(store, self.synced_at().minus(OVERLAP), now).await
    }

    /// Polls until `stop`. A database that is away is reported once when it goes and once when it is back.
    pub async fn follow(&self, store: &Store, clock: &Clock, stop: CancellationToken) {
        let mut away = false;
        while stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
            match self.catch_up(store, clock.now()).await {
                Ok(()) => {
                    if std::mem::take(&mut away) {
                        tracing::info!("the database is back; the live view follows it again");
                    }
                }
                Err(error) if !away => {
                    away = true;
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the live view cannot reach the database; tokens in memory are served on"
                    );
                }
                Err(_) => {}
            }
        }
    }

    fn is_news(&self, hashed: &crate::store::key::HashedKey) -> bool {
        self.key(&hashed.hash).is_none_or(|held| *held != hashed.key)
    }
}

fn readable<T>(rows: Vec<Result<T, StoreError>>) -> impl Iterator<Item = T> {
    rows.into_iter().filter_map(|row| {
        row.inspect_err(|error| {
            tracing::error!(error = error as &dyn std::error::Error, "a row cannot be read and is passed over");
        })
        .ok()
    })
}
