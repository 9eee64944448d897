//! Arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    match ntpmon::cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Several faults are a line each.
            for line in format!("{error:#}").lines() {
                eprintln!("ntpmon: {line}");
            }
            ExitCode::FAILURE
        }
    }
}
