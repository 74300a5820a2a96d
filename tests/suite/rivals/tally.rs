//! What all runs together came to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::checks;
use super::plan::{FAULTS, Plan};
use super::record::Of;
use super::scene::Played;

/// With fewer faults planned, one may never strike by chance.
const FAULTS_FOR_EVERY_KIND: usize = 300;
const MOST_VIOLATIONS_SHOWN: usize = 12;
/// One run in so many may be excused, for a part of its promises, by a machine that was too busy.
const MOST_BUSY: usize = 4;

/// The sums over the runs, and what was wrong with any of them.
pub(super) struct Tally {
    name: &'static str,
    /// What the command that repeats a run has to say beside its seed.
    settings: String,
    runs: usize,
    /// Runs in which the machine was too busy, for some time, for the promises to be held against it.
    busy: usize,
    reads: usize,
    calls: usize,
    planned: usize,
    strikes: BTreeMap<&'static str, u64>,
    failures: Vec<String>,
}

impl Tally {
    pub(super) fn new(name: &'static str, settings: String) -> Self {
        let (strikes, failures) = (BTreeMap::new(), Vec::new());
        Self { name, settings, runs: 0, busy: 0, reads: 0, calls: 0, planned: 0, strikes, failures }
    }

    /// Checks a run that was played to its end, and adds it.
    pub(super) fn add(&mut self, plan: &Plan, played: Played) {
        let Played { record, strikes } = played;
        self.runs += 1;
        self.busy += usize::from(record.troubles.iter().any(|trouble| trouble.of == Of::Machine));
        self.reads += record.reads.len();
        self.calls += record.calls.len();
        self.planned += plan.events.len();
        for (fault, times) in strikes {
            *self.strikes.entry(fault).or_default() += times;
        }
        let found = checks::violations(&record);
        if !found.is_empty() {
            record.keep(&self.kept(&plan.seed.to_string()));
            self.fail(plan, &found);
        }
    }

    /// Adds a run that broke off.
    pub(super) fn add_broken(&mut self, plan: &Plan, reason: &str) {
        self.runs += 1;
        self.fail(plan, &[format!("the run broke off: {reason}")]);
    }

    fn fail(&mut self, plan: &Plan, found: &[String]) {
        let Plan { seed, database, instances, events, clocks, .. } = plan;
        let shown: Vec<_> = found.iter().take(MOST_VIOLATIONS_SHOWN).map(|found| format!("  {found}\n")).collect();
        let events: Vec<_> = events.iter().map(|event| format!("    {event:?}\n")).collect();
        self.failures.push(format!(
            "seed {seed}, {instances} instances on {database:?}, clocks {clocks:?}, {} violations:\n{}{}  \
             its record, if it was played to its end: {}\n  \
             repeat it with: {}WXTOKEN_RIVALS_SEED={seed} tests/run.sh rivals::{} -- --include-ignored",
            found.len(),
            shown.concat(),
            events.concat(),
            self.kept(&seed.to_string()).display(),
            self.settings,
            self.name,
        ));
    }

    /// Writes the sums down, and says everything that was wrong.
    pub(super) fn conclude(mut self) {
        let Self { runs, busy, reads, calls, strikes, .. } = &self;
        let never: Vec<_> = FAULTS.iter().filter(|fault| strikes.get(*fault).is_none_or(|times| *times == 0)).collect();
        let never = (!never.is_empty()).then(|| format!("these faults never struck: {never:?}"));
        let sums = format!(
            "{runs} runs, in {busy} of them the machine was too busy at times; {reads} reads, {calls} entries in WeChat's log\n\
             {strikes:#?}\n"
        );
        // For those who want to know; the runs pass without it.
        std::fs::write(self.kept("sums"), &sums).ok();
        self.failures.extend(never.filter(|_| self.planned >= FAULTS_FOR_EVERY_KIND));
        if self.busy * MOST_BUSY > self.runs {
            self.failures.push("the machine was too busy too often for this to show anything".to_owned());
        }
        assert!(self.failures.is_empty(), "{}{} failures\n{}", sums, self.failures.len(), self.failures.join("\n"));
    }

    fn kept(&self, what: &str) -> PathBuf {
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("rivals-{}-{what}.txt", self.name))
    }
}
