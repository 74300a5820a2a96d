use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::*;

fn sources(values: &[(&str, &str)]) -> Sources {
    let mut sources = Sources::default();
    for (name, value) in values {
        sources.add((*name).to_owned(), (*value).to_owned(), Origin::Environment);
    }
    sources
}

fn parsed(values: &[(&str, &str)]) -> Result<Settings, ConfigError> {
    Settings::parse(&sources(values))
}

fn from_file(text: &str) -> Sources {
    let mut sources = Sources::default();
    sources.add_env_file(Path::new("x.env"), text.as_bytes());
    sources
}

#[test]
fn the_example_file_lists_every_setting() {
    assert_eq!(include_str!("../../.env.example"), example(), "write the text of config::example() to .env.example");
    let names: BTreeSet<_> = SETTINGS.iter().map(|setting| setting.name).collect();
    assert_eq!(names.len(), SETTINGS.len());
    assert!(SETTINGS.iter().all(|setting| setting.explanation.ends_with('.')));
}

#[test]
fn the_example_file_says_what_counts_without_it() {
    let uncommented: Vec<_> = example()
        .lines()
        .filter_map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ') && rest.contains('=')))
        .map(str::to_owned)
        .collect();
    let given = Settings::parse(&from_file(&uncommented.join("\n"))).unwrap();
    assert_eq!(format!("{given:?}"), format!("{:?}", parsed(&[]).unwrap()));
}

#[test]
fn defaults_are_those_of_the_design() {
    let settings = parsed(&[]).unwrap();
    assert_eq!(settings.database_url.expose_secret(), "sqlite://wxtoken.db");
    assert_eq!(settings.listen, "127.0.0.1:8080".parse().unwrap());
    assert!(settings.tls_listen.is_none() && settings.connect_listen.is_none());
    assert!(settings.master_key.is_none() && settings.admin_key.is_none());
    assert_eq!(settings.wechat_fallback_url.as_deref(), Some("https://api2.weixin.qq.com"));
    assert_eq!(settings.connect_timeout(), Duration::from_secs(3));
    assert_eq!(settings.refresh_ahead, Duration::from_mins(4));
    assert_eq!(settings.limits().forced_per_day, 20);
    assert_eq!(settings.log_format, LogFormat::Text);
}

#[test]
fn values_within_bounds_are_taken() {
    for (name, value) in [
        ("DATABASE_URL", "postgres://u:p@h/db"),
        ("DATABASE_URL", "mysql://u:p@h/db"),
        ("WXTOKEN_LISTEN", "[::1]:80"),
        ("WXTOKEN_LISTEN", "localhost:0"),
        ("WXTOKEN_LISTEN", " 0.0.0.0:8080 "),
        ("WXTOKEN_CALL_TIMEOUT", "200ms"),
        ("WXTOKEN_CALL_TIMEOUT", "12s"),
        ("WXTOKEN_REFRESH_AHEAD", "290s"),
        ("WXTOKEN_SCAN_INTERVAL", "100ms"),
        ("WXTOKEN_REFRESH_CONCURRENCY", "1024"),
        ("WXTOKEN_FORCED_PER_DAY", "0"),
        ("WXTOKEN_FORCED_GAP", "1h 30m"),
        ("WXTOKEN_LOG", "warn,wxtoken::http=debug"),
        ("WXTOKEN_LOG", "OFF,wxtoken=info"),
        ("WXTOKEN_LOG_FORMAT", "json"),
        ("WXTOKEN_WECHAT_FALLBACK_URL", "none"),
        ("WXTOKEN_LISTEN", ""),
        ("WXTOKEN_TLS_LISTEN", "0.0.0.0:443"),
        ("WXTOKEN_CONNECT_LISTEN", "localhost:8443"),
    ] {
        assert!(parsed(&[(name, value)]).is_ok(), "{name}={value}");
    }
}

#[test]
fn values_out_of_bounds_are_named_and_never_repeated() {
    for (name, value) in [
        ("DATABASE_URL", "redis://canary"),
        ("WXTOKEN_LISTEN", "8080"),
        ("WXTOKEN_LISTEN", "canary.example:80"),
        ("WXTOKEN_TLS_LISTEN", "canary:443"),
        ("WXTOKEN_CONNECT_LISTEN", "443"),
        ("WXTOKEN_ADMIN_KEY", "canary"),
        ("WXTOKEN_WECHAT_URL", "http://canary.example"),
        ("WXTOKEN_WECHAT_FALLBACK_URL", "canary"),
        ("WXTOKEN_CALL_TIMEOUT", "199ms"),
        ("WXTOKEN_CALL_TIMEOUT", "13s"),
        ("WXTOKEN_REFRESH_AHEAD", "300s"),
        ("WXTOKEN_REFRESH_AHEAD", "9s"),
        ("WXTOKEN_REFRESH_AHEAD", "240"),
        ("WXTOKEN_SCAN_INTERVAL", "-1s"),
        ("WXTOKEN_REFRESH_CONCURRENCY", "0"),
        ("WXTOKEN_REFRESH_CONCURRENCY", "99999999999999999999"),
        ("WXTOKEN_FORCED_PER_DAY", "21"),
        ("WXTOKEN_FORCED_GAP", "29s"),
        ("WXTOKEN_PLAIN_PER_DAY", "1e3"),
        ("WXTOKEN_HISTORY_DAYS", "3651"),
        ("WXTOKEN_LOG", "canary=canary=canary"),
        ("WXTOKEN_LOG", "canary"),
        ("WXTOKEN_LOG", "info,canary"),
        ("WXTOKEN_LOG_FORMAT", "canary"),
    ] {
        let error = parsed(&[(name, value)]).unwrap_err();
        assert_eq!(error.problems.len(), 1, "{name}={value}: {error}");
        assert!(error.problems[0].starts_with(name) && error.problems[0].ends_with('.'), "{error}");
        assert!(
            error.problems[0].contains("(given in the environment)") && !error.to_string().contains("canary"),
            "{error}"
        );
    }
    let error = parsed(&[("WXTOKEN_SCAN_INTERVAL", "5min")]).unwrap_err();
    let sentence = "WXTOKEN_SCAN_INTERVAL must be a duration from 100ms to 30s, like 1s (given in the environment).";
    assert_eq!(error.problems, [sentence]);
}

#[test]
fn every_problem_is_reported_together() {
    let error =
        parsed(&[("WXTOKEN_LISTEN", "x"), ("WXTOKEN_FORCED_GAP", "x"), ("WXTOKEN_LOG_FORMAT", "x")]).unwrap_err();
    assert_eq!(error.to_string().lines().count(), 3, "{error}");
}

#[test]
fn a_simulator_may_be_hurried_and_has_no_fallback() {
    let simulator = ("WXTOKEN_WECHAT_URL", "http://127.0.0.1:8090");
    let settings = parsed(&[simulator, ("WXTOKEN_FORCED_GAP", "1s")]).unwrap();
    assert_eq!(settings.forced_gap, Duration::from_secs(1));
    assert_eq!(settings.wechat_fallback_url, None);
    assert!(parsed(&[simulator, ("WXTOKEN_FORCED_GAP", "999ms")]).is_err());
    let named = parsed(&[simulator, ("WXTOKEN_WECHAT_FALLBACK_URL", "http://[::1]:1")]).unwrap();
    assert_eq!(named.wechat_fallback_url.as_deref(), Some("http://[::1]:1"));
}

#[test]
fn the_environment_wins_over_the_file_and_flags_win_over_both() {
    let mut sources = from_file("WXTOKEN_HISTORY_DAYS=1\nWXTOKEN_PLAIN_PER_DAY=1\nWXTOKEN_FORCED_PER_DAY=1");
    sources.add_environment(
        [("WXTOKEN_PLAIN_PER_DAY", "2"), ("WXTOKEN_FORCED_PER_DAY", "2"), ("WXTOKEN_HISTORY_DAYS", "")]
            .map(|(name, value)| (name.into(), value.into())),
    );
    sources.add("WXTOKEN_FORCED_PER_DAY".to_owned(), "3".to_owned(), Origin::Flag);
    let settings = Settings::parse(&sources).unwrap();
    assert_eq!((settings.history_days, settings.plain_per_day, settings.forced_per_day), (1, 2, 3));
}

#[test]
fn a_malformed_file_is_fatal_and_says_where() {
    for (text, lines) in [
        ("WXTOKEN_LOG=info\nWXTOKEN_ADMIN_KEY=canary with spaces\nWXTOKEN_LOG=warn\n", vec![2]),
        ("# canary\n\ncanary\r\nWXTOKEN_LOG=info\r\n=canary", vec![3, 5]),
        ("WXTOKEN_LOG=info\nDATABASE_URL='canary\nWXTOKEN_LOG=warn\n\n", vec![2]),
        ("WXTOKEN_LOG=info\nDATABASE_URL=\"canary", vec![2]),
    ] {
        let error = Settings::parse(&from_file(text)).unwrap_err();
        let found: Vec<_> =
            error.problems.iter().map(|problem| problem.split(':').next().unwrap().to_owned()).collect();
        let expected: Vec<_> = lines.iter().map(|line| format!("x.env, line {line}")).collect();
        assert_eq!(found, expected, "{text:?}");
        assert!(error.to_string().contains("'single quotes'") && !error.to_string().contains("canary"), "{error}");
    }
    let mut sources = Sources::default();
    sources.add_env_file(Path::new("x.env"), b"A=1\nB=\xb2\xe2\n");
    assert!(Settings::parse(&sources).unwrap_err().to_string().starts_with("x.env, line 2: not UTF-8"));
}

#[test]
fn a_file_from_windows_is_read() {
    let settings = Settings::parse(&from_file("\u{feff}WXTOKEN_HISTORY_DAYS=7\r\nWXTOKEN_LOG=warn\r\n")).unwrap();
    assert_eq!((settings.history_days, settings.log.as_str()), (7, "warn"));
}

#[test]
fn a_named_file_must_be_there() {
    let directory = tempfile::tempdir().unwrap();
    for path in [directory.path().join("absent"), directory.path().to_owned()] {
        let error = Settings::parse(&Sources::gather(Some(&path), [], [])).unwrap_err();
        assert!(error.problems[0].contains("cannot be read"), "{error}");
    }
}

#[test]
fn a_dollar_sign_outside_single_quotes_is_warned_of() {
    let sources = from_file("DATABASE_URL=postgres://u:canary$word@h/db\nWXTOKEN_ADMIN_KEY='canary$word'\nOTHER=$x\n");
    assert_eq!(sources.warnings().len(), 1);
    assert!(
        sources.warnings()[0].starts_with("x.env, line 1: in DATABASE_URL")
            && !sources.warnings()[0].contains("canary")
    );
}

#[test]
fn an_unknown_name_is_warned_of_with_the_nearest() {
    let names =
        ["WXTOKEN_MASTERKEY", "WXTOKEN_NOTHING_LIKE_IT", "WXTOKEN_X", "WXTOKEN_KEY", "WXTOKEN_ADMIN_KEY_FILE", "PATH"];
    let mut sources = sources(&names.map(|name| (name, "x")));
    sources.warn_of_unknown_names();
    assert_eq!(
        sources.warnings(),
        [
            "There is no setting WXTOKEN_MASTERKEY; did you mean WXTOKEN_MASTER_KEY?",
            "There is no setting WXTOKEN_NOTHING_LIKE_IT",
            "There is no setting WXTOKEN_X",
        ]
    );
}

#[test]
fn a_secret_may_stand_in_a_file() {
    let mut one = sources(&[("WXTOKEN_MASTER_KEY_FILE", " /key ")]);
    one.read_secret_files(|path| {
        assert_eq!(path, Path::new("/key"));
        Ok("  from the file \n".to_owned())
    });
    assert_eq!(Settings::parse(&one).unwrap().master_key.unwrap().expose_secret(), "from the file");

    let mut both = sources(&[("DATABASE_URL_FILE", "/canary"), ("DATABASE_URL", "sqlite://canary")]);
    both.read_secret_files(|_| Ok("canary".to_owned()));
    let mut empty = sources(&[("WXTOKEN_ADMIN_KEY_FILE", "/canary")]);
    empty.read_secret_files(|_| Ok("\n".to_owned()));
    let mut absent = sources(&[("WXTOKEN_ADMIN_KEY_FILE", "/canary")]);
    absent.read_secret_files(|_| Err(io::ErrorKind::NotFound.into()));
    for (sources, words) in [(both, "both given"), (empty, "an empty file"), (absent, "cannot be read")] {
        let error = Settings::parse(&sources).unwrap_err();
        assert!(error.problems.len() == 1 && error.to_string().contains(words), "{error}");
        assert!(!error.to_string().contains("canary"), "{error}");
    }
}

#[test]
fn no_secret_is_shown() {
    let key = "canary-0123456789-0123456789-0123456789";
    let url = "postgres://u:canary@h:5432/db?password=canary";
    let settings = parsed(&[("DATABASE_URL", url), ("WXTOKEN_MASTER_KEY", key), ("WXTOKEN_ADMIN_KEY", key)]).unwrap();
    let shown = format!("{settings:?}");
    assert!(!shown.contains("canary") && shown.contains("postgres://u@h:5432/db"), "{shown}");
}

#[test]
fn a_database_url_is_shown_without_password_and_query() {
    for (url, shown) in [
        ("sqlite://data/wx.db?mode=rwc", "sqlite://data/wx.db"),
        ("postgres://h/db", "postgres://h/db"),
        ("postgres://u@[::1]:5432/db", "postgres://u@[::1]:5432/db"),
        ("mysql://u:canary@h:3306/db?ssl-mode=required", "mysql://u@h:3306/db"),
        ("mysql://u:can@ary@h/db", "mysql://u@h/db"),
        ("postgres:///db?host=/run&password=canary", "postgres:///db"),
        ("postgres://u:12/canary@h/db", "postgres://***"),
        ("postgres://u:can?ary@h/db", "postgres://***"),
        ("postgres://u:can#ary@h/db", "postgres://***"),
        ("postgres://h/db?password=sec:canary@x", "postgres://***"),
        ("postgres:u:canary@h", "postgres:***"),
        ("canary", "***"),
    ] {
        assert_eq!(redacted(url), shown, "{url}");
        assert!(!shown.contains("canary"));
    }
}

#[test]
fn connecting_to_one_host_leaves_time_for_the_other() {
    let settings = parsed(&[("WXTOKEN_CALL_TIMEOUT", "2s")]).unwrap();
    assert_eq!(settings.connect_timeout(), Duration::from_secs(1));
}

#[test]
fn mirrors_have_a_directory_of_their_own() {
    let home = tempfile::tempdir().unwrap();
    let own = |name: &str| {
        let path = home.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (data, tls, mirrors) = (own("data"), own("tls"), own("mirrors"));
    let database = format!("sqlite://{data}/wxtoken.db");
    let parsed = |directory: &str| {
        parsed(&[("DATABASE_URL", &database), ("WXTOKEN_TLS_DIR", &tls), ("WXTOKEN_MIRROR_DIR", directory)])
    };
    assert!(parsed(&mirrors).is_ok());
    for taken in [data.clone(), tls.clone(), format!("{mirrors}/../data"), format!("{tls}/.")] {
        let error = parsed(&taken).unwrap_err().to_string();
        assert!(error.contains("WXTOKEN_MIRROR_DIR must name a directory of its own"), "{taken}: {error}");
    }
}
