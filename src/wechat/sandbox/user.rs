//! Calls on behalf of a user: login codes, and the OAuth tokens of users, which are no account's access tokens.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::{Value, json};

use super::answer::Answer;
use super::calls::credentials;
use super::chain::Line;
use super::platform::Platform;
use super::refusal::Refusal;
use super::request::Request;
use super::spelling;
use crate::domain::timestamp::Timestamp;

/// How many users are remembered; beyond it the oldest are forgotten.
const USERS_REMEMBERED: usize = 1_000;
/// The life of a user's token.
const LIFETIME: Duration = Duration::from_hours(2);
const OPENID_LENGTH: usize = 27;
const REFRESH_TOKEN_LENGTH: usize = 107;
/// The login code that is refused; any other stands for a user.
const BAD_CODE: &str = "bad";

/// What one user let an account do.
#[derive(Debug, Clone)]
struct Consent {
    appid: String,
    openid: String,
    access_token: String,
    refresh_token: String,
    expires_at: Timestamp,
}

impl Consent {
    fn answer(&self) -> Answer {
        Answer::Other(json!({
            "access_token": self.access_token,
            "expires_in": LIFETIME.as_secs(),
            "refresh_token": self.refresh_token,
            "openid": self.openid,
            "scope": "snsapi_userinfo",
        }))
    }
}

/// The users that the platform knows, oldest first.
#[derive(Debug, Default)]
pub(super) struct Users(VecDeque<Consent>);

impl Users {
    /// The account that a user's token was given to.
    pub(super) fn appid_of(&self, access_token: &str) -> Option<&str> {
        self.find(access_token).map(|consent| consent.appid.as_str())
    }

    /// Forgets the users of an account.
    pub(super) fn remove(&mut self, appid: &str) {
        self.0.retain(|consent| consent.appid != appid);
    }

    fn find(&self, access_token: &str) -> Option<&Consent> {
        self.0.iter().find(|consent| consent.access_token == access_token)
    }

    fn remember(&mut self, consent: Consent) {
        self.0.push_back(consent);
        if self.0.len() > USERS_REMEMBERED {
            self.0.pop_front();
        }
    }
}

impl Platform {
    /// `/sns/jscode2session`: who a mini program's login code stands for.
    pub(super) fn session_of_code(&mut self, request: &Request, now: Timestamp) -> Result<Answer, Refusal> {
        self.check_code(request, "js_code", now)?;
        Ok(Answer::Other(json!({"session_key": format!("{}==", spelling::letters(22)), "openid": openid()})))
    }

    /// `/sns/oauth2/access_token`: a user's token for a web page's login code.
    pub(super) fn user_token(&mut self, request: &Request, now: Timestamp) -> Result<Answer, Refusal> {
        self.check_code(request, "code", now)?;
        let consent = Consent {
            appid: request.in_query("appid").unwrap_or_default().to_owned(),
            openid: openid(),
            access_token: spelling::value(Line::Plain, now),
            refresh_token: spelling::letters(REFRESH_TOKEN_LENGTH),
            expires_at: now.plus(LIFETIME),
        };
        let answer = consent.answer();
        self.users.remember(consent);
        Ok(answer)
    }

    /// `/sns/oauth2/refresh_token`: a token that lives goes on for another two hours; a dead one is replaced.
    pub(super) fn refreshed_user_token(&mut self, request: &Request, now: Timestamp) -> Result<Answer, Refusal> {
        if request.in_query("grant_type") != Some("refresh_token") {
            return Err(Refusal::WRONG_GRANT_TYPE);
        }
        let appid = request.in_query("appid").ok_or(Refusal::APPID_MISSING)?;
        let refresh_token = request.in_query("refresh_token").unwrap_or_default();
        let mut consents = self.users.0.iter_mut();
        let consent = consents
            .find(|consent| consent.appid == appid && consent.refresh_token == refresh_token)
            .ok_or(Refusal::REFRESH_TOKEN_UNKNOWN)?;
        if now >= consent.expires_at {
            consent.access_token = spelling::value(Line::Plain, now);
        }
        consent.expires_at = now.plus(LIFETIME);
        Ok(consent.answer())
    }

    /// `/sns/userinfo`: takes a user's token; an account's own is as wrong here as any other text.
    pub(super) fn user_info(&mut self, request: &Request, now: Timestamp) -> Result<Answer, Refusal> {
        let token = request.access_token().ok_or(Refusal::TOKEN_MISSING)?;
        let consent = self.users.find(token).ok_or(Refusal::credential(false))?;
        match () {
            () if now >= consent.expires_at => Err(Refusal::TOKEN_EXPIRED),
            () if request.in_query("openid") != Some(&consent.openid) => Err(Refusal::OPENID_UNKNOWN),
            () => Ok(Answer::Other(
                json!({"openid": consent.openid, "nickname": "Sandbox", "privilege": Value::Array(Vec::new())}),
            )),
        }
    }

    /// Checks appid and secret as the token endpoints do, and the code in the parameter `name`.
    fn check_code(&mut self, request: &Request, name: &str, now: Timestamp) -> Result<(), Refusal> {
        if request.in_query("grant_type") != Some("authorization_code") {
            return Err(Refusal::WRONG_GRANT_TYPE);
        }
        let asked = credentials(request, None, request.in_query("appid"), request.in_query("secret"));
        self.authorised(asked, None, now)?;
        match request.in_query(name).filter(|code| !code.is_empty()) {
            None => Err(Refusal::CODE_MISSING),
            Some(BAD_CODE) => Err(Refusal::CODE_INVALID),
            Some(_) => Ok(()),
        }
    }
}

fn openid() -> String {
    format!("o{}", spelling::letters(OPENID_LENGTH))
}
