-- WeChat applications. A removed account stays as a row without its secret, so that every instance learns of the removal.
CREATE TABLE wx_account (
    appid TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    mode TEXT COLLATE "C" NOT NULL,
    token_types TEXT COLLATE "C" NOT NULL,
    enabled BOOLEAN NOT NULL,
    note TEXT NOT NULL,
    secret_sealed TEXT,
    revision BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    changed_at BIGINT NOT NULL,
    removed_at BIGINT
);
CREATE INDEX wx_account_changed ON wx_account (changed_at);
