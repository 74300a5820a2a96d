//! Exit codes. Service managers and scripts rely on them; the ones above 2 are those of `sysexits.h`.

use crate::startup::Remedy;

/// Done.
pub const OK: u8 = 0;
/// Failed for a reason that the message names.
pub const FAILURE: u8 = 1;
/// The command line was not understood, or is no command for this deployment.
pub const USAGE: u8 = 2;
/// The database is away or in use by another process, or the server that a command asks is away or asks to come again: another try later
/// may do. A database server that `serve` needs is waited for instead.
pub const UNAVAILABLE: u8 = 69;
/// The key that was shown to the server opens nothing, or does not allow what was asked.
pub const NOT_ALLOWED: u8 = 77;
/// A setting or the master key is wrong, or the database refuses the user: another try is in vain until that is mended.
pub const CONFIGURATION: u8 = 78;

/// The code that says what would help.
pub(super) fn code_for(remedy: Remedy) -> u8 {
    match remedy {
        Remedy::MendSettings => CONFIGURATION,
        Remedy::OtherCommand => USAGE,
        Remedy::AwaitDatabase => UNAVAILABLE,
        Remedy::Other => FAILURE,
    }
}
