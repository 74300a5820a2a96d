//! The list of settings: the source of the defaults, of `.env.example` and of the manual.

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its name in `.env` and in the environment.
    pub name: &'static str,
    /// What counts when it is absent; empty where nothing does.
    pub default: &'static str,
    /// One sentence.
    pub explanation: &'static str,
    /// Whether it is never shown, and can be given as a file under its name and `_FILE`.
    pub secret: bool,
}

const fn plain(name: &'static str, default: &'static str, explanation: &'static str) -> Setting {
    Setting { name, default, explanation, secret: false }
}

const fn secret(name: &'static str, default: &'static str, explanation: &'static str) -> Setting {
    Setting { name, default, explanation, secret: true }
}

/// Every setting.
pub const SETTINGS: &[Setting] = &[
    secret(
        "DATABASE_URL",
        "sqlite://wxtoken.db",
        "The database: sqlite://FILE, postgres://USER:PASSWORD@HOST:PORT/NAME or mysql://USER:PASSWORD@HOST:PORT/NAME; \
         `serve` waits for a server that is away.",
    ),
    secret(
        "WXTOKEN_MIGRATE_TO",
        "",
        "The database that `wxtoken migrate --to` moves an SQLite deployment to, so that its password is not on the command line.",
    ),
    plain("WXTOKEN_LISTEN", "127.0.0.1:8080", "The address and port to listen on; 0.0.0.0:8080 is every IPv4 address."),
    plain(
        "WXTOKEN_TLS_LISTEN",
        "",
        "The address and port to serve https://api.weixin.qq.com on, for SDKs whose hosts file or DNS leads here; empty is off.",
    ),
    plain(
        "WXTOKEN_CONNECT_LISTEN",
        "",
        "The address and port of a proxy that serves https://api.weixin.qq.com and nothing else, for SDKs with HTTPS_PROXY; empty is off.",
    ),
    plain(
        "WXTOKEN_TLS_DIR",
        "wxtoken-ca",
        "The directory of api.weixin.qq.com.pem and api.weixin.qq.com-key.pem, which these two need; `wxtoken ca init` makes them.",
    ),
    secret(
        "WXTOKEN_MASTER_KEY",
        "",
        "The key that seals secrets in the database, 32 bytes in base64 from `wxtoken master-key generate`; on SQLite \
         made at the first start in a file beside the database, elsewhere required.",
    ),
    secret(
        "WXTOKEN_ADMIN_KEY",
        "",
        "The first admin key, at least 32 characters; made at the first start and printed once if absent.",
    ),
    plain(
        "WXTOKEN_WECHAT_URL",
        "https://api.weixin.qq.com",
        "Where WeChat is; plain http:// only for a simulator on this machine.",
    ),
    plain(
        "WXTOKEN_WECHAT_FALLBACK_URL",
        "https://api2.weixin.qq.com",
        "Where WeChat is when no connection to the first address can be made; `none` for nowhere, which is also the default \
         when the first is on this machine.",
    ),
    plain("WXTOKEN_CALL_TIMEOUT", "8s", "The deadline of one call to WeChat, 200ms to 12s."),
    plain(
        "WXTOKEN_REFRESH_AHEAD",
        "240s",
        "How long before its end a token is refreshed, 10s to 290s: WeChat gives a new one only in the last 300 s.",
    ),
    plain("WXTOKEN_SCAN_INTERVAL", "1s", "How often to look for tokens that are due, 100ms to 30s."),
    plain("WXTOKEN_REFRESH_CONCURRENCY", "64", "Calls to WeChat in flight at once, 1 to 1024."),
    plain(
        "WXTOKEN_FORCED_PER_DAY",
        "20",
        "Forced refreshes of one account in a day, 0 to 20, which is what WeChat allows.",
    ),
    plain(
        "WXTOKEN_FORCED_GAP",
        "30s",
        "Least time between two forced refreshes of one account, 30s to 1day: WeChat ignores closer ones.",
    ),
    plain("WXTOKEN_PLAIN_PER_DAY", "2000", "Tokens minted in plain mode for one account in a day, 1 to 100000."),
    plain(
        "WXTOKEN_FORWARD_CONCURRENCY",
        "1024",
        "Calls of services that are passed on to WeChat at once, 1 to 65536; more are answered with WeChat's -1.",
    ),
    plain(
        "WXTOKEN_FORWARD_TIMEOUT",
        "30s",
        "How long the caller or WeChat may be silent during a call that is passed on, 1s to 10m.",
    ),
    plain("WXTOKEN_FORWARD_LARGEST", "2GiB", "The largest body that is passed on to WeChat, 64KiB to 1TiB."),
    plain(
        "WXTOKEN_FORWARD_KEPT",
        "2MiB",
        "The largest body that is kept in memory while it is passed on, so that the call can be made again with another token, 0B to 64MiB.",
    ),
    plain("WXTOKEN_HISTORY_DAYS", "90", "How many days of refresh history to keep, 1 to 3650."),
    plain(
        "WXTOKEN_MIRROR_DIR",
        "",
        "The directory in which mirrors write JSON files of tokens; without it there are none. Close it to others.",
    ),
    plain(
        "WXTOKEN_LOG",
        "info",
        "What to log: error, warn, info, debug or trace, or directives like info,wxtoken::http=debug.",
    ),
    plain("WXTOKEN_LOG_FORMAT", "text", "How to log: text or json."),
    plain(
        "WXTOKEN_URL",
        "http://127.0.0.1:8080",
        "For commands that ask a running server, like `wxtoken account add`: where it is.",
    ),
    secret("WXTOKEN_KEY", "", "For the same commands: the key to show there."),
];

/// Names that begin like settings and are read elsewhere.
pub(super) const OTHER_NAMES: &[&str] = &["WXTOKEN_FAIL_POINT", "WXTOKEN_TEST_POSTGRES", "WXTOKEN_TEST_MYSQL"];

const EXAMPLE_HEAD: &str = "\
# Settings of wxtoken. Copy this file to .env and remove the # before what you change.
# Variables of the environment win over this file, flags over both. An empty value counts as absent.
#
# Put values in 'single quotes' when they hold a space, a # or a $: elsewhere $NAME is replaced by a variable, even
# inside double quotes, and a password like pa$word silently becomes pa.
#
# A secret can stand in a file of its own, named by its setting with _FILE: WXTOKEN_MASTER_KEY_FILE=/run/secrets/key
";

/// The text of `.env.example`.
pub fn example() -> String {
    SETTINGS.iter().fold(EXAMPLE_HEAD.to_owned(), |mut text, setting| {
        text.push_str("\n# ");
        text.push_str(setting.explanation);
        if setting.secret {
            text.push_str(" Or ");
            text.push_str(setting.name);
            text.push_str("_FILE.");
        }
        text.push_str("\n#");
        text.push_str(setting.name);
        text.push('=');
        text.push_str(setting.default);
        text.push('\n');
        text
    })
}
