//! The master key, and what it protects: `AppSecret`s and token values are sealed before they reach the database.
//!
//! One key of 32 bytes; HKDF-SHA-256 derives a sub-key per purpose. A sealed column is base64 of
//! `format (1 byte) ‖ key id (4) ‖ nonce (24) ‖ ciphertext ‖ tag (16)` under XChaCha20-Poly1305, whose nonces are long enough to be random on
//! any number of instances. Table, column, appid and token type are authenticated with it, so that a ciphertext moved to another place
//! does not open. A whole row put back to an older state does open: the seal knows places, not times.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use rand::TryRng;
use rand::rngs::SysRng;
use secrecy::{ExposeSecret, SecretBox, SecretString};
use sha2::Sha256;
use zeroize::Zeroizing;

pub use crate::domain::hexadecimal;
use crate::domain::secret::TokenValue;

const FORMAT: u8 = 1;
const KEY_ID_BYTES: usize = 4;
const NONCE_BYTES: usize = 24;
const CHECK_TEXT: &str = "wxtoken master key";

/// Where a sealed text stands. It opens nowhere else.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The table.
    pub table: &'a str,
    /// The column.
    pub column: &'a str,
    /// The account, or empty where there is none.
    pub appid: &'a str,
    /// The token type, or empty where there is none.
    pub token_type: &'a str,
}

const CHECK_PLACE: Place<'static> = Place { table: "wx_master_key", column: "check_value", appid: "", token_type: "" };

/// Why sealing or opening failed. Never holds any of the texts.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SealError {
    /// The stored text is not a sealed text.
    #[error("this is not a sealed text")]
    Malformed,
    /// The text was sealed under another master key.
    #[error("this was sealed under master key {sealed_under}, and the present key is {present}")]
    OtherKey {
        /// The identifier of the key that sealed it.
        sealed_under: String,
        /// The identifier of the key that we have.
        present: String,
    },
    /// The text was altered, or moved here from another row or column.
    #[error("this sealed text was altered or moved from another place")]
    Altered,
    /// The operating system gave no random bytes, or the cipher refused.
    #[error("sealing failed: the operating system gave no random bytes")]
    NoRandomness,
}

/// Why a text is no master key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MasterKeyError {
    /// Not base64 at all.
    #[error("the master key is not base64; make one with `wxtoken master-key generate`")]
    NotBase64,
    /// Another number of bytes.
    #[error("the master key has {0} bytes where 32 are needed; make one with `wxtoken master-key generate`")]
    WrongLength(usize),
    /// Too regular to be random.
    #[error("the master key is a placeholder, not random bytes; make one with `wxtoken master-key generate`")]
    Placeholder,
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes")]
    NoRandomness,
}

/// 32 random bytes from which every other key is derived.
pub struct MasterKey(SecretBox<[u8; 32]>);

impl MasterKey {
    /// Makes a new key.
    pub fn generate() -> Result<Self, MasterKeyError> {
        let mut bytes = Zeroizing::new([0_u8; 32]);
        random_bytes(bytes.as_mut_slice()).ok_or(MasterKeyError::NoRandomness)?;
        Ok(Self(SecretBox::new(Box::new(*bytes))))
    }

    /// Reads a key from base64, padded or not; white space around it is passed over.
    ///
    /// # Errors
    /// When it is not base64 of 32 bytes, or fewer than 12 of the bytes differ: random ones practically never are that alike.
    pub fn parse(text: &str) -> Result<Self, MasterKeyError> {
        let text = text.trim().trim_end_matches('=');
        let bytes = Zeroizing::new(STANDARD_NO_PAD.decode(text).map_err(|_| MasterKeyError::NotBase64)?);
        let bytes: Zeroizing<[u8; 32]> =
            Zeroizing::new(bytes.as_slice().try_into().map_err(|_| MasterKeyError::WrongLength(bytes.len()))?);
        let different = bytes.iter().collect::<std::collections::BTreeSet<_>>().len();
        let is_text = bytes.iter().all(u8::is_ascii_graphic);
        if different < 12 || is_text {
            return Err(MasterKeyError::Placeholder);
        }
        Ok(Self(SecretBox::new(Box::new(*bytes))))
    }

    /// The key as base64, to store or show once.
    pub fn to_base64(&self) -> SecretString {
        STANDARD.encode(self.0.expose_secret()).into()
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(***)")
    }
}

/// Seals, opens, fingerprints and hashes under one master key.
#[derive(Clone)]
pub struct Sealer {
    cipher: XChaCha20Poly1305,
    key_id: [u8; KEY_ID_BYTES],
    fingerprint: Hmac<Sha256>,
    key_hash: Hmac<Sha256>,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer(key {})", self.key_id())
    }
}

impl Sealer {
    /// Derives the sub-keys of `master_key`.
    pub fn new(master_key: &MasterKey) -> Self {
        let hkdf = Hkdf::<Sha256>::new(Some(b"wxtoken"), master_key.0.expose_secret());
        let mut key_id = [0; KEY_ID_BYTES];
        key_id.copy_from_slice(&derive(&hkdf, "key-id")[..KEY_ID_BYTES]);
        Self {
            cipher: XChaCha20Poly1305::new((&*derive(&hkdf, "seal")).into()),
            key_id,
            fingerprint: hmac_of(&derive(&hkdf, "fingerprint")),
            key_hash: hmac_of(&derive(&hkdf, "api-key")),
        }
    }

    /// The identifier of the master key, 8 hexadecimal digits. It says nothing about the key.
    pub fn key_id(&self) -> String {
        hexadecimal(&self.key_id)
    }

    /// Seals `text` for `place`.
    pub fn seal(&self, place: Place<'_>, text: &str) -> Result<String, SealError> {
        let mut nonce = [0_u8; NONCE_BYTES];
        random_bytes(&mut nonce).ok_or(SealError::NoRandomness)?;
        let aad = self.authenticated(place);
        let sealed = self
            .cipher
            .encrypt(&XNonce::from(nonce), Payload { msg: text.as_bytes(), aad: &aad })
            .map_err(|_| SealError::NoRandomness)?;
        let mut envelope = Vec::with_capacity(1 + KEY_ID_BYTES + NONCE_BYTES + sealed.len());
        envelope.push(FORMAT);
        envelope.extend_from_slice(&self.key_id);
        envelope.extend_from_slice(&nonce);
        envelope.extend_from_slice(&sealed);
        Ok(STANDARD_NO_PAD.encode(envelope))
    }

    /// Opens what [`Sealer::seal`] made for the same `place`.
    pub fn open(&self, place: Place<'_>, sealed: &str) -> Result<SecretString, SealError> {
        let envelope = STANDARD_NO_PAD.decode(sealed).map_err(|_| SealError::Malformed)?;
        let rest = envelope.strip_prefix(&[FORMAT]).ok_or(SealError::Malformed)?;
        let (key_id, rest) = rest.split_first_chunk::<KEY_ID_BYTES>().ok_or(SealError::Malformed)?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(SealError::Malformed)?;
        if *key_id != self.key_id {
            return Err(SealError::OtherKey { sealed_under: hexadecimal(key_id), present: self.key_id() });
        }
        let aad = self.authenticated(place);
        let opened = self
            .cipher
            .decrypt(&XNonce::from(*nonce), Payload { msg: ciphertext, aad: &aad })
            .map(Zeroizing::new)
            .map_err(|_| SealError::Altered)?;
        std::str::from_utf8(&opened).map(SecretString::from).map_err(|_| SealError::Altered)
    }

    /// A sealed constant to keep in the database, by which the key proves itself before the first write.
    pub fn check_value(&self) -> Result<String, SealError> {
        self.seal(CHECK_PLACE, CHECK_TEXT)
    }

    /// Whether `check_value` was made under this key.
    pub fn verify(&self, check_value: &str) -> Result<(), SealError> {
        let opened = self.open(CHECK_PLACE, check_value)?;
        if opened.expose_secret() == CHECK_TEXT { Ok(()) } else { Err(SealError::Altered) }
    }

    /// The keyed fingerprint of a token value: 16 hexadecimal digits, equal for equal values under one master key.
    pub fn fingerprint(&self, value: &TokenValue) -> String {
        hexadecimal(&mac(&self.fingerprint, value.expose())[..8])
    }

    /// The keyed hash under which one of our own keys is stored and looked up. Two hash rounds are enough: the keys are random.
    pub fn hash_key(&self, key: &str) -> [u8; 32] {
        mac(&self.key_hash, key)
    }

    fn authenticated(&self, place: Place<'_>) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        bytes.extend_from_slice(&self.key_id);
        for part in [place.table, place.column, place.appid, place.token_type] {
            bytes.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        bytes
    }
}

/// Fills `bytes` from the operating system's random source; `None` when it fails.
pub fn random_bytes(bytes: &mut [u8]) -> Option<()> {
    SysRng.try_fill_bytes(bytes).ok()
}

fn derive(hkdf: &Hkdf<Sha256>, purpose: &str) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    #[expect(clippy::expect_used, reason = "HKDF-SHA-256 refuses only lengths over 8,160 bytes, and this is 32")]
    hkdf.expand(purpose.as_bytes(), key.as_mut_slice()).expect("32 bytes are a valid length");
    key
}

fn hmac_of(key: &[u8; 32]) -> Hmac<Sha256> {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
    Hmac::new_from_slice(key).expect("every length is a valid HMAC key")
}

fn mac(keyed: &Hmac<Sha256>, text: &str) -> [u8; 32] {
    let mut mac = keyed.clone();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place<'static> =
        Place { table: "wx_token", column: "value_sealed", appid: "wx1", token_type: "access_token" };

    fn sealer() -> Sealer {
        Sealer::new(&MasterKey::generate().unwrap())
    }

    #[test]
    fn a_sealed_text_opens_in_its_place_only() {
        let sealer = sealer();
        let sealed = sealer.seal(PLACE, "canary").unwrap();
        assert!(!sealed.contains("canary"));
        assert_eq!(sealer.open(PLACE, &sealed).unwrap().expose_secret(), "canary");
        for elsewhere in [
            Place { table: "wx_account", ..PLACE },
            Place { column: "previous_sealed", ..PLACE },
            Place { appid: "wx2", ..PLACE },
            Place { token_type: "jsapi_ticket", ..PLACE },
            Place { appid: "wx1access_token", token_type: "", ..PLACE },
        ] {
            assert_eq!(sealer.open(elsewhere, &sealed).unwrap_err(), SealError::Altered);
        }
    }

    #[test]
    fn another_key_is_named_and_a_flipped_bit_is_seen() {
        let (sealer, other) = (sealer(), sealer());
        let sealed = sealer.seal(PLACE, "canary").unwrap();
        assert_eq!(
            other.open(PLACE, &sealed).unwrap_err(),
            SealError::OtherKey { sealed_under: sealer.key_id(), present: other.key_id() }
        );
        assert!(other.verify(&sealer.check_value().unwrap()).is_err());
        assert_eq!(sealer.verify(&sealer.check_value().unwrap()), Ok(()));
        let envelope = STANDARD_NO_PAD.decode(&sealed).unwrap();
        for at in 0..envelope.len() {
            let mut flipped = envelope.clone();
            flipped[at] ^= 1;
            assert!(sealer.open(PLACE, &STANDARD_NO_PAD.encode(&flipped)).is_err(), "byte {at}");
            assert!(sealer.open(PLACE, &STANDARD_NO_PAD.encode(&envelope[..at])).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_frozen_envelope_still_opens() {
        let key: Vec<u8> = (0..32_u8).map(|n| n.wrapping_mul(73).wrapping_add(200)).collect();
        let sealer = Sealer::new(&MasterKey::parse(&STANDARD.encode(key)).unwrap());
        assert_eq!(sealer.open(PLACE, FROZEN).unwrap().expose_secret(), "frozen in 2026");
        assert_eq!(sealer.fingerprint(&TokenValue::parse("84_abc").unwrap()), FROZEN_FINGERPRINT);
    }

    const FROZEN: &str = "AcKwMvn3XT2VU1ASGTycrBRP6tLUdRKzb1RsY8BSgIJirqxwHpp6q+x0P7HVbsGdcMPk6CPmW5NvSnM";
    const FROZEN_FINGERPRINT: &str = "dbd396ace64b8273";

    #[test]
    fn master_keys_must_be_random() {
        assert!(MasterKey::parse(MasterKey::generate().unwrap().to_base64().expose_secret()).is_ok());
        assert_eq!(MasterKey::parse("not base64!").unwrap_err(), MasterKeyError::NotBase64);
        assert_eq!(MasterKey::parse("c2hvcnQ=").unwrap_err(), MasterKeyError::WrongLength(5));
        for placeholder in [[0_u8; 32], *b"change-me-change-me-change-me-32", *b"0123456789abcdef0123456789abcdef"] {
            assert_eq!(MasterKey::parse(&STANDARD.encode(placeholder)).unwrap_err(), MasterKeyError::Placeholder);
        }
    }

    #[test]
    fn nothing_shows_in_debug_output() {
        let key = MasterKey::generate().unwrap();
        let text = key.to_base64();
        assert!(!format!("{key:?} {:?} {text:?}", Sealer::new(&key)).contains(text.expose_secret()));
    }
}
