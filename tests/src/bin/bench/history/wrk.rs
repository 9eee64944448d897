//! wrk, at a pace and as fast as it can.

use std::{io::Write, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};

/// What it measured.
pub(super) struct Asked {
    pub rate: f64,
    pub p50: Duration,
    pub p99: Duration,
}

/// Connections that wait 40 ms before each request, so that four make 100 a second. Each asks for another
/// client where the path has a place for one; the numbers are made as the addresses are.
const PACED: &str = r#"
local number = 0
function delay() return 40 end
function request()
  number = number + 7919
  local mixed = (number % 1000000 * 2654435761) % 4294967296
  local ip = string.format("%d.%d.%d.%d", mixed / 16777216, mixed / 65536 % 256,
    mixed / 256 % 256, mixed % 256)
  return wrk.format(nil, (wrk.path:gsub("CLIENT", ip)))
end
"#;

/// At 100 requests a second.
pub(super) fn paced(url: &str, time: Duration) -> Result<Asked> {
    scripted(url, time, "4")
}

fn scripted(url: &str, time: Duration, connections: &str) -> Result<Asked> {
    let mut script = tempfile::NamedTempFile::with_suffix(".lua")?;
    script.write_all(PACED.as_bytes())?;
    let script = script.path().to_string_lossy().into_owned();
    // What it waits for a core of this machine itself is not to be measured.
    let mut wrk = Command::new("nice");
    wrk.args(["--adjustment=-10", "wrk"]);
    let options = ["--connections", connections, "--script", &script];
    run(wrk, &options, url, time)
}

/// As Prometheus asks, of which there is one: the next after the last is answered, and a moment later.
pub(super) fn scraped(url: &str, time: Duration) -> Result<Asked> {
    scripted(url, time, "1")
}

/// As many as it can with eight connections.
pub(super) fn fastest(url: &str, time: Duration) -> Result<Asked> {
    run(Command::new("wrk"), &["--connections", "8"], url, time)
}

fn run(mut wrk: Command, options: &[&str], url: &str, time: Duration) -> Result<Asked> {
    let duration = format!("{}s", time.as_secs());
    let output = wrk
        .args(["--threads", "1", "--latency", "--duration", &duration])
        .args(options)
        .arg(url)
        .output()
        .context("starting wrk, which has to be installed")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() && !text.contains("Non-2xx") && !text.contains("Socket errors"),
        "wrk {url}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let field = |name: &str| {
        text.lines()
            .filter_map(|line| line.trim().strip_prefix(name))
            .next()
            .map(str::trim)
            .with_context(|| format!("no {name} in what wrk printed: {text}"))
    };
    Ok(Asked {
        rate: field("Requests/sec:")?.parse()?,
        p50: duration_of(field("50%")?)?,
        p99: duration_of(field("99%")?)?,
    })
}

/// `1.23ms`, as wrk writes it.
fn duration_of(text: &str) -> Result<Duration> {
    let number = text.trim_end_matches(|character: char| character.is_alphabetic());
    let scale = match &text[number.len()..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        unit => anyhow::bail!("wrk counts in {unit}"),
    };
    Ok(Duration::from_secs_f64(number.parse::<f64>()? * scale))
}
