//! The dictionary itself, sorted by code.
//!
//! Menus in WeChat's console move from year to year, so the sentences name the page by what is on it.

use std::time::Duration;

use super::{Entry, Text};
use crate::domain::refresh::FailureClass::{self, NeedsHuman, Throttled, Transient};

const fn entry(code: i64, class: FailureClass, cause: Text, remedy: Text) -> Entry {
    Entry { code, class, cause, remedy, wait_at_least: Duration::ZERO, until_midnight: false }
}

const fn text(en: &'static str, zh: &'static str) -> Text {
    Text { en, zh }
}

impl Entry {
    const fn waiting(self, wait_at_least: Duration) -> Self {
        Self { wait_at_least, ..self }
    }

    const fn until_midnight(self) -> Self {
        Self { until_midnight: true, ..self }
    }
}

const REPORT_OR_PROXY: Text = text(
    "Check that no proxy changes requests between this server and WeChat, and report it to the makers of wxtoken if none does.",
    "请检查本服务器与微信之间是否有代理改写了请求；若没有代理，请把此问题反馈给 wxtoken 的维护者。",
);
const USER_TOKEN: Text = text(
    "Look for the mistake in the service that made this call: wxtoken keeps tokens of accounts, not of users.",
    "请检查发起该调用的业务系统：wxtoken 管理的是应用级令牌，不是用户网页授权令牌。",
);
const APPROVE: Text = text(
    "Have the account's administrator approve the request in WeChat, or add {ip} to the IP whitelist so that no approval is needed.",
    "请该账号的管理员在微信中确认该请求，或将 {ip} 加入 IP 白名单，之后便无需确认。",
);
const ALLOW_ADDRESS: Text = text(
    "Add {ip} to the IP whitelist, in the WeChat console (mp.weixin.qq.com) on the page that shows the AppID and AppSecret.",
    "请在微信后台（mp.weixin.qq.com）显示 AppID 与 AppSecret 的开发设置页面，将 {ip} 加入 IP 白名单。",
);
const RENEWED: Text = text(
    "Nothing needs doing: wxtoken fetches a new access token and repeats the call.",
    "无需处理：wxtoken 会重新获取 access_token 并重试。",
);
const PLATFORM_ACCOUNT: Text = text(
    "Use the account's own AppID and AppSecret here, or have the third-party platform that manages the account fetch its tokens.",
    "请在此填写该账号自己的 AppID 与 AppSecret，或改由管理该账号的第三方平台获取令牌。",
);

/// 40001 in answer to a call made with an access token; in [`ENTRIES`] it is the answer to a token fetch.
pub(super) static TOKEN_NOT_LATEST: Entry = entry(
    40_001,
    Transient,
    text(
        "WeChat no longer accepts this access token, because a newer one was fetched for this account or it belongs to another.",
        "微信不再接受该 access_token：该账号已有更新的令牌，或该令牌属于其他账号。",
    ),
    text(
        "wxtoken fetches a new one; if it happens again, find the other program that fetches tokens with this AppSecret and stop it.",
        "wxtoken 会重新获取；若反复出现，请找出并停用另一个也在用此 AppSecret 获取令牌的程序。",
    ),
);

/// Every known code, in ascending order.
pub(super) static ENTRIES: &[Entry] = &[
    entry(
        -1_000,
        Transient,
        text("WeChat had an internal error.", "微信系统内部错误。"),
        text("Nothing needs doing: the call is repeated soon.", "无需处理：稍后会自动重试。"),
    ),
    entry(
        -1,
        Transient,
        text("WeChat is busy.", "微信系统繁忙。"),
        text(
            "Nothing needs doing: the call is repeated soon, and only an outage of hours is worth a question to WeChat.",
            "无需处理：稍后会自动重试；若持续数小时，请向微信反馈。",
        ),
    ),
    entry(
        40_001,
        NeedsHuman,
        text("WeChat says that this AppSecret is wrong for this account.", "微信认为该 AppSecret 错误，或不属于该账号。"),
        text(
            "Copy the AppSecret again from the WeChat console, or reset it there if it is lost, and store it for this account here.",
            "请在微信后台重新复制 AppSecret（若已遗失则重置），并在此处更新该账号的密钥。",
        ),
    ),
    entry(
        40_002,
        NeedsHuman,
        text("WeChat did not recognise the grant type of the request.", "微信无法识别请求中的 grant_type。"),
        REPORT_OR_PROXY,
    ),
    entry(
        40_013,
        NeedsHuman,
        text("WeChat knows no account with this AppID.", "微信不认识该 AppID。"),
        text(
            "Compare the AppID with the one in the WeChat console, including upper and lower case, and register the account again with the right one.",
            "请与微信后台的 AppID 逐字核对（区分大小写），并用正确的 AppID 重新登记该账号。",
        ),
    ),
    entry(
        40_014,
        Transient,
        text("WeChat does not know this access token.", "微信不认识该 access_token。"),
        RENEWED,
    ),
    entry(
        40_030,
        NeedsHuman,
        text("The refresh token of a user's web authorisation is invalid.", "用户网页授权的 refresh_token 无效。"),
        USER_TOKEN,
    ),
    entry(
        40_125,
        NeedsHuman,
        text("The AppSecret is wrong or was reset.", "AppSecret 错误，或已被重置。"),
        text(
            "Copy the AppSecret again from the WeChat console, or reset it there if it is lost, and store it for this account here.",
            "请在微信后台重新复制 AppSecret（若已遗失则重置），并在此处更新该账号的密钥。",
        ),
    ),
    entry(
        40_164,
        NeedsHuman,
        text("The address of this server is not in the account's IP whitelist.", "本服务器的 IP 不在该账号的 IP 白名单中。"),
        ALLOW_ADDRESS,
    ),
    entry(
        40_243,
        NeedsHuman,
        text("The AppSecret of this account is frozen.", "该账号的 AppSecret 已被冻结。"),
        text(
            "Unfreeze the AppSecret in the WeChat console and allow 10 minutes for it to take effect.",
            "请在微信后台解冻 AppSecret，解冻约 10 分钟后生效。",
        ),
    ),
    entry(
        41_001,
        NeedsHuman,
        text("The request reached WeChat without an access token.", "请求到达微信时缺少 access_token。"),
        REPORT_OR_PROXY,
    ),
    entry(
        41_002,
        NeedsHuman,
        text("The request reached WeChat without a readable AppID.", "请求到达微信时缺少可识别的 AppID。"),
        REPORT_OR_PROXY,
    ),
    entry(
        41_004,
        NeedsHuman,
        text("The request reached WeChat without an AppSecret.", "请求到达微信时缺少 AppSecret。"),
        REPORT_OR_PROXY,
    ),
    entry(42_001, Transient, text("The access token has expired.", "access_token 已过期。"), RENEWED),
    entry(
        42_002,
        NeedsHuman,
        text("The refresh token of a user's web authorisation has expired.", "用户网页授权的 refresh_token 已过期。"),
        USER_TOKEN,
    ),
    entry(
        42_007,
        NeedsHuman,
        text("A user's authorisation ended because the user changed the WeChat password.", "用户修改了微信密码，其授权已失效。"),
        USER_TOKEN,
    ),
    entry(
        43_002,
        NeedsHuman,
        text("WeChat wanted a POST request and received another.", "微信要求使用 POST 请求，但收到的是其他方法。"),
        REPORT_OR_PROXY,
    ),
    entry(
        43_003,
        NeedsHuman,
        text("WeChat wanted an encrypted connection.", "微信要求使用 HTTPS。"),
        text(
            "Set WXTOKEN_WECHAT_URL to an address that begins with https, and check that no proxy takes the encryption off.",
            "请将 WXTOKEN_WECHAT_URL 设为以 https 开头的地址，并检查是否有代理去掉了加密。",
        ),
    ),
    entry(
        44_002,
        NeedsHuman,
        text("The request reached WeChat with an empty body.", "请求到达微信时请求体为空。"),
        REPORT_OR_PROXY,
    ),
    entry(
        45_009,
        Throttled,
        text("The account has used up its calls of this kind for today.", "该账号今日的接口调用次数已用尽。"),
        text(
            "Wait until midnight in Beijing or clear the quota in the WeChat console, and stop any other program that fetches tokens for this account.",
            "请等待北京时间零点，或在微信后台清零调用次数，并停用其他也在为该账号获取令牌的程序。",
        ),
    )
    .until_midnight(),
    entry(
        45_011,
        Throttled,
        text("The account made too many calls within a minute.", "该账号一分钟内的调用过于频繁。"),
        text(
            "Nothing needs doing: the call is repeated after a minute, and if this happens often another program uses the account.",
            "无需处理：一分钟后自动重试；若经常出现，说明有其他程序也在使用该账号。",
        ),
    )
    .waiting(Duration::from_mins(1)),
    entry(
        45_035,
        NeedsHuman,
        text("WeChat does not allow calls from the address of this server.", "微信不允许来自本服务器 IP 的调用。"),
        ALLOW_ADDRESS,
    ),
    entry(
        47_001,
        NeedsHuman,
        text("WeChat could not read the body of the request.", "微信无法解析请求体。"),
        REPORT_OR_PROXY,
    ),
    entry(
        48_001,
        NeedsHuman,
        text("This account has no permission for this call.", "该账号没有调用此接口的权限。"),
        text(
            "Check the account's API permissions in the WeChat console, and keep no tickets for mini programs, which have none.",
            "请在微信后台查看该账号的接口权限；小程序没有 ticket，请勿为其登记 ticket。",
        ),
    ),
    entry(
        48_004,
        NeedsHuman,
        text("WeChat blocked this call because the account broke its rules.", "该账号因违规被微信封禁了此接口。"),
        text(
            "Read the notice in the WeChat console at mp.weixin.qq.com and settle the matter or appeal there.",
            "请登录微信后台（mp.weixin.qq.com）查看通知，并在其中整改或申诉。",
        ),
    ),
    entry(
        48_017,
        NeedsHuman,
        text("The call went to an address that WeChat has retired.", "请求发往了微信已停用的接入地址。"),
        text(
            "Set WXTOKEN_WECHAT_URL to https://api.weixin.qq.com and remove WeChat's names from the hosts file and from DNS overrides.",
            "请将 WXTOKEN_WECHAT_URL 设为 https://api.weixin.qq.com，并删除 hosts 文件和自建 DNS 中对微信域名的固定解析。",
        ),
    ),
    entry(
        50_002,
        NeedsHuman,
        text("The account is frozen, being closed, or was migrated to another.", "该账号已被冻结、正在注销或已迁移。"),
        text(
            "Look at the state of the account in the WeChat console, and disable it here if it is gone for good.",
            "请在微信后台查看账号状态；若账号已不再使用，请在此处停用。",
        ),
    ),
    entry(
        50_004,
        NeedsHuman,
        text("WeChat has forbidden this account to fetch tokens, perhaps as a penalty.", "微信禁止该账号获取令牌，可能是处罚所致。"),
        text(
            "Read the notices in the WeChat console at mp.weixin.qq.com and appeal there.",
            "请登录微信后台（mp.weixin.qq.com）查看通知并申诉。",
        ),
    ),
    entry(
        50_007,
        NeedsHuman,
        text("WeChat has frozen this account.", "该账号已被微信冻结。"),
        text(
            "Follow the steps in the WeChat console at mp.weixin.qq.com to have the account unfrozen.",
            "请登录微信后台（mp.weixin.qq.com），按提示申请解冻账号。",
        ),
    ),
    entry(
        61_003,
        NeedsHuman,
        text("The account has not authorised the third-party platform that made the call.", "该账号未授权发起调用的第三方平台。"),
        PLATFORM_ACCOUNT,
    ),
    entry(
        61_004,
        NeedsHuman,
        text("The address of this server is not registered with WeChat.", "本服务器的 IP 未在微信登记。"),
        ALLOW_ADDRESS,
    ),
    entry(
        61_007,
        NeedsHuman,
        text("The account has not granted this call to the third-party platform.", "该账号未将此接口的权限授予第三方平台。"),
        PLATFORM_ACCOUNT,
    ),
    entry(
        61_023,
        NeedsHuman,
        text("The refresh token that a third-party platform holds for this account is invalid.", "第三方平台持有的该账号 refresh_token 无效。"),
        PLATFORM_ACCOUNT,
    ),
    entry(
        61_024,
        NeedsHuman,
        text("This AppID is that of a third-party platform, whose tokens come from another call.", "该 AppID 属于第三方平台，其令牌须由另一接口获取。"),
        PLATFORM_ACCOUNT,
    ),
    entry(
        89_501,
        NeedsHuman,
        text("The account's administrator has yet to confirm calls from this server's address.", "本服务器 IP 的调用正等待该账号管理员确认。"),
        APPROVE,
    ),
    entry(
        89_502,
        NeedsHuman,
        text("WeChat waits for the account's administrator to confirm this call.", "微信正等待该账号管理员确认此次调用。"),
        APPROVE,
    ),
    entry(
        89_503,
        NeedsHuman,
        text("WeChat wants the account's administrator to confirm calls from this unusual address.", "此 IP 不常用，微信要求该账号管理员确认此次调用。"),
        APPROVE,
    ),
    entry(
        89_504,
        NeedsHuman,
        text("WeChat waits for the account's administrator to confirm this address.", "微信正等待该账号管理员确认此 IP。"),
        APPROVE,
    ),
    entry(
        89_505,
        NeedsHuman,
        text("The administrator's confirmation of this call is still under way.", "管理员对此次调用的确认仍在进行中。"),
        APPROVE,
    ),
    entry(
        89_506,
        NeedsHuman,
        text("The account's administrator refused this address repeatedly, and WeChat blocks it for 24 hours.", "该账号管理员多次拒绝此 IP，微信将其封禁 24 小时。"),
        text(
            "Add {ip} to the IP whitelist in the WeChat console, or wait 24 hours and have the administrator approve the next request.",
            "请在微信后台将 {ip} 加入 IP 白名单，或等待 24 小时后由管理员同意下一次请求。",
        ),
    )
    .waiting(Duration::from_hours(24)),
    entry(
        89_507,
        NeedsHuman,
        text("The account's administrator refused this address, and WeChat blocks it for an hour.", "该账号管理员拒绝了此 IP，微信将其封禁 1 小时。"),
        text(
            "Add {ip} to the IP whitelist in the WeChat console, or wait an hour and have the administrator approve the next request.",
            "请在微信后台将 {ip} 加入 IP 白名单，或等待 1 小时后由管理员同意下一次请求。",
        ),
    )
    .waiting(Duration::from_hours(1)),
];
