//! The addresses at which requests come in: the main one, and the two for SDKs that have WeChat's host compiled in.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum_server::Handle;
use rustls::ServerConfig;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{StartError, certificate};
use crate::clock::Clock;
use crate::config::Settings;
use crate::http::{self, Door};

/// Where requests come in.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// The main address, for plain HTTP.
    pub main: SocketAddr,
    /// For TLS, in WeChat's name.
    pub tls: Option<SocketAddr>,
    /// For tunnels to WeChat's name.
    pub connect: Option<SocketAddr>,
}

/// Bound, and not yet served.
pub(super) struct Listeners {
    main: TcpListener,
    tls: Option<Secured>,
    connect: Option<Secured>,
}

struct Secured {
    listener: TcpListener,
    certificate: Arc<ServerConfig>,
}

impl Listeners {
    /// Binds first of all: a port in use, like a certificate that is missing, is found before anything is made or changed.
    pub(super) fn bind(settings: &Settings, clock: &Clock) -> Result<Self, StartError> {
        let secured = [settings.tls_listen, settings.connect_listen];
        let certificate = match secured {
            [None, None] => None,
            _ => Some(certificate::load(&settings.tls_dir, clock.now())?),
        };
        let secure = |address: Option<SocketAddr>, setting| match (address, &certificate) {
            (Some(address), Some(certificate)) => {
                let listener = bind(address, setting)?;
                Ok::<_, StartError>(Some(Secured { listener, certificate: Arc::clone(certificate) }))
            }
            _ => Ok(None),
        };
        Ok(Self {
            main: bind(settings.listen, "--listen or WXTOKEN_LISTEN")?,
            tls: secure(settings.tls_listen, "WXTOKEN_TLS_LISTEN")?,
            connect: secure(settings.connect_listen, "WXTOKEN_CONNECT_LISTEN")?,
        })
    }

    /// Where they are; a port that was left to the system is known here.
    pub(super) fn addresses(&self) -> io::Result<Addresses> {
        let of = |secured: &Option<Secured>| secured.as_ref().map(|secured| secured.listener.local_addr()).transpose();
        Ok(Addresses { main: self.main.local_addr()?, tls: of(&self.tls)?, connect: of(&self.connect)? })
    }

    /// Serves what is behind `door` once `answering` is cancelled. Until then connections wait in the listeners: a start is usually quicker than
    /// another attempt of a client would be.
    pub(super) fn serve(self, door: &Door, clock: &Clock, answering: CancellationToken) -> Serving {
        let handles = [Handle::new(), Handle::new(), Handle::new()];
        let ([main, tls, connect], door, clock) = (handles.clone(), door.clone(), clock.clone());
        let task = tokio::spawn(async move {
            answering.cancelled().await;
            let main = http::serve(self.main, door.clone(), main);
            let tls = async {
                let Some(Secured { listener, certificate }) = self.tls else { return Ok(()) };
                http::serve_tls(listener, certificate, door.clone(), tls).await
            };
            let connect = async {
                let Some(Secured { listener, certificate }) = self.connect else { return Ok(()) };
                http::serve_tunnels(listener, certificate, clock, door.clone(), connect).await
            };
            tokio::try_join!(main, tls, connect).map(|_| ())
        });
        Serving { handles, task }
    }
}

/// The listeners at work.
pub(super) struct Serving {
    handles: [Handle<SocketAddr>; 3],
    task: JoinHandle<io::Result<()>>,
}

impl Serving {
    /// Takes nobody in any more, and gives those who are in `limit`.
    pub(super) fn drain(&self, limit: Duration) {
        for handle in &self.handles {
            handle.graceful_shutdown(Some(limit));
        }
    }

    /// Waits for the end of all of them, or for the first that breaks.
    pub(super) async fn ended(&mut self) -> io::Result<()> {
        (&mut self.task).await.unwrap_or_else(|crash| Err(io::Error::other(crash)))
    }
}

fn bind(address: SocketAddr, setting: &'static str) -> Result<TcpListener, StartError> {
    let listener = TcpListener::bind(address);
    let listener = listener.map_err(|source| StartError::Listen { address, setting, source })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
