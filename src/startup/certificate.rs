//! The certificate for WeChat's host, from files to what the listeners show.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{RootCertStore, ServerConfig};
use zeroize::Zeroizing;

use super::key_file;
use crate::domain::timestamp::Timestamp;
use crate::http::HOST;

/// The certificate, and those by whose authority it is one.
pub(super) const CHAIN_FILE: &str = "api.weixin.qq.com.pem";
/// Its private key.
pub(super) const KEY_FILE: &str = "api.weixin.qq.com-key.pem";
/// Many certificates have room in this.
const LONGEST_FILE: u64 = 256 * 1024;
/// How long before its end a certificate is warned of.
const NEAR_END: Duration = Duration::from_hours(30 * 24);

/// Why there is no certificate to show.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file is not there.
    #[error(
        "WXTOKEN_TLS_LISTEN and WXTOKEN_CONNECT_LISTEN need {}, which does not exist; make it with `wxtoken ca init`, or name its \
         directory in WXTOKEN_TLS_DIR", path.display()
    )]
    Absent {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A private key that others may read.
    #[error("the private key in {} can be read by other users; run: chmod 600 '{}'", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// A file without what its name promises.
    #[error("there is no {what} in {}; make both files anew with `wxtoken ca init --renew`", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// Certificate and key do not belong together, or are of a kind that cannot be used.
    #[error(
        "the certificate in {} and the key in {} do not go together; make both anew with `wxtoken ca init --renew`",
        chain.display(),
        key.display()
    )]
    Mismatch {
        /// The certificate's file.
        chain: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
    /// A certificate for another host.
    #[error("the certificate in {} is not for {HOST}; make one with `wxtoken ca init`", path.display())]
    OtherHost {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
}

/// Reads certificate and key in `directory`. One that has ended, or will soon, is warned of: whether to go on with it is for its clients to say.
pub(super) fn load(directory: &Path, now: Timestamp) -> Result<Arc<ServerConfig>, CertificateError> {
    let (chain_path, key_path) = (directory.join(CHAIN_FILE), directory.join(KEY_FILE));
    let chain = read_chain(&chain_path)?;
    let key = PrivateKeyDer::from_pem_slice(&read_key(&key_path)?);
    let key = key.map_err(|_| CertificateError::Empty { path: key_path.clone(), what: "private key" })?;
    is_for_host(&chain[0]).map_err(|source| CertificateError::OtherHost { path: chain_path.clone(), source })?;
    warn_of_end(&chain, &chain_path, now);
    let shown = show(chain, key);
    shown.map_err(|source| CertificateError::Mismatch { chain: chain_path, key: key_path, source }).map(Arc::new)
}

fn show(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<ServerConfig, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let mut shown = builder.with_no_client_auth().with_single_cert(chain, key)?;
    shown.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(shown)
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let text = read(open(path)?, path)?;
    let chain = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>().unwrap_or_default();
    if chain.is_empty() {
        return Err(CertificateError::Empty { path: path.to_owned(), what: "certificate" });
    }
    Ok(chain)
}

/// Reads a private key's file, unless it is exposed.
pub(super) fn read_key(path: &Path) -> Result<Zeroizing<Vec<u8>>, CertificateError> {
    let file = open(path)?;
    match key_file::is_exposed(&file) {
        Ok(false) => Ok(Zeroizing::new(read(file, path)?)),
        Ok(true) => Err(CertificateError::Exposed { path: path.to_owned() }),
        Err(source) => Err(CertificateError::File { path: path.to_owned(), source }),
    }
}

fn open(path: &Path) -> Result<File, CertificateError> {
    File::open(path).map_err(|source| match source.kind() {
        ErrorKind::NotFound => CertificateError::Absent { path: path.to_owned() },
        _ => CertificateError::File { path: path.to_owned(), source },
    })
}

fn read(file: File, path: &Path) -> Result<Vec<u8>, CertificateError> {
    let mut bytes = Vec::new();
    let read = file.take(LONGEST_FILE).read_to_end(&mut bytes);
    read.map_err(|source| CertificateError::File { path: path.to_owned(), source })?;
    Ok(bytes)
}

fn is_for_host(certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
    rustls::client::verify_server_name(&ParsedCertificate::try_from(certificate)?, &host())
}

fn warn_of_end(chain: &[CertificateDer<'_>], path: &Path, now: Timestamp) {
    use rustls::CertificateError::{Expired, ExpiredContext};
    let has_ended = |at| {
        let error = accept(chain, at).err();
        matches!(error, Some(rustls::Error::InvalidCertificate(Expired | ExpiredContext { .. })))
    };
    let advice = "run `wxtoken ca init --renew` and start anew";
    if has_ended(now) {
        tracing::error!("the certificate in {} has ended, and clients refuse it: {advice}", path.display());
    } else if has_ended(now.plus(NEAR_END)) {
        tracing::warn!("the certificate in {} ends in less than 30 days: {advice}", path.display());
    }
}

/// Judges a chain as a client does that trusts its last certificate.
pub(super) fn accept(chain: &[CertificateDer<'_>], at: Timestamp) -> Result<(), rustls::Error> {
    let general = |error: rustls::server::VerifierBuilderError| rustls::Error::General(error.to_string());
    let ([leaf, .., root], [_, between @ .., _]) = (chain, chain) else {
        return Err(rustls::Error::NoCertificatesPresented);
    };
    let mut roots = RootCertStore::empty();
    roots.add(root.clone().into_owned())?;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build().map_err(general)?;
    let at = UnixTime::since_unix_epoch(at.since(Timestamp::ZERO));
    verifier.verify_server_cert(leaf, between, &host(), &[], at).map(|_| ())
}

fn host() -> ServerName<'static> {
    // A name that is no name would be refused as one for another host.
    ServerName::try_from(HOST).unwrap_or(ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into()))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
