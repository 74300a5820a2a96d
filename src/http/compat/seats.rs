//! How many calls are passed on at once, and how many of one account: one whose calls hang must leave room for the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::refusal::Refusal;
use crate::domain::account::AppId;

/// The seats of an instance.
pub(super) struct Seats {
    most: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    of_accounts: HashMap<AppId, usize>,
}

/// A seat, until it is dropped.
pub(super) struct Seat {
    seats: Arc<Seats>,
    account: Option<AppId>,
}

impl Seats {
    /// So many seats.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::default() })
    }

    /// A seat for a call of this account, or of nobody's. One account has half of them at most.
    pub(super) fn take(self: &Arc<Self>, account: Option<&AppId>) -> Result<Seat, Refusal> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = account.and_then(|appid| taken.of_accounts.get(appid)).copied().unwrap_or_default();
        if taken.all >= self.most {
            return Err(Refusal::BUSY.hint("too many calls are being forwarded; ask again"));
        }
        if own >= (self.most / 2).max(1) {
            return Err(Refusal::BUSY.hint("too many calls of this account are being forwarded; ask again"));
        }
        taken.all += 1;
        if let Some(appid) = account {
            taken.of_accounts.insert(appid.clone(), own + 1);
        }
        drop(taken);
        Ok(Seat { seats: Arc::clone(self), account: account.cloned() })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        if let Some(appid) = &self.account {
            match taken.of_accounts.get_mut(appid) {
                Some(own) if *own > 1 => *own -= 1,
                _ => drop(taken.of_accounts.remove(appid)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_account_leaves_half_of_the_seats_to_others() {
        let (seats, one, other) = (Seats::new(4), AppId::parse("wx1").unwrap(), AppId::parse("wx2").unwrap());
        let mut taken: Vec<_> = (0..2).map(|_| seats.take(Some(&one)).unwrap()).collect();
        assert!(seats.take(Some(&one)).is_err());
        taken.push(seats.take(Some(&other)).unwrap());
        taken.push(seats.take(None).unwrap());
        assert!(seats.take(Some(&other)).is_err() && seats.take(None).is_err());
        taken.clear();
        assert!(seats.take(Some(&one)).is_ok() && seats.taken.lock().unwrap().of_accounts.is_empty());
    }
}
