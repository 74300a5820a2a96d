//! What one ended call makes of a token: the rule behind every settle.

use std::time::Duration;

use super::refresh::{Failure, Outcome, retry_at};
use super::schedule::{LONGEST_LIFETIME, Life, after_new_ticket, after_new_token, after_unchanged};
use super::secret::TokenValue;
use super::timestamp::Timestamp;
use super::token::{Claim, Token, Value};

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
    /// The token is dead and must be replaced at once, under the same claim.
    pub replace_now: bool,
}

/// Settles `call`, made under `claim`, on the token's present state. `ahead` is the longest lead before expiry; `roll` is random, in
/// `0.0..1.0`.
pub fn settle(present: &Token, claim: &Claim, call: &EndedCall, ahead: Duration, roll: f64) -> Settlement {
    let mut token = present.clone();
    // The claim left the row due. If it is not due now, an admin or an edit has set another time since, and that stands.
    let rescheduled = (present.refresh_at > claim.claimed_at).then_some(present.refresh_at);
    let before = rescheduled.unwrap_or(claim.token.refresh_at);
    let mut replace_now = false;
    let outcome = match &call.result {
        CallResult::Value { text, fingerprint, expires_in } => {
            let until = call.sent_at.plus((*expires_in).min(LONGEST_LIFETIME));
            let outcome = take_value(&mut token, text, fingerprint, Life { since: call.sent_at, until });
            let planned = next_refresh(&token, outcome, call.ended_at, ahead, roll);
            token.refresh_at =
                rescheduled.map_or(planned, |at| if at == Timestamp::NEVER { at } else { at.min(planned) });
            outcome
        }
        CallResult::Accepted => {
            token.refresh_at = before;
            Outcome::StillValid
        }
        CallResult::Refused(_) => {
            let outcome = if token.valid(call.sent_at).is_some() { Outcome::ForeignRefresh } else { Outcome::Refused };
            if let Some(value) = &mut token.value {
                value.life.until = value.life.until.min(call.ended_at);
            }
            token.refresh_at = rescheduled.unwrap_or(call.ended_at);
            replace_now = true;
            outcome
        }
        CallResult::Failed(_) if matches!(claim.call, super::refresh::CallKind::Probe) => {
            // A probe that could not be made says nothing about the token.
            token.refresh_at = before;
            Outcome::Failure
        }
        CallResult::Failed(failure) => {
            token.record.failures = if rescheduled.is_some() { 0 } else { token.record.failures.saturating_add(1) };
            token.refresh_at =
                rescheduled.unwrap_or_else(|| retry_at(failure, token.record.failures, call.ended_at, roll));
            Outcome::Failure
        }
    };
    record(&mut token, claim, call, outcome);
    token.leased_by = None;
    token.leased_until = Timestamp::ZERO;
    token.revision += 1;
    Settlement { token, outcome, replace_now }
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
        CallResult::Accepted => {}
        CallResult::Refused(failure) | CallResult::Failed(failure) => {
            record.last_errcode = failure.errcode;
            record.last_errmsg = Some(failure.errmsg.clone());
        }
    }
}

#[cfg(test)]
mod tests;
