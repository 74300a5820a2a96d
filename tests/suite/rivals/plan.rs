//! What happens in one run, and when: all of it follows from the seed.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::support::database::Kind;
use crate::support::proxy::Fault;

/// Every fault that a run may hold, by the name under which its strikes are counted.
pub(super) const FAULTS: &[&str] = &[
    "kill -9 and restart",
    "SIGSTOP past the lease",
    "SIGTERM and restart",
    "database cut",
    "database reset",
    "database black hole",
    "database stalls",
    "database answers lost",
    "database slow",
    "WeChat cut",
    "WeChat black hole",
    "WeChat answers lost",
    "WeChat stalls",
    "WeChat 5xx",
    "WeChat -1",
    "WeChat hangs",
    "WeChat processes and goes silent",
    "WeChat garbage",
    "foreign mint",
    "killed token",
    "repeated answer",
    "admin's edit",
    "clock jump",
];

/// An account at WeChat and here.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) appid: String,
    pub(super) mode: &'static str,
    /// Seconds.
    pub(super) lifetime: u32,
    /// Seconds. Never less than a quarter of the lifetime, which is how early a token is replaced; so it is at WeChat.
    pub(super) overlap: u32,
    pub(super) with_ticket: bool,
    pub(super) secret_is_right: bool,
}

impl Account {
    pub(super) fn token_types(&self) -> &'static [&'static str] {
        if self.with_ticket { &["access_token", "jsapi_ticket"] } else { &["access_token"] }
    }
}

/// One fault.
#[derive(Debug, Clone)]
pub(super) struct Event {
    /// From the moment when every token has been fetched.
    pub(super) at: Duration,
    pub(super) lasting: Duration,
    pub(super) what: What,
}

/// What a fault does. Instances and accounts by their numbers.
#[derive(Debug, Clone)]
pub(super) enum What {
    Kill(usize),
    Stop(usize),
    Terminate(usize),
    Database(usize, Fault),
    Wechat(usize, Fault),
    /// The sandbox's own fault of this kind, for this account's calls.
    Answers(usize, &'static str),
    ForeignMint(usize),
    Withdraw(usize),
    /// An admin at this instance asks for the same token again.
    Refresh(usize, usize),
    /// An admin at this instance enters the secret of this account again.
    Edit(usize, usize),
    /// The clock of this instance's host is set so many hours off.
    Clock(usize, i32),
}

/// What may not suffer two faults at once.
#[derive(Debug, PartialEq, Eq)]
enum Lane {
    Process(usize),
    Database(usize),
    Wechat(usize),
    Account(usize),
    Free,
}

impl What {
    /// One of [`FAULTS`].
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Kill(_) => "kill -9 and restart",
            Self::Stop(_) => "SIGSTOP past the lease",
            Self::Terminate(_) => "SIGTERM and restart",
            Self::Database(_, Fault::Cut) => "database cut",
            Self::Database(_, Fault::Reset) => "database reset",
            Self::Database(_, Fault::BlackHole) => "database black hole",
            Self::Database(_, Fault::Stall) => "database stalls",
            Self::Database(_, Fault::AnswersLost) => "database answers lost",
            Self::Database(_, Fault::Delay(_) | Fault::Trickle(_)) => "database slow",
            Self::Wechat(_, Fault::Cut | Fault::Reset) => "WeChat cut",
            Self::Wechat(_, Fault::BlackHole) => "WeChat black hole",
            Self::Wechat(_, Fault::AnswersLost) => "WeChat answers lost",
            Self::Wechat(_, Fault::Stall | Fault::Delay(_) | Fault::Trickle(_)) => "WeChat stalls",
            Self::Answers(_, "http_502" | "http_504") => "WeChat 5xx",
            Self::Answers(_, "busy" | "system_error") => "WeChat -1",
            Self::Answers(_, "hang_before" | "slow_drip") => "WeChat hangs",
            Self::Answers(_, "hang_after" | "reset_after" | "close_after" | "truncated_body") => {
                "WeChat processes and goes silent"
            }
            Self::Answers(..) => "WeChat garbage",
            Self::ForeignMint(_) => "foreign mint",
            Self::Withdraw(_) => "killed token",
            Self::Refresh(..) => "repeated answer",
            Self::Edit(..) => "admin's edit",
            Self::Clock(..) => "clock jump",
        }
    }

    fn lane(&self) -> Lane {
        match self {
            Self::Kill(instance) | Self::Stop(instance) | Self::Terminate(instance) => Lane::Process(*instance),
            Self::Database(instance, _) => Lane::Database(*instance),
            Self::Wechat(instance, _) => Lane::Wechat(*instance),
            Self::Answers(account, _) | Self::ForeignMint(account) | Self::Withdraw(account) => Lane::Account(*account),
            Self::Refresh(..) | Self::Edit(..) | Self::Clock(..) => Lane::Free,
        }
    }
}

/// How much of everything a run holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) fewest_instances: usize,
    pub(super) most_instances: usize,
    /// Each holds the accounts of [`accounts`].
    pub(super) groups_of_accounts: usize,
    pub(super) events: usize,
    /// In which the faults lie.
    pub(super) span: Duration,
}

impl Size {
    pub(super) const SHORT: Self =
        Self { fewest_instances: 2, most_instances: 3, groups_of_accounts: 1, events: 5, span: Duration::from_secs(5) };

    pub(super) fn long(span: Duration) -> Self {
        let events = usize::try_from(span.as_secs()).unwrap_or(usize::MAX);
        Self { fewest_instances: 10, most_instances: 10, groups_of_accounts: 8, events, span }
    }
}

/// One run.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) database: Kind,
    pub(super) instances: usize,
    pub(super) accounts: Vec<Account>,
    pub(super) events: Vec<Event>,
    /// How many hours the clock of each instance's host is wrong at its start; `None` where it is never wrong.
    pub(super) clocks: Vec<Option<i32>>,
}

impl Plan {
    pub(super) fn new(seed: u64, size: Size) -> Self {
        let mut dice = StdRng::seed_from_u64(seed);
        let database = if dice.random_bool(0.5) { Kind::Postgres } else { Kind::Mysql };
        // More often few than many: two find most of what there is to find.
        let most = dice.random_range(size.fewest_instances..=size.most_instances);
        let instances = dice.random_range(size.fewest_instances..=most);
        let accounts: Vec<_> = (0..size.groups_of_accounts).flat_map(|group| accounts(group, &mut dice)).collect();
        let clocks = (0..instances).map(|_| dice.random_bool(0.15).then(|| hours(&mut dice))).collect();
        let mut plan = Self { seed, database, instances, accounts, events: Vec::new(), clocks };
        for number in 0..size.events {
            // The first follows the seed's number, so that a series of seeds leaves no fault out.
            let index = match number {
                0 => usize::try_from(seed % FAULTS.len() as u64).unwrap_or(0),
                _ => dice.random_range(0..FAULTS.len()),
            };
            plan.add(FAULTS[index], size.span, &mut dice);
        }
        plan.add_news(size.span, &mut dice);
        plan.events.sort_by_key(|event| event.at);
        plan
    }

    /// New values of tokens that live long, so that an instance that stays behind is seen for as long as it does.
    fn add_news(&mut self, span: Duration, dice: &mut StdRng) {
        for account in
            self.numbers_of(|account| account.mode == "plain" && account.lifetime > 300 && account.secret_is_right)
        {
            let what = What::Refresh(dice.random_range(0..self.instances), account);
            let at = span.mul_f64(dice.random_range(0.0..0.5));
            self.events.push(Event { at, lasting: Duration::ZERO, what });
        }
    }

    /// Adds a fault of this name at a time when nothing else has its target.
    fn add(&mut self, name: &str, span: Duration, dice: &mut StdRng) {
        const ATTEMPTS: usize = 20;
        for _ in 0..ATTEMPTS {
            let what = self.what(name, dice);
            let lasting = lasting(&what, dice);
            let latest = span.saturating_sub(lasting);
            let event = Event { at: latest.mul_f64(dice.random_range(0.0..1.0)), lasting, what };
            if self.events.iter().all(|other| !collide(other, &event)) {
                if let What::Clock(instance, _) = event.what {
                    // What jumps must have been right before, or wrong in another way.
                    self.clocks[instance].get_or_insert(0);
                }
                self.events.push(event);
                return;
            }
        }
    }

    fn what(&self, name: &str, dice: &mut StdRng) -> What {
        let instance = dice.random_range(0..self.instances);
        let account = dice.random_range(0..self.accounts.len());
        let healthy = pick(&self.numbers_of(|account| account.secret_is_right), dice);
        let slow = Fault::Delay(Duration::from_millis(dice.random_range(20..200)));
        match name {
            "kill -9 and restart" => What::Kill(instance),
            "SIGSTOP past the lease" => What::Stop(instance),
            "SIGTERM and restart" => What::Terminate(instance),
            "database cut" => What::Database(instance, Fault::Cut),
            "database reset" => What::Database(instance, Fault::Reset),
            "database black hole" => What::Database(instance, Fault::BlackHole),
            "database stalls" => What::Database(instance, Fault::Stall),
            "database answers lost" => What::Database(instance, Fault::AnswersLost),
            "database slow" => What::Database(instance, pick(&[slow, Fault::Trickle(2_000)], dice)),
            "WeChat cut" => What::Wechat(instance, pick(&[Fault::Cut, Fault::Reset], dice)),
            "WeChat black hole" => What::Wechat(instance, Fault::BlackHole),
            "WeChat answers lost" => What::Wechat(instance, Fault::AnswersLost),
            "WeChat stalls" => What::Wechat(instance, pick(&[Fault::Stall, slow, Fault::Trickle(500)], dice)),
            "WeChat 5xx" => What::Answers(healthy, pick(&["http_502", "http_504"], dice)),
            "WeChat -1" => What::Answers(healthy, pick(&["busy", "system_error"], dice)),
            "WeChat hangs" => What::Answers(healthy, pick(&["hang_before", "slow_drip"], dice)),
            "WeChat processes and goes silent" => {
                What::Answers(healthy, pick(&["hang_after", "reset_after", "close_after", "truncated_body"], dice))
            }
            "WeChat garbage" => What::Answers(healthy, pick(GARBAGE, dice)),
            "foreign mint" => What::ForeignMint(healthy),
            "killed token" => What::Withdraw(healthy),
            "repeated answer" => {
                let repeats =
                    |account: &Account| account.mode == "stable" && account.lifetime > 300 && account.secret_is_right;
                What::Refresh(instance, pick(&self.numbers_of(repeats), dice))
            }
            "admin's edit" => What::Edit(instance, account),
            "clock jump" => What::Clock(instance, hours(dice)),
            _ => unreachable!("{name} is not in the list of faults"),
        }
    }

    fn numbers_of(&self, wanted: impl Fn(&Account) -> bool) -> Vec<usize> {
        self.accounts.iter().enumerate().filter(|(_, account)| wanted(account)).map(|(number, _)| number).collect()
    }
}

/// Answers that cannot be read, all of which are asked for again soon.
const GARBAGE: &[&str] = &[
    "empty_body",
    "html",
    "truncated_json",
    "wrong_shape_array",
    "wrong_shape_null",
    "empty_token",
    "missing_token",
    "huge_body",
    "invalid_utf8",
    "trailing_garbage",
    "duplicate_keys",
    "false_gzip",
];

fn pick<T: Copy>(from: &[T], dice: &mut StdRng) -> T {
    *from.choose(dice).expect("there is something to choose from")
}

fn hours(dice: &mut StdRng) -> i32 {
    pick(&[-2, 2], dice)
}

/// Tokens that live for seconds, of which many are fetched in a run, and tokens that live long, which must outlast it.
fn accounts(group: usize, dice: &mut StdRng) -> Vec<Account> {
    let account = |name: &str, mode, lifetime, overlap| Account {
        appid: format!("wx{group}{name}"),
        mode,
        lifetime,
        overlap,
        with_ticket: false,
        secret_is_right: true,
    };
    let wrong_mode = pick(&["stable", "plain"], dice);
    vec![
        account("shortplain", "plain", 6, 4),
        Account { with_ticket: dice.random_bool(0.5), ..account("shortstable", "stable", 6, 4) },
        account("longplain", "plain", 7_200, 300),
        Account { with_ticket: dice.random_bool(0.5), ..account("longstable", "stable", 7_200, 300) },
        Account { secret_is_right: false, ..account("wrong", wrong_mode, 7_200, 300) },
    ]
}

fn lasting(what: &What, dice: &mut StdRng) -> Duration {
    let millis = match what {
        What::Kill(_) | What::Terminate(_) => dice.random_range(0..600),
        // Longer than the lease, see `scene::CALL_TIMEOUT`.
        What::Stop(_) => dice.random_range(2_200..3_200),
        What::Database(..) => dice.random_range(700..3_500),
        What::Wechat(..) => dice.random_range(700..3_000),
        What::Answers(..) => dice.random_range(600..2_000),
        _ => 0,
    };
    Duration::from_millis(millis)
}

/// Whether two faults would have the same target at once; a pause between them for what follows the first.
fn collide(one: &Event, other: &Event) -> bool {
    const PAUSE: Duration = Duration::from_millis(800);
    let lane = one.what.lane();
    lane != Lane::Free
        && lane == other.what.lane()
        && one.at < other.at + other.lasting + PAUSE
        && other.at < one.at + one.lasting + PAUSE
}

#[test]
fn a_seed_always_gives_the_same_plan() {
    let described = |seed| format!("{:?}", Plan::new(seed, Size::SHORT));
    assert_eq!(described(7), described(7));
    assert_ne!(described(7), described(8));
}

#[test]
fn a_series_of_seeds_plans_every_fault() {
    for (seed, name) in FAULTS.iter().enumerate() {
        let plan = Plan::new(seed as u64, Size::SHORT);
        assert!(plan.events.iter().any(|event| event.what.name() == *name), "seed {seed} plans no {name}");
    }
}
