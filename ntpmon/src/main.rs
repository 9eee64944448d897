//! Arguments in, exit code out.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Gives large pieces back to the system, which keeps the daemon small after a flood.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

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
