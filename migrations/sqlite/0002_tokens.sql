-- The current value of each token, its lease, its record and its budget. Times are milliseconds since 1970-01-01 UTC; 0 means never yet.
-- A row outlives its value: when an account or a token type is removed, `kept` turns false and the counters go on from where they
-- were, so that a late writer from before can never pass for a new one.
CREATE TABLE wx_token (
    appid TEXT NOT NULL,
    token_type TEXT NOT NULL,
    mode TEXT NOT NULL,
    kept BOOLEAN NOT NULL DEFAULT TRUE,
    value_sealed TEXT,
    fingerprint TEXT,
    obtained_at INTEGER NOT NULL DEFAULT 0,
    expires_at INTEGER NOT NULL DEFAULT 0,
    previous_sealed TEXT,
    in_doubt BOOLEAN NOT NULL DEFAULT FALSE,
    version INTEGER NOT NULL DEFAULT 0,
    generation INTEGER NOT NULL DEFAULT 0,
    revision INTEGER NOT NULL DEFAULT 0,
    refresh_at INTEGER NOT NULL,
    leased_until INTEGER NOT NULL DEFAULT 0,
    leased_by TEXT,
    leased_at INTEGER NOT NULL DEFAULT 0,
    lease_trigger TEXT,
    lease_call TEXT,
    failures INTEGER NOT NULL DEFAULT 0,
    last_success_at INTEGER NOT NULL DEFAULT 0,
    last_call_at INTEGER NOT NULL DEFAULT 0,
    last_outcome TEXT,
    last_trigger TEXT,
    last_errcode INTEGER,
    last_errmsg TEXT,
    budget_day INTEGER NOT NULL DEFAULT 0,
    calls_today INTEGER NOT NULL DEFAULT 0,
    forced_today INTEGER NOT NULL DEFAULT 0,
    plain_today INTEGER NOT NULL DEFAULT 0,
    forced_at INTEGER NOT NULL DEFAULT 0,
    budget_limit INTEGER NOT NULL DEFAULT 0,
    changed_at INTEGER NOT NULL,
    PRIMARY KEY (appid, token_type)
);
CREATE INDEX wx_token_due ON wx_token (refresh_at);
CREATE INDEX wx_token_changed ON wx_token (changed_at);
