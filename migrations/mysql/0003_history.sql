-- One row for each call to WeChat.
CREATE TABLE IF NOT EXISTS wx_refresh_history (
    id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    appid VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    token_type VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    generation BIGINT NOT NULL,
    call_kind VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    trigger_name VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    outcome VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    errcode BIGINT,
    errmsg VARCHAR(1000) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    started_at BIGINT NOT NULL,
    duration_ms BIGINT,
    expires_in BIGINT,
    fingerprint VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    version BIGINT NOT NULL,
    instance VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    CONSTRAINT wx_refresh_history_claim UNIQUE (appid, token_type, generation),
    INDEX wx_refresh_history_time (started_at, id),
    INDEX wx_refresh_history_account (appid, started_at, id)
) ENGINE = InnoDB;
