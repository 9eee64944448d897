//! The command line: one file a subcommand.

mod check;
mod cleanup;
mod client;
mod completions;
mod config;
mod history;
mod interfaces;
mod man;
mod replay;
mod run;
mod summary;
mod token;
mod watch;

use std::{
    env::{self, VarError},
    time::Duration,
};

use anyhow::{Result, anyhow, bail};
use clap::{Parser, Subcommand};
use ntpmon_common::settings::MAX_PORTS;
use tracing_subscriber::EnvFilter;

use crate::{
    logging::{self, Logging},
    memory,
    output::Format,
};

/// Watches every NTP packet on this host from inside the kernel, pairs it, times it.
#[derive(Debug, Parser)]
#[command(
    version,
    arg_required_else_help = true,
    propagate_version = true,
    after_help = AFTER_HELP
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Exit code: 0, 1 when something failed, 2 when the arguments are wrong.
NTPMON_LOG=debug (or warn, error) in the environment says more (or less) on standard error.";

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
    Watch(watch::Watch),
    Replay(replay::Replay),
    Interfaces(interfaces::Interfaces),
    Clients(history::clients::Clients),
    Client(history::one_client::OneClient),
    Servers(history::servers::Servers),
    Events(history::events::Events),
    Checks(history::checks::Checks),
    Alerts(history::alerts::Alerts),
    Statistics(history::statistics::Statistics),
    Export(history::export::Export),
    Check(check::Check),
    Cleanup(cleanup::Cleanup),
    Config(config::Configuration),
    Token(token::TokenCommand),
    Completions(completions::Completions),
    Man(man::Man),
}

/// Reads the arguments and does what they say. Wrong arguments end the process with exit code 2.
///
/// # Errors
/// What went wrong, in words for the operator.
pub fn run() -> Result<()> {
    let arguments = Arguments::parse();
    memory::give_back_soon();
    match arguments.command {
        // The daemon's log is one of its settings.
        Command::Run(_) => {}
        // A wrong setting is told with all the others.
        Command::Config(_) | Command::Token(_) => {
            let filter = log_filter().or_else(|_| logging::parse(logging::DEFAULT))?;
            Logging::start(filter, None)?;
        }
        _ => {
            let filter = log_filter().unwrap_or_else(|error| usage_error(&format!("{error:#}")));
            Logging::start(filter, None)?;
        }
    }
    match arguments.command {
        Command::Run(run) => run.run(),
        Command::Watch(watch) => watch.run(),
        Command::Replay(replay) => replay.run(),
        Command::Interfaces(interfaces) => interfaces.run(),
        Command::Clients(clients) => clients.run(),
        Command::Client(client) => client.run(),
        Command::Servers(servers) => servers.run(),
        Command::Events(events) => events.run(),
        Command::Checks(checks) => checks.run(),
        Command::Alerts(alerts) => alerts.run(),
        Command::Statistics(statistics) => statistics.run(),
        Command::Export(export) => export.run(),
        Command::Check(check) => check.run(),
        Command::Cleanup(cleanup) => cleanup.run(),
        Command::Config(configuration) => configuration.run(),
        Command::Token(token) => token.run(),
        Command::Completions(completions) => completions.run(),
        Command::Man(man) => man.run(),
    }
}

/// What is said on standard error.
fn log_filter() -> Result<EnvFilter> {
    let setting = match env::var("NTPMON_LOG") {
        Ok(setting) if !setting.is_empty() => setting,
        Ok(_) | Err(VarError::NotPresent) => logging::DEFAULT.to_owned(),
        Err(error) => bail!("NTPMON_LOG: {error}"),
    };
    logging::parse(&setting).map_err(|error| {
        anyhow!("NTPMON_LOG='{setting}': {error}; try error, warn, info, debug or trace")
    })
}

/// What every command that pairs has to be told.
#[derive(Debug, clap::Args)]
struct Pairing {
    /// A UDP port that is NTP, on either side; may be given up to 8 times
    #[arg(long = "port", value_name = "N", default_value = "123", value_parser = clap::value_parser!(u16).range(1..))]
    ports: Vec<u16>,
    /// How long a request waits for its response, 0.001 to 3600; symmetric peers wait longer
    #[arg(long, value_name = "SECONDS", default_value = "2.0", value_parser = parse_timeout)]
    timeout: Duration,
}

impl Pairing {
    /// The ports, each once. Too many are a usage error.
    fn ports(&self) -> Vec<u16> {
        let mut ports = self.ports.clone();
        ports.sort_unstable();
        ports.dedup();
        if ports.len() > MAX_PORTS {
            usage_error(&format!(
                "--port is given {} times, at most {MAX_PORTS} ports can be watched",
                ports.len()
            ));
        }
        ports
    }

    fn timeout_nanoseconds(&self) -> u64 {
        u64::try_from(self.timeout.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// CSV has one kind of line: a PTP message is none of it.
fn check_ptp(ptp: bool, format: Option<Format>) {
    if ptp && format == Some(Format::Csv) {
        usage_error("--ptp cannot be shown with --format csv: use ndjson or table");
    }
}

fn parse_timeout(text: &str) -> Result<Duration> {
    let seconds: f64 = text.parse()?;
    if !(0.001..=3600.0).contains(&seconds) {
        return Err(anyhow!("{text} is not between 0.001 and 3600 seconds"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// For what clap cannot see: says it in clap's way and ends with exit code 2.
fn usage_error(message: &str) -> ! {
    use clap::{CommandFactory, error::ErrorKind};
    Arguments::command()
        .error(ErrorKind::ValueValidation, message)
        .exit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_timeout_has_bounds() {
        assert_eq!(parse_timeout("2").unwrap(), Duration::from_secs(2));
        for wrong in ["0", "-1", "1e9", "NaN", "inf", "two"] {
            assert!(parse_timeout(wrong).is_err(), "{wrong}");
        }
    }
}
