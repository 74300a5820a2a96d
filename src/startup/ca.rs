//! A CA of our own that can vouch for WeChat's host and for nothing else, and the certificate by it.
//!
//! Whoever trusts this CA lets its owner pass for WeChat, and for nobody else: its names are constrained, and it makes no further CAs. The same
//! parameters are needed to issue as were used to make it, so they are fixed here, and every certificate is judged as a client would before it is kept.

use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::Remedy;
use super::certificate::{self, CHAIN_FILE, CertificateError, KEY_FILE};
use super::draft::Draft;
use crate::domain::timestamp::Timestamp;
use crate::http::HOST;

/// What clients are to trust.
const CA_FILE: &str = "ca.pem";
const CA_KEY_FILE: &str = "ca-key.pem";
const CA_NAME: &str = "wxtoken CA for api.weixin.qq.com only";
const DAY: Duration = Duration::from_hours(24);
/// Clocks of clients may be behind.
const BACKDATED: Duration = DAY;
const CA_DAYS: u32 = 3_650;
/// Apple's systems accept no more of a CA that was added by hand.
const LEAF_DAYS: u32 = 825;
const FOR_EVERYBODY: u32 = 0o644;

/// Why there are no new files.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A CA is there already.
    #[error("there is a CA already: {}; it stays as it is, and `--renew` makes a new certificate with it", path.display())]
    Exists {
        /// Its certificate.
        path: PathBuf,
    },
    /// A file has the name of one that is to be made.
    #[error("{} exists, and is not replaced; remove it, or choose another directory with --dir", path.display())]
    InTheWay {
        /// The file.
        path: PathBuf,
    },
    /// A renewal without the CA.
    #[error("--renew needs the CA, and {} does not exist; without --renew a new CA is made", path.display())]
    NoCa {
        /// The missing file.
        path: PathBuf,
    },
    /// The CA's files cannot be used.
    #[error("the CA cannot be used")]
    Unusable(#[from] CertificateError),
    /// A file of the CA without what its name promises.
    #[error("there is no {what} in {}; bring the file back, or make a new CA in another directory with --dir", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// A certificate by this CA would be refused by clients.
    #[error(
        "clients would refuse a certificate by the CA in {}: it has ended, or `wxtoken ca init` did not make it; make a new one in another \
         directory with --dir", path.display()
    )]
    Refused {
        /// The CA's certificate.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// A file could not be made.
    #[error("cannot make {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The library did not make the certificate.
    #[error("the certificate could not be made")]
    Making(#[from] rcgen::Error),
}

impl CaError {
    pub(super) fn remedy(&self) -> Remedy {
        match self {
            Self::Exists { .. } | Self::NoCa { .. } => Remedy::OtherCommand,
            Self::Unusable(_) => Remedy::MendSettings,
            Self::InTheWay { .. } | Self::Empty { .. } | Self::Refused { .. } | Self::File { .. } | Self::Making(_) => {
                Remedy::Other
            }
        }
    }
}

/// What was made.
#[derive(Debug)]
pub struct Issued {
    /// The new files.
    pub files: Vec<PathBuf>,
    /// What clients are to trust.
    pub ca: PathBuf,
    /// The last moment of the certificate.
    pub until: Timestamp,
}

/// Makes a CA and a certificate by it in `directory`; with `renew` only the latter, by the CA that is there.
///
/// # Errors
/// See [`CaError`]. No file is ever replaced, but certificate and key of the host by a renewal.
pub fn init_ca(directory: &Path, renew: bool, now: Timestamp) -> Result<Issued, CaError> {
    if renew { reissue(directory, now) } else { found(directory, now) }
}

/// A CA, ready to issue.
struct Authority {
    certificate: CertificateDer<'static>,
    pem: String,
    key: KeyPair,
}

fn found(directory: &Path, now: Timestamp) -> Result<Issued, CaError> {
    let path = |name: &str| directory.join(name);
    let ca = path(CA_FILE);
    if ca.exists() {
        return Err(CaError::Exists { path: ca });
    }
    if let Some(path) = [CA_KEY_FILE, CHAIN_FILE, KEY_FILE].map(path).into_iter().find(|path| path.exists()) {
        return Err(CaError::InTheWay { path });
    }
    fs::create_dir_all(directory).map_err(|source| CaError::File { path: directory.to_owned(), source })?;
    let key = KeyPair::generate()?;
    let certificate = ca_parameters(now)?.self_signed(&key)?;
    let authority = Authority { pem: certificate.pem(), certificate: certificate.into(), key };
    let (leaf, leaf_key) = issue(&authority, &ca, now)?;
    // The CA's certificate comes last: with it, everything is there.
    let files = [
        Writing::private(path(CA_KEY_FILE), &authority.key)?,
        Writing::private(path(KEY_FILE), &leaf_key)?,
        Writing::public(path(CHAIN_FILE), &chain(&leaf, &authority))?,
        Writing::public(ca.clone(), &authority.pem)?,
    ];
    let files = files.into_iter().map(Writing::keep).collect::<Result<_, _>>()?;
    Ok(Issued { files, ca, until: end(LEAF_DAYS, now) })
}

fn reissue(directory: &Path, now: Timestamp) -> Result<Issued, CaError> {
    let (ca, ca_key) = (directory.join(CA_FILE), directory.join(CA_KEY_FILE));
    for path in [&ca, &ca_key] {
        if !path.exists() {
            return Err(CaError::NoCa { path: path.clone() });
        }
    }
    let authority = read(&ca, &ca_key)?;
    let (leaf, leaf_key) = issue(&authority, &ca, now)?;
    // A server that starts between the two finds that they do not go together, and says to do this again.
    let files = [
        Writing::private(directory.join(KEY_FILE), &leaf_key)?,
        Writing::public(directory.join(CHAIN_FILE), &chain(&leaf, &authority))?,
    ];
    let files = files.into_iter().map(Writing::replace).collect::<Result<_, _>>()?;
    Ok(Issued { files, ca, until: end(LEAF_DAYS, now) })
}

fn read(ca: &Path, ca_key: &Path) -> Result<Authority, CaError> {
    let pem = fs::read_to_string(ca).map_err(|source| CertificateError::File { path: ca.to_owned(), source })?;
    let empty = |path: &Path, what| CaError::Empty { path: path.to_owned(), what };
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| empty(ca, "certificate"))?;
    let key = certificate::read_key(ca_key)?;
    let key = std::str::from_utf8(&key).ok().and_then(|text| KeyPair::from_pem(text).ok());
    Ok(Authority { certificate, pem, key: key.ok_or_else(|| empty(ca_key, "private key"))? })
}

fn ca_parameters(now: Timestamp) -> Result<CertificateParams, rcgen::Error> {
    let mut parameters = dated(CertificateParams::new(Vec::new())?, CA_DAYS, now);
    parameters.distinguished_name = named(CA_NAME);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let permitted_subtrees = vec![GeneralSubtree::DnsName(HOST.to_owned())];
    // Names of a kind that is not mentioned would be free: addresses are the other kind that servers are known by.
    let addresses = [CidrSubnet::V4([0; 4], [0; 4]), CidrSubnet::V6([0; 16], [0; 16])];
    let excluded_subtrees = addresses.map(GeneralSubtree::IpAddress).into();
    parameters.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees });
    Ok(parameters)
}

/// A certificate for the host that clients accept, and its key.
fn issue(authority: &Authority, ca: &Path, now: Timestamp) -> Result<(Certificate, KeyPair), CaError> {
    let key = KeyPair::generate()?;
    let mut parameters = dated(CertificateParams::new(vec![HOST.to_owned()])?, LEAF_DAYS, now);
    parameters.distinguished_name = named(HOST);
    parameters.is_ca = IsCa::ExplicitNoCa;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    parameters.use_authority_key_identifier_extension = true;
    let issuer = Issuer::new(ca_parameters(now)?, &authority.key);
    let certificate = parameters.signed_by(&key, &issuer)?;
    let accepted = certificate::accept(&[certificate.der().clone(), authority.certificate.clone()], now);
    accepted.map_err(|source| CaError::Refused { path: ca.to_owned(), source })?;
    Ok((certificate, key))
}

fn dated(mut parameters: CertificateParams, days: u32, now: Timestamp) -> CertificateParams {
    let day = |moment: Timestamp| {
        OffsetDateTime::from_unix_timestamp(moment.as_millis() / 1_000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    };
    parameters.not_before = day(now.minus(BACKDATED));
    parameters.not_after = day(end(days, now));
    parameters
}

/// The last second of `days` that begin a little before `now`.
fn end(days: u32, now: Timestamp) -> Timestamp {
    now.minus(BACKDATED).plus(DAY * days).minus(Duration::from_secs(1))
}

fn named(name: &str) -> DistinguishedName {
    let mut full = DistinguishedName::new();
    full.push(DnType::CommonName, name);
    full
}

fn chain(leaf: &Certificate, authority: &Authority) -> String {
    format!("{}{}", leaf.pem(), authority.pem)
}

/// A file that is complete, and not yet under its name.
struct Writing {
    draft: Draft,
    path: PathBuf,
}

impl Writing {
    fn private(path: PathBuf, key: &KeyPair) -> Result<Self, CaError> {
        Self::of(path, Zeroizing::new(key.serialize_pem()).as_bytes(), None)
    }

    fn public(path: PathBuf, text: &str) -> Result<Self, CaError> {
        Self::of(path, text.as_bytes(), Some(FOR_EVERYBODY))
    }

    fn of(path: PathBuf, bytes: &[u8], mode: Option<u32>) -> Result<Self, CaError> {
        let write = || {
            let mut draft = Draft::beside(&path)?;
            draft.file.write_all(bytes)?;
            if let Some(mode) = mode {
                draft.file.set_permissions(Permissions::from_mode(mode))?;
            }
            Ok(draft)
        };
        match write() {
            Ok(draft) => Ok(Self { draft, path }),
            Err(source) => Err(CaError::File { path, source }),
        }
    }

    fn keep(self) -> Result<PathBuf, CaError> {
        match self.draft.keep_as(&self.path) {
            Ok(true) => Ok(self.path),
            Ok(false) => Err(CaError::InTheWay { path: self.path }),
            Err(source) => Err(CaError::File { path: self.path, source }),
        }
    }

    fn replace(self) -> Result<PathBuf, CaError> {
        match self.draft.replace(&self.path) {
            Ok(()) => Ok(self.path),
            Err(source) => Err(CaError::File { path: self.path, source }),
        }
    }
}
