-- Credentials that we issued, by keyed hash.
CREATE TABLE wx_key (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    accounts TEXT NOT NULL,
    actions TEXT NOT NULL,
    key_hash TEXT NOT NULL,
    hint TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    revoked_at INTEGER,
    changed_at INTEGER NOT NULL,
    CONSTRAINT wx_key_hash UNIQUE (key_hash)
);
CREATE INDEX wx_key_changed ON wx_key (changed_at);
