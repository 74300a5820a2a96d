-- One row for each token kept: how it is doing now. Part of the contract. The words of `health` are those of the HTTP API.
-- `budget_left`: forced refreshes in stable mode, mints in plain mode, that the limits still allow on this Beijing day; NULL for tickets.
CREATE OR REPLACE VIEW wx_report_accounts AS
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
    CASE WHEN t.expires_at > 0 THEN TIMESTAMPADD(MICROSECOND, t.expires_at * 1000, TIMESTAMP('1970-01-01 00:00:00')) END AS valid_until,
    CASE WHEN t.last_success_at > 0 THEN TIMESTAMPADD(MICROSECOND, t.last_success_at * 1000, TIMESTAMP('1970-01-01 00:00:00')) END AS last_success_at,
    t.failures AS consecutive_failures,
    t.last_errcode AS last_errcode,
    CASE WHEN t.budget_day = (n.ms + 28800000) DIV 86400000 THEN t.calls_today ELSE 0 END AS refreshes_today,
    CASE WHEN t.budget_day = (n.ms + 28800000) DIV 86400000 THEN t.forced_today ELSE 0 END AS forced_today,
    CASE
        WHEN t.token_type <> 'access_token' THEN NULL
        WHEN t.budget_day <> (n.ms + 28800000) DIV 86400000 THEN t.budget_limit
        WHEN t.mode = 'plain' AND t.plain_today >= t.budget_limit THEN 0
        WHEN t.mode = 'plain' THEN t.budget_limit - t.plain_today
        WHEN t.forced_today >= t.budget_limit THEN 0
        ELSE t.budget_limit - t.forced_today
    END AS budget_left,
    t.mode AS mode,
    CASE WHEN t.refresh_at < 253402300799999 THEN TIMESTAMPADD(MICROSECOND, t.refresh_at * 1000, TIMESTAMP('1970-01-01 00:00:00')) END AS next_refresh_at,
    a.name AS account_name
FROM wx_token t
JOIN wx_account a ON a.appid = t.appid
CROSS JOIN (SELECT TIMESTAMPDIFF(MICROSECOND, TIMESTAMP('1970-01-01 00:00:00'), UTC_TIMESTAMP(3)) DIV 1000 AS ms) n
WHERE a.removed_at IS NULL AND t.kept = TRUE;
