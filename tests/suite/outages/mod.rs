//! The database goes away, in every way there is, and comes back: what readers and admins see meanwhile, and that it needs nobody's help.
//!
//! Each test owns the database server that it breaks. Readers read all the time; every answer is kept with the time that it took, and
//! WeChat is asked at once whether it accepts the value.

mod away;
mod failover;
/// Other systems set no limits on a process that runs.
#[cfg(target_os = "linux")]
mod full;
mod read_only;
mod restarts;
mod restored;
mod settles;
mod supply;

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wxtoken::wechat::sandbox::{Line, Sandbox};

use crate::promises;
use crate::support::api::{Api, Reply};
use crate::support::process::{Server, ServerBuilder};
use crate::support::sandbox::TestSandbox;
use crate::support::wait::eventually;

const ACCESS_TOKEN: &str = "access_token";
/// Between two reads at an instance.
const READ_EVERY: Duration = Duration::from_millis(20);
/// By when an instance serves what another has fetched: two seconds, and what a busy machine adds.
const SHARED_WITHIN: Duration = Duration::from_secs(4);
/// The deadline of a call to WeChat; a lease is two and a half times as long.
const CALL_TIMEOUT: &str = "1s";
const LEASE: Duration = Duration::from_millis(2_500);
/// How long the program may take to be its old self when the database is back.
const RECOVERY: Duration = Duration::from_secs(10);
/// By when an admin is told that the database is away: three seconds, and one for what a busy machine adds.
const TOLD_WITHIN: Duration = Duration::from_secs(4);
/// No read takes as long as this, whatever the database does: one that waited for it would take two and a half seconds.
const WITHOUT_DELAY: Duration = Duration::from_secs(2);

/// Instances on one database, with WeChat.
struct Scene {
    sandbox: TestSandbox,
    servers: Vec<Server>,
    url: String,
}

impl Scene {
    async fn set(database_url: &str, instances: usize) -> Self {
        Self::set_with(database_url, instances, |server| server).await
    }

    async fn set_with(database_url: &str, instances: usize, change: impl Fn(ServerBuilder) -> ServerBuilder) -> Self {
        let sandbox = TestSandbox::start().await;
        let mut scene = Self { sandbox, servers: Vec::new(), url: database_url.to_owned() };
        for _ in 0..instances {
            let server = change(scene.builder()).start().await;
            scene.servers.push(server);
        }
        scene
    }

    fn builder(&self) -> ServerBuilder {
        let server = Server::builder().env("DATABASE_URL", &self.url).wechat(self.sandbox.url());
        server.env("WXTOKEN_CALL_TIMEOUT", CALL_TIMEOUT).env("WXTOKEN_SCAN_INTERVAL", "200ms")
    }

    fn admin(&self) -> Api {
        self.servers[0].admin()
    }

    /// Makes an account at WeChat and registers it, and waits until every instance serves its token.
    async fn register(&self, appid: &str, mode: &str, at_wechat: &Value) {
        self.sandbox.account(appid, at_wechat);
        promises::register(&self.admin(), appid, mode, json!([ACCESS_TOKEN])).await;
        for server in &self.servers {
            promises::value(&server.admin(), appid, ACCESS_TOKEN).await;
        }
    }

    /// Starts a reader for each of these accounts at each instance.
    fn read(&self, appids: &[&str]) -> Readers {
        let end = CancellationToken::new();
        let pause = READ_EVERY * u32::try_from(appids.len()).expect("few");
        let mut tasks = Vec::new();
        for (instance, server) in self.servers.iter().enumerate() {
            for appid in appids {
                let (api, sandbox, end) = (server.admin(), self.sandbox.sandbox.clone(), end.clone());
                let appid = (*appid).to_owned();
                tasks.push(tokio::spawn(
                    async move { read_until(end, &api, &sandbox, (instance, &appid), pause).await },
                ));
            }
        }
        Readers { end, tasks }
    }

    /// The value that WeChat gave out last.
    fn newest(&self, appid: &str, line: Line) -> String {
        let state = self.sandbox.sandbox.state(appid).expect("the account is there");
        let line = state.lines.into_iter().find(|state| state.line == line).expect("a value was given out");
        line.current.expect("it lives").value
    }

    /// Waits until every token of these accounts, which live so many seconds, is young: what comes next meets no call on its way.
    async fn quiet(&self, appids: &[&str], lifetime: u32) {
        eventually(Duration::from_secs(30), "a quiet moment", async || {
            let mut lines = Vec::new();
            for appid in appids {
                lines.extend(self.sandbox.sandbox.state(appid).expect("the account is there").lines);
            }
            let young = |line: &wxtoken::wechat::sandbox::LineState| {
                line.current.as_ref().is_none_or(|value| {
                    let lifetime = u64::from(lifetime) * 1_000;
                    (lifetime / 2..lifetime - 500).contains(&value.remaining_ms)
                })
            };
            lines.iter().all(young).then_some(())
        })
        .await;
    }

    /// Waits until the history of an account has exactly one row for each call that WeChat saw.
    async fn has_one_row_for_each_call(&self, appid: &str) {
        let seen = async || {
            let calls = self.sandbox.calls(appid);
            let rows = promises::history(&self.admin(), appid).await;
            (calls.iter().all(|call| call.ended_ms.is_some()).then_some(calls.len()), rows)
        };
        let agreed = async || {
            let (calls, rows) = seen().await;
            (calls == Some(rows.len())).then_some(())
        };
        if crate::support::wait::within(RECOVERY, agreed).await.is_none() {
            let (calls, rows) = seen().await;
            panic!("{appid}: {calls:?} calls and {} rows: {rows:#?}\n{}", rows.len(), self.servers[0].output());
        }
    }

    /// Waits until an instance that starts now serves the value that WeChat gave out last: the database has it.
    async fn stored_the_newest(&self, appid: &str, line: Line) {
        let fresh = self.builder().start().await;
        eventually(RECOVERY, "the newest value to be stored", async || {
            let reply = fresh.admin().token(appid, ACCESS_TOKEN).await;
            (reply.body["value"] == self.newest(appid, line)).then_some(())
        })
        .await;
    }
}

/// Prints a figure, for who runs a test by hand to see it.
#[expect(clippy::print_stdout, reason = "the test harness shows it when it is asked to")]
fn tell(figure: &str) {
    println!("{figure}");
}

/// A lifetime in seconds that is over before an outage is.
const SHORT_LIFE: u32 = 10;

fn short_lived() -> Value {
    json!({ "lifetime_seconds": SHORT_LIFE, "overlap_seconds": SHORT_LIFE / 2 })
}

/// Readers at work.
struct Readers {
    end: CancellationToken,
    tasks: Vec<JoinHandle<Vec<Read>>>,
}

impl Readers {
    async fn finish(self) -> Reads {
        self.end.cancel();
        let mut reads = Vec::new();
        for task in self.tasks {
            reads.extend(task.await.expect("a reader reads to the end"));
        }
        Reads(reads)
    }
}

async fn read_until(
    end: CancellationToken,
    api: &Api,
    sandbox: &Sandbox,
    (instance, appid): (usize, &str),
    pause: Duration,
) -> Vec<Read> {
    let mut reads = Vec::new();
    while end.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        let sent = Instant::now();
        let reply = api.token(appid, ACCESS_TOKEN).await;
        let took = sent.elapsed();
        let accepts = |value| sandbox.judge(value).accepted;
        // One that is in its last second may be dead by the time that it is judged.
        let accepted = reply.body["value"].as_str().is_some_and(accepts) || reply.body["expires_in"] == 0;
        reads.push(Read { instance, appid: appid.to_owned(), sent, took, reply, accepted });
    }
    reads
}

/// One read and its answer.
struct Read {
    instance: usize,
    appid: String,
    sent: Instant,
    took: Duration,
    reply: Reply,
    /// Whether WeChat accepted the value that came.
    accepted: bool,
}

impl Read {
    fn served(&self) -> bool {
        self.reply.status == 200
    }
}

impl fmt::Debug for Read {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { instance, appid, took, reply, accepted, .. } = self;
        write!(f, "{appid} of instance {instance} in {took:?}: {} accepted={accepted} {}", reply.status, reply.text)
    }
}

/// What readers saw.
struct Reads(Vec<Read>);

impl Reads {
    /// Every read was answered with a living value, and none had to wait.
    fn assert_all_served(&self) {
        let dead: Vec<_> = self.0.iter().filter(|read| read.served() && !read.accepted).collect();
        assert!(dead.is_empty(), "{} of {} reads brought a dead value: {:#?}", dead.len(), self.0.len(), sample(&dead));
        self.assert_no_failure();
    }

    /// Every read was answered, and none had to wait.
    fn assert_no_failure(&self) {
        let failed: Vec<_> = self.0.iter().filter(|read| !read.served()).collect();
        assert!(failed.is_empty(), "{} of {} reads failed: {:#?}", failed.len(), self.0.len(), sample(&failed));
        self.assert_no_delay();
        assert!(self.0.len() > 100, "{} reads show nothing", self.0.len());
    }

    /// A dead value was served for a moment at most: by an instance that had not heard yet that another had to mint once more. Says how many
    /// reads brought one.
    fn assert_dead_for_a_moment(&self) -> usize {
        let mut since = None;
        let mut dead = 0;
        // The reads of one reader stand together, in their order.
        for read in &self.0 {
            if read.accepted {
                since = None;
                continue;
            }
            dead += 1;
            let (reader, first) = *since.get_or_insert(((read.instance, read.appid.as_str()), read.sent));
            if reader == (read.instance, read.appid.as_str()) {
                let span = read.sent.duration_since(first);
                assert!(span <= SHARED_WITHIN, "a dead value was served for {span:?}: {read:?}");
            } else {
                since = Some(((read.instance, read.appid.as_str()), read.sent));
            }
        }
        dead
    }

    fn assert_no_delay(&self) {
        let late: Vec<_> = self.0.iter().filter(|read| read.took > WITHOUT_DELAY).collect();
        assert!(late.is_empty(), "{} of {} reads had to wait: {:#?}", late.len(), self.0.len(), sample(&late));
    }
}

fn sample<'a>(reads: &'a [&'a Read]) -> &'a [&'a Read] {
    &reads[..reads.len().min(5)]
}
