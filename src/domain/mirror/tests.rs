use proptest::prelude::*;

use super::*;
use crate::domain::account::{Mode, TokenType};
use crate::domain::budget::Spent;
use crate::domain::schedule::Life;
use crate::domain::secret::TokenValue;
use crate::domain::token::{Record, TokenKey, Value};

const NOON: Timestamp = Timestamp::from_millis(1_795_147_200_000);

fn appid() -> AppId {
    AppId::parse("wx1").unwrap()
}

fn fields(format: &str) -> LayoutFields {
    LayoutFields { format: format.to_owned(), ..LayoutFields::default() }
}

fn secret() -> ConfiguredSecret {
    ConfiguredSecret::parse("wxt_s_secret").unwrap()
}

fn layout(fields: LayoutFields) -> Layout {
    let is_keyed = ["powerwechat", "easywechat"].contains(&fields.format.as_str());
    Layout::parse(fields, is_keyed.then(secret)).unwrap()
}

fn after(seconds: u64) -> Timestamp {
    NOON.plus(Duration::from_secs(seconds))
}

/// All three tokens, with 6,900 s left.
fn copied() -> [Copied<'static>; 3] {
    let copied = |token_type, value, previous| Copied { token_type, value, previous, until: after(6_900), version: 7 };
    [
        copied(TokenType::AccessToken, "84_new", Some("84_old")),
        copied(TokenType::JsapiTicket, "js_new", Some("js_old")),
        copied(TokenType::WxCardTicket, "card_new", None),
    ]
}

/// Keys and bodies at a target.
fn written(fields: LayoutFields, target: &str) -> Vec<(String, String)> {
    let target = Target::parse(target).unwrap();
    let entries = layout(fields).entries(target.address(), &appid(), &copied(), NOON);
    assert!(entries.iter().all(|entry| entry.life(NOON) == Some(Duration::from_secs(6_900))));
    entries.into_iter().map(|entry| (entry.key.clone(), entry.body().to_owned())).collect()
}

#[track_caller]
fn expect(fields: LayoutFields, target: &str, expected: &[(&str, &str)]) {
    let owned: Vec<_> = expected.iter().map(|(key, body)| ((*key).to_owned(), (*body).to_owned())).collect();
    assert_eq!(written(fields, target), owned);
}

const REDIS: &str = "redis://h";
const MEMCACHED: &str = "memcached://h";

#[test]
fn each_sdk_finds_what_it_reads() {
    expect(
        fields("wxjava"),
        REDIS,
        &[
            ("wx:access_token:wx1", "84_new"),
            ("wx:ticket:key:wx1:jsapi", "js_new"),
            ("wx:ticket:key:wx1:wx_card", "card_new"),
        ],
    );
    for (target, quote) in [(REDIS, ""), (MEMCACHED, "\"")] {
        let body = |value: &str| format!("{quote}{value}{quote}");
        expect(
            LayoutFields { app: Some("mini_program".to_owned()), ..fields("silenceper") },
            target,
            &[
                ("gowechat_miniprogram__access_token_wx1", &body("84_new")),
                ("gowechat_miniprogram__stable_access_token_wx1", &body("84_new")),
                ("gowechat_miniprogram__jsapi_ticket_wx1", &body("js_new")),
            ],
        );
        expect(
            fields("wechatpy"),
            target,
            &[
                ("wechatpy:wx1_access_token", "\"84_new\""),
                ("wechatpy:wx1_access_token_expires_at", "1795154100"),
                ("wechatpy:wx1_jsapi_ticket", "\"js_new\""),
                ("wechatpy:wx1_jsapi_ticket_expires_at", "1795154100"),
                ("wechatpy:wx1_jsapi_card_ticket", "\"card_new\""),
                ("wechatpy:wx1_jsapi_card_ticket_expires_at", "1795154100"),
            ],
        );
    }
    expect(
        fields("powerwechat"),
        REDIS,
        &[
            // The digest is of `wx1wxt_s_secret`.
            (
                "powerwechat.access_token.b9f6b29d5f54966ef65a5071ce417bb8",
                r#"{"access_token":"84_new","expires_in":6900}"#,
            ),
            ("powerwechat.basic_service.jssdk.ticket.jsapi.wx1", r#"{"expires_in":6900,"ticket":"js_new"}"#),
            ("powerwechat.basic_service.jssdk.ticket.wx_card.wx1", r#"{"expires_in":6900,"ticket":"card_new"}"#),
        ],
    );
}

#[test]
fn easywechat_finds_a_string_as_its_cache_writes_it() {
    let keys = ["access_token.wx1.wxt_s_secret.0", "access_token.wx1.wxt_s_secret.1", "jsapi_ticket.wx1"];
    for (serializer, bodies) in [
        (None, ["s:6:\"84_new\";", "s:6:\"84_new\";", "s:6:\"js_new\";"]),
        (Some("plain".to_owned()), ["84_new", "84_new", "js_new"]),
    ] {
        let fields = LayoutFields { prefix: Some("easywechat:".to_owned()), serializer, ..fields("easywechat") };
        let keys = keys.map(|key| format!("easywechat:official_account.{key}"));
        expect(fields, REDIS, &[0, 1, 2].map(|at| (keys[at].as_str(), bodies[at])));
    }
    let fields = LayoutFields { app: Some("mini_program".to_owned()), ..fields("easywechat") };
    assert_eq!(written(fields, REDIS)[0].0, "mini_app.access_token.wx1.wxt_s_secret.0");
}

#[test]
fn templates_are_filled_in_one_pass() {
    let text = |text: &str| Some(text.to_owned());
    let plain = |key, value| LayoutFields { key: text(key), value, ..fields("plain") };
    expect(plain("access_token", None), MEMCACHED, &[("access_token", "84_new")]);
    let value =
        text(r#"a:2:{s:1:"t";s:{length}:"{value}";s:1:"e";i:{expires_at};} {version} {appid} {token_type} {x}"#);
    expect(
        plain("t:{appid}:{token_type}", value),
        REDIS,
        &[("t:wx1:access_token", r#"a:2:{s:1:"t";s:6:"84_new";s:1:"e";i:1795154100;} 7 wx1 access_token {x}"#)],
    );
    let ticket = LayoutFields { token_type: text("jsapi_ticket"), ..plain("ticket", None) };
    expect(ticket, MEMCACHED, &[("ticket", "js_new")]);
    let sly = Copied { value: "{appid}", ..copied()[0] };
    let target = Target::parse(REDIS).unwrap();
    let entries = layout(plain("k", text("{value}"))).entries(target.address(), &appid(), &[sly], NOON);
    assert_eq!(entries[0].body(), "{appid}");
}

#[test]
fn a_file_holds_every_token() {
    let expected = concat!(
        r#"{"access_token":{"expires_at":"2026-11-20T05:55:00.000Z","value":"84_new","version":7},"appid":"wx1","#,
        r#""jsapi_ticket":{"expires_at":"2026-11-20T05:55:00.000Z","value":"js_new","version":7},"#,
        r#""wx_card_ticket":{"expires_at":"2026-11-20T05:55:00.000Z","value":"card_new","version":7}}"#,
        "\n"
    );
    expect(fields("json"), "file:shop.json", &[("shop.json", expected)]);
    let target = Target::parse("file:shop.json").unwrap();
    assert!(Layout::Json.entries(target.address(), &appid(), &[], NOON).is_empty(), "and is left alone without any");
}

#[test]
fn what_stood_there_before_is_known_and_nothing_else_is() {
    let compared = |fields: LayoutFields, at: usize, found: &str| {
        let target = Target::parse(REDIS).unwrap();
        let entries = layout(fields).entries(target.address(), &appid(), &copied(), NOON);
        entries[at].compare(found.as_bytes())
    };
    for (format, at, same, older) in [
        ("wxjava", 0, "84_new", "84_old"),
        ("wechatpy", 0, "\"84_new\"", "\"84_old\""),
        ("wechatpy", 1, "1795154100", "1795154099"),
        ("easywechat", 0, "s:6:\"84_new\";", "s:6:\"84_old\";"),
        ("powerwechat", 0, r#"{"expires_in":1,"access_token":"84_new"}"#, r#"{"access_token":"84_old"}"#),
        ("powerwechat", 0, r#"{"access_token":"84_new","expires_in":1.5}"#, r#"{"access_token":"84_new"}"#),
        ("powerwechat", 1, r#"{"ticket":"js_new","expires_in":7}"#, r#"{"ticket":"js_old","expires_in":7}"#),
    ] {
        assert_eq!(compared(fields(format), at, same), Compared::Same, "{format}: {same}");
        assert_eq!(compared(fields(format), at, older), Compared::Older, "{format}: {older}");
        for other in ["", "84_newer", "s:6:\"84_newer\";", "\"84_newer\"", "1795154101", "{}", r#"{"access_token":7}"#]
        {
            assert_eq!(compared(fields(format), at, other), Compared::Other, "{format}: {other}");
        }
    }
}

#[test]
fn a_target_shows_no_password_and_its_place_names_no_user() {
    for (text, shown, place) in [
        ("redis://h", "redis://h:6379/0", "redis://h:6379/0"),
        ("redis://:pa%40ss@H:7000/3", "redis://h:7000/3", "redis://h:7000/3"),
        ("rediss://me:canary@h/15", "rediss://me@h:6379/15", "redis://h:6379/15"),
        ("redis://[::1]:1/", "redis://[::1]:1/0", "redis://[::1]:1/0"),
        ("memcached://h", "memcached://h:11211", "memcached://h:11211"),
        ("file:shop.json", "file:shop.json", "file:shop.json"),
    ] {
        let target = Target::parse(text).unwrap();
        assert_eq!((target.to_string(), target.place()), (shown.to_owned(), place.to_owned()), "{text}");
        assert!(!format!("{target:?}").contains("canary"));
        assert_eq!(target.expose(), text);
    }
    let target = Target::parse("redis://:pa%40ss@h").unwrap();
    let is_decoded = |address: &Address| matches!(address, Address::Redis { password: Some(password), .. } if password.expose_secret() == "pa@ss");
    assert!(is_decoded(target.address()));
}

#[test]
fn bad_targets_are_refused_and_not_repeated() {
    let long = format!("redis://{}", "h".repeat(500));
    for bad in [
        "",
        "canary",
        "redis:",
        "redis://",
        "redis:///0",
        "http://canary",
        "redis://h/canary",
        "redis://h/65536",
        "redis://h/-1",
        "redis://canary@h",
        "redis://h?canary=1",
        "redis://h#insecure",
        "redis://h:0",
        "redis://h:99999",
        "redis://:%ff@h",
        "redis://:a%0d%0ab@h",
        "memcached://u:canary@h",
        "memcached://h/1",
        "file:",
        "file:../canary",
        "file:/canary",
        "file:.canary",
        "file:a/b",
        "file:a b",
        "file:ä",
        &long,
    ] {
        let refusal = Target::parse(bad).expect_err(bad);
        assert!(!refusal.to_string().contains("canary") && refusal.field == "target", "{refusal}");
    }
}

#[test]
fn layouts_take_their_own_fields_and_no_others() {
    let text = |text: &str| Some(text.to_owned());
    for (bad, secret, field) in [
        (fields("redis"), None, "format"),
        (fields("easywechat"), None, "secret"),
        (fields("powerwechat"), None, "secret"),
        (fields("wxjava"), Some(secret()), "secret"),
        (LayoutFields { app: text("mini_program"), ..fields("wxjava") }, None, "app"),
        (LayoutFields { app: text("work"), ..fields("silenceper") }, None, "app"),
        (LayoutFields { prefix: text("a b"), ..fields("wxjava") }, None, "prefix"),
        (LayoutFields { prefix: text(""), ..fields("wechatpy") }, None, "prefix"),
        (LayoutFields { prefix: text(&"p".repeat(101)), ..fields("wechatpy") }, None, "prefix"),
        (LayoutFields { serializer: text("igbinary"), ..fields("easywechat") }, Some(secret()), "serializer"),
        (fields("plain"), None, "key"),
        (LayoutFields { key: text("a b"), ..fields("plain") }, None, "key"),
        (LayoutFields { key: text("k\r\nset"), ..fields("plain") }, None, "key"),
        (LayoutFields { key: text("k"), value: text("v"), ..fields("plain") }, None, "value"),
        (LayoutFields { key: text("k"), value: text("{value}\n"), ..fields("plain") }, None, "value"),
        (LayoutFields { key: text("k"), value: text(&"{value}".repeat(4)), ..fields("plain") }, None, "value"),
        (LayoutFields { key: text("k"), token_type: text("x"), ..fields("plain") }, None, "token_type"),
        (LayoutFields { key: text("k"), ..fields("json") }, None, "key"),
    ] {
        let refusal = Layout::parse(bad.clone(), secret).expect_err("it is refused");
        assert_eq!(refusal.field, field, "{bad:?}: {refusal}");
    }
    for format in ["wxjava", "silenceper", "powerwechat", "wechatpy", "easywechat", "json"] {
        let made = layout(fields(format));
        let again = Layout::parse(made.fields(), made.secret().cloned()).unwrap();
        assert_eq!(again.fields(), made.fields());
        let fits = |target: &str| NewMirror::new(appid(), Target::parse(target).unwrap(), made.clone()).is_ok();
        let memcached = ["silenceper", "wechatpy"].contains(&format);
        assert_eq!([fits(REDIS), fits(MEMCACHED), fits("file:a")], [format != "json", memcached, format == "json"]);
    }
    let plain = layout(LayoutFields { key: text(&format!("{}{{appid}}", "k".repeat(243))), ..fields("plain") });
    let new = |appid| NewMirror::new(AppId::parse(appid).unwrap(), Target::parse(MEMCACHED).unwrap(), plain.clone());
    assert!(new("wx12345").is_ok());
    assert_eq!(new("wx123456").unwrap_err().field, "key");
}

#[test]
fn mirrors_that_would_write_the_same_key_are_found() {
    let new = |appid: &str, target: &str, fields: LayoutFields| {
        NewMirror::new(AppId::parse(appid).unwrap(), Target::parse(target).unwrap(), layout(fields)).unwrap()
    };
    let held = |new: NewMirror| {
        let NewMirror { appid, target, layout } = new;
        Mirror { id: "1".to_owned(), appid, target, layout, created_at: NOON }
    };
    let plain = |key: &str| LayoutFields { key: Some(key.to_owned()), ..fields("plain") };
    let present = held(new("wx1", "memcached://h", plain("access_token")));
    assert!(new("wx2", "memcached://H:11211/", plain("access_token")).collides_with(&present));
    assert!(!new("wx2", "memcached://h", plain("access_token_{appid}")).collides_with(&present));
    assert!(!new("wx2", "memcached://h:1", plain("access_token")).collides_with(&present));
    let app = |appid: &str, secret: &str, serializer: &str| {
        let fields = LayoutFields { serializer: Some(serializer.to_owned()), ..fields("easywechat") };
        let layout = Layout::parse(fields, Some(ConfiguredSecret::parse(secret).unwrap())).unwrap();
        NewMirror::new(AppId::parse(appid).unwrap(), Target::parse(REDIS).unwrap(), layout).unwrap()
    };
    let present = held(app("wx1", "first", "php"));
    assert!(!app("wx1", "second", "php").collides_with(&present), "they share the ticket");
    assert!(app("wx1", "second", "plain").collides_with(&present), "and must write it alike");
    assert!(app("wx1", "first", "php").collides_with(&present), "the same again");
    let file = held(new("wx1", "file:a", fields("json")));
    assert!(new("wx2", "file:a", fields("json")).collides_with(&file));
    assert!(!new("wx2", "file:b", fields("json")).collides_with(&file));
}

fn token(token_type: TokenType, until: Timestamp, refresh_at: Timestamp) -> Token {
    let life = Life { since: NOON, until };
    let value = Value { text: TokenValue::parse("84_new").unwrap(), life, fingerprint: String::new() };
    Token {
        key: TokenKey::new(appid(), token_type),
        mode: Mode::Plain,
        kept: true,
        value: Some(value),
        previous: None,
        in_doubt: false,
        version: 1,
        generation: 1,
        refresh_at,
        leased_until: Timestamp::ZERO,
        leased_by: None,
        record: Record::default(),
        spent: Spent::default(),
        revision: 1,
    }
}

#[test]
fn a_copy_ends_with_its_value_or_with_what_a_refresh_would_leave_of_it() {
    let until = |refresh_at, now| usable_until(&token(TokenType::AccessToken, after(7_200), refresh_at), now);
    assert_eq!(until(after(6_960), NOON), Some(after(7_200)), "refreshed in its last minutes");
    assert_eq!(until(after(1_800), NOON), Some(after(2_040)), "as a ticket is asked for again");
    assert_eq!(until(after(1_800), after(3_600)), Some(after(3_840)), "overdue: it may be replaced now");
    assert_eq!(until(after(1_800), after(3_659)), Some(after(3_840)), "and the end moves by whole minutes");
    assert_eq!(until(after(6_960), after(7_198)), Some(after(7_200)));
    assert_eq!(until(after(6_960), after(7_199)), None, "not worth writing");
    assert_eq!(until(after(6_960), after(7_300)), None);
    let doubtful = Token { in_doubt: true, ..token(TokenType::AccessToken, after(7_200), after(10)) };
    assert_eq!(usable_until(&doubtful, after(11)), None, "about to be ended");
}

proptest! {
    #[test]
    fn no_copy_outlives_its_value_or_the_overlap(life in 1_u64..7_200, refresh in 0_u64..8_000, passed in 0_u64..8_000_000) {
        let token = token(TokenType::JsapiTicket, after(life), after(refresh));
        let now = NOON.plus(Duration::from_millis(passed));
        if let Some(until) = usable_until(&token, now) {
            prop_assert!(until <= after(life));
            prop_assert!(until.since(now) >= LEAST_LIFE);
            prop_assert!(until <= after(refresh).max(now).plus(Duration::from_secs(240)));
            // An overdue one is not cut short, or a failing refresh would empty the target.
            prop_assert!(until == after(life) || until.since(now) >= Duration::from_secs(180));
        }
    }
}
