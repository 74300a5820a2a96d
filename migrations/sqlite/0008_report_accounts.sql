-- One row for each token kept: how it is doing now. Part of the contract. The words of `health` are those of the HTTP API.
-- `budget_left`: forced refreshes in stable mode, mints in plain mode, that the limits still allow on this Beijing day; NULL for tickets.
CREATE VIEW wx_report_accounts AS
SELECT
    t.appid AS appid,
    t.token_type AS token_type,
    CASE
        WHEN a.enabled = FALSE THEN 'disabled'
        WHEN t.expires_at > n.ms AND t.failures = 0 THEN 'healthy'
        WHEN t.expires_at > n.ms THEN 'degraded'
        WHEN t.failures = 0 AND t.fingerprint IS NULL THEN 'pending'
        ELSE 'down'
    END AS health,
    CASE WHEN t.expires_at > 0 THEN strftime('%Y-%m-%d %H:%M:%f', t.expires_at / 1000.0, 'unixepoch') END AS valid_until,
    CASE WHEN t.last_success_at > 0 THEN strftime('%Y-%m-%d %H:%M:%f', t.last_success_at / 1000.0, 'unixepoch') END AS last_success_at,
    t.failures AS consecutive_failures,
    t.last_errcode AS last_errcode,
    CASE WHEN t.budget_day = (n.ms + 28800000) / 86400000 THEN t.calls_today ELSE 0 END AS refreshes_today,
    CASE WHEN t.budget_day = (n.ms + 28800000) / 86400000 THEN t.forced_today ELSE 0 END AS forced_today,
    CASE
        WHEN t.token_type <> 'access_token' THEN NULL
        WHEN t.budget_day <> (n.ms + 28800000) / 86400000 THEN t.budget_limit
        WHEN t.mode = 'plain' AND t.plain_today >= t.budget_limit THEN 0
        WHEN t.mode = 'plain' THEN t.budget_limit - t.plain_today
        WHEN t.forced_today >= t.budget_limit THEN 0
        ELSE t.budget_limit - t.forced_today
    END AS budget_left,
    t.mode AS mode,
    CASE WHEN t.refresh_at < 253402300799999 THEN strftime('%Y-%m-%d %H:%M:%f', t.refresh_at / 1000.0, 'unixepoch') END AS next_refresh_at,
    a.name AS account_name
FROM wx_token t
JOIN wx_account a ON a.appid = t.appid
CROSS JOIN (SELECT CAST((julianday('now') - 2440587.5) * 86400000.0 AS INTEGER) AS ms) n
WHERE a.removed_at IS NULL AND t.kept = TRUE;
