//! The change feed: which token has which version now, as server-sent events. Never a value.
//!
//! The feed is of states, not of steps: what counts is the newest version of each token. An event's `id` is a moment, in milliseconds, up to
//! which the subscriber has been told everything that the database had. Whoever comes back with it, to whichever instance, is told of every token
//! that was stored after that moment less [`OVERLAP`]; after a restart that is every token. So an event may come twice, and its version says that
//! it is no news. Without an id the feed begins with the next change, and with the id 0 it begins with everything.
//!
//! A token without a value that lives has no event: not when it dies, nor when its account is disabled or removed.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderMap, HeaderName};
use axum::response::IntoResponse;
use axum::response::sse::{Event, Sse};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep_until};

use crate::domain::timestamp::Timestamp;
use crate::domain::token::TokenKey;
use crate::http::Rooms;
use crate::http::body::Parameters;
use crate::http::caller::{Caller, ReadTokens, hash_of_key};
use crate::http::problem::{Code, Problem};
use crate::http::routes::{Routes, Verb};

/// The most streams at once, of one instance.
const MOST_STREAMS: usize = 1_024;
/// The most streams of one key at once, of one instance.
const MOST_STREAMS_OF_KEY: usize = 64;
/// When to try again for whom there was no room.
const FULL_PAUSE: Duration = Duration::from_secs(10);
/// How long a stream is silent at most. The comment carries the newest id, so that a quiet feed's last id is not old.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How often a stream looks whether its key is still good. The view learns of a revocation within a second.
const KEY_CHECK: Duration = Duration::from_secs(2);
/// What a client is told to wait before it comes back.
const RECONNECT: Duration = Duration::from_secs(1);
/// How much more than asked for is repeated: hosts' clocks differ by less, and a transaction that was stored before a look at the database is seen by
/// the next one at the latest.
const OVERLAP: Duration = Duration::from_secs(5);

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Proxies of the nginx kind hold an answer back until it is long; this tells them not to.
const UNBUFFERED: (HeaderName, &str) = (HeaderName::from_static("x-accel-buffering"), "no");

pub(super) fn add_to(routes: Routes) -> Routes {
    routes.guarded(Verb::Get, "/v1/events", subscribe)
}

/// The streams of this instance, counted.
#[derive(Debug, Clone, Default)]
pub struct Streams(Arc<Mutex<HashMap<String, usize>>>);

/// A place among the streams, until it is dropped.
struct Place {
    streams: Streams,
    key_id: String,
}

impl Streams {
    /// A place for one more stream of this key; `None` when there is none.
    fn enter(&self, key_id: &str) -> Option<Place> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = counts.get(key_id).copied().unwrap_or_default();
        if own >= MOST_STREAMS_OF_KEY || counts.values().sum::<usize>() >= MOST_STREAMS {
            return None;
        }
        counts.insert(key_id.to_owned(), own + 1);
        drop(counts);
        Some(Place { streams: self.clone(), key_id: key_id.to_owned() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.streams.0.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(&self.key_id) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(counts.remove(&self.key_id)),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoParameters {}

async fn subscribe(
    caller: Caller<ReadTokens>,
    State(rooms): State<Arc<Rooms>>,
    Parameters(NoParameters {}): Parameters<NoParameters>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Problem> {
    let from = last_event_id(&headers)?;
    let hash = hash_of_key(&rooms, &headers)?;
    let place = rooms.streams.enter(&caller.key.id).ok_or_else(|| {
        Problem::new(
            Code::TooManyStreams,
            "too many event streams are open; one for each process is enough, and an instance serves 64 of a key and 1024 in all",
        )
        .retry_after(FULL_PAUSE)
    })?;
    let feed = Feed::new(rooms, hash, from, place);
    let events = stream::unfold(feed, async |mut feed: Feed| {
        let event = feed.next().await?;
        Some((Ok::<_, Infallible>(event), feed))
    });
    Ok(([(CACHE_CONTROL, "no-store"), UNBUFFERED], Sse::new(Box::pin(events))))
}

/// The moment that a subscriber names who comes back.
fn last_event_id(headers: &HeaderMap) -> Result<Option<Timestamp>, Problem> {
    let mut given = headers.get_all(LAST_EVENT_ID).iter();
    let (first, second) = (given.next(), given.next());
    // Some clients send it empty before their first event.
    let Some(id) = first.filter(|id| !id.is_empty()) else { return Ok(None) };
    // A sign would be read, and a leading zero is not ours.
    let millis = id.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()) && second.is_none());
    let millis = millis.and_then(|text| text.parse().ok());
    millis.map(Timestamp::from_millis).map(Some).ok_or_else(|| {
        Problem::new(
            Code::InvalidRequest,
            "Last-Event-ID is the id of an event of this feed; send 0 for every token, or leave it out for changes from now on",
        )
    })
}

/// One subscriber's way through the changes.
struct Feed {
    rooms: Arc<Rooms>,
    key_hash: [u8; 32],
    changes: Receiver<TokenKey>,
    /// Tokens still to be told of from an earlier time, as they are then.
    backlog: Vec<TokenKey>,
    /// What the subscriber will have been told everything up to when the backlog is empty, if there was one.
    reaches: Option<Timestamp>,
    /// What it has been told everything up to.
    told: Timestamp,
    greeted: bool,
    speak_at: Instant,
    check_at: Instant,
    _place: Place,
}

#[derive(Serialize)]
struct Change<'a> {
    appid: &'a str,
    token_type: &'static str,
    version: i64,
    fingerprint: &'a str,
    expires_at: String,
}

impl Feed {
    fn new(rooms: Arc<Rooms>, key_hash: [u8; 32], from: Option<Timestamp>, place: Place) -> Self {
        // Listens before it looks, so that nothing falls between.
        let changes = rooms.live.changes();
        let (now, synced_at) = (Instant::now(), rooms.live.synced_at());
        // An id from after now was given before the database's clock was set back, and says nothing any more.
        let is_sound = |from: &Timestamp| *from <= synced_at.plus(OVERLAP);
        let told = from.map_or(synced_at, |from| Some(from).filter(is_sound).unwrap_or(Timestamp::ZERO));
        let (speak_at, check_at) = (now + KEEP_ALIVE, now + KEY_CHECK);
        let mut feed = Self {
            rooms,
            key_hash,
            changes,
            backlog: Vec::new(),
            reaches: None,
            told,
            greeted: false,
            speak_at,
            check_at,
            _place: place,
        };
        if from.is_some() {
            feed.look_back();
        }
        feed
    }

    /// Has everything told again that was stored since the subscriber was told everything.
    fn look_back(&mut self) {
        let (live, now) = (&self.rooms.live, self.rooms.clock.now());
        self.reaches = Some(live.synced_at());
        let span = now.since(self.told.minus(OVERLAP));
        let key = live.key(&self.key_hash);
        let reached = |token: &TokenKey| key.as_ref().is_some_and(|key| key.accounts.contains(token.appid.as_str()));
        self.backlog = live.tokens_stored_since(Instant::now().checked_sub(span));
        self.backlog.retain(reached);
    }

    /// The next event; `None` when the stream ends.
    async fn next(&mut self) -> Option<Event> {
        if !std::mem::replace(&mut self.greeted, true) {
            return Some(self.keep_alive().retry(RECONNECT));
        }
        loop {
            if self.rooms.draining.is_cancelled() || !self.is_welcome() {
                return None;
            }
            if let Some(key) = self.backlog.pop() {
                match self.event(&key, self.told) {
                    Some(event) => return Some(self.spoken(event)),
                    None => continue,
                }
            }
            self.told = self.reaches.take().unwrap_or(self.told);
            tokio::select! {
                () = self.rooms.draining.cancelled() => return None,
                () = sleep_until(self.check_at) => {}
                changed = self.changes.recv() => match changed {
                    Ok(key) => {
                        self.note_progress();
                        if let Some(event) = self.event(&key, self.told) {
                            return Some(self.spoken(event));
                        }
                    }
                    Err(RecvError::Lagged(_)) => {
                        // The look at everything finds what is still held for this subscriber, too.
                        self.changes = self.changes.resubscribe();
                        self.look_back();
                    }
                    Err(RecvError::Closed) => return None,
                },
                () = sleep_until(self.speak_at) => {
                    self.note_progress();
                    return Some(self.keep_alive());
                }
            }
        }
    }

    /// When no change waits, everything has been told that the view had when it last agreed with the database.
    fn note_progress(&mut self) {
        let synced_at = self.rooms.live.synced_at();
        if self.changes.is_empty() {
            self.told = synced_at;
        }
    }

    /// Whether the key is still good; looked at every two seconds.
    fn is_welcome(&mut self) -> bool {
        if Instant::now() < self.check_at {
            return true;
        }
        self.check_at = Instant::now() + KEY_CHECK;
        let now = self.rooms.clock.now();
        self.rooms.live.key(&self.key_hash).is_some_and(|key| key.is_usable(now))
    }

    fn event(&self, token: &TokenKey, id: Timestamp) -> Option<Event> {
        let (live, now) = (&self.rooms.live, self.rooms.clock.now());
        let key = live.key(&self.key_hash)?;
        let account = live.account(token.appid.as_str()).filter(|live| live.account.enabled)?;
        let held = account.token(token.token_type).filter(|_| key.accounts.contains(token.appid.as_str()))?;
        let value = held.token.valid(now)?;
        let change = Change {
            appid: token.appid.as_str(),
            token_type: token.token_type.as_str(),
            version: held.token.version,
            fingerprint: &value.fingerprint,
            expires_at: value.life.until.to_rfc3339(),
        };
        let event = Event::default().id(id.as_millis().to_string()).event("token");
        event.json_data(change).ok()
    }

    /// A comment for whoever closes silent connections. The id with it is taken over by clients although no event comes of it.
    fn keep_alive(&mut self) -> Event {
        let event = Event::default().comment("keep-alive").id(self.told.as_millis().to_string());
        self.spoken(event)
    }

    fn spoken(&mut self, event: Event) -> Event {
        self.speak_at = Instant::now() + KEEP_ALIVE;
        event
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn places_are_counted_for_each_key_and_in_all_and_given_back() {
        let streams = Streams::default();
        let mut places: Vec<_> = (0..MOST_STREAMS_OF_KEY).map(|_| streams.enter("k0").unwrap()).collect();
        assert!(streams.enter("k0").is_none());
        let others = MOST_STREAMS - MOST_STREAMS_OF_KEY;
        places.extend((0..others).map(|number| streams.enter(&format!("x{}", number / 60)).unwrap()));
        assert!(streams.enter("another").is_none());
        places.remove(0);
        assert!(streams.enter("another").is_some());
        drop(places);
        assert!(streams.0.lock().unwrap().is_empty());
    }

    #[test]
    fn an_id_is_a_number_of_milliseconds() {
        let read = |ids: &[&str]| {
            let pairs = ids.iter().map(|id| (LAST_EVENT_ID, HeaderValue::from_str(id).unwrap()));
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(name, value);
            }
            last_event_id(&headers)
        };
        assert_eq!((read(&[]).unwrap(), read(&[""]).unwrap()), (None, None));
        assert_eq!(read(&["0"]).unwrap(), Some(Timestamp::ZERO));
        assert_eq!(read(&["1763625600123"]).unwrap(), Some(Timestamp::from_millis(1_763_625_600_123)));
        for bad in [&["-1"][..], &["+1"], &["1.5"], &["x"], &["9223372036854775808"], &["1", "2"]] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
