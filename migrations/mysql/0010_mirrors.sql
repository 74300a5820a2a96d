-- Where the tokens of an account are copied to. Removed ones stay, without their secrets, so that every instance learns of it.
CREATE TABLE IF NOT EXISTS wx_mirror (
    id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    appid VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    format VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    target_sealed TEXT CHARACTER SET ascii COLLATE ascii_bin,
    secret_sealed TEXT CHARACTER SET ascii COLLATE ascii_bin,
    prefix VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin,
    app VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    serializer VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    token_type VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    key_template VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin,
    value_template VARCHAR(1000) CHARACTER SET ascii COLLATE ascii_bin,
    revision BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    changed_at BIGINT NOT NULL,
    removed_at BIGINT,
    INDEX wx_mirror_changed (changed_at),
    INDEX wx_mirror_account (appid)
) ENGINE = InnoDB;
