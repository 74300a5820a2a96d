//! Business calls that have something to show for it: media that go up and down, and an echo of what arrived.

use std::collections::BTreeMap;

use serde_json::json;

use super::answer::Answer;
use super::platform::Platform;
use super::refusal::Refusal;
use super::request::Request;
use super::spelling;
use crate::domain::timestamp::Timestamp;

/// The longest file that can be fetched, in bytes.
const LONGEST_FILE: u64 = 2 * 1024 * 1024 * 1024;
const MEDIA_ID_LENGTH: usize = 64;

impl Platform {
    /// `media/upload`. Nothing is kept: the id that it answers cannot be fetched.
    pub(super) fn upload(&self, request: &Request, now: Timestamp) -> Result<Answer, Refusal> {
        self.check_token(request, now)?;
        let kind = request.in_query("type").unwrap_or_default();
        match () {
            () if request.method != "POST" => Err(Refusal::POST_REQUIRED),
            () if !["image", "voice", "video", "thumb"].contains(&kind) => Err(Refusal::MEDIA_TYPE_UNKNOWN),
            () => Ok(Answer::Other(json!({
                "type": kind,
                "media_id": spelling::letters(MEDIA_ID_LENGTH),
                "created_at": now.as_millis() / 1_000,
                // These two are the simulator's own, so that a test can see that every byte arrived.
                "size": request.body.length,
                "sha256": request.body.sha256,
            }))),
        }
    }

    /// `media/get`: the media id `bytes-N` is a file of N bytes.
    pub(super) fn download(&self, request: &Request, now: Timestamp) -> Result<Answer, Refusal> {
        self.check_token(request, now)?;
        let length = request.in_query("media_id").and_then(|media_id| media_id.strip_prefix("bytes-")?.parse().ok());
        match length {
            Some(length @ 0..=LONGEST_FILE) => Ok(Answer::File { length }),
            _ => Err(Refusal::MEDIA_ID_UNKNOWN),
        }
    }

    /// Any path under `/cgi-bin/echo/`: what arrived, so that a test can see what WeChat was sent.
    pub(super) fn echo(&self, request: &Request, now: Timestamp) -> Result<Answer, Refusal> {
        self.check_token(request, now)?;
        let mut headers = BTreeMap::<&str, String>::new();
        for (name, value) in &request.headers {
            let so_far = headers.entry(name).or_default();
            so_far.push_str(if so_far.is_empty() { "" } else { ", " });
            so_far.push_str(value);
        }
        Ok(Answer::Other(json!({
            "errcode": 0,
            "method": request.method,
            "path": request.path,
            "query": request.raw_query,
            "headers": headers,
            "body_length": request.body.length,
            "body": String::from_utf8_lossy(&request.body.kept),
        })))
    }
}
