-- Where the tokens of an account are copied to. Removed ones stay, without their secrets, so that every instance learns of it.
CREATE TABLE wx_mirror (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    appid TEXT COLLATE "C" NOT NULL,
    format TEXT COLLATE "C" NOT NULL,
    target_sealed TEXT,
    secret_sealed TEXT,
    prefix TEXT,
    app TEXT,
    serializer TEXT,
    token_type TEXT COLLATE "C",
    key_template TEXT,
    value_template TEXT,
    revision BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    changed_at BIGINT NOT NULL,
    removed_at BIGINT
);
CREATE INDEX wx_mirror_changed ON wx_mirror (changed_at);
CREATE INDEX wx_mirror_account ON wx_mirror (appid);
