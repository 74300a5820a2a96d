//! What the tests stand on: databases of their own, the program as a child process, a client, and bounded waiting.

pub(crate) mod api;
pub(crate) mod cache_server;
pub(crate) mod clock;
pub(crate) mod database;
pub(crate) mod own_server;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod raw;
pub(crate) mod sandbox;
pub(crate) mod wait;
