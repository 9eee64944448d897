//! `ntpmon check`: asks servers for the time, once, without a daemon and without privileges.

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use futures_util::future::join_all;
use serde::Serialize;
use tokio::{runtime, sync::Semaphore};

use super::{
    client::written,
    history::{duration, maybe, right, shown},
    interfaces::{plain, width},
};
use crate::{
    check::{
        Definition, Failure, Family, Target,
        exchange::{self, Stamping},
        resolve::{AT_ONCE, resolve},
        round::Round,
        view::Observation,
    },
    config::{List, faults},
    ntp::clock,
};

/// Ask NTP servers for the time, once
///
/// Each server is asked as often as --samples says; of its answers the one with the median offset
/// is shown. An offset is positive when the server is ahead of this host. Of a name each address is
/// asked. Neither a daemon nor a privilege is needed.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP, disable_version_flag = true)]
pub(super) struct Check {
    /// A name or an address, with or without a port: ntp.example, 192.0.2.1:123, [2001:db8::1]:123
    #[arg(value_name = "SERVER[:PORT]", required = true, value_parser = parse_target)]
    servers: Vec<Target>,
    /// Questions to each address, 1 to 16
    #[arg(short = 'n', long, value_name = "N", default_value_t = 3)]
    samples: u8,
    /// From one question to the next, 2 to 60
    #[arg(
        long = "sample-interval-seconds",
        value_name = "SECONDS",
        default_value_t = 2.0
    )]
    sample_interval: f64,
    /// How long a question waits for its answer, 0.05 to 30
    #[arg(
        long = "timeout-seconds",
        value_name = "SECONDS",
        default_value_t = 2.0
    )]
    timeout: f64,
    /// The version of NTP to ask in, 3 or 4
    // The program's own --version is an argument of that name.
    #[arg(
        id = "ntp_version",
        long = "version",
        value_name = "3|4",
        default_value_t = 4
    )]
    version: u8,
    /// Only addresses of IPv4
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    ipv4: bool,
    /// Only addresses of IPv6
    #[arg(short = '6', long)]
    ipv6: bool,
    /// How the outcome is printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

const AFTER_HELP: &str = "\
Exit code: 0 when every address that was asked told the time, right or wrong; 1 when one did not; \
2 when the arguments are wrong.";

/// How the outcome is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Columns for people
    Table,
    /// A JSON object for each address, one a line
    Json,
}

fn parse_target(text: &str) -> Result<Target> {
    Ok(text.parse()?)
}

/// What is printed of an address.
#[derive(Debug, Serialize)]
struct Outcome {
    /// As it was given.
    server: String,
    /// Nothing where a name has none.
    address: Option<String>,
    port: u16,
    #[serde(flatten)]
    observation: Observation,
}

impl Check {
    pub(super) fn run(self) -> Result<()> {
        let definitions = self.definitions();
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting the runtime")?;
        let outcomes = runtime.block_on(async {
            let _stamping = Stamping::hold();
            let lookups = Arc::new(Semaphore::new(AT_ONCE));
            let turns = Semaphore::new(exchange::AT_ONCE);
            join_all(definitions.iter().map(|it| ask(it, &lookups, &turns))).await
        });
        // A resolver that hangs has its own end.
        runtime.shutdown_background();
        let outcomes: Vec<Outcome> = outcomes.into_iter().flatten().collect();
        let text = match self.format {
            Format::Table => table(&outcomes, width()),
            Format::Json => lines(&outcomes)?,
        };
        written(io::stdout().write_all(text.as_bytes()))?;
        let told = |it: &&Outcome| it.observation.offset_seconds.is_some();
        let failed = outcomes.iter().filter(|it| !told(it)).count();
        if failed == 0 {
            return Ok(());
        }
        let of = outcomes.len();
        Err(anyhow!("{failed} of {of} did not tell the time"))
    }

    /// Each server, to be asked as the arguments say. Wrong ones end the process.
    fn definitions(&self) -> Vec<Definition> {
        let seconds = |flag: &str, key: &str, value: f64| {
            Duration::try_from_secs_f64(value).unwrap_or_else(|_| wrong(flag, key))
        };
        let definition = |server: &Target| Definition {
            samples: self.samples,
            spacing: seconds(
                "--sample-interval-seconds",
                "sample_interval_seconds",
                self.sample_interval,
            ),
            timeout: seconds("--timeout-seconds", "timeout_seconds", self.timeout),
            version: self.version,
            family: match (self.ipv4, self.ipv6) {
                (true, _) => Family::Ipv4,
                (_, true) => Family::Ipv6,
                _ => Family::Any,
            },
            // It is done once, so that no interval is too short.
            interval: Duration::from_secs(86_400),
            ..Definition::of(server.clone())
        };
        let definitions: Vec<_> = self.servers.iter().map(definition).collect();
        let flags = [
            ("samples", "--samples"),
            ("sample_interval_seconds", "--sample-interval-seconds"),
            ("timeout_seconds", "--timeout-seconds"),
            ("version", "--version"),
        ];
        if let Some(fault) = definitions
            .first()
            .and_then(|it| faults(it).into_iter().next())
        {
            let key = fault.split(':').next().unwrap_or_default();
            let flag = flags.iter().find(|(it, _)| *it == key);
            wrong(flag.map_or(key, |(_, flag)| flag), key);
        }
        definitions
    }
}

/// Says what a flag has to be.
fn wrong(flag: &str, key: &str) -> ! {
    let key = List::find("check").and_then(|list| list.key(key));
    let expected = key.map_or("another value", |key| key.expected);
    super::usage_error(&format!("{flag}: expected {expected}"))
}

async fn ask(definition: &Definition, lookups: &Arc<Semaphore>, turns: &Semaphore) -> Vec<Outcome> {
    let server = &definition.server;
    let outcome = |address: Option<String>, round: &Round| Outcome {
        server: server.to_string(),
        address,
        port: server.port(),
        observation: Observation::from(round),
    };
    let addresses = match resolve(server, definition.family, lookups).await {
        Ok(resolved) => {
            if resolved.left_out > 0 {
                tracing::warn!(
                    "{server}: {} more addresses are not asked",
                    resolved.left_out
                );
            }
            resolved.addresses
        }
        Err(failure) => return vec![outcome(None, &unresolved(&failure))],
    };
    let rounds = addresses.iter().map(async |address| {
        let round = exchange::round(*address, definition, definition.samples, turns).await;
        outcome(Some(address.ip().to_string()), &round)
    });
    join_all(rounds).await
}

fn unresolved(failure: &Failure) -> Round {
    Round::failed(failure, clock::utc())
}

fn lines(outcomes: &[Outcome]) -> Result<String> {
    let mut text = String::new();
    for outcome in outcomes {
        text += &serde_json::to_string(outcome)?;
        text.push('\n');
    }
    Ok(text)
}

fn table(outcomes: &[Outcome], width: Option<u16>) -> String {
    let header = [
        "SERVER",
        "ADDRESS",
        "OFFSET",
        "DELAY",
        "JITTER",
        "ST",
        "REFERENCE",
        "SAMPLES",
        "STATUS",
    ];
    let mut table = plain(&header, width);
    for Outcome {
        server,
        address,
        observation: it,
        ..
    } in outcomes
    {
        let offset = it.offset_seconds.map(|seconds| {
            let sign = if seconds > 0.0 { "+" } else { "" };
            format!("{sign}{}", duration(seconds))
        });
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        table.add_row([
            server.clone(),
            or_dash(address.clone()),
            or_dash(offset),
            maybe(it.delay_seconds),
            maybe(it.jitter_seconds),
            or_dash(it.stratum.map(|stratum| stratum.to_string())),
            or_dash(it.reference_id.as_deref().map(shown)),
            format!("{}/{}", it.samples, it.sent),
            match &it.message {
                None => it.status.clone(),
                Some(message) => format!("{}: {}", it.status, shown(message)),
            },
        ]);
    }
    right(&mut table, &[2, 3, 4, 5, 7]);
    table.trim_fmt() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_does_not_answer_has_a_line_that_says_so() {
        let round = Round::failed(&Failure::Refused, 0);
        let outcome = Outcome {
            server: "ntp.example".to_owned(),
            address: Some("192.0.2.1".to_owned()),
            port: 123,
            observation: Observation::from(&round),
        };
        let text = table(&[outcome], None);
        let words: Vec<_> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(
            words.join(" "),
            "ntp.example 192.0.2.1 - - - - - 0/0 refused: the port is closed: nothing answers \
             NTP there"
        );
    }
}
