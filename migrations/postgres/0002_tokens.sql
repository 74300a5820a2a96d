-- The current value of each token, its lease, its record and its budget. Times are milliseconds since 1970-01-01 UTC; 0 means never yet.
-- A row outlives its value: when an account or a token type is removed, `kept` turns false and the counters go on from where they
-- were, so that a late writer from before can never pass for a new one.
CREATE TABLE wx_token (
    appid TEXT COLLATE "C" NOT NULL,
    token_type TEXT COLLATE "C" NOT NULL,
    mode TEXT COLLATE "C" NOT NULL,
    kept BOOLEAN NOT NULL DEFAULT TRUE,
    value_sealed TEXT,
    fingerprint TEXT COLLATE "C",
    obtained_at BIGINT NOT NULL DEFAULT 0,
    expires_at BIGINT NOT NULL DEFAULT 0,
    previous_sealed TEXT,
    in_doubt BOOLEAN NOT NULL DEFAULT FALSE,
    version BIGINT NOT NULL DEFAULT 0,
    generation BIGINT NOT NULL DEFAULT 0,
    revision BIGINT NOT NULL DEFAULT 0,
    refresh_at BIGINT NOT NULL,
    leased_until BIGINT NOT NULL DEFAULT 0,
    leased_by TEXT COLLATE "C",
    leased_at BIGINT NOT NULL DEFAULT 0,
    lease_trigger TEXT COLLATE "C",
    lease_call TEXT COLLATE "C",
    failures BIGINT NOT NULL DEFAULT 0,
    last_success_at BIGINT NOT NULL DEFAULT 0,
    last_call_at BIGINT NOT NULL DEFAULT 0,
    last_outcome TEXT COLLATE "C",
    last_trigger TEXT COLLATE "C",
    last_errcode BIGINT,
    last_errmsg TEXT,
    budget_day BIGINT NOT NULL DEFAULT 0,
    calls_today BIGINT NOT NULL DEFAULT 0,
    forced_today BIGINT NOT NULL DEFAULT 0,
    plain_today BIGINT NOT NULL DEFAULT 0,
    forced_at BIGINT NOT NULL DEFAULT 0,
    budget_limit BIGINT NOT NULL DEFAULT 0,
    changed_at BIGINT NOT NULL,
    PRIMARY KEY (appid, token_type)
);
CREATE INDEX wx_token_due ON wx_token (refresh_at);
CREATE INDEX wx_token_changed ON wx_token (changed_at);
