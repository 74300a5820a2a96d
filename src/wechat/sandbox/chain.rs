//! One chain of values, each replacing the one before it, and what each of them is worth at a given moment.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::timestamp::Timestamp;

/// How many values a chain remembers, so that a late judgement still tells "superseded" from "never issued".
pub(super) const VALUES_REMEMBERED: usize = 1_000;

/// A chain of values that WeChat keeps for an account. None of them touches another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// Access tokens of `GET /cgi-bin/token`.
    Plain,
    /// Access tokens of `POST /cgi-bin/stable_token`.
    Stable,
    /// Tickets of `getticket?type=jsapi`.
    Jsapi,
    /// Tickets of `getticket?type=wx_card`.
    WxCard,
    /// Tickets of `getticket?type=2`, which sign the QR login of mobile apps.
    #[serde(rename = "2")]
    AppLogin,
}

impl Line {
    /// Every line, in the order of [`Line::index`].
    pub const ALL: [Self; 5] = [Self::Plain, Self::Stable, Self::Jsapi, Self::WxCard, Self::AppLogin];

    /// Position in [`Line::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Whether it holds tickets, not access tokens.
    pub const fn is_ticket(self) -> bool {
        !matches!(self, Self::Plain | Self::Stable)
    }

    /// The token type it supplies: `access_token`, `jsapi_ticket`, `wx_card_ticket` or `app_login_ticket`.
    pub const fn token_type(self) -> &'static str {
        match self {
            Self::Plain | Self::Stable => "access_token",
            Self::Jsapi => "jsapi_ticket",
            Self::WxCard => "wx_card_ticket",
            Self::AppLogin => "app_login_ticket",
        }
    }
}

/// What a value is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The newest of its line and within its lifetime.
    Current,
    /// Replaced, and still honoured.
    Previous,
    /// Replaced, and no longer honoured: business calls answer 40001.
    Superseded,
    /// Its lifetime ended: business calls answer 42001.
    Expired,
    /// Taken back before its time: business calls answer 40001.
    Withdrawn,
    /// Never issued here, or so long ago that it is forgotten: business calls answer 40014.
    Unknown,
}

/// One value and its fate.
#[derive(Debug, Clone)]
pub(super) struct Issue {
    pub(super) value: String,
    pub(super) minted_at: Timestamp,
    /// Until then it is current but not yet accepted (replication delay).
    pub(super) usable_from: Timestamp,
    /// From then on a request for the line mints a new value.
    pub(super) renew_at: Timestamp,
    pub(super) expires_at: Timestamp,
    withdrawn_at: Option<Timestamp>,
    /// Set when the next value was minted: this one is honoured until then.
    honoured_until: Option<Timestamp>,
}

impl Issue {
    /// The moment at which it stops being honoured, withdrawals aside.
    pub(super) fn ends_at(&self) -> Timestamp {
        self.honoured_until.unwrap_or(self.expires_at)
    }

    /// What it is worth at `now`.
    pub(super) fn verdict(&self, now: Timestamp) -> Verdict {
        if self.withdrawn_at.is_some_and(|at| at <= now && at < self.ends_at()) {
            return Verdict::Withdrawn;
        }
        match self.honoured_until {
            None if now < self.expires_at => Verdict::Current,
            Some(until) if now < until => Verdict::Previous,
            Some(until) if until < self.expires_at => Verdict::Superseded,
            None | Some(_) => Verdict::Expired,
        }
    }

    /// Whether a business call with it succeeds at `now`.
    pub(super) fn is_accepted(&self, now: Timestamp) -> bool {
        now >= self.usable_from && matches!(self.verdict(now), Verdict::Current | Verdict::Previous)
    }

    fn replace(&mut self, now: Timestamp, terms: &Terms) {
        let overlap_end = now.plus(terms.overlap);
        let until = match () {
            () if now >= self.expires_at => now,
            () if terms.overlap_capped => overlap_end.min(self.expires_at),
            () => overlap_end,
        };
        self.honoured_until = Some(until);
    }
}

/// The terms on which a new value is minted and the one before it retired.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) usable_from: Timestamp,
    pub(super) renew_at: Timestamp,
    pub(super) expires_at: Timestamp,
    pub(super) withdrawn_at: Option<Timestamp>,
    /// How long the replaced value is honoured.
    pub(super) overlap: Duration,
    /// Whether the replaced value dies at its own nominal expiry at the latest.
    pub(super) overlap_capped: bool,
    /// Tickets: several replaced values may be honoured at once. Tokens: only the immediately preceding one.
    pub(super) several_previous: bool,
}

/// The values of one line, oldest first; the last is the newest.
#[derive(Debug, Clone, Default)]
pub(super) struct Chain {
    issues: VecDeque<Issue>,
}

impl Chain {
    /// Adds `value` and retires the one before it. Returns the value that was forgotten to make room.
    pub(super) fn mint(&mut self, value: String, now: Timestamp, terms: &Terms) -> Option<String> {
        if !terms.several_previous
            && let Some(previous) = self.previous_mut()
        {
            previous.honoured_until = previous.honoured_until.map(|until| until.min(now));
        }
        if let Some(newest) = self.issues.back_mut() {
            newest.replace(now, terms);
        }
        self.issues.push_back(Issue {
            value,
            minted_at: now,
            usable_from: terms.usable_from,
            renew_at: terms.renew_at,
            expires_at: terms.expires_at,
            withdrawn_at: terms.withdrawn_at,
            honoured_until: None,
        });
        if self.issues.len() > VALUES_REMEMBERED { self.issues.pop_front().map(|issue| issue.value) } else { None }
    }

    /// Takes back every value that is still honoured.
    pub(super) fn withdraw(&mut self, now: Timestamp) {
        for issue in &mut self.issues {
            if matches!(issue.verdict(now), Verdict::Current | Verdict::Previous) {
                issue.withdrawn_at = Some(now);
            }
        }
    }

    /// The newest value, whatever it is worth.
    pub(super) fn newest(&self) -> Option<&Issue> {
        self.issues.back()
    }

    /// The value before the newest, whatever it is worth.
    pub(super) fn previous(&self) -> Option<&Issue> {
        self.issues.len().checked_sub(2).and_then(|index| self.issues.get(index))
    }

    fn previous_mut(&mut self) -> Option<&mut Issue> {
        self.issues.len().checked_sub(2).and_then(|index| self.issues.get_mut(index))
    }

    /// The issue of `value`; the newest are looked at first.
    pub(super) fn find(&self, value: &str) -> Option<&Issue> {
        self.issues.iter().rev().find(|issue| issue.value == value)
    }

    /// Every value it remembers.
    pub(super) fn values(&self) -> impl Iterator<Item = &str> {
        self.issues.iter().map(|issue| issue.value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn terms(now: i64) -> Terms {
        Terms {
            usable_from: at(now),
            renew_at: at(now + 6_900),
            expires_at: at(now + 7_200),
            withdrawn_at: None,
            overlap: Duration::from_mins(5),
            overlap_capped: false,
            several_previous: false,
        }
    }

    fn verdicts(chain: &Chain, now: i64) -> Vec<Verdict> {
        chain.issues.iter().map(|issue| issue.verdict(at(now))).collect()
    }

    #[test]
    fn a_replaced_value_lives_for_the_overlap() {
        let mut chain = Chain::default();
        chain.mint("a".into(), at(0), &terms(0));
        assert_eq!(verdicts(&chain, 7_199), [Verdict::Current]);
        assert_eq!(verdicts(&chain, 7_200), [Verdict::Expired]);
        chain.mint("b".into(), at(1_000), &terms(1_000));
        assert_eq!(verdicts(&chain, 1_299), [Verdict::Previous, Verdict::Current]);
        assert_eq!(verdicts(&chain, 1_300), [Verdict::Superseded, Verdict::Current]);
    }

    #[test]
    fn a_third_mint_kills_the_first_value_at_once() {
        let mut chain = Chain::default();
        for now in [0, 10, 20] {
            chain.mint(now.to_string(), at(now), &terms(now));
        }
        assert_eq!(verdicts(&chain, 20), [Verdict::Superseded, Verdict::Previous, Verdict::Current]);
    }

    #[test]
    fn the_overlap_passes_the_nominal_expiry_only_when_not_capped() {
        for (overlap_capped, expected) in [(false, Verdict::Previous), (true, Verdict::Expired)] {
            let mut chain = Chain::default();
            chain.mint("a".into(), at(0), &terms(0));
            chain.mint("b".into(), at(7_100), &Terms { overlap_capped, ..terms(7_100) });
            assert_eq!(chain.find("a").unwrap().verdict(at(7_250)), expected);
            assert_eq!(chain.find("a").unwrap().verdict(at(7_400)), Verdict::Expired);
        }
    }

    #[test]
    fn an_expired_value_is_not_revived_by_its_replacement() {
        let mut chain = Chain::default();
        chain.mint("a".into(), at(0), &terms(0));
        chain.mint("b".into(), at(8_000), &terms(8_000));
        assert_eq!(verdicts(&chain, 8_000), [Verdict::Expired, Verdict::Current]);
    }

    #[test]
    fn withdrawal_takes_the_current_and_the_previous_value() {
        let mut chain = Chain::default();
        for now in [0, 10, 20] {
            chain.mint(now.to_string(), at(now), &terms(now));
        }
        chain.withdraw(at(30));
        assert_eq!(verdicts(&chain, 30), [Verdict::Superseded, Verdict::Withdrawn, Verdict::Withdrawn]);
        assert_eq!(verdicts(&chain, 9_000)[2], Verdict::Withdrawn);
    }

    #[test]
    fn a_new_value_is_refused_until_it_has_been_replicated() {
        let mut chain = Chain::default();
        chain.mint("a".into(), at(0), &Terms { usable_from: at(2), ..terms(0) });
        let issue = chain.newest().unwrap();
        assert_eq!(issue.verdict(at(1)), Verdict::Current);
        assert!(!issue.is_accepted(at(1)));
        assert!(issue.is_accepted(at(2)));
    }

    proptest! {
        /// Whatever happens: one current token, one previous one, and what is dead stays dead.
        #[test]
        fn at_most_two_tokens_live(steps in proptest::collection::vec((0..4_000_i64, 0..8_u8, any::<bool>()), 1..40)) {
            let (mut chain, mut now, mut dead) = (Chain::default(), 0, Vec::new());
            for (number, (wait, action, overlap_capped)) in steps.into_iter().enumerate() {
                now += wait;
                match action {
                    0 => chain.withdraw(at(now)),
                    1..4 => {}
                    _ => drop(chain.mint(number.to_string(), at(now), &Terms { overlap_capped, ..terms(now) })),
                }
                let seen = verdicts(&chain, now);
                let count = |wanted| seen.iter().filter(|verdict| **verdict == wanted).count();
                prop_assert!(count(Verdict::Current) <= 1 && count(Verdict::Previous) <= 1, "{seen:?}");
                for (index, verdict) in &dead {
                    prop_assert_eq!(seen[*index], *verdict);
                }
                let alive = [Verdict::Current, Verdict::Previous];
                dead = seen.into_iter().enumerate().filter(|(_, verdict)| !alive.contains(verdict)).collect();
            }
        }
    }

    #[test]
    fn old_values_are_forgotten_one_by_one() {
        let mut chain = Chain::default();
        for number in 0..VALUES_REMEMBERED {
            assert_eq!(chain.mint(number.to_string(), at(0), &terms(0)), None);
        }
        assert_eq!(chain.mint("one more".into(), at(0), &terms(0)).as_deref(), Some("0"));
        assert!(chain.find("0").is_none());
    }
}
