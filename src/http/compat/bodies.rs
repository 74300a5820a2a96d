//! Bodies on their way through us: kept while they are small, passed on piece by piece when they are not.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::BoxError;
use axum::body::Body;
use axum::http::{Response, StatusCode};
use bytes::{Buf, Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use memchr::memmem;
use serde::Deserialize;
use tokio::time::timeout;

use super::refusal::Refusal;
use super::seats::Seat;
use crate::http::body::{MOST_DISCARDED, discard};
use crate::http::hot::AnswerBody;
use crate::http::{BODY_DEADLINE, LARGEST_BODY};
use crate::wechat::CallError;
use crate::wechat::forward::Answer;

/// The longest answer that is looked into, in bytes; WeChat's refusals have a few hundred.
const LONGEST_REFUSAL: usize = 4 * 1024;

/// What is done with a caller's body.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyLimits {
    /// Up to how many bytes are kept, so that the call can be made again.
    pub(super) kept: u64,
    /// How many bytes are passed on at all.
    pub(super) largest: u64,
    /// How long the caller may be silent.
    pub(super) patience: Duration,
}

/// A body after its beginning was read.
pub(super) enum Gathered<B> {
    /// It was small.
    Whole(Bytes),
    /// It goes on.
    Begun(Upload<B>),
}

impl<B> Gathered<B> {
    /// All of the body, if it was small.
    pub(super) fn whole(&self) -> Option<&Bytes> {
        match self {
            Self::Whole(bytes) => Some(bytes),
            Self::Begun(_) => None,
        }
    }
}

/// Reads a body as far as it is kept. The pieces are copied: each of them would hold the whole buffer that it was read into.
pub(super) async fn gather<B>(mut body: B, limits: BodyLimits) -> Result<Gathered<B>, Refusal>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let announced = body.size_hint().lower();
    if announced > limits.largest {
        discard(&mut body).await;
        return Err(too_large(limits.largest));
    }
    let mut begun = BytesMut::new();
    while announced <= limits.kept && begun.len() as u64 <= limits.kept {
        if body.is_end_stream() {
            return Ok(Gathered::Whole(begun.freeze()));
        }
        let frame = timeout(limits.patience, body.frame())
            .await
            .map_err(|_| Refusal::BUSY.hint(format!("no more of the body came for {} s", limits.patience.as_secs())))?;
        match frame {
            None => return Ok(Gathered::Whole(begun.freeze())),
            Some(Err(_)) => return Err(Refusal::BUSY.hint("the body broke off before its end")),
            Some(Ok(frame)) => begun.extend_from_slice(frame.data_ref().map_or(&[], Bytes::as_ref)),
        }
    }
    let left = limits.largest.saturating_sub(begun.len() as u64);
    Ok(Gathered::Begun(Upload { begun: begun.freeze(), body, left, excess: Arc::default(), discarded: 0 }))
}

/// Reads a body that must be small, within 10 s in all; `otherwise` is the answer to one that is not.
pub(super) async fn read_small<B>(body: B, otherwise: Refusal) -> Result<Bytes, Refusal>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let limits = BodyLimits { kept: LARGEST_BODY as u64, largest: u64::MAX, patience: BODY_DEADLINE };
    let late = Refusal::BUSY.hint("the body did not arrive within 10 seconds");
    match timeout(BODY_DEADLINE, gather(body, limits)).await.map_err(|_| late)?? {
        Gathered::Whole(bytes) => Ok(bytes),
        Gathered::Begun(mut upload) => {
            discard(&mut upload).await;
            Err(otherwise)
        }
    }
}

/// The refusal of a body that is larger than `largest` bytes.
pub(super) fn too_large(largest: u64) -> Refusal {
    Refusal::TOO_LARGE.hint(format!("at most {largest} bytes are forwarded (WXTOKEN_FORWARD_LARGEST)"))
}

/// A body of which the beginning was read, as it is sent on.
pub(super) struct Upload<B> {
    begun: Bytes,
    body: B,
    /// How many more bytes are passed on.
    left: u64,
    excess: Arc<AtomicBool>,
    /// How many bytes were thrown away after that.
    discarded: usize,
}

/// The body is longer than what is passed on.
#[derive(Debug, thiserror::Error)]
#[error("the body is larger than what is forwarded")]
struct Excess;

impl<B> Upload<B> {
    /// Becomes true when the body turns out to be too large.
    pub(super) fn excess(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.excess)
    }
}

impl<B: HttpBody<Data = Bytes> + Unpin> Upload<B> {
    /// Ends with an error, after reading on for a while: a caller who is cut off while it sends may lose the answer.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        while let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            let length = frame.and_then(Result::ok).and_then(|frame| frame.into_data().ok()).map(|piece| piece.len());
            match length.and_then(|length| self.discarded.checked_add(length)) {
                Some(discarded) if discarded <= MOST_DISCARDED => self.discarded = discarded,
                _ => return Poll::Ready(Some(Err(Excess.into()))),
            }
        }
        Poll::Pending
    }
}

impl<B> HttpBody for Upload<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if !self.begun.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.begun)))));
        }
        if self.excess.load(Ordering::Relaxed) {
            return self.poll_discard(cx);
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx).map_err(Into::into);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            let length = frame.data_ref().map_or(0, |piece| piece.remaining() as u64);
            let Some(left) = self.left.checked_sub(length) else {
                self.excess.store(true, Ordering::Relaxed);
                return self.poll_discard(cx);
            };
            self.left = left;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.begun.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (begun, rest) = (self.begun.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(begun + rest.lower());
        if let Some(upper) = rest.upper() {
            hint.set_upper(begun + upper);
        }
        hint
    }
}

/// An answer on its way to the caller. The seat is given back when it ends, or when the caller hangs up.
struct Download {
    begun: Bytes,
    rest: Answer,
    _seat: Seat,
}

impl HttpBody for Download {
    type Data = Bytes;
    type Error = CallError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CallError>>> {
        if !self.begun.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.begun)))));
        }
        Pin::new(&mut self.rest).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.begun.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // What was announced is in the headers.
        if self.begun.is_empty() { self.rest.size_hint() } else { SizeHint::default() }
    }
}

/// An answer of which as much was read as tells whether it is a refusal.
pub(super) struct Seen {
    answer: Response<Answer>,
    begun: Bytes,
    /// WeChat's code, if the answer has one.
    pub(super) errcode: Option<i64>,
}

impl Seen {
    /// The answer as it goes to the caller.
    pub(super) fn into_response(self, seat: Seat) -> Response<AnswerBody> {
        let begun = self.begun;
        self.answer.map(|rest| {
            if rest.is_end_stream() {
                return AnswerBody::from(begun);
            }
            AnswerBody::Routed(Body::new(Download { begun, rest, _seat: seat }))
        })
    }

    /// An answer that is not looked into.
    pub(super) fn unread(answer: Response<Answer>) -> Self {
        Self { answer, begun: Bytes::new(), errcode: None }
    }
}

#[derive(Deserialize)]
struct Outcome {
    errcode: Option<i64>,
}

/// Looks for WeChat's code in an answer that is short and an object; anything else is passed on at once.
pub(super) async fn look_into(mut answer: Response<Answer>) -> Result<Seen, CallError> {
    if answer.status() != StatusCode::OK || answer.body().size_hint().lower() > LONGEST_REFUSAL as u64 {
        return Ok(Seen::unread(answer));
    }
    let mut begun = BytesMut::new();
    // To its very end: only then is the connection ready for the next call.
    while let Some(frame) = answer.body_mut().frame().await {
        begun.extend_from_slice(frame?.data_ref().map_or(&[], Bytes::as_ref));
        if begun.len() > LONGEST_REFUSAL || !begins_an_object(&begun) {
            return Ok(Seen { answer, begun: begun.freeze(), errcode: None });
        }
    }
    let text = begun.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&begun);
    // Only what holds the word is worth reading.
    let is_outcome = memmem::find(text, b"errcode").is_some();
    let errcode = is_outcome.then(|| serde_json::from_slice::<Outcome>(text).ok()).flatten();
    Ok(Seen { answer, begun: begun.freeze(), errcode: errcode.and_then(|outcome| outcome.errcode) })
}

fn begins_an_object(piece: &[u8]) -> bool {
    let piece = piece.strip_prefix(b"\xef\xbb\xbf").unwrap_or(piece).trim_ascii_start();
    piece.first().is_none_or(|first| *first == b'{')
}

#[cfg(test)]
mod tests {
    use http_body_util::{Full, StreamBody};

    use super::*;

    const LIMITS: BodyLimits = BodyLimits { kept: 10, largest: 30, patience: Duration::from_secs(1) };

    fn pieces(pieces: &[&'static str]) -> impl HttpBody<Data = Bytes, Error = std::io::Error> + Unpin + use<> {
        let frames: Vec<_> = pieces.iter().map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes())))).collect();
        StreamBody::new(futures_util::stream::iter(frames))
    }

    async fn begun(
        parts: &[&'static str],
    ) -> Upload<impl HttpBody<Data = Bytes, Error = std::io::Error> + Unpin + use<>> {
        match gather(pieces(parts), LIMITS).await {
            Ok(Gathered::Begun(upload)) => upload,
            Ok(Gathered::Whole(_)) | Err(_) => unreachable!("it is larger than what is kept, and announces nothing"),
        }
    }

    #[tokio::test]
    async fn a_small_body_is_kept_and_a_large_one_passed_on_whole() {
        let small = gather(pieces(&["12345", "67890"]), LIMITS).await.unwrap();
        assert_eq!(small.whole().map(|bytes| &bytes[..]), Some(&b"1234567890"[..]));
        let large = begun(&["12345", "678901", "x", "y"]).await;
        assert_eq!(large.collect().await.unwrap().to_bytes(), "12345678901xy");
    }

    #[tokio::test]
    async fn a_body_past_the_limit_ends_with_an_error() {
        let announced = gather(Full::new(Bytes::from(vec![0; 31])), LIMITS).await;
        assert!(matches!(announced, Err(refusal) if refusal == too_large(30)));
        let upload = begun(&["123456789012345"; 3]).await;
        let excess = upload.excess();
        assert!(upload.collect().await.is_err() && excess.load(Ordering::Relaxed));
        let upload = begun(&["123456789012345"; 2]).await;
        assert_eq!(upload.collect().await.unwrap().to_bytes().len(), 30);
    }

    #[test]
    fn only_what_begins_like_an_object_is_read_on() {
        for object in ["{", " \n{\"", "", "  ", "\u{feff}{"] {
            assert!(begins_an_object(object.as_bytes()), "{object}");
        }
        for other in ["[", "<xml>", "\u{ff}\u{d8}", "a{"] {
            assert!(!begins_an_object(other.as_bytes()), "{other}");
        }
    }
}
