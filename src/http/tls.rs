//! Connections that begin with a TLS handshake, from SDKs that believe that this is WeChat.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum_server::accept::Accept;
use futures_util::future::BoxFuture;
use rustls::{AlertDescription, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::connection::{Connection, within};
use super::door::Visitor;

/// The host that SDKs have compiled in, and the only one that we pass for.
pub const HOST: &str = "api.weixin.qq.com";
/// How long a handshake may take.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// Takes connections in that speak TLS from the first byte.
#[derive(Clone)]
pub(super) struct TlsReception(Arc<ServerConfig>);

impl TlsReception {
    /// Shows the certificate of `tls`.
    pub(super) fn new(tls: Arc<ServerConfig>) -> Self {
        Self(tls)
    }
}

impl Accept<TcpStream, Visitor> for TlsReception {
    type Stream = Connection<TlsStream<TcpStream>>;
    type Service = Visitor;
    type Future = BoxFuture<'static, io::Result<(Self::Stream, Visitor)>>;

    fn accept(&self, stream: TcpStream, visitor: Visitor) -> Self::Future {
        let tls = Arc::clone(&self.0);
        Box::pin(async move {
            stream.set_nodelay(true)?;
            let stream = shake_hands(tls, stream, &visitor).await?;
            Ok((Connection::new(stream, &visitor), visitor))
        })
    }
}

/// The handshake, within its deadline.
pub(super) async fn shake_hands<S>(tls: Arc<ServerConfig>, stream: S, visitor: &Visitor) -> io::Result<TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let shaken = within(HANDSHAKE_DEADLINE, visitor, TlsAcceptor::from(tls).accept(stream)).await;
    shaken.inspect_err(|error| {
        // The one mistake that is made again and again, and that its maker sees as "SSL error" at best.
        if let Some(alert) = distrust(error) {
            tracing::info!(
                "a client refuses the certificate for {HOST} ({alert:?}): it must trust the ca.pem of this one"
            );
        } else {
            tracing::debug!(%error, "a TLS handshake came to nothing");
        }
    })
}

/// What a client says that refuses the certificate. One that trusts another CA of the same name finds a wrong signature.
fn distrust(error: &io::Error) -> Option<AlertDescription> {
    use AlertDescription::{BadCertificate, CertificateExpired, CertificateUnknown, DecryptError, UnknownCA};
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::AlertReceived(
            alert @ (UnknownCA | BadCertificate | CertificateUnknown | CertificateExpired | DecryptError),
        ) => Some(*alert),
        _ => None,
    }
}
