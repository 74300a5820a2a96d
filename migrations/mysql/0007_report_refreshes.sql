-- One row for each call to WeChat, for people: real timestamps (UTC) and the account's name. Part of the contract.
CREATE OR REPLACE VIEW wx_report_refreshes AS
SELECT
    CASE WHEN h.started_at > 0 THEN TIMESTAMPADD(MICROSECOND, h.started_at * 1000, TIMESTAMP('1970-01-01 00:00:00')) END AS started_at,
    h.appid AS appid,
    COALESCE(a.name, '') AS account_name,
    h.token_type AS token_type,
    h.trigger_name AS trigger_name,
    h.outcome AS outcome,
    h.errcode AS errcode,
    h.errmsg AS errmsg,
    h.duration_ms AS duration_ms,
    h.expires_in AS expires_in,
    h.instance AS instance,
    h.version AS version,
    h.call_kind AS call_kind,
    h.fingerprint AS fingerprint
FROM wx_refresh_history h
LEFT JOIN wx_account a ON a.appid = h.appid;
