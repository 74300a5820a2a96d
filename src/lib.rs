//! wxtoken: a central token server for WeChat accounts.

pub mod cli;
pub mod clock;
pub mod config;
pub mod domain;
mod fail_point;
pub mod http;
pub mod live;
pub mod mirror;
pub mod refresher;
pub mod seal;
pub mod startup;
pub mod store;
pub mod wechat;
