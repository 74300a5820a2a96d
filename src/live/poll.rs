//! How the live view learns of what other instances change.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::LiveView;
use crate::clock::Clock;
use crate::domain::account::{AppId, TokenType};
use crate::domain::timestamp::Timestamp;
use crate::domain::token::TokenKey;
use crate::fail_point;
use crate::store::{Store, StoreError};

/// With the time that a poll takes this stays well under the 2 s within which an instance serves what another has fetched.
const INTERVAL: Duration = Duration::from_millis(500);
/// Transactions commit out of the order of their time stamps, and hosts' clocks differ: each poll looks this far back again.
const OVERLAP: Duration = Duration::from_secs(30);

impl LiveView {
    /// Takes in everything that the database has, and lets go of everything else.
    ///
    /// Rows that do not read are logged and passed over: one bad row must not blind the view. A database into which a copy is just being put is
    /// followed and not believed: what it does not have yet is not let go of, and it is read again.
    pub async fn load(&self, store: &Store, now: Timestamp) -> Result<(), StoreError> {
        self.went_back.store(false, Ordering::Relaxed);
        let asked = Instant::now();
        let told = self.take_in(store, Timestamp::ZERO, asked).await?;
        if told.complete && told.is_part(self.count_accounts()) {
            self.went_back.store(true, Ordering::Relaxed);
        } else if told.complete {
            // The row that does not read may be that of anything that we hold.
            self.forget_others(&told.accounts, &told.tokens, asked);
        }
        // Those that do not read keep no account and no token, and the other way round.
        if told.complete_mirrors && !self.went_back.load(Ordering::Relaxed) {
            self.mirrors.forget_others(&told.mirrors, asked);
        }
        self.note_agreement(now, asked);
        Ok(())
    }

    /// Takes in what changed since the last time, this instance's own changes too.
    pub async fn catch_up(&self, store: &Store, now: Timestamp) -> Result<(), StoreError> {
        let asked = Instant::now();
        self.take_in(store, self.synced_at().minus(OVERLAP), asked).await?;
        self.note_agreement(now, asked);
        Ok(())
    }

    async fn take_in(&self, store: &Store, since: Timestamp, asked: Instant) -> Result<Told, StoreError> {
        let mut told = Told { complete: true, ..Told::default() };
        let keys = told.readable(store.keys_changed_since(since).await?);
        let accounts = told.readable(store.accounts_changed_since(since).await?);
        let tokens = told.readable(store.tokens_changed_since(since).await?);
        let mirrors = store.mirrors_changed_since(since).await?;
        told.complete_mirrors = mirrors.iter().all(Result::is_ok);
        self.publish_keys(&keys.into_iter().filter(|hashed| self.is_news(hashed)).collect::<Vec<_>>());
        for change in accounts {
            told.accounts.insert(change.account.appid.clone());
            self.publish_account(change, asked);
        }
        for token in tokens {
            told.tokens.insert(token.key.clone());
            self.publish_token(token, asked);
        }
        let mirrors: Vec<_> = readable(mirrors).collect();
        told.mirrors = mirrors.iter().map(|change| change.id.clone()).collect();
        self.publish_mirrors(mirrors, asked);
        Ok(told)
    }

    /// Polls until `stop`. A database that is away is reported once when it goes and once when it is back; as it may then be an older copy, everything
    /// is read again. So it is after a look that found a new connection made: a server may have been replaced without any look failing.
    pub async fn follow(&self, store: &Store, clock: &Clock, stop: CancellationToken) {
        let (mut away, mut anew) = (false, false);
        let mut connections = store.db().connections_made();
        let mut has_said = false;
        while stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
            fail_point::pass("follow").await;
            let went_back = self.went_back.load(Ordering::Relaxed);
            if went_back && !has_said {
                tracing::error!(
                    "the database has an older state than before, as if a copy had been restored; reading all of it"
                );
            }
            has_said = went_back;
            let looked = if away || went_back || anew {
                self.load(store, clock.now()).await
            } else {
                self.catch_up(store, clock.now()).await
            };
            let before = std::mem::replace(&mut connections, store.db().connections_made());
            anew = connections != before;
            match looked {
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

/// What one look at the database told of.
#[derive(Default)]
struct Told {
    accounts: HashSet<AppId>,
    tokens: HashSet<TokenKey>,
    mirrors: HashSet<String>,
    /// Whether every row could be read but for mirrors'.
    complete: bool,
    /// Whether every mirror could be read.
    complete_mirrors: bool,
}

impl Told {
    /// Whether the database cannot have been like this but in the midst of a restore: each account has a token, and none ever leaves without a
    /// trace.
    fn is_part(&self, held: usize) -> bool {
        let has_token = |appid: &AppId| {
            TokenType::ALL.iter().any(|kind| self.tokens.contains(&TokenKey::new(appid.clone(), *kind)))
        };
        (self.accounts.is_empty() && held > 0) || !self.accounts.iter().all(has_token)
    }

    fn readable<T>(&mut self, rows: Vec<Result<T, StoreError>>) -> Vec<T> {
        self.complete &= rows.iter().all(Result::is_ok);
        readable(rows).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_lacks_what_no_deletion_takes_is_being_filled() {
        let (one, other) = (AppId::parse("wx1").unwrap(), AppId::parse("wx2").unwrap());
        let told = |accounts: &[&AppId], tokens: &[&AppId]| Told {
            accounts: accounts.iter().map(|appid| (*appid).clone()).collect(),
            tokens: tokens.iter().map(|appid| TokenKey::new((*appid).clone(), TokenType::AccessToken)).collect(),
            complete: true,
            ..Told::default()
        };
        assert!(!told(&[], &[]).is_part(0), "nobody is registered yet");
        assert!(told(&[], &[]).is_part(1));
        assert!(told(&[&one, &other], &[&one]).is_part(2));
        assert!(!told(&[&one], &[&one]).is_part(2), "the copy is older than the other account");
    }
}
