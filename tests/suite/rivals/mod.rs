//! Rivals: several instances on one database, and everything that can go wrong between them.
//!
//! A run is played from a seed: real processes, a real database, the sandbox, a fault proxy between any two of them, readers who log
//! every value they are given, and a schedule of faults. Afterwards `checks` decides from the logs alone whether the promises I1 to I9 were kept.
//!
//! ```text
//! tests/run.sh rivals::short                                            200 seeds of two or three instances, about two minutes
//! WXTOKEN_RIVALS_SEEDS=2000 tests/run.sh rivals::short                  more of them
//! WXTOKEN_RIVALS_SEED=1234 tests/run.sh rivals::short                   that one again
//! WXTOKEN_RIVALS_MINUTES=10 WXTOKEN_RIVALS_SEEDS=6 tests/run.sh rivals::long --include-ignored    ten instances, a seed for each ten minutes
//! ```
//!
//! The faults of a seed and their times are always the same; what the machine makes of them is not, so a seed that failed may have to be
//! repeated a few times.

mod checks;
mod instance;
mod plan;
mod readers;
mod record;
mod scene;
mod strikes;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use plan::{FAULTS, Plan, Size};
use scene::{Played, Scene};
use tokio::runtime::Handle;

/// So many runs at once keep two cores busy without keeping anybody waiting.
const RUNS_AT_ONCE: usize = 12;
/// With fewer seeds a fault may never strike by chance.
const SEEDS_FOR_EVERY_FAULT: u64 = 100;
const PACE: Duration = Duration::from_millis(350);
const LONG_PACE: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread")]
async fn short() {
    runs("short", Size::SHORT, number("WXTOKEN_RIVALS_SEEDS").unwrap_or(200), RUNS_AT_ONCE, PACE).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; see the head of this file"]
async fn long() {
    let span = Duration::from_mins(number("WXTOKEN_RIVALS_MINUTES").unwrap_or(3));
    let seeds = number("WXTOKEN_RIVALS_SEEDS").unwrap_or(2);
    runs("long", Size::long(span), seeds, 1, LONG_PACE).await;
}

/// Plays the seed that is asked for, or `seeds` of them.
async fn runs(name: &str, size: Size, seeds: u64, at_once: usize, pace: Duration) {
    let chosen = number("WXTOKEN_RIVALS_SEED");
    let range = chosen.map_or(0..seeds, |seed| seed..seed + 1);
    let mut strikes = BTreeMap::new();
    let mut failures = Vec::new();
    let mut results = futures_util::stream::iter(range.clone())
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
        let found = match played {
            Ok(Played { record, strikes: struck }) => {
                for (fault, times) in struck {
                    *strikes.entry(fault).or_insert(0) += times;
                }
                let found = checks::violations(&record);
                if !found.is_empty() {
                    record.keep(&kept(name, plan.seed));
                }
                found
            }
            Err(crash) => vec![format!("the run broke off: {}", reason(crash))],
        };
        if !found.is_empty() {
            failures.push(failure(name, &plan, &found));
        }
    }
    let never: Vec<_> = FAULTS.iter().filter(|fault| strikes.get(*fault).is_none_or(|times| *times == 0)).collect();
    if chosen.is_none() && range.end >= SEEDS_FOR_EVERY_FAULT && !never.is_empty() {
        failures.push(format!("these faults never struck: {never:?}"));
    }
    assert!(failures.is_empty(), "{} of {range:?} failed\n{}", failures.len(), failures.join("\n"));
}

/// Where the record of a run that failed is kept.
fn kept(name: &str, seed: u64) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("rivals-{name}-{seed}.txt"))
}

fn failure(name: &str, plan: &Plan, found: &[String]) -> String {
    const MOST_SHOWN: usize = 12;
    let Plan { seed, database, instances, events, clocks, .. } = plan;
    let events: Vec<_> = events.iter().map(|event| format!("    {event:?}")).collect();
    let shown: Vec<_> = found.iter().take(MOST_SHOWN).map(|violation| format!("  {violation}\n")).collect();
    format!(
        "seed {seed}, {instances} instances on {database:?}, clocks {clocks:?}, {} violations:\n{}{}\n  \
         its record: {}\n  repeat it with: WXTOKEN_RIVALS_SEED={seed} tests/run.sh rivals::{name}",
        found.len(),
        shown.concat(),
        events.join("\n"),
        kept(name, *seed).display(),
    )
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
