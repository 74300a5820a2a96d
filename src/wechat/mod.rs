//! WeChat's edge. WeChat's own words (`errcode`, `expires_in`, `grant_type`) stay in this room.

pub mod errcode;

pub use errcode::Language;
