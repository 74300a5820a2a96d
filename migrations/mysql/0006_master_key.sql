-- A constant sealed under each master key in use: a key proves itself here before the first write.
CREATE TABLE IF NOT EXISTS wx_master_key (
    key_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    check_value TEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    position BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    CONSTRAINT wx_master_key_position UNIQUE (position)
) ENGINE = InnoDB;
