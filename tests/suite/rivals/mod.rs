//! Rivals: several instances on one database, and everything that can go wrong between them.
//!
//! A run is played from a seed: real processes, a real database, the sandbox, a fault proxy between each process and both of these, readers
//! who log every value they are given, and a schedule of faults. Afterwards `checks` decides from the logs alone whether the promises I1 to I9 were kept.
//!
//! ```text
//! tests/run.sh rivals::short                               200 seeds of two or three instances, some two minutes
//! WXTOKEN_RIVALS_SEEDS=2000 tests/run.sh rivals::short     more of them
//! WXTOKEN_RIVALS_SEED=1234 tests/run.sh rivals::short      that one again
//!
//! WXTOKEN_RIVALS_SEEDS=4 WXTOKEN_RIVALS_MINUTES=10 tests/run.sh rivals::long -- --include-ignored
//!                                                          ten instances and 40 accounts, ten minutes for each of four seeds
//! ```
//!
//! How often each fault struck is written to `target/tmp/rivals-short-sums.txt`, and the record of a run that failed beside it.
//! The faults of a seed and their times are always the same; what the machine makes of them is not, so a seed that failed may have to be
//! repeated a few times.

mod checks;
mod instance;
mod plan;
mod readers;
mod record;
mod scene;
mod strikes;
mod tally;

use std::time::Duration;

use futures_util::StreamExt;
use plan::{Plan, Size};
use scene::Scene;
use tally::Tally;
use tokio::runtime::Handle;

/// So many runs at once keep two cores busy without keeping anybody waiting.
const RUNS_AT_ONCE: usize = 12;
const PACE: Duration = Duration::from_millis(350);
const LONG_PACE: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread")]
async fn short() {
    let tally = Tally::new("short", String::new());
    runs(tally, Size::SHORT, number("WXTOKEN_RIVALS_SEEDS").unwrap_or(200), RUNS_AT_ONCE, PACE).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; see the head of this file"]
async fn long() {
    let minutes = number("WXTOKEN_RIVALS_MINUTES").unwrap_or(3);
    let tally = Tally::new("long", format!("WXTOKEN_RIVALS_MINUTES={minutes} "));
    let seeds = number("WXTOKEN_RIVALS_SEEDS").unwrap_or(2);
    runs(tally, Size::long(Duration::from_mins(minutes)), seeds, 1, LONG_PACE).await;
}

/// Plays the seed that is asked for, or `seeds` of them.
async fn runs(mut tally: Tally, size: Size, seeds: u64, at_once: usize, pace: Duration) {
    let seeds = number("WXTOKEN_RIVALS_SEED").map_or(0..seeds, |seed| seed..seed + 1);
    let mut results = futures_util::stream::iter(seeds)
        .map(|seed| async move {
            let plan = Plan::new(seed, size);
            // On a thread of its own: its panic is the end of this run only.
            let play = {
                let (plan, runtime) = (plan.clone(), Handle::current());
                move || runtime.block_on(Scene::play(plan, pace))
            };
            (plan, tokio::task::spawn_blocking(play).await)
        })
        .buffer_unordered(at_once);
    while let Some((plan, played)) = results.next().await {
        match played {
            Ok(played) => tally.add(&plan, played),
            Err(crash) => tally.add_broken(&plan, &reason(crash)),
        }
    }
    tally.conclude();
}

fn reason(crash: tokio::task::JoinError) -> String {
    let Ok(panic) = crash.try_into_panic() else { return "it was cancelled".to_owned() };
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// A number from the environment, if it is there.
fn number(name: &str) -> Option<u64> {
    let value = std::env::var_os(name)?;
    let number = value.to_str().and_then(|text| text.parse().ok());
    Some(number.unwrap_or_else(|| panic!("{name} is not a number")))
}
