-- One row for each call to WeChat.
CREATE TABLE wx_refresh_history (
    id TEXT NOT NULL PRIMARY KEY,
    appid TEXT NOT NULL,
    token_type TEXT NOT NULL,
    generation INTEGER NOT NULL,
    call_kind TEXT NOT NULL,
    trigger_name TEXT NOT NULL,
    outcome TEXT NOT NULL,
    errcode INTEGER,
    errmsg TEXT,
    started_at INTEGER NOT NULL,
    duration_ms INTEGER,
    expires_in INTEGER,
    fingerprint TEXT,
    version INTEGER NOT NULL,
    instance TEXT NOT NULL,
    CONSTRAINT wx_refresh_history_claim UNIQUE (appid, token_type, generation)
);
CREATE INDEX wx_refresh_history_time ON wx_refresh_history (started_at, id);
CREATE INDEX wx_refresh_history_account ON wx_refresh_history (appid, started_at, id);
