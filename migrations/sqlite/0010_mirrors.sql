-- Where the tokens of an account are copied to. Removed ones stay, without their secrets, so that every instance learns of it.
CREATE TABLE wx_mirror (
    id TEXT NOT NULL PRIMARY KEY,
    appid TEXT NOT NULL,
    format TEXT NOT NULL,
    target_sealed TEXT,
    secret_sealed TEXT,
    prefix TEXT,
    app TEXT,
    serializer TEXT,
    token_type TEXT,
    key_template TEXT,
    value_template TEXT,
    revision INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    removed_at INTEGER
);
CREATE INDEX wx_mirror_changed ON wx_mirror (changed_at);
CREATE INDEX wx_mirror_account ON wx_mirror (appid);
