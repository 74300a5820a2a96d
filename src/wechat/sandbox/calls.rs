//! WeChat's endpoints: a request and the time in, an answer out.

use serde_json::json;

use super::account::{Account, Credentials, Grant, refuse_credentials};
use super::answer::Answer;
use super::chain::{Line, Verdict};
use super::inquiry::Inquiry;
use super::platform::Platform;
use super::refusal::Refusal;
use super::request::{Endpoint, Request};
use super::settings::ErrmsgTail;
use super::spelling;
use crate::domain::timestamp::Timestamp;

impl Platform {
    /// Does what `request` asks and enters the outcome in log entry `seq`.
    pub(super) fn process(&mut self, request: &Request, seq: u64, now: Timestamp) -> Answer {
        // Foreign mints may have come due while the request was delayed; they were first.
        if let Some(appid) = self.log.entry(seq).and_then(|entry| entry.appid.clone()) {
            self.catch_up(&appid, now);
        }
        let outcome = match request.endpoint {
            Endpoint::Token => self.token(request, seq, now),
            Endpoint::StableToken => self.stable_token(request, seq, now),
            Endpoint::Ticket => self.ticket(request, seq, now),
            Endpoint::Probe => self.probe(request, now),
            Endpoint::ClearQuota => self.clear_quota(request, now),
            Endpoint::ClearQuotaBySecret => self.clear_quota_by_secret(request, now),
            Endpoint::QuotaGet => self.quota_get(request, now),
            Endpoint::RidGet => self.rid_get(request, now),
            Endpoint::SessionOfCode => self.session_of_code(request, now),
            Endpoint::UserToken => self.user_token(request, now),
            Endpoint::UserTokenRefresh => self.refreshed_user_token(request, now),
            Endpoint::UserInfo => self.user_info(request, now),
            Endpoint::MediaUpload => self.upload(request, now),
            Endpoint::MediaGet => self.download(request, now),
            Endpoint::Echo => self.echo(request, now),
            Endpoint::Business => self.check_token(request, now).map(|_| done()),
        };
        match outcome {
            Err(refusal) => self.refuse(&refusal, request, seq, now),
            Ok(answer) => {
                if let Some(entry) = self.log.entry(seq) {
                    entry.errcode = Some(0);
                    entry.value_tail = answer.value().or(request.access_token()).map(spelling::tail);
                }
                answer
            }
        }
    }

    /// Refuses `request` in the words its account gets, and remembers that for `rid/get`.
    pub(super) fn refuse(&mut self, refusal: &Refusal, request: &Request, seq: u64, now: Timestamp) -> Answer {
        let rid = spelling::rid(now);
        let appid = self.log.entry(seq).and_then(|entry| {
            entry.errcode = Some(refusal.errcode);
            entry.value_tail = request.access_token().map(spelling::tail);
            entry.appid.clone()
        });
        let settings = appid.as_ref().and_then(|appid| self.accounts.get(appid)).map(|account| &account.settings);
        let tail = settings.map_or(ErrmsgTail::Rid, |settings| settings.errmsg_tail);
        let answer = Answer::Refused { errcode: refusal.errcode, errmsg: refusal.errmsg(tail, &rid) };
        let inquiry = Inquiry {
            appid,
            at: now,
            query: request.raw_query.clone(),
            body: String::from_utf8_lossy(&request.body.kept).chars().take(2_048).collect(),
            response: answer.to_text(),
            ip: request.remote.ip().to_string(),
        };
        self.inquiries.remember(rid, inquiry);
        answer
    }

    fn token(&mut self, request: &Request, seq: u64, now: Timestamp) -> Result<Answer, Refusal> {
        let (appid, secret) = (request.in_query("appid"), request.in_query("secret"));
        let asked = credentials(request, request.in_query("grant_type"), appid, secret);
        let account = self.authorised(asked, Some(Line::Plain), now)?;
        let (grant, form) = (account.plain_token(now), account.settings.expires_in_form);
        self.enter(asked.appid.unwrap_or_default(), Line::Plain, &grant, seq);
        Ok(Answer::Token { value: grant.value, expires_in: grant.expires_in, form })
    }

    fn stable_token(&mut self, request: &Request, seq: u64, now: Timestamp) -> Result<Answer, Refusal> {
        if let Some(refusal) = request.body_refusal() {
            return Err(refusal);
        }
        let (appid, secret) = (request.in_body("appid"), request.in_body("secret"));
        let asked = credentials(request, request.in_body("grant_type"), appid, secret);
        let account = self.authorised(asked, Some(Line::Stable), now)?;
        let (grant, form) = (account.stable_token(request.is_forced(), now)?, account.settings.expires_in_form);
        self.enter(asked.appid.unwrap_or_default(), Line::Stable, &grant, seq);
        Ok(Answer::Token { value: grant.value, expires_in: grant.expires_in, form })
    }

    /// The account that `asked` opens.
    pub(super) fn authorised(
        &mut self,
        asked: Credentials<'_>,
        line: Option<Line>,
        now: Timestamp,
    ) -> Result<&mut Account, Refusal> {
        let mut account = asked.appid.and_then(|appid| self.accounts.get_mut(appid));
        match refuse_credentials(account.as_deref(), asked, line, now) {
            Some(refusal) => Err(refusal),
            None => account.take().ok_or(Refusal::UNKNOWN_APPID),
        }
    }

    /// Files a grant under its owner and counts it if it was minted.
    fn enter(&mut self, appid: &str, line: Line, grant: &Grant, seq: u64) {
        self.file(appid, line, grant);
        if grant.minted {
            self.witnesses.of(&(appid.to_owned(), line.token_type())).mints += 1;
        }
        if let Some(entry) = self.log.entry(seq) {
            entry.minted = grant.minted;
        }
    }

    fn ticket(&mut self, request: &Request, seq: u64, now: Timestamp) -> Result<Answer, Refusal> {
        let appid = self.check_token(request, now)?;
        let line = request.line().ok_or(Refusal::WRONG_ARGUMENTS)?;
        let account = self.accounts.get_mut(&appid).ok_or(Refusal::UNKNOWN_TOKEN)?;
        let grant = account.ticket(line, now)?;
        self.enter(&appid, line, &grant, seq);
        Ok(Answer::Ticket { value: grant.value, expires_in: grant.expires_in })
    }

    fn probe(&mut self, request: &Request, now: Timestamp) -> Result<Answer, Refusal> {
        let owner = request.access_token().and_then(|token| self.owner(token)).map(|(appid, _)| appid.to_owned());
        if let Some(appid) = owner {
            self.witnesses.of(&(appid, Line::Plain.token_type())).probes += 1;
        }
        self.check_token(request, now)?;
        Ok(Answer::Other(json!({"ip_list": ["101.89.47.18", "101.91.34.103", "180.101.90.89"]})))
    }

    fn clear_quota(&mut self, request: &Request, now: Timestamp) -> Result<Answer, Refusal> {
        let appid = self.check_token(request, now)?;
        if request.in_body("appid") != Some(&appid) {
            return Err(Refusal::UNKNOWN_APPID);
        }
        let account = self.accounts.get_mut(&appid).ok_or(Refusal::UNKNOWN_APPID)?;
        clear(account, now)
    }

    fn clear_quota_by_secret(&mut self, request: &Request, now: Timestamp) -> Result<Answer, Refusal> {
        let secret = request.in_body("appsecret").or_else(|| request.in_query("appsecret"));
        let asked = credentials(request, None, request.claimed_appid(), secret);
        clear(self.authorised(asked, None, now)?, now)
    }

    fn quota_get(&mut self, request: &Request, now: Timestamp) -> Result<Answer, Refusal> {
        let appid = self.check_token(request, now)?;
        let account = self.accounts.get(&appid).ok_or(Refusal::UNKNOWN_TOKEN)?;
        let usage = account.quotas.usage(account.periods(now));
        let settings = &account.settings;
        let (limit, used) = match request.in_body("cgi_path").unwrap_or_default() {
            "/cgi-bin/token" => (settings.plain_per_day, usage.plain_today),
            "/cgi-bin/stable_token" => (settings.stable_per_day, usage.stable_today),
            "/cgi-bin/ticket/getticket" => (settings.ticket_per_day, usage.tickets_today),
            path if path.starts_with("/sns/") => return Err(Refusal::PATH_FORBIDDEN),
            _ => return Err(Refusal::PATH_NOT_FOUND),
        };
        let mut answer = json!({
            "errcode": 0,
            "errmsg": "ok",
            "quota": {"daily_limit": limit, "used": used, "remain": limit.saturating_sub(used)},
        });
        if request.in_body("cgi_path") == Some("/cgi-bin/stable_token") {
            answer["rate_limit"] = json!({"call_count": settings.stable_per_minute, "refresh_second": 60});
        }
        Ok(Answer::Other(answer))
    }

    fn rid_get(&mut self, request: &Request, now: Timestamp) -> Result<Answer, Refusal> {
        let appid = self.check_token(request, now)?;
        let found = self.inquiries.answer(request.in_body("rid").unwrap_or_default(), &appid, now)?;
        Ok(Answer::Other(json!({"errcode": 0, "errmsg": "ok", "request": found})))
    }

    /// The account whose honoured access token the request presents.
    pub(super) fn check_token(&self, request: &Request, now: Timestamp) -> Result<String, Refusal> {
        let token = request.access_token().ok_or(Refusal::TOKEN_MISSING)?;
        let Some((appid, line)) = self.owner(token).filter(|(_, line)| !line.is_ticket()) else {
            // A user's token is known and wrong here; any other text is not even a token.
            let is_users = self.users.appid_of(token).is_some();
            return Err(if is_users { Refusal::credential(false) } else { Refusal::UNKNOWN_TOKEN });
        };
        let account = self.accounts.get(appid).ok_or(Refusal::UNKNOWN_TOKEN)?;
        let issue = account.chain(line).find(token).ok_or(Refusal::UNKNOWN_TOKEN)?;
        match issue.verdict(now) {
            Verdict::Current | Verdict::Previous if issue.is_accepted(now) => Ok(appid.to_owned()),
            Verdict::Expired => Err(Refusal::TOKEN_EXPIRED),
            Verdict::Unknown => Err(Refusal::UNKNOWN_TOKEN),
            Verdict::Current | Verdict::Previous | Verdict::Superseded | Verdict::Withdrawn => {
                Err(Refusal::credential(account.settings.hint_on_40001))
            }
        }
    }
}

/// What `request` says of its sender.
pub(super) fn credentials<'a>(
    request: &Request,
    grant_type: Option<&'a str>,
    appid: Option<&'a str>,
    secret: Option<&'a str>,
) -> Credentials<'a> {
    Credentials { grant_type, appid, secret, ip: request.remote.ip().to_canonical() }
}

fn clear(account: &mut Account, now: Timestamp) -> Result<Answer, Refusal> {
    let month = account.periods(now).month;
    if account.quotas.cleared.used(month) >= account.settings.clear_quota_per_month {
        return Err(Refusal::CLEARED_TOO_OFTEN);
    }
    account.quotas.cleared.add(month);
    account.quotas.clear();
    Ok(done())
}

fn done() -> Answer {
    Answer::Other(json!({"errcode": 0, "errmsg": "ok"}))
}
