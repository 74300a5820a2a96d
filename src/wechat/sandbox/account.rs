//! One simulated account: its settings, its lines, and the rules by which values are minted and refused.

use std::net::IpAddr;
use std::time::Duration;

use rand::RngExt;

use super::chain::{Chain, Line, Terms, Verdict};
use super::quota::{Periods, Quotas};
use super::refusal::Refusal;
use super::settings::{
    AccountStanding, CheckStep, ForceExcess, IpConfirmation, Settings, TicketExpiresIn, TicketWindow,
};
use super::{spelling, whitelist};
use crate::domain::timestamp::Timestamp;

/// Most foreign mints that are made up for at once, after a long time in which nobody asked.
const LONGEST_CATCH_UP: usize = 1_000;

/// A value given to a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) value: String,
    /// Seconds.
    pub(super) expires_in: u64,
    /// Whether it was made for this call.
    pub(super) minted: bool,
    /// A value that was forgotten to make room.
    pub(super) forgotten: Option<String>,
}

/// What a caller says of itself when it asks with an AppSecret.
#[derive(Debug, Clone, Copy)]
pub(super) struct Credentials<'a> {
    pub(super) grant_type: Option<&'a str>,
    pub(super) appid: Option<&'a str>,
    pub(super) secret: Option<&'a str>,
    pub(super) ip: IpAddr,
}

/// A simulated account.
#[derive(Debug, Clone, Default)]
pub(super) struct Account {
    pub(super) settings: Settings,
    pub(super) quotas: Quotas,
    chains: [Chain; 5],
    last_forced: Option<Timestamp>,
    next_foreign_mint: Option<Timestamp>,
}

impl Account {
    pub(super) fn chain(&self, line: Line) -> &Chain {
        &self.chains[line.index()]
    }

    pub(super) fn periods(&self, now: Timestamp) -> Periods {
        Periods::at(now, &self.settings)
    }

    /// Takes new settings. Values that were minted keep the terms they were minted on.
    pub(super) fn configure(&mut self, settings: Settings, now: Timestamp) {
        if settings.interference != self.settings.interference {
            self.next_foreign_mint = settings.interference.map(|other| now.plus(exponential(other.mean_seconds)));
        }
        self.settings = settings;
    }

    /// `GET /cgi-bin/token`: always a new token.
    pub(super) fn plain_token(&mut self, now: Timestamp) -> Grant {
        self.quotas.plain.add(self.periods(now).day);
        self.mint(Line::Plain, now)
    }

    /// `POST /cgi-bin/stable_token`: the token there is, unless its end is near or the caller forces.
    pub(super) fn stable_token(&mut self, force: bool, now: Timestamp) -> Result<Grant, Refusal> {
        let periods = self.periods(now);
        self.quotas.stable.add(periods.day);
        self.quotas.stable_minute.add(periods.minute);
        if force {
            match (self.force_refusal(now), self.settings.force_excess) {
                (None, _) => {
                    self.quotas.forced.add(periods.day);
                    self.last_forced = Some(now);
                    return Ok(self.mint(Line::Stable, now));
                }
                (Some(refusal), ForceExcess::Error) => return Err(refusal),
                (Some(_), ForceExcess::Silent) => {}
            }
        }
        Ok(self.unchanged(Line::Stable, now).unwrap_or_else(|| self.mint(Line::Stable, now)))
    }

    /// `GET /cgi-bin/ticket/getticket`: the same ticket within its window.
    pub(super) fn ticket(&mut self, line: Line, now: Timestamp) -> Result<Grant, Refusal> {
        let day = self.periods(now).day;
        if self.quotas.ticket.used(day) >= self.settings.ticket_per_day {
            return Err(Refusal::DAILY_QUOTA);
        }
        self.quotas.ticket.add(day);
        let grant = self.unchanged(line, now).unwrap_or_else(|| self.mint(line, now));
        Ok(match self.settings.ticket_expires_in {
            TicketExpiresIn::AlwaysFull => {
                Grant { expires_in: u64::from(self.settings.ticket_lifetime_seconds), ..grant }
            }
            TicketExpiresIn::Remainder => grant,
        })
    }

    /// The value of `line` that is given out again, if there is one.
    fn unchanged(&self, line: Line, now: Timestamp) -> Option<Grant> {
        let newest = self.chain(line).newest()?;
        let verdict = newest.verdict(now);
        let lives = verdict == Verdict::Current
            || (line == Line::Stable
                && verdict == Verdict::Withdrawn
                && now < newest.expires_at
                && self.settings.stable_returns_withdrawn);
        let end = if line.is_ticket() { newest.renew_at } else { newest.expires_at };
        (lives && now <= newest.renew_at && now < end).then(|| Grant {
            value: newest.value.clone(),
            expires_in: end.since(now).as_secs(),
            minted: false,
            forgotten: None,
        })
    }

    /// A new value on `line`, whoever asked for it. Counts towards no quota.
    pub(super) fn mint(&mut self, line: Line, now: Timestamp) -> Grant {
        let terms = if line.is_ticket() { self.ticket_terms(now) } else { self.token_terms(now) };
        let value = spelling::value(line, now);
        let forgotten = self.chains[line.index()].mint(value.clone(), now, &terms);
        let end = if line.is_ticket() { terms.renew_at } else { terms.expires_at };
        Grant { value, expires_in: end.since(now).as_secs(), minted: true, forgotten }
    }

    /// Takes back the values of `line` that are still honoured.
    pub(super) fn withdraw(&mut self, line: Line, now: Timestamp) {
        self.chains[line.index()].withdraw(now);
    }

    /// The foreign mints that came due since the last call, oldest first.
    pub(super) fn catch_up(&mut self, now: Timestamp) -> Vec<(Line, Timestamp, Grant)> {
        let Some(other) = self.settings.interference else { return Vec::new() };
        let mut grants = Vec::new();
        while let Some(due) = self.next_foreign_mint.filter(|due| *due <= now && grants.len() < LONGEST_CATCH_UP) {
            grants.push((other.line, due, self.mint(other.line, due)));
            self.next_foreign_mint = Some(due.plus(exponential(other.mean_seconds)));
        }
        if self.next_foreign_mint.is_some_and(|due| due <= now) {
            self.next_foreign_mint = Some(now.plus(exponential(other.mean_seconds)));
        }
        grants
    }

    fn token_terms(&self, now: Timestamp) -> Terms {
        let settings = &self.settings;
        let expires_at = now.plus(seconds(settings.lifetime_seconds));
        let overlap = seconds(settings.overlap_seconds);
        let share = if settings.overlap_fuzzy { rand::rng().random_range(0.0..2.0) } else { 1.0 };
        Terms {
            usable_from: now.plus(Duration::from_millis(settings.new_token_delay_ms)),
            renew_at: expires_at.minus(overlap),
            expires_at,
            withdrawn_at: settings.withdraw_after_seconds.map(|after| now.plus(seconds(after))),
            overlap: overlap.mul_f64(share),
            overlap_capped: settings.overlap_capped,
            several_previous: false,
        }
    }

    fn ticket_terms(&self, now: Timestamp) -> Terms {
        let lifetime = seconds(self.settings.ticket_lifetime_seconds);
        let overlap = seconds(self.settings.ticket_overlap_seconds);
        let first = match self.settings.ticket_window {
            TicketWindow::FirstIssue => now,
            TicketWindow::WallClock => {
                let window = i64::from(self.settings.ticket_lifetime_seconds) * 1_000;
                Timestamp::from_millis(now.as_millis().div_euclid(window) * window)
            }
        };
        let renew_at = first.plus(lifetime);
        Terms {
            usable_from: now,
            renew_at,
            expires_at: renew_at.plus(overlap),
            withdrawn_at: None,
            overlap,
            overlap_capped: true,
            several_previous: true,
        }
    }

    fn force_refusal(&self, now: Timestamp) -> Option<Refusal> {
        let gap = seconds(self.settings.force_gap_seconds);
        if self.last_forced.is_some_and(|last| now < last.plus(gap)) {
            return Some(Refusal::MINUTE_QUOTA);
        }
        let spent = self.quotas.forced.used(self.periods(now).day) >= self.settings.force_per_day;
        spent.then_some(Refusal::DAILY_QUOTA)
    }

    fn quota_refusal(&self, line: Line, now: Timestamp) -> Option<Refusal> {
        let (periods, settings) = (self.periods(now), &self.settings);
        match line {
            Line::Plain if self.quotas.plain.used(periods.day) >= settings.plain_per_day => {
                Some(Refusal::plain_quota(settings.hint_on_40001))
            }
            Line::Stable if self.quotas.stable_minute.used(periods.minute) >= settings.stable_per_minute => {
                Some(Refusal::MINUTE_QUOTA)
            }
            Line::Stable if self.quotas.stable.used(periods.day) >= settings.stable_per_day => {
                Some(Refusal::DAILY_QUOTA)
            }
            _ => None,
        }
    }
}

/// Why a request with an AppSecret is refused, if it is. `line` is `None` for calls that mint nothing.
pub(super) fn refuse_credentials(
    account: Option<&Account>,
    asked: Credentials<'_>,
    line: Option<Line>,
    now: Timestamp,
) -> Option<Refusal> {
    let order = account.map_or(&CheckStep::USUAL_ORDER[..], |account| &account.settings.check_order);
    order
        .iter()
        .find_map(|step| refuse_at(*step, account, asked, line, now))
        // Whatever the order: without an account there is nothing to give.
        .or_else(|| account.is_none().then_some(Refusal::UNKNOWN_APPID))
}

fn refuse_at(
    step: CheckStep,
    account: Option<&Account>,
    asked: Credentials<'_>,
    line: Option<Line>,
    now: Timestamp,
) -> Option<Refusal> {
    let settings = account.map(|account| &account.settings);
    match step {
        CheckStep::GrantType => {
            (line.is_some() && asked.grant_type != Some("client_credential")).then_some(Refusal::WRONG_GRANT_TYPE)
        }
        CheckStep::AppidPresent => is_missing(asked.appid).then_some(Refusal::APPID_MISSING),
        CheckStep::AppidKnown => account.is_none().then_some(Refusal::UNKNOWN_APPID),
        CheckStep::SecretPresent => is_missing(asked.secret).then_some(Refusal::SECRET_MISSING),
        CheckStep::Secret => settings
            .filter(|settings| asked.secret != Some(&settings.secret))
            .map(|settings| Refusal::wrong_secret(settings.wrong_secret_errcode)),
        CheckStep::Whitelist => settings
            .filter(|settings| !whitelist::admits(&settings.whitelist, asked.ip))
            .map(|_| Refusal::ip_not_in_whitelist(asked.ip)),
        CheckStep::IpConfirmation => settings.and_then(|settings| unconfirmed(settings.ip_confirmation)),
        CheckStep::Standing => settings.and_then(|settings| standing_refusal(settings.state)),
        CheckStep::Quota => account.zip(line).and_then(|(account, line)| account.quota_refusal(line, now)),
    }
}

fn is_missing(field: Option<&str>) -> bool {
    field.is_none_or(str::is_empty)
}

const fn unconfirmed(confirmation: IpConfirmation) -> Option<Refusal> {
    match confirmation {
        IpConfirmation::None => None,
        IpConfirmation::Pending => Some(Refusal::IP_PENDING),
        IpConfirmation::Needed => Some(Refusal::IP_UNCONFIRMED),
        IpConfirmation::RefusedForAnHour => Some(Refusal::IP_REFUSED_FOR_AN_HOUR),
        IpConfirmation::RefusedForADay => Some(Refusal::IP_REFUSED_FOR_A_DAY),
    }
}

const fn standing_refusal(standing: AccountStanding) -> Option<Refusal> {
    match standing {
        AccountStanding::Normal => None,
        AccountStanding::SecretFrozen => Some(Refusal::SECRET_FROZEN),
        AccountStanding::AccountLimited => Some(Refusal::ACCOUNT_LIMITED),
        AccountStanding::TokenForbidden => Some(Refusal::TOKEN_FORBIDDEN),
        AccountStanding::AccountFrozen => Some(Refusal::ACCOUNT_FROZEN),
    }
}

fn seconds(count: u32) -> Duration {
    Duration::from_secs(u64::from(count))
}

/// A random span whose mean is `mean_seconds`, as between events that know nothing of each other.
fn exponential(mean_seconds: u32) -> Duration {
    let roll: f64 = rand::rng().random_range(f64::EPSILON..1.0);
    seconds(mean_seconds).mul_f64(-roll.ln()).max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests;
