//! What one ended call makes of a token: the rule behind every settle.

use std::time::Duration;

use super::account::Mode;
use super::refresh::{CallKind, Failure, Outcome, retry_at};
use super::schedule::{LONGEST_LIFETIME, Life, after_new_ticket, after_new_token, after_unchanged};
use super::secret::TokenValue;
use super::timestamp::Timestamp;
use super::token::{Claim, NOTICE, Token, Value};

/// A call that has ended.
#[derive(Debug, Clone)]
pub struct EndedCall {
    /// When the request was sent; lifetimes count from here.
    pub sent_at: Timestamp,
    /// When the answer was there, or the failure was certain.
    pub ended_at: Timestamp,
    /// What came of it.
    pub result: CallResult,
}

/// What came of a call.
#[derive(Debug, Clone)]
pub enum CallResult {
    /// WeChat sent a value.
    Value {
        /// The token or ticket.
        text: TokenValue,
        /// Its keyed fingerprint.
        fingerprint: String,
        /// How long it lives from now on, by WeChat's word.
        expires_in: Duration,
    },
    /// A probe: WeChat accepts the token.
    Accepted,
    /// A probe: WeChat refuses the token.
    Refused(Failure),
    /// No good answer.
    Failed(Failure),
}

/// The state after a call, and what the history says of it.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// The token's new state.
    pub token: Token,
    /// How the call ended.
    pub outcome: Outcome,
    /// The call that must follow at once, under the same lease.
    pub follow: Follow,
}

/// A call that must follow another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// None.
    Nothing,
    /// The token is dead: a new one.
    Replace,
    /// A mint in plain mode went without an answer: whether the value that we have is still accepted.
    Probe,
}

/// Settles `call`, made under `claim`, on the token's present state. `ahead` is the longest lead before expiry; `roll` is random, in
/// `0.0..1.0`.
pub fn settle(present: &Token, claim: &Claim, call: &EndedCall, ahead: Duration, roll: f64) -> Settlement {
    let mut token = present.clone();
    // The claim left the row due. If it is not due now, an admin or an edit has set another time since, and that stands.
    let rescheduled = (present.refresh_at > claim.claimed_at).then_some(present.refresh_at);
    let (outcome, refresh_at, follow) = match &call.result {
        CallResult::Value { text, fingerprint, expires_in } => {
            let until = call.sent_at.plus((*expires_in).min(LONGEST_LIFETIME));
            let outcome = take_value(&mut token, text, fingerprint, Life { since: call.sent_at, until });
            let planned = next_refresh(&token, outcome, call.ended_at, ahead, roll);
            // An edit may ask for an earlier refresh than planned, but not for a later one, except for never.
            let planned = rescheduled.filter(|at| *at != Timestamp::NEVER).map_or(planned, |at| at.min(planned));
            (outcome, planned, Follow::Nothing)
        }
        CallResult::Accepted => (Outcome::StillValid, claim.token.refresh_at, Follow::Nothing),
        CallResult::Refused(_) => refused(&mut token, claim, call),
        // A probe that could not be made says nothing about the token.
        CallResult::Failed(_) if claim.call == CallKind::Probe => {
            (Outcome::Failure, claim.token.refresh_at, Follow::Nothing)
        }
        CallResult::Failed(failure) => {
            token.record.failures = if rescheduled.is_some() { 0 } else { token.record.failures.saturating_add(1) };
            let again = retry_at(failure, token.record.failures, call.ended_at, roll);
            (Outcome::Failure, again, doubt(&mut token, claim, failure, call.ended_at))
        }
    };
    token.refresh_at = match rescheduled {
        Some(at) if outcome != Outcome::Success && outcome != Outcome::Unchanged => at,
        Some(Timestamp::NEVER) => Timestamp::NEVER,
        _ => refresh_at,
    };
    // A row that is not kept is never due. Only the probe of a value that is to be adopted is settled on one.
    if !token.kept {
        token.refresh_at = Timestamp::NEVER;
    }
    if token.is_doubtful(call.ended_at) {
        token.refresh_at = token.refresh_at.max(call.ended_at.plus(NOTICE));
    }
    record(&mut token, claim, call, outcome);
    token.leased_by = None;
    token.leased_until = Timestamp::ZERO;
    token.revision += 1;
    // A disabled account is left alone.
    let follow = if token.refresh_at == Timestamp::NEVER { Follow::Nothing } else { follow };
    Settlement { token, outcome, follow }
}

/// A probe found the token dead. Nobody is given it any more, and a new one is due at once, unless attempts to get one fail: those have their
/// own time, which no report brings forward.
fn refused(token: &mut Token, claim: &Claim, call: &EndedCall) -> (Outcome, Timestamp, Follow) {
    let surprising = token.valid(call.sent_at).is_some() && !token.in_doubt;
    let outcome = if surprising { Outcome::ForeignRefresh } else { Outcome::Refused };
    if let Some(value) = &mut token.value {
        value.life.until = value.life.until.min(call.ended_at);
    }
    let backing_off = claim.token.record.failures > 0 && call.ended_at < claim.token.refresh_at;
    if claim.follows_failure || backing_off {
        (outcome, claim.token.refresh_at, Follow::Nothing)
    } else {
        (outcome, call.ended_at, Follow::Replace)
    }
}

/// A mint went without an answer. In plain mode WeChat may have minted all the same, so the value that we have is probed.
fn doubt(token: &mut Token, claim: &Claim, failure: &Failure, now: Timestamp) -> Follow {
    if !failure.maybe_done || token.mode != Mode::Plain || claim.call != CallKind::Mint {
        return Follow::Nothing;
    }
    token.in_doubt = true;
    if token.valid(now).is_some() { Follow::Probe } else { Follow::Nothing }
}

/// Puts a value in place. The life of a ticket that came again is not extended: WeChat says 7,200 s for a ticket of any age.
fn take_value(token: &mut Token, text: &TokenValue, fingerprint: &str, life: Life) -> Outcome {
    match &mut token.value {
        Some(value) if value.text == *text => {
            if !token.key.token_type.is_ticket() {
                value.life.until = life.until;
            }
            Outcome::Unchanged
        }
        held => {
            let replaced = held.replace(Value { text: text.clone(), life, fingerprint: fingerprint.to_owned() });
            token.previous = replaced.map(|value| value.text);
            token.version += 1;
            token.in_doubt = false;
            Outcome::Success
        }
    }
}

fn next_refresh(token: &Token, outcome: Outcome, now: Timestamp, ahead: Duration, roll: f64) -> Timestamp {
    let is_ticket = token.key.token_type.is_ticket();
    match (&token.value, outcome, is_ticket) {
        (Some(value), Outcome::Unchanged, _) => after_unchanged(value.life, now, ahead, roll, is_ticket),
        (Some(value), _, true) => after_new_ticket(value.life, ahead, roll),
        (Some(value), _, false) => after_new_token(value.life, ahead, roll),
        (None, ..) => now,
    }
}

fn record(token: &mut Token, claim: &Claim, call: &EndedCall, outcome: Outcome) {
    let record = &mut token.record;
    record.last_call_at = call.ended_at;
    record.last_outcome = Some(outcome);
    record.last_trigger = Some(claim.trigger);
    match &call.result {
        CallResult::Value { .. } => {
            record.failures = 0;
            record.last_success_at = call.ended_at;
            record.last_errcode = None;
            record.last_errmsg = None;
        }
        // What is told of a failing token is why it fails.
        CallResult::Refused(_) if record.failures > 0 => {}
        CallResult::Accepted => {}
        CallResult::Refused(failure) | CallResult::Failed(failure) => {
            record.last_errcode = failure.errcode;
            record.last_errmsg = Some(failure.errmsg.clone());
        }
    }
}

#[cfg(test)]
mod outages;
#[cfg(test)]
mod tests;
