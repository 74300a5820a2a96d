//! Places where tests make a task go wrong. Without the feature `fail-points` they are nothing.

/// Goes wrong here when the environment says `WXTOKEN_FAIL_POINT=name`, or `name:n` at the n-th time it comes by, after saying so in the
/// log. What happens then may follow: `=stop`, which is also the default, stops this task for good, so that whoever set it can
/// kill the process; `=panic` panics; `=hang` stops it for 15 s.
#[cfg(feature = "fail-points")]
pub(crate) async fn pass(name: &'static str) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[expect(clippy::disallowed_methods, reason = "no setting of the product; exists only in test builds")]
    static WANTED: LazyLock<Option<(String, u32, String)>> = LazyLock::new(|| {
        let text = std::env::var("WXTOKEN_FAIL_POINT").ok()?;
        let (place, deed) = text.split_once('=').unwrap_or((&text, "stop"));
        let (name, nth) = place.split_once(':').unwrap_or((place, "1"));
        Some((name.to_owned(), nth.parse().ok()?, deed.to_owned()))
    });
    static PASSED: AtomicU32 = AtomicU32::new(0);

    if let Some((wanted, nth, deed)) = &*WANTED
        && wanted == name
        && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *nth
    {
        tracing::warn!("fail point {name} reached");
        match deed.as_str() {
            "hang" => tokio::time::sleep(std::time::Duration::from_secs(15)).await,
            #[expect(clippy::panic, reason = "exists only in test builds")]
            "panic" => panic!("fail point {name}"),
            _ => std::future::pending().await,
        }
    }
}

/// Nothing.
#[cfg(not(feature = "fail-points"))]
#[expect(clippy::unused_async, reason = "the same shape as in test builds")]
pub(crate) async fn pass(_name: &'static str) {}
