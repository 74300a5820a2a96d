//! The stable names of problems. Only here stand status codes.

use axum::http::StatusCode;

/// Gives each code its spelling, its status and its title; a code without one of them does not compile.
macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $status:ident, $title:literal;)+) => {
        /// The stable name of a problem.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[$doc])* $variant,)+
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The spelling that callers compare.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The status that goes with it.
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status),+ }
            }

            /// A few words for people.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title),+ }
            }
        }
    };
}

codes! {
    /// The request cannot be understood.
    InvalidRequest = "invalid_request", BAD_REQUEST, "The request cannot be understood";
    /// No key, or one that opens nothing.
    InvalidKey = "invalid_key", UNAUTHORIZED, "No usable key";
    /// The key may not do this.
    InsufficientScope = "insufficient_scope", FORBIDDEN, "The key may not do this";
    /// The key does not reach this account.
    AccountOutOfScope = "account_out_of_scope", FORBIDDEN, "The key does not reach this account";
    /// The proxy was asked for another host.
    HostNotServed = "host_not_served", FORBIDDEN, "The proxy does not serve this";
    /// No such path.
    NotFound = "not_found", NOT_FOUND, "There is nothing here";
    /// No such account.
    UnknownAccount = "unknown_account", NOT_FOUND, "No such account";
    /// No such token type.
    UnknownTokenType = "unknown_token_type", NOT_FOUND, "No such token type";
    /// The account does not keep this token type.
    TokenTypeNotKept = "token_type_not_kept", NOT_FOUND, "The account does not keep this token type";
    /// No such key.
    UnknownKey = "unknown_key", NOT_FOUND, "No such key";
    /// No such mirror.
    UnknownMirror = "unknown_mirror", NOT_FOUND, "No such mirror";
    /// The path is there, the method is not.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "The path has no such method";
    /// The body took too long to arrive.
    BodyTimeout = "body_timeout", REQUEST_TIMEOUT, "The body took too long";
    /// The account is switched off.
    AccountDisabled = "account_disabled", CONFLICT, "The account is disabled";
    /// The appid is registered already.
    AccountExists = "account_exists", CONFLICT, "The account is registered already";
    /// Another mirror writes the same key.
    MirrorExists = "mirror_exists", CONFLICT, "Another mirror writes there";
    /// The account has as many mirrors as it may have.
    TooManyMirrors = "too_many_mirrors", CONFLICT, "The account has too many mirrors";
    /// The last key that can do everything.
    LastAdminKey = "last_admin_key", CONFLICT, "This is the last admin key";
    /// The body is too large.
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE, "The body is too large";
    /// The body is not JSON by its content type.
    UnsupportedMediaType = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "The body must be JSON";
    /// A field holds something that it cannot hold.
    InvalidField = "invalid_field", UNPROCESSABLE_ENTITY, "A field is not valid";
    /// WeChat refuses the token that was to be adopted.
    TokenRefused = "token_refused", UNPROCESSABLE_ENTITY, "WeChat refuses the token";
    /// A limit on calls to WeChat is reached.
    BudgetExhausted = "budget_exhausted", TOO_MANY_REQUESTS, "The budget of calls to WeChat is spent";
    /// No room for one more event stream.
    TooManyStreams = "too_many_streams", TOO_MANY_REQUESTS, "Too many event streams are open";
    /// A defect or a broken row.
    Internal = "internal", INTERNAL_SERVER_ERROR, "Something broke in wxtoken";
    /// The AppSecret in the database does not open under the master key.
    SecretUnreadable = "secret_unreadable", INTERNAL_SERVER_ERROR, "The stored AppSecret cannot be read";
    /// The call to WeChat failed.
    RefreshFailed = "refresh_failed", BAD_GATEWAY, "The call to WeChat failed";
    /// There is no valid token to serve.
    NoValidToken = "no_valid_token", SERVICE_UNAVAILABLE, "There is no valid token";
    /// Somebody else is refreshing the token.
    RefreshBusy = "refresh_busy", SERVICE_UNAVAILABLE, "The token is being refreshed";
    /// The answer took too long.
    DeadlineExceeded = "deadline_exceeded", SERVICE_UNAVAILABLE, "The answer took too long";
    /// This instance has not loaded its view yet.
    Starting = "starting", SERVICE_UNAVAILABLE, "This instance is starting";
    /// This instance is shutting down.
    ShuttingDown = "shutting_down", SERVICE_UNAVAILABLE, "This instance is shutting down";
    /// The database is away.
    DatabaseUnavailable = "database_unavailable", SERVICE_UNAVAILABLE, "The database cannot be reached";
}
