-- Who changed what; written in the transaction that made the change.
CREATE TABLE wx_audit (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    happened_at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    detail TEXT NOT NULL,
    request_id TEXT COLLATE "C"
);
CREATE INDEX wx_audit_time ON wx_audit (happened_at, id);
