//! What can be wrong with a target. No sentence repeats what a server said: one that does not know a command repeats its arguments, and they hold
//! tokens.

use std::io;

/// Why a target could not be read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MirrorError {
    /// No connection.
    #[error("no connection can be made: {0}")]
    Unreachable(io::ErrorKind),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(io::ErrorKind),
    /// It took too long.
    #[error("it did not answer within 2 s")]
    Timeout,
    /// The user or the password is wrong.
    #[error("it refuses the user or the password; make the mirror anew with the right ones")]
    Credentials,
    /// A command is not allowed.
    #[error(
        "it does not allow the user one of WATCH, UNWATCH, GETRANGE, PTTL, MULTI, SET, DEL and EXEC on these keys, or SELECT"
    )]
    Permission,
    /// It takes no writes.
    #[error("it takes no writes: it is a replica, is loading its data, or has no memory or disk left")]
    ReadOnly,
    /// Under a key stands something that is no string.
    #[error("a key holds something that is no string; delete it there")]
    OtherType,
    /// It answered with another error.
    #[error("it answered with an error of the kind {0}")]
    Refused(&'static str),
    /// What it answered is not its protocol.
    #[error("what it answers is not understood; is it the right kind of server?")]
    Unintelligible,
    /// The connection could not be encrypted.
    #[error("the connection cannot be encrypted: does its certificate fit, and is its issuer among this machine's?")]
    Tls,
    /// There is no directory for files.
    #[error("WXTOKEN_MIRROR_DIR is not set on this instance")]
    NoDirectory,
    /// The directory or the file refused.
    #[error("the file in WXTOKEN_MIRROR_DIR cannot be read or written: {0}")]
    File(io::ErrorKind),
    /// The write before this one has not ended.
    #[error("an earlier access to WXTOKEN_MIRROR_DIR has not ended: does its disk answer?")]
    FileHangs,
}

impl MirrorError {
    /// Whether it is a matter of the whole target and not of one mirror's keys.
    pub(super) fn is_of_the_target(self) -> bool {
        !matches!(self, Self::OtherType | Self::Permission | Self::Refused(_))
    }
}

impl From<io::Error> for MirrorError {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.kind())
    }
}
