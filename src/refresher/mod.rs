//! Refreshing tokens: the heart of the product.
//!
//! # The state machine
//!
//! **Authority.** The row `(appid, token_type)` of `wx_token` is the only truth about a token, and the database's row lock decides who may
//! change it. Any number of instances run this code on one database; none is special, and none needs to know of the others.
//!
//! **A turn** consists of two short transactions around one call, and no transaction is open while WeChat answers:
//!
//! ```text
//!            claim                          call                           settle
//!  idle ───────────────▶ leased ───────────────────────────▶ leased ───────────────────▶ idle
//!   ▲   generation + 1     │  one request, one answer or        │  generation still ours:
//!   │   leased_until       │  one failure, within a deadline    │  value, record, history row
//!   │                      ▼                                    ▼
//!   │                lease runs out                       generation moved on:
//!   └──── the next claim writes `lost` ◀──┘               history row `superseded`, nothing else
//! ```
//!
//! *Claim* takes rows that are due and not leased, passing over rows that somebody else has locked; stamps them with our name, the end
//! of the lease and the next **generation**; counts the call against the day's budget; and leaves them due, so that a claim
//! that dies is made again without anybody's help. *Call* has a deadline of 8 s under a lease of 20 s, and does not begin once half the
//! lease is over, by a clock that nobody sets: a call always ends well inside its lease, unless the process is stopped during it. *Settle* locks the row again and writes only if
//! the generation is still the claim's. The pure rule for what is written is [`crate::domain::settlement`].
//!
//! **Why the lock is not held through the call.** It would pin a connection for the length of a call (measured: 76 refreshes a second
//! on 8 connections, against 2,400 this way), run into idle-in-transaction limits, and on SQLite stop every other writer.
//!
//! **What the generation is worth.** A process that stops for longer than its lease and wakes up finds its generation spent: its
//! answer is recorded, as `superseded`, and stored nowhere. The generation fences our row, not WeChat. In stable mode that is
//! enough: WeChat names the same token to everybody who asks. In plain mode the late request, its answer lost or not, may have reached WeChat
//! *after* the newer one, and then WeChat honours a value that nobody stores. A probe cannot tell while both values are in their five minutes
//! of overlap, so the value is put in doubt and the token minted once more, with trigger `recovery`: the stored value is the newest again.
//!
//! **Crashes.** Before the claim commits: nothing happened. After it: the row stays leased until the lease runs out (on SQLite until the
//! process starts again, because nobody else can hold it), and is then claimed as `recovery`; the unsettled claim becomes a history row
//! `lost`, the only kind of row that may stand for a call that was never made. After an answer and before the settle: in stable mode
//! asking again brings the same token; in plain mode one more is minted while the stored one is in its overlap. After the settle: the row
//! is complete, and whoever starts next reads it.
//!
//! **Failures** never remove a value. They are counted in the row, and the row says when to try again
//! ([`crate::domain::refresh::retry_at`]): the row is the only place that retries, so restarts and several instances cannot multiply
//! attempts. An admin's edit sets the row due; a settle that finds it rescheduled leaves that time alone, so an edit is never undone by the
//! failure of a call that was made with the old secret.
//!
//! **Repair.** A caller reports that WeChat refused a value. If the value is not the current one the answer is the current one. If it is, the
//! row is claimed and WeChat is asked once, by the cheapest call there is, whether it still accepts the token; every report of the same
//! version waits for that one answer, which is good for ten seconds. A refused token is marked as dead and replaced under the same
//! lease: the settle of the probe claims the next generation in its own transaction, so that no other claim comes between. Had the
//! token life left, its probe goes down as `foreign_refresh`: somebody else minted for this appid.
//!
//! **Adoption.** An account is registered with a token that lives already. The value is probed first, under a claim on a row that is not kept; the
//! settle of that probe is the registration, with the value in place and its next refresh planned, so that nothing is minted before that.
//!
//! **Doubt.** In plain mode a mint that went without an answer, or a claim that was lost, may have minted all the same: then our value is the
//! one before the newest, good for its overlap, and one more mint ends it at once. The row says `in_doubt`, and when that mint is due, a
//! second and a half before it: time for every instance to hear of it. From then on readers wait for the new value, for a second at most. A
//! failed mint without an answer is followed by a probe, so that a value that is dead already is found out.
//!
//! **Without the database** no claim can be made and no answer settled. An answer whose settle fails is kept, and what it came to is published at
//! once: a value is served, a refused one is not. It is settled when the database is back, and until then the view counts it as not stored. Tokens
//! in stable mode and tickets that come due meanwhile are fetched without a claim, by each instance for itself (`supply`): WeChat names the same
//! value to all. Such a call gets a generation and its history row when it is stored; a call of which the row knows something later goes down as
//! `superseded`.
//!
//! **Tickets** are fetched with an access token. A ticket row without one is put back without a call and woken by the settle that brings
//! the token. A ticket call that finds its access token refused has it repaired, once; the ticket's own backoff then fetches it again.
//!
//! **Cut off from WeChat**, an instance would win claims and fail them faster than its peers succeed. After three calls in a row for which no
//! connection came about it claims one token a scan, and only one that no peer has taken for three scans, until WeChat answers again.
//!
//! **Bounds.** At most one call is in flight per token, at most `concurrency` in all. Tokens whose last call failed may use half of that, and
//! together with new tokens and whatever callers ask for three quarters: a quarter is for the scheduled refreshes of tokens that did well
//! so far, however many others hang. Tokens that did well and begin to hang all together each do so once on those seats; a crowd of `n` delays
//! others by `n / concurrency` deadlines, which is 38 s for 300 and well within the lead. Budgets count calls when they are claimed, since a
//! lost answer may have been spent at WeChat. Nothing that callers do can exceed them.

mod adoption;
mod call;
mod doubt;
mod error;
mod flight;
mod kept;
mod obtain;
mod reach;
mod repair;
mod retention;
mod schedule;
mod seats;
mod supply;

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use adoption::AdoptError;
pub use call::CallReport;
pub use error::{LastFailure, RefreshError};
use flight::Flights;
use kept::KeptCalls;
use reach::Reach;
pub use repair::{Report, Verdict};
use seats::Seats;
use supply::UnderWay;

use crate::clock::Clock;
use crate::domain::refresh::Outcome;
use crate::domain::token::{Token, TokenKey};
use crate::live::LiveView;
use crate::store::Store;
use crate::wechat::Client;

/// How to refresh.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The longest lead before a token's expiry.
    pub ahead: Duration,
    /// How often to look for due tokens.
    pub scan_interval: Duration,
    /// The most calls to WeChat at once.
    pub concurrency: u32,
    /// The deadline of one call.
    pub call_timeout: Duration,
    /// Whether no other instance can use the database.
    pub alone: bool,
}

impl Policy {
    /// How long a claim is good for: well over the deadline of a call.
    pub fn lease(&self) -> Duration {
        self.call_timeout * 5 / 2
    }

    /// How long a caller waits for a token before the answer is that there is none: a call and a little.
    pub fn patience(&self) -> Duration {
        self.call_timeout + Duration::from_secs(2)
    }
}

/// A refresh that came to an end.
#[derive(Debug, Clone)]
pub struct Refreshed {
    /// How the call ended.
    pub outcome: Outcome,
    /// The token as it is now.
    pub token: Token,
    /// What the call was like.
    pub call: CallReport,
}

/// Keeps every token alive.
pub struct Refresher {
    store: Arc<Store>,
    wechat: Client,
    live: Arc<LiveView>,
    clock: Clock,
    policy: Policy,
    seats: Seats,
    reach: Reach,
    first_uses: Flights<TokenKey, Token>,
    refreshes: Flights<obtain::Order, Refreshed>,
    repairs: Flights<TokenKey, repair::Found>,
    verdicts: Mutex<HashMap<TokenKey, repair::RecentVerdict>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    due: Arc<Notify>,
    turned_at: Mutex<Instant>,
    kept: KeptCalls,
    under_way: UnderWay,
    database_is_away: AtomicBool,
}

impl Refresher {
    /// A refresher that stops claiming when `stop` is cancelled.
    pub fn new(
        store: Arc<Store>,
        wechat: Client,
        live: Arc<LiveView>,
        clock: Clock,
        policy: Policy,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let due = Arc::new(Notify::new());
        Arc::new(Self {
            store,
            wechat,
            live,
            clock,
            reach: Reach::default(),
            seats: Seats::new(policy.concurrency, Arc::clone(&due)),
            policy,
            first_uses: Flights::default(),
            refreshes: Flights::default(),
            repairs: Flights::default(),
            verdicts: Mutex::default(),
            tasks: TaskTracker::new(),
            stop,
            due,
            turned_at: Mutex::new(Instant::now()),
            kept: KeptCalls::default(),
            under_way: UnderWay::default(),
            database_is_away: AtomicBool::new(false),
        })
    }

    /// Makes the scheduler look at once: something has become due.
    pub fn wake(&self) {
        self.due.notify_one();
    }

    /// Whether the last calls found no connection to WeChat.
    pub fn is_cut_off(&self) -> bool {
        self.reach.is_lost()
    }

    /// How this refresher refreshes.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// How long ago the scheduler began its last turn, or else this began. No clock that somebody sets has a part in it.
    pub fn since_last_turn(&self) -> Duration {
        self.turned_at.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Waits until every call in flight is settled. Call it after `stop` was cancelled and [`Refresher::run`] has ended.
    pub async fn settle_all(self: &Arc<Self>) {
        self.tasks.close();
        self.tasks.wait().await;
        self.flush_kept().await;
        // What was stored late may have led to one more call.
        self.tasks.wait().await;
    }

    fn check_running(&self) -> Result<(), RefreshError> {
        if self.stop.is_cancelled() { Err(RefreshError::Draining) } else { Ok(()) }
    }
}
