//! wxtoken: a central token server for WeChat accounts.

pub mod clock;
pub mod config;
pub mod domain;
pub mod live;
pub mod refresher;
pub mod seal;
pub mod store;
pub mod wechat;
