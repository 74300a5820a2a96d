//! Places where tests stop the program to kill it. Without the feature `fail-points` they are nothing.

/// Stops this task for good when the environment says `WXTOKEN_FAIL_POINT=name`, or `name:n` at the n-th time it comes by, after saying
/// so in the log. Whoever set it then kills the process.
#[cfg(feature = "fail-points")]
pub(super) async fn pass(name: &'static str) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[expect(clippy::disallowed_methods, reason = "no setting of the product; exists only in test builds")]
    static WANTED: LazyLock<Option<(String, u32)>> = LazyLock::new(|| {
        let text = std::env::var("WXTOKEN_FAIL_POINT").ok()?;
        let (name, nth) = text.split_once(':').unwrap_or((&text, "1"));
        Some((name.to_owned(), nth.parse().ok()?))
    });
    static PASSED: AtomicU32 = AtomicU32::new(0);

    if let Some((wanted, nth)) = &*WANTED
        && wanted == name
        && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *nth
    {
        tracing::warn!("fail point {name} reached");
        std::future::pending::<()>().await;
    }
}

/// Nothing.
#[cfg(not(feature = "fail-points"))]
#[expect(clippy::unused_async, reason = "the same shape as in test builds")]
pub(super) async fn pass(_name: &'static str) {}
