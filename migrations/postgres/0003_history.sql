-- One row for each call to WeChat.
CREATE TABLE wx_refresh_history (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    appid TEXT COLLATE "C" NOT NULL,
    token_type TEXT COLLATE "C" NOT NULL,
    generation BIGINT NOT NULL,
    call_kind TEXT COLLATE "C" NOT NULL,
    trigger_name TEXT COLLATE "C" NOT NULL,
    outcome TEXT COLLATE "C" NOT NULL,
    errcode BIGINT,
    errmsg TEXT,
    started_at BIGINT NOT NULL,
    duration_ms BIGINT,
    expires_in BIGINT,
    fingerprint TEXT COLLATE "C",
    version BIGINT NOT NULL,
    instance TEXT COLLATE "C" NOT NULL,
    CONSTRAINT wx_refresh_history_claim UNIQUE (appid, token_type, generation)
);
CREATE INDEX wx_refresh_history_time ON wx_refresh_history (started_at, id);
CREATE INDEX wx_refresh_history_account ON wx_refresh_history (appid, started_at, id);
