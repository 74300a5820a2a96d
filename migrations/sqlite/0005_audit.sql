-- Who changed what; written in the transaction that made the change.
CREATE TABLE wx_audit (
    id TEXT NOT NULL PRIMARY KEY,
    happened_at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL,
    request_id TEXT
);
CREATE INDEX wx_audit_time ON wx_audit (happened_at, id);
