-- Credentials that we issued, by keyed hash.
CREATE TABLE IF NOT EXISTS wx_key (
    id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    name VARCHAR(1000) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    role VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    accounts TEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    actions VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    key_hash VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    hint VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    revoked_at BIGINT,
    changed_at BIGINT NOT NULL,
    CONSTRAINT wx_key_hash UNIQUE (key_hash),
    INDEX wx_key_changed (changed_at)
) ENGINE = InnoDB;
