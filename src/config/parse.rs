//! From texts to typed settings. No input but the gathered sources, and whether a directory is there.

use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use secrecy::{ExposeSecret, SecretString};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};

use super::sources::{Origin, Sources};
use super::table::SETTINGS;
use super::{ConfigError, LogFormat, Settings};
use crate::store::StoreError;
use crate::store::db::{Dialect, sqlite_path};
use crate::wechat::{UrlFault, is_url_of_this_machine};

const SHORTEST_ADMIN_KEY: usize = 32;
const NO_FALLBACK: &str = "none";
/// A call ends within the limits of a request and of a shutdown, which are 15 s.
const LONGEST_CALL: Duration = Duration::from_secs(12);
const DAY: Duration = Duration::from_hours(24);
/// WeChat ignores a forced refresh that comes closer to the one before it.
const WECHATS_FORCED_GAP: Duration = Duration::from_secs(30);

pub(super) fn settings(sources: &Sources) -> Result<Settings, ConfigError> {
    let mut reader = Reader { sources, problems: sources.problems().to_vec() };
    let wechat_url = reader.text("WXTOKEN_WECHAT_URL");
    let is_simulator = reader.checked_url("WXTOKEN_WECHAT_URL", &wechat_url);
    let least_gap = if is_simulator { Duration::from_secs(1) } else { WECHATS_FORCED_GAP };
    let settings = Settings {
        database_url: reader.database_url(),
        listen: reader.listen(),
        tls_listen: reader.listen_if_given("WXTOKEN_TLS_LISTEN"),
        connect_listen: reader.listen_if_given("WXTOKEN_CONNECT_LISTEN"),
        tls_dir: reader.text("WXTOKEN_TLS_DIR").into(),
        master_key: reader.secret("WXTOKEN_MASTER_KEY"),
        migrate_to: reader.secret("WXTOKEN_MIGRATE_TO"),
        admin_key: reader.admin_key(),
        wechat_url,
        wechat_fallback_url: reader.fallback_url(is_simulator),
        call_timeout: reader.duration("WXTOKEN_CALL_TIMEOUT", Duration::from_millis(200)..=LONGEST_CALL),
        refresh_ahead: reader.duration("WXTOKEN_REFRESH_AHEAD", Duration::from_secs(10)..=Duration::from_secs(290)),
        scan_interval: reader.duration("WXTOKEN_SCAN_INTERVAL", Duration::from_millis(100)..=Duration::from_secs(30)),
        refresh_concurrency: reader.number("WXTOKEN_REFRESH_CONCURRENCY", 1..=1024),
        forced_per_day: reader.number("WXTOKEN_FORCED_PER_DAY", 0..=20),
        forced_gap: reader.duration("WXTOKEN_FORCED_GAP", least_gap..=DAY),
        plain_per_day: reader.number("WXTOKEN_PLAIN_PER_DAY", 1..=100_000),
        forward_concurrency: reader.number("WXTOKEN_FORWARD_CONCURRENCY", 1..=65_536),
        forward_timeout: reader.duration("WXTOKEN_FORWARD_TIMEOUT", Duration::from_secs(1)..=Duration::from_mins(10)),
        forward_largest: reader.size("WXTOKEN_FORWARD_LARGEST", ByteSize::kib(64)..=ByteSize::tib(1)),
        forward_kept: reader.size("WXTOKEN_FORWARD_KEPT", ByteSize::b(0)..=ByteSize::mib(64)),
        history_days: reader.number("WXTOKEN_HISTORY_DAYS", 1..=3650),
        mirror_dir: reader.directory("WXTOKEN_MIRROR_DIR"),
        log: reader.log(),
        log_format: reader.log_format(),
    };
    reader.check_mirror_dir(&settings);
    if reader.problems.is_empty() { Ok(settings) } else { Err(ConfigError { problems: reader.problems }) }
}

/// Reads one setting after the other. What is wrong is noted and replaced by something that does for the rest of the reading.
struct Reader<'a> {
    sources: &'a Sources,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn given_or_default(&self, name: &'static str) -> (&str, Option<&Origin>) {
        if let Some((value, origin)) = self.sources.get(name) {
            return (value.trim(), Some(origin));
        }
        (SETTINGS.iter().find(|setting| setting.name == name).map_or("", |setting| setting.default), None)
    }

    fn text(&self, name: &'static str) -> String {
        self.given_or_default(name).0.to_owned()
    }

    fn secret(&self, name: &'static str) -> Option<SecretString> {
        self.sources.get(name).map(|(value, _)| value.trim().into())
    }

    fn problem(&mut self, name: &'static str, sentence: impl Display) {
        let origin = self.given_or_default(name).1.map_or_else(String::new, |origin| format!(" (given in {origin})"));
        self.problems.push(format!("{name} {sentence}{origin}."));
    }

    fn within<T: PartialOrd + Copy>(
        &mut self,
        name: &'static str,
        value: Option<T>,
        bounds: &RangeInclusive<T>,
        show: impl Fn(T) -> String,
        kind: &str,
    ) -> T {
        if let Some(value) = value.filter(|value| bounds.contains(value)) {
            return value;
        }
        let (least, most) = (show(*bounds.start()), show(*bounds.end()));
        let example = SETTINGS.iter().find(|setting| setting.name == name).map_or("", |setting| setting.default);
        self.problem(name, format_args!("must be {kind} from {least} to {most}, like {example}"));
        *bounds.start()
    }

    fn duration(&mut self, name: &'static str, bounds: RangeInclusive<Duration>) -> Duration {
        let value = humantime::parse_duration(self.given_or_default(name).0).ok();
        self.within(name, value, &bounds, |span| humantime::format_duration(span).to_string(), "a duration")
    }

    fn size(&mut self, name: &'static str, bounds: RangeInclusive<ByteSize>) -> u64 {
        let value = self.given_or_default(name).0.parse().ok();
        self.within(name, value, &bounds, |size| size.display().iec().to_string(), "a size").as_u64()
    }

    fn number(&mut self, name: &'static str, bounds: RangeInclusive<u32>) -> u32 {
        let value = self.given_or_default(name).0.parse().ok();
        self.within(name, value, &bounds, |number| number.to_string(), "a number")
    }

    fn database_url(&mut self) -> SecretString {
        let url = self.text("DATABASE_URL");
        if Dialect::of_url(&url).is_none() {
            let sentence = StoreError::UnknownScheme.to_string();
            self.problem("DATABASE_URL", sentence.trim_start_matches("DATABASE_URL "));
        }
        url.into()
    }

    fn listen(&mut self) -> SocketAddr {
        self.listen_if_given("WXTOKEN_LISTEN").unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    /// `None` for an empty text, and for a faulty one, which is noted.
    fn listen_if_given(&mut self, name: &'static str) -> Option<SocketAddr> {
        let text = self.text(name);
        let address = listen_address(&text);
        if address.is_none() && !text.is_empty() {
            self.problem(name, "must be an address and a port, like 127.0.0.1:8080, [::1]:8080 or localhost:8080");
        }
        address
    }

    fn admin_key(&mut self) -> Option<SecretString> {
        let key = self.text("WXTOKEN_ADMIN_KEY");
        if !key.is_empty() && key.chars().count() < SHORTEST_ADMIN_KEY {
            self.problem("WXTOKEN_ADMIN_KEY", format_args!("must have at least {SHORTEST_ADMIN_KEY} characters"));
        }
        self.secret("WXTOKEN_ADMIN_KEY")
    }

    /// Whether the URL is one of this machine; a faulty one is noted.
    fn checked_url(&mut self, name: &'static str, url: &str) -> bool {
        is_url_of_this_machine(url).unwrap_or_else(|fault: UrlFault| {
            self.problem(name, fault);
            false
        })
    }

    fn fallback_url(&mut self, is_simulator: bool) -> Option<String> {
        const NAME: &str = "WXTOKEN_WECHAT_FALLBACK_URL";
        let (url, origin) = self.given_or_default(NAME);
        if url == NO_FALLBACK || (origin.is_none() && is_simulator) {
            return None;
        }
        let url = url.to_owned();
        self.checked_url(NAME, &url);
        Some(url)
    }

    fn directory(&mut self, name: &'static str) -> Option<PathBuf> {
        let path = PathBuf::from(self.text(name));
        if path.as_os_str().is_empty() {
            return None;
        }
        if !path.is_dir() {
            self.problem(name, "must name a directory that exists");
        }
        Some(path)
    }

    /// Names of mirrors' files are for callers to choose: none of them may name the database, the key file beside it, or the CA.
    fn check_mirror_dir(&mut self, settings: &Settings) {
        let Some(directory) = settings.mirror_dir.as_deref().and_then(|directory| directory.canonicalize().ok()) else {
            return;
        };
        let database = sqlite_path(settings.database_url.expose_secret());
        let beside_database = database.as_deref().and_then(Path::parent).map(|parent| Path::new(".").join(parent));
        let taken = [beside_database.as_deref(), Some(settings.tls_dir.as_path())].into_iter().flatten();
        if taken.filter_map(|path| path.canonicalize().ok()).any(|path| path == directory) {
            let sentence =
                "must name a directory of its own, not that of the database and its key file, nor WXTOKEN_TLS_DIR";
            self.problem("WXTOKEN_MIRROR_DIR", sentence);
        }
    }

    fn log(&mut self) -> String {
        let text = self.text("WXTOKEN_LOG");
        if EnvFilter::builder().parse(&text).is_err() || text.split(',').any(is_misspelt_level) {
            self.problem(
                "WXTOKEN_LOG",
                "must be error, warn, info, debug or trace, or directives like info,wxtoken::http=debug",
            );
        }
        text
    }

    fn log_format(&mut self) -> LogFormat {
        match self.given_or_default("WXTOKEN_LOG_FORMAT").0 {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            _ => {
                self.problem("WXTOKEN_LOG_FORMAT", "must be text or json");
                LogFormat::Text
            }
        }
    }
}

/// A bare word that is no level would name a part of the program, and silence all the others.
fn is_misspelt_level(directive: &str) -> bool {
    let word = directive.trim();
    word.chars().all(char::is_alphanumeric) && LevelFilter::from_str(word).is_err()
}

/// Reads an address to listen on: that of an interface, or `localhost`, with a port.
pub fn listen_address(text: &str) -> Option<SocketAddr> {
    let local = text.strip_prefix("localhost:").and_then(|port| u16::from_str(port).ok());
    local.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))).or_else(|| text.parse().ok())
}
