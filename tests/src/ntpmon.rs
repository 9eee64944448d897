//! `ntpmon` run to its end, as a user would: with a backtrace asked for, so that a test sees whether
//! one is shown, and never for longer than a minute. And what `replay` printed, as values.

use std::{
    collections::HashMap,
    ffi::OsStr,
    io::Write,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

use crate::watch::binary;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The exit code; a signal is none.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it had to say.
    pub stderr: String,
}

impl Ended {
    /// Reads the output of a finished command.
    pub fn of(output: Output) -> Result<Self> {
        if let Some(signal) = output.status.signal() {
            bail!(
                "ended by signal {signal}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).context("standard output is not UTF-8")?,
            stderr: String::from_utf8(output.stderr).context("standard error is not UTF-8")?,
        })
    }

    /// What it printed, of a run that had nothing to complain about.
    pub fn printed(self) -> Result<String> {
        ensure!(
            self.code == Some(0) && self.stderr.is_empty(),
            "exit code {:?}: {}",
            self.code,
            self.stderr
        );
        Ok(self.stdout)
    }
}

/// A command that runs the binary under test behind others: `before` is what comes before it.
pub fn command(before: &[&str]) -> Result<Command> {
    let mut command = Command::new("timeout");
    command
        .args(["--signal=KILL", "60"])
        .args(before)
        .arg(binary()?)
        .env("RUST_BACKTRACE", "1")
        .env_remove("NTPMON_LOG")
        .stdin(Stdio::null());
    Ok(command)
}

/// Runs it to its end.
pub fn run<Argument: AsRef<OsStr>>(arguments: impl IntoIterator<Item = Argument>) -> Result<Ended> {
    let output = command(&[])?.args(arguments).output();
    Ended::of(output.context("cannot start ntpmon")?)
}

/// Runs it to its end with something on its standard input.
pub fn run_with_input(input: &[u8], arguments: &[&str]) -> Result<Ended> {
    let mut child = command(&[])?
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start ntpmon")?;
    let mut stdin = child.stdin.take().context("standard input is a pipe")?;
    std::thread::scope(|scope| {
        // It may end without reading all of it.
        scope.spawn(move || stdin.write_all(input));
        Ended::of(child.wait_with_output()?)
    })
}

/// One exchange that `replay` printed: the text of each field, nothing for null.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row(HashMap<String, String>);

impl Row {
    /// A field as text; nothing where it is null.
    ///
    /// # Panics
    /// There is no such field.
    pub fn text(&self, name: &str) -> Option<&str> {
        let text = self
            .0
            .get(name)
            .unwrap_or_else(|| panic!("no field {name}"));
        (!text.is_empty()).then_some(text)
    }

    /// A field as a number; nothing where it is null.
    ///
    /// # Panics
    /// It is no number.
    pub fn number(&self, name: &str) -> Option<f64> {
        let text = self.text(name)?;
        Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text}")))
    }

    /// A field that is true or false.
    pub fn flag(&self, name: &str) -> bool {
        self.text(name) == Some("true")
    }
}

/// The exchanges of a file, in every format that is for programs: that both say the same is made
/// sure here, so that whatever holds of the rows holds of NDJSON and of CSV.
pub fn replay(file: &Path, options: &[&str]) -> Result<Vec<Row>> {
    let printed = |format| {
        let arguments = ["replay", "--format", format].map(OsStr::new);
        let options = options.iter().map(OsStr::new);
        run(arguments
            .into_iter()
            .chain(options)
            .chain([file.as_os_str()]))?
        .printed()
    };
    let objects = objects(&printed("ndjson")?)?;
    let table = csv(&printed("csv")?)?;
    let Some((names, rows)) = table.split_first() else {
        ensure!(objects.is_empty(), "CSV has nothing, NDJSON something");
        return Ok(Vec::new());
    };
    ensure!(
        rows.len() == objects.len(),
        "CSV and NDJSON differ in length"
    );
    for (row, object) in rows.iter().zip(&objects) {
        ensure!(object.keys().eq(names), "CSV and NDJSON differ in names");
        for (text, (name, value)) in row.iter().zip(object) {
            let same = match value {
                Value::Null => text.is_empty(),
                Value::Bool(flag) => *text == flag.to_string(),
                Value::Number(number) => is_number(text, number.as_f64()),
                Value::String(string) => text == string,
                Value::Array(_) | Value::Object(_) => false,
            };
            ensure!(same, "{name} is {text:?} in CSV and {value} in NDJSON");
        }
    }
    let rows = rows
        .iter()
        .map(|row| Row(names.iter().cloned().zip(row.iter().cloned()).collect()));
    Ok(rows.collect())
}

/// To the last bit but one: serde_json is not exact there.
fn is_number(text: &str, number: Option<f64>) -> bool {
    let same = |(one, other): (f64, f64)| (one - other).abs() <= one.abs() * f64::EPSILON;
    text.parse().ok().zip(number).is_some_and(same)
}

/// NDJSON as objects.
pub fn objects(text: &str) -> Result<Vec<Map<String, Value>>> {
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("not an object: {line}")))
        .collect()
}

/// CSV (RFC 4180) as records.
pub fn csv(text: &str) -> Result<Vec<Vec<String>>> {
    let mut records = Vec::new();
    let (mut record, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.next_if_eq(&'"').is_some() => field.push('"'),
            '"' => {
                ensure!(quoted || field.is_empty(), "a quote inside a field");
                quoted = !quoted;
            }
            ',' if !quoted => record.push(std::mem::take(&mut field)),
            '\n' if !quoted => {
                record.push(std::mem::take(&mut field));
                records.push(std::mem::take(&mut record));
            }
            _ => field.push(character),
        }
    }
    ensure!(
        !quoted && field.is_empty() && record.is_empty(),
        "the last record is not finished"
    );
    if let Some(first) = records.first() {
        let length = first.len();
        ensure!(
            records.iter().all(|record| record.len() == length),
            "records of different lengths"
        );
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_fields_are_read() {
        let records = csv("a,b\n\"1,\"\"2\"\"\n3\",\n").unwrap();
        assert_eq!(records, [["a", "b"], ["1,\"2\"\n3", ""]]);
        assert!(csv("a,b\n1\n").is_err());
        assert!(csv("a,b\n1,2").is_err());
    }
}
