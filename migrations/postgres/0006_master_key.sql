-- A constant sealed under each master key in use: a key proves itself here before the first write.
CREATE TABLE wx_master_key (
    key_id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    check_value TEXT NOT NULL,
    position BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    CONSTRAINT wx_master_key_position UNIQUE (position)
);
