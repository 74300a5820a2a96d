//! The one integration test binary: real databases, the real program, a simulated WeChat. `tests/run.sh` installs and
//! starts what it needs.

#![expect(clippy::panic, clippy::expect_used, reason = "in a test a panic is how a failure is reported")]

mod api;
mod asking;
mod commands;
mod compat;
mod house;
mod lifecycle;
mod mirrors;
mod moving;
mod outages;
mod promises;
mod rivals;
mod sdk;
mod sql_rules;
mod store;
#[expect(dead_code, reason = "written ahead of the server: the tests that start it use the rest")]
mod support;
mod support_works;
mod tls;
