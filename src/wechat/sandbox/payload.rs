//! The bytes of an answer: text that is at hand, or a file that is made while it is sent.

use std::convert::Infallible;
use std::io;
use std::sync::LazyLock;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;

/// The pattern of a file repeats after this many bytes: a prime number, so that a piece in the wrong place shows.
const PERIOD: usize = 251;
/// The most bytes of a file that are handed to the socket at once.
const PIECE_BYTES: usize = 64 * 1024;

/// How long a reader has for the first half before the connection ends, which loses what it has not taken.
const BEFORE_THE_BREAK: Duration = Duration::from_millis(50);

/// As much of the pattern as a piece can take from any place of it.
static PATTERN: LazyLock<Bytes> = LazyLock::new(|| {
    let period = 0..=u8::MAX;
    period.take(PERIOD).cycle().take(PERIOD + PIECE_BYTES).collect()
});

/// What is still to be sent.
#[derive(Debug, Clone)]
pub(super) enum Payload {
    /// Text, sound or damaged.
    Text(Bytes),
    /// A file: byte `n` of it is `n mod 251`.
    Pattern {
        /// The place of the next byte in the file.
        at: u64,
        /// The file's length.
        end: u64,
    },
}

impl Payload {
    /// Its length in bytes.
    pub(super) fn length(&self) -> u64 {
        match self {
            Self::Text(text) => u64::try_from(text.len()).unwrap_or(u64::MAX),
            Self::Pattern { at, end } => end - at,
        }
    }

    /// Takes the next bytes, `most` at most.
    fn take(&mut self, most: usize) -> Bytes {
        match self {
            Self::Text(text) => text.split_to(most.min(text.len())),
            Self::Pattern { at, end } => {
                let length = usize::try_from(*end - *at).unwrap_or(usize::MAX).min(most).min(PIECE_BYTES);
                let start = usize::try_from(*at % PERIOD as u64).unwrap_or_default();
                *at += length as u64;
                PATTERN.slice(start..start + length)
            }
        }
    }

    /// All of it, at the reader's pace.
    pub(super) fn whole(self) -> Body {
        match self {
            Self::Text(text) => Body::from(text),
            Self::Pattern { .. } => self.pieces(PIECE_BYTES, Duration::ZERO),
        }
    }

    /// One byte at a time.
    pub(super) fn drip(self, interval: Duration) -> Body {
        self.pieces(1, interval)
    }

    fn pieces(self, most: usize, interval: Duration) -> Body {
        let pieces = stream::unfold((self, false), move |(mut rest, begun)| async move {
            if rest.length() == 0 {
                return None;
            }
            if begun && !interval.is_zero() {
                tokio::time::sleep(interval).await;
            }
            let piece = rest.take(most);
            Some((Ok::<_, Infallible>(piece), (rest, true)))
        });
        Body::from_stream(pieces)
    }

    /// The first half, and then the end of the connection.
    pub(super) fn half(self) -> Body {
        let end = self.length() / 2;
        let half = match self {
            Self::Text(text) => Self::Text(text.slice(..text.len() / 2)),
            Self::Pattern { .. } => Self::Pattern { at: 0, end },
        };
        let pieces = stream::unfold(half, |mut rest| async move {
            if rest.length() > 0 {
                let piece = rest.take(PIECE_BYTES);
                return Some((Ok(piece), rest));
            }
            // A pending body makes hyper flush what it has; an error at once would discard it.
            tokio::time::sleep(BEFORE_THE_BREAK).await;
            Some((Err(io::Error::from(io::ErrorKind::UnexpectedEof)), rest))
        });
        Body::from_stream(pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_its_pattern_however_it_is_cut() {
        for most in [1, 250, PIECE_BYTES, usize::MAX] {
            let mut payload = Payload::Pattern { at: 0, end: 200_000 };
            let mut file = Vec::new();
            while payload.length() > 0 {
                file.extend_from_slice(&payload.take(most));
            }
            assert_eq!(file.len(), 200_000);
            assert!(file.iter().enumerate().all(|(place, byte)| usize::from(*byte) == place % PERIOD), "{most}");
        }
    }
}
