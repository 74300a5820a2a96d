//! WeChat's edge: the client that asks it for tokens, and the dictionary of its error codes.
//!
//! WeChat's own words (`errcode`, `expires_in`, `grant_type`) stay in this room. Its answers are hostile input: they are
//! capped, cleaned and checked here, and no error that leaves the room can hold a secret, a token or a URL.

mod answer;
mod base_url;
mod clean;
pub mod client;
pub mod errcode;
mod error;
pub mod forward;
pub mod sandbox;

pub use answer::Answer;
pub use base_url::is_url_of_this_machine;
pub use clean::LONGEST_ERRMSG;
pub use client::{Client, ClientError, ClientSettings, Host, LARGEST_ANSWER, UrlFault};
pub use errcode::Language;
pub use error::{CallError, ConnectFault, Refusal};
