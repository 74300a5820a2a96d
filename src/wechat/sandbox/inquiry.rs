//! What `rid/get` tells of a refused call.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use serde_json::{Value, json};

use super::refusal::Refusal;
use crate::domain::timestamp::Timestamp;

/// How many refusals are remembered; beyond it the oldest are dropped.
const REFUSALS_REMEMBERED: usize = 20_000;
/// Refused calls can be asked about for seven days.
const ANSWERABLE_FOR: Duration = Duration::from_hours(7 * 24);

/// A refused call.
#[derive(Debug, Clone)]
pub(super) struct Inquiry {
    pub(super) appid: Option<String>,
    pub(super) at: Timestamp,
    pub(super) query: String,
    pub(super) body: String,
    pub(super) response: String,
    pub(super) ip: String,
}

/// Refused calls by request id.
#[derive(Debug, Default)]
pub(super) struct Inquiries {
    by_rid: HashMap<String, Inquiry>,
    order: VecDeque<String>,
}

impl Inquiries {
    /// Remembers a refusal.
    pub(super) fn remember(&mut self, rid: String, inquiry: Inquiry) {
        self.order.push_back(rid.clone());
        self.by_rid.insert(rid, inquiry);
        if self.order.len() > REFUSALS_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_rid.remove(&oldest);
        }
    }

    /// The `request` object of `rid/get`, asked by `appid`.
    pub(super) fn answer(&self, rid: &str, appid: &str, now: Timestamp) -> Result<Value, Refusal> {
        if !is_rid(rid) {
            return Err(Refusal::RID_MALFORMED);
        }
        let inquiry = self.by_rid.get(rid).ok_or(Refusal::RID_NOT_FOUND)?;
        if inquiry.appid.as_deref() != Some(appid) {
            return Err(Refusal::RID_OF_ANOTHER);
        }
        if now.since(inquiry.at) > ANSWERABLE_FOR {
            return Err(Refusal::RID_TOO_OLD);
        }
        Ok(json!({
            "invoke_time": inquiry.at.as_millis() / 1_000,
            "cost_in_ms": 1,
            "request_url": inquiry.query,
            "request_body": inquiry.body,
            "response_body": inquiry.response,
            "client_ip": inquiry.ip,
        }))
    }
}

fn is_rid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    groups.len() == 3
        && groups.iter().all(|group| group.len() == 8 && group.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_account_itself_may_ask_and_only_for_a_week() {
        let mut inquiries = Inquiries::default();
        let inquiry = Inquiry {
            appid: Some("wx1".into()),
            at: Timestamp::ZERO,
            query: String::new(),
            body: String::new(),
            response: "{}".into(),
            ip: "10.0.0.1".into(),
        };
        let rid = "61725984-6126f6f9-040f19c4";
        inquiries.remember(rid.into(), inquiry);
        let ask = |rid: &str, appid: &str, days: u64| {
            let now = Timestamp::ZERO.plus(Duration::from_hours(days * 24));
            inquiries.answer(rid, appid, now).map_or_else(|refusal| refusal.errcode, |_| 0)
        };
        assert_eq!(ask(rid, "wx1", 7), 0);
        assert_eq!(ask(rid, "wx1", 8), 76004);
        assert_eq!(ask(rid, "wx2", 7), 76003);
        assert_eq!(ask("61725984-6126f6f9-040f19c5", "wx1", 7), 76001);
        assert_eq!(ask("61725984", "wx1", 7), 76002);
    }
}
