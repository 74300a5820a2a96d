//! One piece of work for any number of callers who want it at the same time.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio_util::task::TaskTracker;

use super::RefreshError;

type Landing<V> = Shared<BoxFuture<'static, Result<V, RefreshError>>>;

/// The work under way, by what it is for.
pub(super) struct Flights<K, V> {
    under_way: Arc<Mutex<HashMap<K, Landing<V>>>>,
}

impl<K, V> Default for Flights<K, V> {
    fn default() -> Self {
        Self { under_way: Arc::default() }
    }
}

impl<K: Eq + Hash + Clone + Send + 'static, V: Clone + Send + Sync + 'static> Flights<K, V> {
    /// Waits for the work for `key`: what is under way, or else what `start` makes. The work is a task of its own and goes on when the
    /// callers leave.
    pub(super) async fn join<F>(
        &self,
        key: K,
        tasks: &TaskTracker,
        start: impl FnOnce() -> F,
    ) -> Result<V, RefreshError>
    where
        F: Future<Output = Result<V, RefreshError>> + Send + 'static,
    {
        let landing = {
            let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(landing) = under_way.get(&key) {
                landing.clone()
            } else {
                let landed = Landed { under_way: Arc::clone(&self.under_way), key: key.clone() };
                let work = start();
                let task = tasks.spawn(async move {
                    let _landed = landed;
                    work.await
                });
                let landing = task.map(|result| result.unwrap_or(Err(RefreshError::Crashed))).boxed().shared();
                under_way.insert(key, landing.clone());
                landing
            }
        };
        landing.await
    }
}

/// Takes a flight off the list when its work ends, also by a panic.
struct Landed<K: Eq + Hash, V> {
    under_way: Arc<Mutex<HashMap<K, Landing<V>>>>,
    key: K,
}

impl<K: Eq + Hash, V> Drop for Landed<K, V> {
    fn drop(&mut self) {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_crowd_shares_one_flight_and_the_next_caller_starts_another() {
        let flights = Arc::new(Flights::<&str, u32>::default());
        let tasks = TaskTracker::new();
        let started = Arc::new(AtomicU32::new(0));
        let (open, gate) = tokio::sync::watch::channel(false);
        let fly = |flights: Arc<Flights<&'static str, u32>>, mut gate: tokio::sync::watch::Receiver<bool>| {
            let (tasks, started) = (tasks.clone(), Arc::clone(&started));
            tokio::spawn(async move {
                let work = || async move {
                    let number = started.fetch_add(1, Ordering::SeqCst) + 1;
                    gate.wait_for(|open| *open).await.unwrap();
                    Ok(number)
                };
                flights.join("key", &tasks, work).await
            })
        };
        let crowd: Vec<_> = (0..50).map(|_| fly(Arc::clone(&flights), gate.clone())).collect();
        while flights.under_way.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        // Everybody is spawned before the gate opens; on one thread they have all joined once each was polled.
        tokio::task::yield_now().await;
        open.send(true).unwrap();
        for caller in crowd {
            assert_eq!(caller.await.unwrap().unwrap(), 1);
        }
        assert_eq!(fly(Arc::clone(&flights), gate).await.unwrap().unwrap(), 2);
    }

    #[tokio::test]
    async fn a_panic_reaches_the_callers_and_clears_the_way() {
        let flights = Flights::<&str, u32>::default();
        let tasks = TaskTracker::new();
        let crash = || async { Err(RefreshError::Crashed) };
        let panicking = || async { Vec::<Result<u32, RefreshError>>::new().remove(0) };
        assert!(matches!(flights.join("key", &tasks, panicking).await, Err(RefreshError::Crashed)));
        assert!(flights.under_way.lock().unwrap().is_empty());
        assert!(flights.join("key", &tasks, crash).await.is_err());
    }
}
