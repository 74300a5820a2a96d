//! The table of routes. The router is built through it, so that the table cannot miss one; and a guarded route is only accepted for a
//! handler whose first argument is a [`Caller`], so that none can forget to ask who calls.

use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodFilter, on};

use super::Rooms;
use super::caller::{Caller, Needs};
use crate::domain::key::Action;

/// One method of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteInfo {
    /// The method. A `GET` answers `HEAD` too.
    pub method: Method,
    /// The path; `{appid}` and the like stand for one segment.
    pub path: &'static str,
    /// The action that the caller's key must have; `None` where no key is asked for.
    pub action: Option<Action>,
}

/// The methods that routes have.
#[derive(Debug, Clone, Copy)]
pub(super) enum Verb {
    Get,
    Post,
    Patch,
    Delete,
}

impl Verb {
    const fn method(self) -> Method {
        match self {
            Self::Get => Method::GET,
            Self::Post => Method::POST,
            Self::Patch => Method::PATCH,
            Self::Delete => Method::DELETE,
        }
    }

    const fn filter(self) -> MethodFilter {
        match self {
            Self::Get => MethodFilter::GET,
            Self::Post => MethodFilter::POST,
            Self::Patch => MethodFilter::PATCH,
            Self::Delete => MethodFilter::DELETE,
        }
    }
}

/// A handler's arguments of which the first is a `Caller<A>`.
pub(super) trait AskWhoCalls<A> {}

macro_rules! ask_who_calls {
    ($($argument:ident)*) => {
        impl<Kind, A: Needs, $($argument,)*> AskWhoCalls<A> for (Kind, Caller<A>, $($argument,)*) {}
    };
}

ask_who_calls!();
ask_who_calls!(T1);
ask_who_calls!(T1 T2);
ask_who_calls!(T1 T2 T3);
ask_who_calls!(T1 T2 T3 T4);
ask_who_calls!(T1 T2 T3 T4 T5);

/// A router under construction, and its table.
#[derive(Default)]
pub(super) struct Routes {
    router: Router<Arc<Rooms>>,
    table: Vec<RouteInfo>,
}

impl Routes {
    /// Adds a route that asks for a key.
    pub(super) fn guarded<A, H, T>(self, verb: Verb, path: &'static str, handler: H) -> Self
    where
        A: Needs,
        T: AskWhoCalls<A> + 'static,
        H: Handler<T, Arc<Rooms>>,
    {
        self.add(verb, path, Some(A::ACTION), handler)
    }

    /// Adds a route for everybody.
    pub(super) fn open<H, T>(self, verb: Verb, path: &'static str, handler: H) -> Self
    where
        T: 'static,
        H: Handler<T, Arc<Rooms>>,
    {
        self.add(verb, path, None, handler)
    }

    fn add<H, T>(mut self, verb: Verb, path: &'static str, action: Option<Action>, handler: H) -> Self
    where
        T: 'static,
        H: Handler<T, Arc<Rooms>>,
    {
        self.table.push(RouteInfo { method: verb.method(), path, action });
        Self { router: self.router.route(path, on(verb.filter(), handler)), table: self.table }
    }

    /// The router and the table.
    pub(super) fn finish(self) -> (Router<Arc<Rooms>>, Vec<RouteInfo>) {
        (self.router, self.table)
    }
}
