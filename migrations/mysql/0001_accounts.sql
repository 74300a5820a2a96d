-- WeChat applications. A removed account stays as a row without its secret, so that every instance learns of the removal.
CREATE TABLE IF NOT EXISTS wx_account (
    appid VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    name VARCHAR(1000) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    mode VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    token_types VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    enabled BOOLEAN NOT NULL,
    note VARCHAR(1000) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    secret_sealed TEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    revision BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    changed_at BIGINT NOT NULL,
    removed_at BIGINT,
    INDEX wx_account_changed (changed_at)
) ENGINE = InnoDB;
