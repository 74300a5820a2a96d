//! The body of a request as it arrives: kept where an endpoint reads it, counted and hashed where it only passes through.

use axum::body::Body;
use futures_util::StreamExt;
use sha2::{Digest, Sha256};

use super::request::Endpoint;
use crate::domain::hexadecimal;

/// The longest body of an endpoint that reads it, in bytes. A longer one ends the connection.
const LONGEST_BODY: usize = 16 * 1024 * 1024;
/// How much of a body is kept where nobody reads it, in bytes: enough for the echo and for `rid/get`.
pub(super) const KEPT_BYTES: usize = 4 * 1024;

/// A body that was read to its end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Received {
    /// The body, or its first [`KEPT_BYTES`] where it only passes through.
    pub(super) kept: Vec<u8>,
    /// Its length in bytes, all of it.
    pub(super) length: u64,
    /// The SHA-256 of all of it, in hexadecimal; empty for endpoints that read their body.
    pub(super) sha256: String,
}

impl Received {
    /// Reads `body`, sent to `endpoint`. `None` when it broke off or is longer than its endpoint reads.
    pub(super) async fn read(body: Body, endpoint: Endpoint) -> Option<Self> {
        if endpoint.takes_any_length() {
            return Self::passing(body).await;
        }
        let kept = axum::body::to_bytes(body, LONGEST_BODY).await.ok()?.to_vec();
        Some(Self { length: u64::try_from(kept.len()).unwrap_or(u64::MAX), kept, sha256: String::new() })
    }

    async fn passing(body: Body) -> Option<Self> {
        let (mut received, mut hash, mut chunks) = (Self::default(), Sha256::new(), body.into_data_stream());
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.ok()?;
            let room = KEPT_BYTES - received.kept.len();
            received.kept.extend_from_slice(&chunk[..chunk.len().min(room)]);
            received.length += u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            hash.update(&chunk);
        }
        received.sha256 = hexadecimal(&hash.finalize());
        Some(received)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use futures_util::stream;

    use super::*;

    #[tokio::test]
    async fn a_body_that_passes_through_is_counted_and_not_kept() {
        let chunks = (0..320).map(|_| Ok::<_, Infallible>(Bytes::from(vec![b'a'; 64 * 1024])));
        let received = Received::read(Body::from_stream(stream::iter(chunks)), Endpoint::Business).await.unwrap();
        assert_eq!((received.kept.len(), received.length), (KEPT_BYTES, 20 * 1024 * 1024));
        let small = Received::read(Body::from("abc"), Endpoint::MediaUpload).await.unwrap();
        assert_eq!(small.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(small.kept, b"abc");
    }

    #[tokio::test]
    async fn a_body_that_is_read_has_a_limit() {
        let body = |length: usize| Body::from(vec![b'a'; length]);
        assert_eq!(Received::read(body(LONGEST_BODY + 1), Endpoint::StableToken).await, None);
        let received = Received::read(body(LONGEST_BODY), Endpoint::StableToken).await.unwrap();
        assert_eq!(received.kept.len(), LONGEST_BODY);
    }
}
