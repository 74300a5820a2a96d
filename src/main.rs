//! Environment in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    wxtoken::cli::run(std::env::args_os(), std::env::vars_os())
}
