//! One run: the instances, what they stand on, the faults of a plan, and the record of it all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wxtoken::clock::Clock;
use wxtoken::domain::secret::TokenValue;
use wxtoken::domain::timestamp::Timestamp;
use wxtoken::seal::{MasterKey, Sealer};

use super::instance::{CALL_MILLIS, Instance};
use super::plan::{Account, Plan};
use super::readers::{Log, Reader};
use super::record::{self, Of, Record, Row, Trouble};
use crate::support::api::Api;
use crate::support::database::TestDatabase;
use crate::support::process::{ADMIN_KEY, MASTER_KEY};
use crate::support::sandbox::{SECRET, TestSandbox};
use crate::support::wait::{eventually, within};

/// An AppSecret that WeChat does not know.
const WRONG_SECRET: &str = "c0ffee00c0ffee00c0ffee00c0ffee00";
const WARM_UP_BOUND: Duration = Duration::from_secs(20);
/// After the last fault: three failures in a row put the next attempt off by 8 s, a lease that was lost lasts 2 s, a call 0.8 s, and the
/// others know within 2 s.
const FRESH_BOUND: Duration = Duration::from_secs(15);
/// On a machine that is too busy for the bound.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// What happens after the last fault is watched for so long.
const AFTERMATH: Duration = Duration::from_secs(2);
const HISTORY_BOUND: Duration = Duration::from_secs(10);
/// Between two looks at the machine.
const WATCH: Duration = Duration::from_millis(100);
/// A look with its pause and with a connection to the database takes a third of this many milliseconds.
const SLUGGISH: i64 = 350;
/// Each connection that is dead is found out by the deadline of a statement of its own, one after the other.
const RECONNECTING: i64 = 6_000;

/// One run, set up.
pub(super) struct Scene {
    pub(super) plan: Plan,
    pub(super) instances: Vec<Arc<Instance>>,
    pub(super) sandbox: TestSandbox,
    pub(super) clock: Clock,
    database: TestDatabase,
    log: Arc<Log>,
    troubles: Mutex<Vec<Trouble>>,
    edits: Mutex<Vec<(i64, String)>>,
    strikes: Mutex<BTreeMap<&'static str, u64>>,
}

/// What a run came to.
pub(super) struct Played {
    pub(super) record: Record,
    /// How often each fault struck.
    pub(super) strikes: BTreeMap<&'static str, u64>,
}

impl Scene {
    /// Plays `plan` from its start to its end; readers read at `pace`.
    pub(super) async fn play(plan: Plan, pace: Duration) -> Played {
        let scene = Self::set(plan).await;
        let stop = CancellationToken::new();
        let readers = scene.start_readers(pace, &stop);
        let faults = async {
            scene.warm_up().await;
            scene.strike_all().await;
            let (stale, ()) = tokio::join!(scene.until_fresh(), tokio::time::sleep(AFTERMATH));
            stop.cancel();
            stale
        };
        let (stale, ()) = tokio::join!(faults, scene.watch_the_machine(&stop));
        readers.join_all().await;
        let record = scene.whole_record().await;
        scene.finish(Record { stale, ..record })
    }

    async fn set(plan: Plan) -> Self {
        let sandbox = TestSandbox::start().await;
        let clock = Clock::new();
        let database = TestDatabase::create(plan.database).await;
        let prepare = |hours: &Option<i32>| Arc::new(Instance::prepare(&database, &sandbox, *hours));
        let instances: Vec<_> = plan.clocks.iter().map(prepare).collect();
        instances[0].start().await;
        join_all(instances[1..].iter().map(|instance| instance.start())).await;
        for account in &plan.accounts {
            register(account, &sandbox, &instances[0].admin().expect("it runs").1).await;
        }
        Self {
            plan,
            instances,
            sandbox,
            clock,
            database,
            log: Arc::default(),
            troubles: Mutex::default(),
            edits: Mutex::default(),
            strikes: Mutex::default(),
        }
    }

    fn start_readers(&self, pace: Duration, stop: &CancellationToken) -> JoinSet<()> {
        let mut readers = JoinSet::new();
        for (number, instance) in self.instances.iter().enumerate() {
            for account in &self.plan.accounts {
                for token_type in account.token_types() {
                    let reader = Reader {
                        number,
                        instance: Arc::clone(instance),
                        appid: account.appid.clone(),
                        token_type,
                        sandbox: self.sandbox.sandbox.clone(),
                        clock: self.clock.clone(),
                        pace,
                        log: Arc::clone(&self.log),
                    };
                    readers.spawn(reader.run(stop.clone()));
                }
            }
        }
        readers
    }

    /// Notes when this process or the database, which nothing stands between, are slower than any promise allows for.
    async fn watch_the_machine(&self, stop: &CancellationToken) {
        let mut began = self.now();
        while stop.run_until_cancelled(tokio::time::sleep(WATCH)).await.is_some() {
            let told = record::ask(&self.database).await;
            let now = self.now();
            if told.is_err() || now - began > SLUGGISH {
                let trouble = Trouble { from: began, until: now + RECONNECTING, of: Of::Machine };
                self.troubles.lock().unwrap_or_else(PoisonError::into_inner).push(trouble);
            }
            began = self.now();
        }
    }

    async fn warm_up(&self) {
        eventually(WARM_UP_BOUND, "every token to be there", async || self.not_fresh_since(0).is_empty().then_some(()))
            .await;
    }

    /// What the readers of healthy accounts have not been given since `moment`: a value that WeChat accepts, as their last answer.
    fn not_fresh_since(&self, moment: i64) -> Vec<String> {
        let reads = self.log.reads.lock().unwrap_or_else(PoisonError::into_inner);
        let mut last = BTreeMap::new();
        for read in reads.iter().rev().take_while(|read| read.received >= moment) {
            last.entry((read.instance, read.appid.as_str(), read.token_type)).or_insert(read);
        }
        let healthy = self.plan.accounts.iter().filter(|account| account.secret_is_right);
        let tokens =
            healthy.flat_map(|account| account.token_types().iter().map(|kind| (account.appid.as_str(), *kind)));
        let all = tokens.flat_map(|(appid, kind)| (0..self.instances.len()).map(move |number| (number, appid, kind)));
        let is_fresh =
            |read: &&record::Read| read.sent >= moment && read.given.as_ref().is_some_and(|given| given.accepted);
        all.filter(|key| !last.get(key).is_some_and(is_fresh))
            .map(|key| format!("{key:?}: {:?}", last.get(&key).map(|read| (read.status, &read.given))))
            .collect()
    }

    async fn until_fresh(&self) -> Vec<String> {
        let moment = self.now();
        let in_time = async || self.not_fresh_since(moment).is_empty() || self.is_overdue(moment);
        within(LONGEST_WAIT, async || in_time().await.then_some(())).await;
        self.not_fresh_since(moment)
    }

    /// Whether everything should have been fresh by now, if that began at `moment` or when the machine was last too busy.
    fn is_overdue(&self, moment: i64) -> bool {
        let troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        let busy = troubles.iter().filter(|trouble| trouble.of == Of::Machine).map(|trouble| trouble.until);
        let began = busy.fold(moment, i64::max);
        self.now() > began + i64::try_from(FRESH_BOUND.as_millis()).unwrap_or(i64::MAX)
    }

    /// Calls in flight end, and those that could not be settled while the database was away are settled. What a killed process left
    /// behind is not claimed before the token is due again; see `checks::calls`.
    async fn whole_record(&self) -> Record {
        let mut record = self.record().await;
        within(HISTORY_BOUND, async || {
            record = self.record().await;
            super::checks::calls::without_a_row(&record).is_empty().then_some(())
        })
        .await;
        record
    }

    fn finish(&self, mut record: Record) -> Played {
        record.reads = std::mem::take(&mut *self.log.reads.lock().unwrap_or_else(PoisonError::into_inner));
        record.output = self.instances.iter().map(|instance| instance.output()).collect();
        record.secrets = self.secrets(&record);
        let sealer = Sealer::new(&MasterKey::parse(MASTER_KEY).expect("it is one"));
        let print = |value: &str| Some((value.to_owned(), sealer.fingerprint(&TokenValue::parse(value).ok()?)));
        let values = record.reads.iter().filter_map(|read| read.given.as_ref()).map(|given| given.value.as_str());
        record.fingerprints = values.collect::<BTreeSet<_>>().into_iter().filter_map(print).collect();
        let repeated = record.rows.iter().filter(|row| row.outcome == "unchanged").count();
        self.struck("repeated answer", repeated as u64);
        let jumped = self.instances.iter().filter(|instance| clock_jumped(&instance.output(), self.now())).count();
        self.struck("clock jump", jumped as u64);
        let strikes = self.strikes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Played { record, strikes }
    }

    async fn record(&self) -> Record {
        let last_call = self.sandbox.sandbox.log(0, None).last().map_or(0, |call| call.seq);
        let rows = Row::all(&self.database).await.expect("the history can be read");
        Record {
            accounts: self.plan.accounts.clone(),
            // Again, because some of the rows may be of later calls.
            calls: self.sandbox.sandbox.log(0, None),
            last_call,
            rows,
            troubles: self.troubles.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            edits: self.edits.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            ..Record::default()
        }
    }

    fn secrets(&self, record: &Record) -> Vec<(String, &'static str)> {
        let password = reqwest::Url::parse(self.database.url()).ok().and_then(|url| url.password().map(str::to_owned));
        let mut secrets: Vec<_> = [
            (SECRET, "an AppSecret"),
            (WRONG_SECRET, "an AppSecret"),
            (ADMIN_KEY, "the admin key"),
            (MASTER_KEY, "the master key"),
            (&password.unwrap_or_default(), "the database's password"),
        ]
        .map(|(text, what)| (text.to_owned(), what))
        .into_iter()
        .filter(|(text, _)| !text.is_empty())
        .collect();
        let mut values: Vec<_> =
            record.reads.iter().filter_map(|read| read.given.as_ref()).map(|given| &given.value).collect();
        values.sort_unstable();
        values.dedup();
        secrets.extend(values.into_iter().map(|value| (value.clone(), "a token")));
        secrets
    }

    pub(super) fn now(&self) -> i64 {
        self.clock.now().as_millis()
    }

    /// Notes that a fault struck so often.
    pub(super) fn struck(&self, name: &'static str, times: u64) {
        *self.strikes.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += times;
    }

    pub(super) fn edited(&self, appid: &str) {
        self.edits.lock().unwrap_or_else(PoisonError::into_inner).push((self.now(), appid.to_owned()));
    }

    /// Runs `work`, in which there is trouble of this kind.
    pub(super) async fn in_trouble<T>(&self, of: Of, work: impl Future<Output = T>) -> T {
        let from = self.now();
        let done = work.await;
        let aftermath = match of {
            Of::Database(_) => RECONNECTING,
            // The call that was under way ends with it.
            Of::Wechat(_) | Of::Account(_) | Of::Frozen(_) => CALL_MILLIS,
            Of::Down(_) | Of::Machine => 0,
        };
        let trouble = Trouble { from, until: self.now() + aftermath, of };
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).push(trouble);
        done
    }

    /// How many readers' reports of this account were answered with a new token.
    pub(super) fn repairs(&self, appid: &str) -> usize {
        self.log.repairs.lock().unwrap_or_else(PoisonError::into_inner).iter().filter(|of| *of == appid).count()
    }
}

/// The secret with which an account is registered here.
pub(super) fn secret(account: &Account) -> &'static str {
    if account.secret_is_right { SECRET } else { WRONG_SECRET }
}

async fn register(account: &Account, sandbox: &TestSandbox, admin: &Api) {
    let Account { appid, mode, lifetime, overlap, .. } = account;
    let settings = json!({
        "lifetime_seconds": lifetime,
        "overlap_seconds": overlap,
        "ticket_lifetime_seconds": lifetime,
        // A ticket whose first answer was lost is believed to live for a lifetime from its second.
        "ticket_overlap_seconds": lifetime,
        "latency_ms": { "min": 0, "max": 40 },
    });
    sandbox.account(appid, &settings);
    let account =
        json!({ "appid": appid, "secret": secret(account), "mode": mode, "token_types": account.token_types() });
    // On a machine that is too busy an answer may be lost.
    eventually(WARM_UP_BOUND, "an account to be registered", async || {
        let status = admin.create_account(&account).await.status.as_u16();
        (status == 201 || status == 409).then_some(())
    })
    .await;
}

/// Whether the stamps of these log lines show clocks that are hours apart.
fn clock_jumped(output: &str, now: i64) -> bool {
    let stamps = output.lines().filter_map(|line| Timestamp::parse_rfc3339(line.split(' ').next()?));
    let hours: BTreeSet<_> = stamps.map(|stamp| (stamp.as_millis() - now + 1_800_000).div_euclid(3_600_000)).collect();
    hours.len() > 1
}
