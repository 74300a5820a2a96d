use super::super::settings::Interference;
use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000 + seconds * 1_000)
}

fn account(settings: Settings) -> Account {
    Account { settings, ..Account::default() }
}

fn verdict(account: &Account, line: Line, value: &str, now: Timestamp) -> Verdict {
    account.chain(line).find(value).map_or(Verdict::Unknown, |issue| issue.verdict(now))
}

#[test]
fn the_plain_line_mints_on_every_call() {
    let mut account = account(Settings::default());
    let first = account.plain_token(at(0));
    let second = account.plain_token(at(1));
    assert_ne!(first.value, second.value);
    assert_eq!((second.expires_in, second.minted), (7_200, true));
    assert_eq!(verdict(&account, Line::Plain, &first.value, at(2)), Verdict::Previous);
}

#[test]
fn the_stable_line_answers_the_same_token_until_its_last_five_minutes() {
    let mut account = account(Settings::default());
    let first = account.stable_token(false, at(0)).unwrap();
    let again = account.stable_token(false, at(6_900)).unwrap();
    assert_eq!((again.value.as_str(), again.expires_in, again.minted), (first.value.as_str(), 300, false));
    let next = account.stable_token(false, at(6_901)).unwrap();
    assert_ne!(next.value, first.value);
    assert_eq!(next.expires_in, 7_200);
    assert_eq!(verdict(&account, Line::Stable, &first.value, at(7_200)), Verdict::Previous);
    assert_eq!(verdict(&account, Line::Stable, &first.value, at(7_201)), Verdict::Expired);
}

#[test]
fn forcing_twice_within_the_gap_changes_nothing() {
    let mut account = account(Settings::default());
    let first = account.stable_token(true, at(0)).unwrap();
    let early = account.stable_token(true, at(29)).unwrap();
    assert_eq!((early.value.as_str(), early.minted), (first.value.as_str(), false));
    assert!(account.stable_token(true, at(30)).unwrap().minted);
    account.settings.force_excess = ForceExcess::Error;
    assert_eq!(account.stable_token(true, at(31)).unwrap_err().errcode, 45011);
}

#[test]
fn a_day_has_twenty_forced_mints() {
    let mut account = account(Settings { force_excess: ForceExcess::Error, ..Settings::default() });
    for call in 0..20 {
        assert!(account.stable_token(true, at(call * 30)).unwrap().minted);
    }
    assert_eq!(account.stable_token(true, at(600)).unwrap_err().errcode, 45009);
    assert!(account.stable_token(true, at(600 + 86_400)).unwrap().minted);
}

#[test]
fn two_forced_mints_kill_a_leaked_token() {
    let mut account = account(Settings::default());
    let leaked = account.stable_token(false, at(0)).unwrap().value;
    account.stable_token(true, at(10)).unwrap();
    assert_eq!(verdict(&account, Line::Stable, &leaked, at(40)), Verdict::Previous);
    account.stable_token(true, at(40)).unwrap();
    assert_eq!(verdict(&account, Line::Stable, &leaked, at(40)), Verdict::Superseded);
}

#[test]
fn the_lines_do_not_touch_each_other() {
    let mut account = account(Settings::default());
    let stable = account.stable_token(false, at(0)).unwrap().value;
    for call in 1..4 {
        account.plain_token(at(call));
    }
    assert_eq!(verdict(&account, Line::Stable, &stable, at(10)), Verdict::Current);
}

#[test]
fn a_withdrawn_stable_token_is_replaced_unless_told_otherwise() {
    for stable_returns_withdrawn in [false, true] {
        let mut account = account(Settings { stable_returns_withdrawn, ..Settings::default() });
        let first = account.stable_token(false, at(0)).unwrap().value;
        account.withdraw(Line::Stable, at(1));
        let next = account.stable_token(false, at(2)).unwrap();
        assert_eq!(next.value == first, stable_returns_withdrawn);
        assert_ne!(account.stable_token(true, at(3)).unwrap().value, first);
    }
}

#[test]
fn a_withdrawal_can_be_scheduled() {
    let mut account = account(Settings { withdraw_after_seconds: Some(60), ..Settings::default() });
    let token = account.plain_token(at(0)).value;
    assert_eq!(verdict(&account, Line::Plain, &token, at(59)), Verdict::Current);
    assert_eq!(verdict(&account, Line::Plain, &token, at(60)), Verdict::Withdrawn);
}

#[test]
fn a_ticket_stays_the_same_and_always_says_its_full_lifetime() {
    let mut account = account(Settings::default());
    let first = account.ticket(Line::Jsapi, at(0)).unwrap();
    let late = account.ticket(Line::Jsapi, at(7_199)).unwrap();
    assert_eq!((late.value.as_str(), late.expires_in, late.minted), (first.value.as_str(), 7_200, false));
    let next = account.ticket(Line::Jsapi, at(7_200)).unwrap();
    assert!(next.minted);
    assert_eq!(verdict(&account, Line::Jsapi, &first.value, at(7_200 + 3_599)), Verdict::Previous);
    assert_eq!(verdict(&account, Line::Jsapi, &first.value, at(7_200 + 3_600)), Verdict::Expired);
    account.settings.ticket_expires_in = TicketExpiresIn::Remainder;
    assert_eq!(account.ticket(Line::Jsapi, at(7_300)).unwrap().expires_in, 7_100);
}

#[test]
fn tickets_can_change_at_even_hours() {
    let settings = Settings {
        ticket_window: TicketWindow::WallClock,
        ticket_expires_in: TicketExpiresIn::Remainder,
        ..Settings::default()
    };
    let mut account = account(settings);
    let even_hour = at(0).as_millis().div_euclid(7_200_000) * 7_200_000;
    let late = Timestamp::from_millis(even_hour + 7_140_000);
    let first = account.ticket(Line::WxCard, late).unwrap();
    assert_eq!(first.expires_in, 60);
    assert!(account.ticket(Line::WxCard, late.plus(Duration::from_mins(1))).unwrap().minted);
}

#[test]
fn interference_mints_at_its_own_times() {
    let mut account = Account::default();
    let interference = Some(Interference { line: Line::Stable, mean_seconds: 10 });
    account.configure(Settings { interference, ..Settings::default() }, at(0));
    let mine = account.stable_token(false, at(0)).unwrap().value;
    let grants = account.catch_up(at(3_600));
    assert!((200..=600).contains(&grants.len()), "{}", grants.len());
    assert!(grants.is_sorted_by_key(|(_, due, _)| *due));
    assert_eq!(verdict(&account, Line::Stable, &mine, at(3_600)), Verdict::Superseded);
    assert!(account.catch_up(at(3_600)).is_empty());
}

#[test]
fn credentials_are_checked_in_the_configured_order() {
    let refused = |account: &Account, secret: Option<&str>, grant_type| {
        let asked = Credentials { grant_type, appid: Some("wx1"), secret, ip: "10.0.0.1".parse().unwrap() };
        refuse_credentials(Some(account), asked, Some(Line::Plain), at(0)).map(|refusal| refusal.errcode)
    };
    let right = Some("right");
    let grant = Some("client_credential");
    let mut account = account(Settings { secret: "right".into(), plain_per_day: 0, ..Settings::default() });
    account.settings.state = AccountStanding::SecretFrozen;
    account.settings.ip_confirmation = IpConfirmation::Needed;
    account.settings.whitelist = vec!["10.0.0.2".into()];
    assert_eq!(refused(&account, None, None), Some(40002));
    assert_eq!(refused(&account, None, grant), Some(41004));
    assert_eq!(refused(&account, Some("wrong"), grant), Some(40125));
    account.settings.wrong_secret_errcode = 40001;
    assert_eq!(refused(&account, Some("wrong"), grant), Some(40001));
    let mut seen = Vec::new();
    while let Some(errcode) = refused(&account, right, grant) {
        seen.push(errcode);
        account.settings.check_order.retain(|step| match errcode {
            40164 => *step != CheckStep::Whitelist,
            89503 => *step != CheckStep::IpConfirmation,
            40243 => *step != CheckStep::Standing,
            _ => *step != CheckStep::Quota,
        });
    }
    assert_eq!(seen, [40164, 89503, 40243, 45009]);
    account.settings = Settings { state: AccountStanding::AccountFrozen, ..Settings::default() };
    account.settings.check_order.reverse();
    assert_eq!(refused(&account, Some("wrong"), grant), Some(50007));
}

#[test]
fn an_unknown_appid_is_refused_whatever_the_order() {
    let asked = Credentials {
        grant_type: Some("client_credential"),
        appid: Some("wx1"),
        secret: Some("s"),
        ip: "10.0.0.1".parse().unwrap(),
    };
    assert_eq!(refuse_credentials(None, asked, None, at(0)), Some(Refusal::UNKNOWN_APPID));
    let without = Credentials { appid: None, ..asked };
    assert_eq!(refuse_credentials(None, without, None, at(0)), Some(Refusal::APPID_MISSING));
}
