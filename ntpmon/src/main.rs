//! Arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    match ntpmon::cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ntpmon: {error:#}");
            ExitCode::FAILURE
        }
    }
}
