//! The demonstration: the simulator and the server in one process, with sample accounts and lifetimes of about a minute.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use secrecy::SecretString;
use serde_json::json;
use tokio::net::TcpListener;

use super::{Service, StartError, first_key};
use crate::config::Settings;
use crate::domain::account::{AppId, Mode, NewAccount, TokenType, TokenTypes};
use crate::domain::key::{AccountScope, Actions, KeyText, Role};
use crate::domain::path_rules::PathRules;
use crate::domain::secret::AppSecret;
use crate::domain::timestamp::Timestamp;
use crate::http::Rooms;
use crate::seal::{hexadecimal, random_bytes};
use crate::store::StoreError;
use crate::store::history::{Refresh, RefreshFilter};
use crate::store::key::NewKey;
use crate::wechat::sandbox::{DEFAULT_SECRET, Sandbox};

/// An account of the demonstration.
pub struct Sample {
    /// Its appid.
    pub appid: &'static str,
    /// What it shows.
    pub name: &'static str,
    mode: Mode,
    tickets: &'static [TokenType],
    secret: &'static str,
}

/// The accounts of the demonstration: stable, plain with tickets, and one with a wrong secret.
pub const SAMPLES: [Sample; 3] = [
    Sample {
        appid: "wxdemo00stable01",
        name: "a shop in stable mode",
        mode: Mode::Stable,
        tickets: &[],
        secret: DEFAULT_SECRET,
    },
    Sample {
        appid: "wxdemo00plain002",
        name: "a site in plain mode with tickets",
        mode: Mode::Plain,
        tickets: &[TokenType::JsapiTicket, TokenType::WxCardTicket],
        secret: DEFAULT_SECRET,
    },
    Sample {
        appid: "wxdemo00wrong003",
        name: "an account whose AppSecret was mistyped",
        mode: Mode::Stable,
        tickets: &[],
        secret: "ffffffffffffffffffffffffffffffff",
    },
];

/// A running demonstration.
pub struct Demo {
    /// The server.
    pub service: Service,
    /// Where the simulator listens, and its control API under `/sandbox`.
    pub sandbox: SocketAddr,
    /// A service key for every sample account.
    pub service_key: KeyText,
    /// An admin key.
    pub admin_key: KeyText,
    directory: PathBuf,
}

impl Demo {
    /// Starts the simulator and, on a new SQLite database in a directory for temporary files, the server. Of the settings those that say
    /// where to keep things and whom to call are passed over. `None` when a signal came first.
    pub async fn start(settings: Settings) -> Result<Option<Self>, StartError> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let sandbox_address = listener.local_addr()?;
        let sandbox = Sandbox::new();
        for sample in &SAMPLES {
            let short = json!({ "lifetime_seconds": 60, "overlap_seconds": 20, "ticket_lifetime_seconds": 60,
                                "latency_ms": { "min": 50, "max": 400 } });
            sandbox.configure(sample.appid, &short).map_err(std::io::Error::other)?;
        }
        let directory = make_directory()?;
        let wechat_url = format!("http://{sandbox_address}");
        let listen = free_address(settings.listen)?;
        let database_url: SecretString = format!("sqlite://{}", directory.join("wxtoken.db").display()).into();
        let started = Service::start(Settings {
            database_url,
            listen,
            tls_listen: None,
            connect_listen: None,
            master_key: None,
            admin_key: None,
            wechat_url,
            wechat_fallback_url: None,
            ..settings
        })
        .await?;
        let Some(service) = started else {
            std::fs::remove_dir_all(&directory)?;
            return Ok(None);
        };
        tokio::spawn({
            let stop = service.stopping();
            async move { sandbox.serve(listener, stop).await }
        });
        let admin_key = service.facts.made_admin_key.clone().ok_or(StartError::NoRandomness)?;
        let service_key = register_samples(&service).await?;
        Ok(Some(Self { service, sandbox: sandbox_address, service_key, admin_key, directory }))
    }

    /// A reader of what has happened, apart from the demonstration itself, which is busy serving.
    pub fn happenings(&self) -> Happenings {
        let rooms = Arc::clone(self.service.rooms());
        Happenings { rooms, told: HashSet::new() }
    }

    /// Serves until told to stop, then removes its files.
    pub async fn run_until_told_to_stop(self) -> Result<(), StartError> {
        let ended = self.service.run_until_told_to_stop().await;
        std::fs::remove_dir_all(&self.directory)?;
        ended
    }
}

/// How many of the newest rows one look takes in: many more than happen between two looks.
const WINDOW: u32 = 100;

/// Reads the refresh history as it grows.
pub struct Happenings {
    rooms: Arc<Rooms>,
    told: HashSet<String>,
}

/// A call to WeChat and when the token is due next.
pub struct Happening {
    /// The history row.
    pub refresh: Refresh,
    /// When the token is refreshed next.
    pub next: Option<Timestamp>,
}

impl Happenings {
    /// The calls since the last look, oldest first.
    pub async fn look(&mut self) -> Result<Vec<Happening>, StoreError> {
        // Rows stand in the order in which their calls were sent and appear when those end: a new one may stand before an old one.
        let mut newest = self.rooms.store.refreshes(&RefreshFilter::default(), None, WINDOW).await?;
        newest.reverse();
        let page = newest.iter().map(|refresh| refresh.id.clone()).collect();
        let told = std::mem::replace(&mut self.told, page);
        let fresh = newest.into_iter().filter(|refresh| !told.contains(&refresh.id));
        Ok(fresh.map(|refresh| Happening { next: self.next(&refresh), refresh }).collect())
    }

    fn next(&self, refresh: &Refresh) -> Option<Timestamp> {
        let account = self.rooms.live.account(refresh.appid.as_str())?;
        account.token(refresh.token_type).map(|live| live.token.refresh_at)
    }
}

async fn register_samples(service: &Service) -> Result<KeyText, StartError> {
    let rooms = service.rooms();
    let now = rooms.clock.now();
    let mut appids = Vec::new();
    for sample in &SAMPLES {
        let types = sample.tickets.iter().map(|token_type| token_type.as_str());
        let account = NewAccount {
            appid: AppId::parse(sample.appid)?,
            secret: AppSecret::parse(sample.secret)?,
            name: sample.name.to_owned(),
            mode: sample.mode,
            token_types: TokenTypes::parse(types)?,
            enabled: true,
            note: String::new(),
        };
        appids.push(sample.appid);
        rooms.store.create_account(&account, &first_key::program(), now).await?;
    }
    let key = first_key::make(Role::Service)?;
    let new = NewKey {
        name: "demo service".to_owned(),
        role: Role::Service,
        accounts: AccountScope::parse(appids)?,
        actions: Actions::of_role(Role::Service),
        expires_at: Timestamp::NEVER,
        sdk: None,
        paths: PathRules::default(),
    };
    rooms.store.create_key(&key, &new, &first_key::program(), now).await?;
    rooms.live.load(&rooms.store, now).await?;
    rooms.refresher.wake();
    Ok(key)
}

/// The address wished for, or another port when that one is taken: a demonstration should not fail because something else runs.
fn free_address(wished: SocketAddr) -> Result<SocketAddr, StartError> {
    match std::net::TcpListener::bind(wished) {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Ok(SocketAddr::new(wished.ip(), 0)),
        Err(source) => Err(StartError::Listen { address: wished, setting: "--listen or WXTOKEN_LISTEN", source }),
        Ok(_) => Ok(wished),
    }
}

fn make_directory() -> Result<PathBuf, StartError> {
    let mut random = [0; 8];
    random_bytes(&mut random).ok_or(StartError::NoRandomness)?;
    let directory = std::env::temp_dir().join(format!("wxtoken-demo-{}", hexadecimal(&random)));
    std::fs::create_dir(&directory)?;
    Ok(directory)
}
