-- Credentials that we issued, by keyed hash.
CREATE TABLE wx_key (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    role TEXT COLLATE "C" NOT NULL,
    accounts TEXT NOT NULL,
    actions TEXT NOT NULL,
    key_hash TEXT COLLATE "C" NOT NULL,
    hint TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    revoked_at BIGINT,
    changed_at BIGINT NOT NULL,
    CONSTRAINT wx_key_hash UNIQUE (key_hash)
);
CREATE INDEX wx_key_changed ON wx_key (changed_at);
