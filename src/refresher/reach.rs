//! Whether this instance reaches WeChat at all.
//!
//! An instance that is cut off from WeChat wins claims like any other and fails each of them at once, faster than its peers succeed. So after
//! a few calls in a row for which no connection came about, it claims one token a scan, and only one that its peers leave lying, until WeChat
//! has answered again. A call that hangs says nothing of the kind: that may be the account's own trouble.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::wechat::CallError;

/// So many calls in a row without a connection mean that WeChat is out of reach.
const ENOUGH: u32 = 3;

/// How many calls in a row found no connection.
#[derive(Default)]
pub(super) struct Reach {
    missed: AtomicU32,
}

impl Reach {
    /// Takes note of how a call ended.
    pub(super) fn note<T>(&self, ended: &Result<T, CallError>) {
        match ended {
            Err(CallError::Connect(_)) => {
                if self.missed.fetch_add(1, Ordering::Relaxed) + 1 == ENOUGH {
                    tracing::error!(
                        "WeChat is out of reach; leaving tokens to other instances, and trying one at a time, until it answers"
                    );
                }
            }
            // Nothing was sent.
            Err(CallError::NotATicket) => {}
            Ok(_) | Err(_) => {
                if self.missed.swap(0, Ordering::Relaxed) >= ENOUGH {
                    tracing::info!("WeChat answers again");
                }
            }
        }
    }

    /// Whether WeChat is out of reach.
    pub(super) fn is_lost(&self) -> bool {
        self.missed.load(Ordering::Relaxed) >= ENOUGH
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wechat::ConnectFault;

    #[test]
    fn three_calls_without_a_connection_and_no_other_in_between_mean_that_wechat_is_out_of_reach() {
        let reach = Reach::default();
        let missed: Result<(), _> = Err(CallError::Connect(ConnectFault::Refused));
        for ended in [&missed, &missed, &Ok(()), &missed, &missed, &Err(CallError::Broken), &missed, &missed] {
            reach.note(ended);
            assert!(!reach.is_lost());
        }
        reach.note(&missed);
        assert!(reach.is_lost());
        reach.note(&missed);
        assert!(reach.is_lost());
        reach.note(&Ok(()));
        assert!(!reach.is_lost());
    }
}
