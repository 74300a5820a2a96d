//! Readers that note what they were given, and whether it was dead.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wxtoken::wechat::sandbox::Sandbox;

use crate::support::api::{Api, Reply};
use crate::support::sandbox::TestSandbox;

const BETWEEN_READS: Duration = Duration::from_millis(50);

/// Watches one token by any number of readers, who share what they know of its values.
pub(super) struct Watch {
    sandbox: Sandbox,
    appid: String,
    token_type: &'static str,
    /// Every value that was served, and since when it is known to be dead.
    values: Arc<Mutex<HashMap<String, Option<Instant>>>>,
}

/// A reader at work.
pub(super) struct Reader {
    stop: CancellationToken,
    task: JoinHandle<Seen>,
}

/// What one reader saw.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) reads: usize,
    /// Every answer that brought no token.
    pub(super) refused: Vec<Reply>,
    pub(super) dead: Vec<DeadRead>,
}

/// A read that brought a value of which WeChat had said before that it was dead.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeadRead {
    pub(super) known: Instant,
    pub(super) answered: Instant,
}

impl Watch {
    pub(super) fn new(sandbox: &TestSandbox, appid: &str, token_type: &'static str) -> Self {
        Self { sandbox: sandbox.sandbox.clone(), appid: appid.to_owned(), token_type, values: Arc::default() }
    }

    /// Reads from one server from now on.
    pub(super) fn read(&self, api: &Api) -> Reader {
        let stop = CancellationToken::new();
        let (api, appid, token_type) = (api.clone(), self.appid.clone(), self.token_type);
        let (sandbox, values, stopped) = (self.sandbox.clone(), Arc::clone(&self.values), stop.clone());
        let task = tokio::spawn(async move {
            let mut seen = Seen::default();
            while !stopped.is_cancelled() {
                let sent = Instant::now();
                let reply = api.token(&appid, token_type).await;
                seen.take(reply, sent, &sandbox, &mut values.lock().unwrap_or_else(PoisonError::into_inner));
                tokio::time::sleep(BETWEEN_READS).await;
            }
            seen
        });
        Reader { stop, task }
    }
}

impl Reader {
    pub(super) async fn end(self) -> Seen {
        self.stop.cancel();
        self.task.await.expect("every read was answered")
    }
}

impl Seen {
    fn take(&mut self, reply: Reply, sent: Instant, sandbox: &Sandbox, values: &mut HashMap<String, Option<Instant>>) {
        let answered = Instant::now();
        self.reads += 1;
        match reply.body["value"].as_str().filter(|_| reply.status == 200) {
            None => self.refused.push(reply),
            Some(value) => match values.entry(value.to_owned()).or_default() {
                Some(known) if *known < sent => self.dead.push(DeadRead { known: *known, answered }),
                _ => {}
            },
        }
        for (value, dead) in values.iter_mut().filter(|(_, dead)| dead.is_none()) {
            *dead = (!sandbox.judge(value).accepted).then(Instant::now);
        }
    }

    /// The longest time after which a value was served that was known to be dead, counted from `since` at the earliest.
    pub(super) fn longest_dead(&self, since: Option<Instant>) -> Duration {
        let late =
            |read: &DeadRead| read.answered.saturating_duration_since(since.unwrap_or(read.known).max(read.known));
        self.dead.iter().map(late).max().unwrap_or_default()
    }

    /// Every read brought a value, and none a dead one.
    pub(super) fn assert_flawless(&self, who: &str) {
        assert!(self.reads > 10, "{who}: only {} reads", self.reads);
        if let Some(reply) = self.refused.first() {
            panic!(
                "{who}: {} of {} reads brought no token: {} {}",
                self.refused.len(),
                self.reads,
                reply.status,
                reply.text
            );
        }
        self.assert_never_dead(who);
    }

    pub(super) fn assert_never_dead(&self, who: &str) {
        let (count, longest) = (self.dead.len(), self.longest_dead(None));
        assert!(count == 0, "{who}: {count} of {} reads brought a dead value, up to {longest:?} long", self.reads);
    }
}
