//! What somebody writes to the source or the target while they are copied.

use std::time::Duration;

use super::{BOUND, Deployment, mover_to};
use crate::store::raw::Raw;
use crate::support::database::{TestDatabase, on_both_servers};
use crate::support::proxy::{Fault, Proxy};
use crate::support::wait::eventually;

const WRONG: Option<i32> = Some(78);
const REWRITTEN: &str = "UPDATE wx_refresh_history SET errmsg = 'rewritten' WHERE appid = 'wx_plain'";
const DIFFERS: &str = "the rows of wx_refresh_history are not the same in both databases";
/// Long enough for each answer of the target that the move is still at its work when it is stopped.
const LAG: Duration = Duration::from_millis(50);

/// Moves, and runs `write` when the history is copied and nothing is compared yet. How the move ends.
async fn disturbed(deployment: &Deployment, target: &TestDatabase, write: impl AsyncFnOnce()) -> (Option<i32>, String) {
    let (proxy, url) = Proxy::in_front_of(target.url());
    proxy.set(Fault::Delay(LAG));
    let moving = mover_to(&deployment.database, &url).spawn();
    let copied = async || moving.output().contains("copied wx_refresh_history").then_some(());
    eventually(BOUND, "the history to be copied", copied).await;
    moving.stop();
    assert!(!moving.output().contains("copied wx_key"), "it was stopped too late: {}", moving.output());
    write().await;
    moving.cont();
    let status = moving.wait_exit(BOUND).await;
    (status.code(), moving.output())
}

on_both_servers! {
    async fn what_is_written_to_either_while_it_is_copied_is_found_out(target: TestDatabase) {
        let deployment = Deployment::new().await;
        deployment.moved_to(&target).await;
        for to_target in [true, false] {
            let mut raw = if to_target { Raw::connect(target.kind(), target.url()).await } else { deployment.raw().await };
            let (code, output) = disturbed(&deployment, &target, async || assert!(raw.run(REWRITTEN).await > 0)).await;
            assert_eq!(code, Some(1), "{output}");
            assert!(output.contains(DIFFERS), "{output}");
            // Once it is quiet the next one puts it right.
            deployment.moved_to(&target).await;
        }
    }

    async fn a_target_that_is_served_while_it_is_copied_is_left_as_it_is(target: TestDatabase) {
        let deployment = Deployment::new().await;
        deployment.moved_to(&target).await;
        let mut raw = Raw::connect(target.kind(), target.url()).await;
        // The trace of a claim, which was not there when the target was looked at.
        let claim = "UPDATE wx_token SET generation = generation + 1, leased_by = 'one' WHERE appid = 'wx_plain'";
        let (code, output) = disturbed(&deployment, &target, async || assert_eq!(raw.run(claim).await, 1)).await;
        assert_eq!(code, WRONG, "{output}");
        assert!(output.contains("has been served since it was copied"), "{output}");
        assert_eq!(raw.one("SELECT leased_by FROM wx_token WHERE appid = 'wx_plain'").await, "one");
    }
}
