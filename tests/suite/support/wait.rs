//! Waiting for a state, never for a length of time.

use std::time::Duration;

const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// Looks again and again until `probe` has an answer. After `bound` the test fails with `what` it was waiting for.
pub(crate) async fn eventually<T>(bound: Duration, what: &str, probe: impl AsyncFnMut() -> Option<T>) -> T {
    match within(bound, probe).await {
        Some(answer) => answer,
        None => panic!("waited {bound:?} in vain for {what}"),
    }
}

/// The same, for a caller with more to say about a failure: `None` after `bound`.
pub(crate) async fn within<T>(bound: Duration, mut probe: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let looking = async {
        loop {
            if let Some(answer) = probe().await {
                return answer;
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    };
    tokio::time::timeout(bound, looking).await.ok()
}
