//! What the store promises, on each of the three databases: every statement of the program runs here on all of them.

mod accounts;
mod adoption;
mod budgets;
mod claims;
mod doubt;
mod failures;
mod fencing;
mod fixture;
mod history;
mod keys;
mod late;
mod lifecycle;
mod master_key;
mod migrations;
mod mirrors;
mod newer;
mod plans;
mod probes;
mod questions;
pub(crate) mod raw;
mod retention;
mod sealed;
mod settles;
mod unreadable;
mod views;
