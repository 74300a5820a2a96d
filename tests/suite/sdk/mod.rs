//! Real SDKs, as their registries have them, at work against the real program: each in a process of its own that lives through the end of its
//! token.

mod compiled_in;
mod mirrors;
mod node;
mod python;
mod script;

use serde_json::{Value, json};
use wxtoken::wechat::sandbox::{CallKind, Line};

use self::script::{Answer, Script};
use crate::support::database::{Kind, TestDatabase};
use crate::support::process::{Server, ServerBuilder};
use crate::support::sandbox::{SECRET, TestSandbox};

const APPID: &str = "wx448f04719cd48f69";
const ASK: &str = "GET /cgi-bin/token";
const CALL: &str = "GET /cgi-bin/menu/get";
const GET_TICKET: &str = "GET /cgi-bin/ticket/getticket";
const LINES: [Line; 2] = [Line::Stable, Line::Plain];

/// Where an SDK sends its calls of WeChat's API. It always asks us for its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Calls {
    /// To us: we see that a token is refused, and mend it before the SDK hears of it.
    Here,
    /// Straight to WeChat: the SDK sees that its token is refused, and asks us for another.
    AtWechat,
}

/// One server with WeChat, an account, and a key that an SDK shows in the place of the account's AppSecret.
struct Shop {
    sandbox: TestSandbox,
    server: Server,
    key: String,
    line: Line,
    _database: TestDatabase,
}

impl Shop {
    /// `profile` is that of the SDK which is to come, if it has one.
    async fn open(line: Line, profile: Option<&str>) -> Self {
        Self::with(line, profile, |server| server).await
    }

    /// WeChat honours no token beside the newest one of a line, so that a foreign mint ends ours at once.
    async fn with(line: Line, profile: Option<&str>, change: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Self {
        let database = TestDatabase::create(Kind::Sqlite).await;
        let sandbox = TestSandbox::start().await;
        sandbox.account(APPID, &json!({ "overlap_seconds": 0 }));
        let server = change(Server::builder().database(&database).wechat(sandbox.url())).start().await;
        let mode = if line == Line::Plain { "plain" } else { "stable" };
        let token_types = ["access_token", "jsapi_ticket"];
        let account = json!({ "appid": APPID, "secret": SECRET, "mode": mode, "token_types": token_types });
        let admin = server.admin();
        admin.create_account(&account).await.expect_status(201);
        let order = json!({ "name": "sdk", "role": "service", "accounts": [APPID], "sdk": profile });
        let key = admin.create_key(&order).await;
        Self { sandbox, server, key, line, _database: database }
    }

    /// What a script is told about the place.
    fn settings(&self, calls: Calls) -> Value {
        let tokens = self.server.base_url();
        let calls = if calls == Calls::Here { &tokens } else { self.sandbox.url() };
        json!({ "appid": APPID, "secret": self.key, "tokens": tokens, "calls": calls })
    }

    /// The token or ticket that is served now.
    async fn served(&self, token_type: &str) -> String {
        let token = self.server.admin().token(APPID, token_type).await.expect_status(200).body;
        token["value"].as_str().expect("text").to_owned()
    }

    /// Another system mints a token for the account.
    fn mint_elsewhere(&self) {
        self.sandbox.sandbox.mint_foreign(APPID, self.line).expect("the account is there");
    }

    /// What WeChat was asked since the call of this number, and its answers, without calls for tickets.
    fn seen_at_wechat(&self, since: u64) -> Vec<(CallKind, i64)> {
        let calls = self.sandbox.calls(APPID).into_iter();
        let seen = calls.filter(|entry| entry.seq > since && entry.call != CallKind::Ticket);
        seen.map(|entry| (entry.call, entry.errcode.expect("it was answered"))).collect()
    }

    fn last_seen(&self) -> u64 {
        self.sandbox.sandbox.log(0, None).last().map_or(0, |entry| entry.seq)
    }
}

/// An SDK at work, and what it is expected to send.
struct Client {
    script: Script,
    /// How it asks for a token.
    ask: &'static str,
    calls: Calls,
    has_tickets: bool,
}

impl Client {
    fn new(script: Script, calls: Calls) -> Self {
        Self { script, ask: ASK, calls, has_tickets: true }
    }

    /// What every SDK must get through: a token, a call, a ticket, and the end of the token by a foreign mint, which costs at most two calls
    /// more than it would have made otherwise. WeChat sees the refused call, one probe, one mint, and the call again.
    async fn works_on_when_its_token_is_killed(mut self, shop: &Shop) {
        let old = shop.served("access_token").await;
        let asked = self.script.tell("token").await;
        assert_eq!((asked.text(), sent(&asked)), (old.as_str(), vec![self.ask]));
        self.calls_with(&[CALL]).await;
        if self.has_tickets {
            let ticket = self.script.tell("ticket").await;
            let served = shop.served("jsapi_ticket").await;
            assert_eq!((ticket.text(), sent(&ticket)), (served.as_str(), vec![GET_TICKET]));
            assert!(shop.sandbox.accepts(&served));
        }

        self.survives_a_foreign_mint(shop, &old).await;
        self.goes_on(shop, &old).await;
    }

    /// The call after another system has ended the token `old`.
    async fn survives_a_foreign_mint(&mut self, shop: &Shop, old: &str) {
        shop.mint_elsewhere();
        assert!(!shop.sandbox.accepts(old), "the foreign mint has ended our token");
        let since = shop.last_seen();
        let expected = match self.calls {
            Calls::Here => vec![CALL],
            Calls::AtWechat => vec![CALL, self.ask, CALL],
        };
        self.calls_with(&expected).await;
        let mint = if shop.line == Line::Plain { CallKind::Token } else { CallKind::StableToken };
        let repair = [(CallKind::Business, 40_001), (CallKind::Probe, 40_001), (mint, 0), (CallKind::Business, 0)];
        assert_eq!(shop.seen_at_wechat(since), repair);
    }

    /// Nothing of the repair is left over: the next call is one call.
    async fn goes_on(&mut self, shop: &Shop, old: &str) {
        let since = shop.last_seen();
        self.calls_with(&[CALL]).await;
        assert_eq!(shop.seen_at_wechat(since), [(CallKind::Business, 0)]);
        let new = shop.served("access_token").await;
        assert!(new != old && shop.sandbox.accepts(&new));
        let kept = self.script.tell("token").await;
        let known = if self.calls == Calls::Here { old } else { &new };
        assert_eq!((kept.text(), sent(&kept)), (known, vec![]));
    }

    /// Makes a call, which must succeed with exactly these requests.
    async fn calls_with(&mut self, expected: &[&str]) {
        let called = self.script.tell("call").await;
        assert_eq!(called.value["errcode"], 0, "{called:?}");
        assert_eq!(sent(&called), expected);
    }
}

fn sent(answer: &Answer) -> Vec<&str> {
    answer.requests.iter().map(String::as_str).collect()
}
