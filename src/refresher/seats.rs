//! Who may call WeChat now: a bounded number of seats, so shared out that a crowd of accounts in trouble cannot take them all.
//!
//! A call that hangs keeps its seat until its deadline. So whoever may hang is kept to a part: three quarters for everything but the
//! scheduled refresh of a token that did well so far, and within that, half of all for tokens whose last call failed. A token that did
//! well and hangs for the first time cannot be told from the others; it does so once, and is then one that failed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::domain::refresh::Trigger;
use crate::domain::token::{Standing, Token};

/// What a call may use of the seats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    /// Every seat.
    Whole,
    /// Three quarters.
    Most,
    /// A half, which is part of those three quarters.
    Half,
}

impl Share {
    /// The share of a call for this token. What callers can cause is bounded too: they may ask as often as they like.
    pub(super) const fn of(token: &Token, trigger: Trigger) -> Self {
        match (token.standing(), trigger) {
            (Standing::Proven, Trigger::FirstUse | Trigger::Report | Trigger::Manual) => Self::Most,
            (standing, _) => Self::of_scheduled(standing),
        }
    }

    /// The share of scheduled refreshes of tokens of this standing.
    pub(super) const fn of_scheduled(standing: Standing) -> Self {
        match standing {
            Standing::Proven => Self::Whole,
            Standing::New => Self::Most,
            Standing::Failing => Self::Half,
        }
    }
}

/// The seats of one instance. Each share lies within the next larger one.
pub(super) struct Seats {
    whole: Arc<Semaphore>,
    most: Arc<Semaphore>,
    half: Arc<Semaphore>,
    bell: Bell,
}

/// The right to make one call, until it is dropped.
pub(super) struct Seat {
    _permits: [Option<OwnedSemaphorePermit>; 3],
    // After the permits: whoever hears it finds them free.
    _bell: Bell,
}

/// Rings when a seat becomes free that somebody has looked for in vain.
#[derive(Clone)]
struct Bell {
    wanted: Arc<AtomicBool>,
    ring: Arc<Notify>,
}

impl Drop for Bell {
    fn drop(&mut self) {
        if self.wanted.swap(false, Ordering::Relaxed) {
            self.ring.notify_one();
        }
    }
}

impl Seats {
    /// So many seats in all; `ring` is notified when one becomes free after [`Seats::free`] found none.
    pub(super) fn new(seats: u32, ring: Arc<Notify>) -> Self {
        let seats = seats.max(1) as usize;
        let of = |seats: usize| Arc::new(Semaphore::new(seats.max(1)));
        let bell = Bell { wanted: Arc::default(), ring };
        Self { whole: of(seats), most: of(seats * 3 / 4), half: of(seats / 2), bell }
    }

    /// How many calls of this share could begin now.
    pub(super) fn free(&self, share: Share) -> usize {
        let free = self.pools(share).into_iter().flatten().map(|pool| pool.available_permits()).min().unwrap_or(0);
        if free == 0 {
            self.bell.wanted.store(true, Ordering::Relaxed);
        }
        free
    }

    /// A seat, if one is free.
    pub(super) fn take(&self, share: Share) -> Option<Seat> {
        let mut permits = [None, None, None];
        for (permit, pool) in permits.iter_mut().zip(self.pools(share)) {
            if let Some(pool) = pool {
                *permit = Some(Arc::clone(pool).try_acquire_owned().ok()?);
            }
        }
        Some(Seat { _permits: permits, _bell: self.bell.clone() })
    }

    /// Waits for a seat behind those who came before.
    pub(super) async fn wait_for(&self, share: Share) -> Seat {
        let mut permits = [None, None, None];
        for (permit, pool) in permits.iter_mut().zip(self.pools(share)) {
            if let Some(pool) = pool {
                // Never fails: the semaphores are not closed.
                *permit = Arc::clone(pool).acquire_owned().await.ok();
            }
        }
        Seat { _permits: permits, _bell: self.bell.clone() }
    }

    /// The semaphores that a call of this share needs, the narrowest first: who waits there holds nothing that others need.
    const fn pools(&self, share: Share) -> [Option<&Arc<Semaphore>>; 3] {
        match share {
            Share::Whole => [None, None, Some(&self.whole)],
            Share::Most => [None, Some(&self.most), Some(&self.whole)],
            Share::Half => [Some(&self.half), Some(&self.most), Some(&self.whole)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seats(number: u32) -> (Seats, Arc<Notify>) {
        let ring = Arc::new(Notify::new());
        (Seats::new(number, Arc::clone(&ring)), ring)
    }

    fn take_all(seats: &Seats, share: Share) -> Vec<Seat> {
        std::iter::from_fn(|| seats.take(share)).collect()
    }

    #[test]
    fn a_quarter_is_for_tokens_that_did_well_and_a_quarter_at_least_for_those_that_never_failed() {
        for (number, [half, most]) in [(64, [32, 48]), (3, [1, 2]), (2, [1, 1]), (1, [1, 1])] {
            let (seats, _) = seats(number);
            let failing = take_all(&seats, Share::Half);
            let new = take_all(&seats, Share::Most);
            let proven = take_all(&seats, Share::Whole);
            assert_eq!([failing.len(), failing.len() + new.len()], [half, most], "{number}");
            assert_eq!(failing.len() + new.len() + proven.len(), number as usize);
            drop(new);
            assert_eq!(seats.free(Share::Most), most - half);
        }
    }

    #[test]
    fn tokens_that_did_well_may_use_every_seat() {
        let (seats, _) = seats(64);
        let taken = take_all(&seats, Share::Whole);
        assert_eq!(taken.len(), 64);
        assert_eq!((seats.free(Share::Half), seats.free(Share::Most)), (0, 0));
    }

    #[tokio::test]
    async fn who_found_no_seat_hears_of_the_next_one() {
        let (seats, ring) = seats(4);
        let mut taken = take_all(&seats, Share::Whole);
        taken.pop();
        assert_eq!(seats.free(Share::Whole), 1, "nobody has looked in vain yet");
        drop(taken.pop());
        let heard = async || tokio::time::timeout(std::time::Duration::from_millis(20), ring.notified()).await.is_ok();
        assert!(!heard().await);
        taken.extend(take_all(&seats, Share::Whole));
        assert_eq!(seats.free(Share::Whole), 0);
        taken.pop();
        assert!(heard().await);
        assert_eq!(seats.free(Share::Whole), 1);
    }

    #[tokio::test]
    async fn a_crowd_that_waits_takes_no_more_than_its_share() {
        let (seats, _) = seats(4);
        let seats = Arc::new(seats);
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let seats = Arc::clone(&seats);
            waiting.spawn(async move {
                let _seat = seats.wait_for(Share::Most).await;
                std::future::pending::<()>().await;
            });
        }
        while seats.free(Share::Most) > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(take_all(&seats, Share::Whole).len(), 1);
    }
}
