use super::*;
use crate::domain::account::{AppId, Mode, TokenType};
use crate::domain::budget::Spent;
use crate::domain::refresh::{CallKind, FailureClass, Trigger};
use crate::domain::token::{Record, TokenKey};

pub(super) const AHEAD: Duration = Duration::from_secs(240);

pub(super) fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(1_000_000_000_000).plus(Duration::from_secs(seconds))
}

pub(super) fn text(text: &str) -> TokenValue {
    TokenValue::parse(text).unwrap()
}

/// A token fetched at 0 s for two hours, due for refresh at 6,960 s.
pub(super) fn token(token_type: TokenType) -> Token {
    Token {
        key: TokenKey::new(AppId::parse("wx1").unwrap(), token_type),
        mode: Mode::Stable,
        kept: true,
        value: Some(Value {
            text: text("one"),
            life: Life { since: at(0), until: at(7_200) },
            fingerprint: "f1".to_owned(),
        }),
        previous: None,
        in_doubt: false,
        version: 1,
        generation: 1,
        refresh_at: at(6_960),
        leased_until: Timestamp::ZERO,
        leased_by: None,
        record: Record::default(),
        spent: Spent::default(),
        revision: 1,
    }
}

pub(super) fn claim(token: &Token, call: CallKind, claimed_at: Timestamp) -> Claim {
    let generation = token.generation + 1;
    Claim { token: token.clone(), call, trigger: Trigger::Schedule, generation, claimed_at, follows_failure: false }
}

/// The row as a claim leaves it: due, and leased.
pub(super) fn claimed(token: &Token, claim: &Claim) -> Token {
    Token {
        refresh_at: token.refresh_at.min(claim.claimed_at),
        leased_by: Some("me".to_owned()),
        leased_until: claim.claimed_at.plus(Duration::from_secs(20)),
        ..token.clone()
    }
}

fn ended(seconds: u64, result: CallResult) -> EndedCall {
    EndedCall { sent_at: at(seconds), ended_at: at(seconds + 1), result }
}

fn value(value: &str, seconds: u64) -> CallResult {
    let fingerprint = format!("f-{value}");
    CallResult::Value { text: text(value), fingerprint, expires_in: Duration::from_secs(seconds) }
}

fn failure(class: FailureClass) -> Failure {
    Failure {
        class,
        errcode: Some(40_125),
        errmsg: "invalid appsecret".to_owned(),
        wait_at_least: Duration::ZERO,
        until_midnight: false,
        maybe_done: false,
    }
}

fn settled(token: &Token, call: CallKind, seconds: u64, result: CallResult) -> Settlement {
    let claim = claim(token, call, at(seconds));
    settle(&claimed(token, &claim), &claim, &ended(seconds, result), AHEAD, 0.0)
}

#[test]
fn a_new_value_moves_the_old_one_aside_and_counts_from_the_sending() {
    let after = settled(&token(TokenType::AccessToken), CallKind::Mint, 7_000, value("two", 7_200));
    assert_eq!(after.outcome, Outcome::Success);
    let token = after.token;
    assert_eq!((token.version, token.previous), (2, Some(text("one"))));
    assert_eq!(token.value.unwrap().life, Life { since: at(7_000), until: at(14_200) });
    assert_eq!(token.refresh_at, at(14_200 - 240));
    assert_eq!((token.leased_by, token.leased_until), (None, Timestamp::ZERO));
}

#[test]
fn the_same_value_early_is_a_success_that_is_asked_for_later() {
    let after = settled(&token(TokenType::AccessToken), CallKind::Mint, 7_000, value("one", 200));
    assert_eq!((after.outcome, after.token.version), (Outcome::Unchanged, 1));
    assert!(after.token.refresh_at >= at(7_061), "a minute later, not at once");
}

#[test]
fn a_ticket_that_came_again_does_not_live_longer() {
    let after = settled(&token(TokenType::JsapiTicket), CallKind::Ticket, 7_140, value("one", 7_200));
    assert_eq!(after.outcome, Outcome::Unchanged);
    assert_eq!(after.token.value.unwrap().life.until, at(7_200));
    assert!(after.token.refresh_at >= at(7_140 + 60));
}

#[test]
fn an_absurd_lifetime_is_cut() {
    let after = settled(&token(TokenType::AccessToken), CallKind::Mint, 0, value("two", 10_000_000));
    assert_eq!(after.token.value.unwrap().life.until, at(7_200));
}

#[test]
fn a_failure_keeps_the_value_and_backs_off() {
    let failed = CallResult::Failed(failure(FailureClass::NeedsHuman));
    let after = settled(&token(TokenType::AccessToken), CallKind::Mint, 7_000, failed);
    assert_eq!(after.outcome, Outcome::Failure);
    assert_eq!(after.token.value.unwrap().text, text("one"));
    assert_eq!(after.token.record.failures, 1);
    assert_eq!(after.token.record.last_errcode, Some(40_125));
    assert_eq!(after.token.refresh_at, at(7_061));
}

#[test]
fn an_edit_during_the_call_is_not_undone_by_its_failure() {
    let token = token(TokenType::AccessToken);
    let claim = claim(&token, CallKind::Mint, at(7_000));
    let edited = Token { refresh_at: at(7_000).plus(Duration::from_millis(1)), ..claimed(&token, &claim) };
    let failed = ended(7_000, CallResult::Failed(failure(FailureClass::NeedsHuman)));
    let after = settle(&edited, &claim, &failed, AHEAD, 0.0).token;
    assert_eq!((after.record.failures, after.refresh_at), (0, edited.refresh_at));
    let disabled = Token { refresh_at: Timestamp::NEVER, ..edited };
    let after = settle(&disabled, &claim, &ended(7_000, value("two", 7_200)), AHEAD, 0.0).token;
    assert_eq!(after.refresh_at, Timestamp::NEVER);
}

#[test]
fn a_probe_tells_a_foreign_refresh_from_a_natural_end() {
    let refused = || CallResult::Refused(failure(FailureClass::Transient));
    let foreign = settled(&token(TokenType::AccessToken), CallKind::Probe, 3_000, refused());
    assert_eq!((foreign.outcome, foreign.follow), (Outcome::ForeignRefresh, Follow::Replace));
    assert!(foreign.token.valid(at(3_001)).is_none(), "a refused value is not handed out");
    let expired = settled(&token(TokenType::AccessToken), CallKind::Probe, 7_300, refused());
    assert_eq!((expired.outcome, expired.follow), (Outcome::Refused, Follow::Replace));
}

#[test]
fn a_probe_that_was_accepted_or_failed_changes_nothing_but_the_record() {
    for (result, outcome) in [
        (CallResult::Accepted, Outcome::StillValid),
        (CallResult::Failed(failure(FailureClass::Transient)), Outcome::Failure),
    ] {
        let before = token(TokenType::AccessToken);
        let after = settled(&before, CallKind::Probe, 3_000, result);
        assert_eq!((after.outcome, after.follow), (outcome, Follow::Nothing));
        assert_eq!(after.token.refresh_at, before.refresh_at);
        assert_eq!(after.token.value, before.value);
        assert_eq!(after.token.record.failures, 0);
    }
}

#[test]
fn a_plain_mint_without_an_answer_puts_the_value_in_doubt_and_has_it_probed() {
    let plain = Token { mode: Mode::Plain, ..token(TokenType::AccessToken) };
    let lost = || CallResult::Failed(Failure { maybe_done: true, ..failure(FailureClass::Transient) });
    let after = settled(&plain, CallKind::Mint, 3_000, lost());
    assert_eq!((after.token.in_doubt, after.follow), (true, Follow::Probe));
    let again = after.token.refresh_at;
    let mut probe = claim(&after.token, CallKind::Probe, at(3_002));
    probe.follows_failure = true;
    let refused = ended(3_002, CallResult::Refused(failure(FailureClass::Transient)));
    let dead = settle(&claimed(&after.token, &probe), &probe, &refused, AHEAD, 0.0);
    assert_eq!(
        (dead.outcome, dead.follow),
        (Outcome::Refused, Follow::Nothing),
        "our own doing, and the backoff goes on"
    );
    assert_eq!(dead.token.refresh_at, again);
    assert!(dead.token.valid(at(3_003)).is_none());
    let minted = settled(&dead.token, CallKind::Mint, 3_010, value("three", 7_200));
    assert!(!minted.token.in_doubt);
    let stable = settled(&token(TokenType::AccessToken), CallKind::Mint, 3_000, lost());
    assert_eq!((stable.token.in_doubt, stable.follow), (false, Follow::Nothing));
}

#[test]
fn a_report_does_not_bring_the_next_attempt_forward() {
    let spent = Failure { until_midnight: true, ..failure(FailureClass::Throttled) };
    let failing = settled(&token(TokenType::AccessToken), CallKind::Mint, 7_000, CallResult::Failed(spent)).token;
    let refused = || CallResult::Refused(Failure { errcode: Some(42_001), ..failure(FailureClass::Transient) });
    let dead = settled(&failing, CallKind::Probe, 7_300, refused());
    assert_eq!((dead.outcome, dead.follow), (Outcome::Refused, Follow::Nothing));
    assert_eq!(dead.token.refresh_at, failing.refresh_at);
    assert_eq!((dead.token.record.last_errcode, dead.token.last_call()), (Some(40_125), CallKind::Mint));
    let at_midnight = failing.refresh_at.since(at(0)).as_secs() + 1;
    assert_eq!(settled(&failing, CallKind::Probe, at_midnight, refused()).follow, Follow::Replace);
}

#[test]
fn a_disabled_account_is_left_alone() {
    let token = token(TokenType::AccessToken);
    let claim = claim(&token, CallKind::Probe, at(3_000));
    let disabled = Token { refresh_at: Timestamp::NEVER, ..claimed(&token, &claim) };
    let refused = ended(3_000, CallResult::Refused(failure(FailureClass::Transient)));
    let after = settle(&disabled, &claim, &refused, AHEAD, 0.0);
    assert_eq!((after.follow, after.token.refresh_at), (Follow::Nothing, Timestamp::NEVER));
}
