-- WeChat applications. A removed account stays as a row without its secret, so that every instance learns of the removal.
CREATE TABLE wx_account (
    appid TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    mode TEXT NOT NULL,
    token_types TEXT NOT NULL,
    enabled BOOLEAN NOT NULL,
    note TEXT NOT NULL,
    secret_sealed TEXT,
    revision INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    removed_at INTEGER
);
CREATE INDEX wx_account_changed ON wx_account (changed_at);
