//! `ntpmon export`: the clients as a file. It comes as a stream and is written as it comes; a file
//! has its name only when it is whole.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, IsTerminal},
    num::NonZeroU64,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::{Filters, Output, PATH};
use crate::cli::client::{Answer, Connection};

/// Write the clients that a running daemon remembers into a file
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Export {
    /// What is written
    #[arg(long, value_enum, default_value_t = Format::Csv)]
    format: Format,
    /// Where to, replacing what is there; - is the standard output
    #[arg(long, short, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// At most so many clients, in the order of their addresses
    #[arg(long, value_name = "N")]
    limit: Option<NonZeroU64>,
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// The names in the first line, a client a line
    Csv,
    /// One object with all clients in it
    Json,
    /// A client a line, each a JSON object
    Ndjson,
    /// A table of Apache Parquet
    Parquet,
}

#[derive(Debug, Serialize)]
struct Body<'a> {
    format: Format,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<NonZeroU64>,
    filters: &'a Filters,
}

impl Export {
    pub(in crate::cli) fn run(self) -> Result<()> {
        let file = (self.output != Path::new("-")).then(|| self.output.clone());
        let terminal = file.is_none() && io::stdout().is_terminal();
        if self.format == Format::Parquet && terminal {
            bail!("Parquet is nothing for a terminal: --output names a file");
        }
        let body = Body {
            format: self.format,
            limit: self.limit,
            filters: &self.filters,
        };
        let daemon = self.connection.clone().open()?;
        let answer = daemon.post(&format!("{PATH}/export"), &body)?;
        match file {
            Some(path) => save(answer, &path),
            None => {
                let mut out = Output::stdout();
                answer.copy_to(&mut out)?;
                match self.format {
                    Format::Json => out.print("\n"),
                    _ => Ok(()),
                }
            }
        }
    }
}

/// Writes a file that is there when it is whole, and not before.
fn save(answer: Answer, path: &Path) -> Result<()> {
    // Where a link points to, and not in place of the link.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let writing = || format!("writing {}", path.display());
    if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        // A pipe or a device has no whole.
        let mut out = OpenOptions::new()
            .write(true)
            .open(path)
            .with_context(writing)?;
        return answer.copy_to(&mut out).with_context(writing);
    }
    let name = path
        .file_name()
        .with_context(|| format!("{} is no file", path.display()))?;
    let mut new = name.to_owned();
    new.push(format!(".{}.new", process::id()));
    let new = path.with_file_name(new);
    let file = File::create_new(&new).with_context(|| format!("making {}", new.display()))?;
    let saved = copy(answer, file).with_context(writing).and_then(|()| {
        fs::rename(&new, path)
            .with_context(|| format!("renaming {} to {}", new.display(), path.display()))
    });
    if saved.is_err() {
        // What is not whole is of no use; the failure itself is what counts.
        let _ = fs::remove_file(&new);
    }
    saved
}

fn copy(answer: Answer, file: File) -> Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, file);
    answer.copy_to(&mut out)?;
    out.into_inner()?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::{Router, body::Body as AxumBody, routing::post};
    use futures_util::stream;
    use serde_json::json;

    use super::*;
    use crate::{cli::client::tests::Daemon, tokens::Tokens};

    #[test]
    fn a_file_has_its_name_when_it_is_whole() {
        let daemon = Daemon::with(Tokens::default());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clients.csv");
        let ask = |format| {
            let filters = Filters::default();
            let limit = NonZeroU64::new(7);
            let body = Body {
                format,
                limit,
                filters: &filters,
            };
            assert_eq!(json!(body)["limit"], 7);
            daemon
                .client(None)
                .post(&format!("{PATH}/export"), &body)
                .unwrap()
        };
        fs::write(&path, "old").unwrap();
        save(ask(Format::Csv), &path).unwrap();
        assert!(fs::read_to_string(&path).unwrap().starts_with("client_ip,"));
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        save(ask(Format::Parquet), &link).unwrap();
        assert!(fs::read(&path).unwrap().starts_with(b"PAR1"));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        save(ask(Format::Json), Path::new("/dev/null")).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_breaks_off_leaves_the_file_as_it_was() {
        let cut = post(|| async {
            let parts = stream::unfold(0, |number| async move {
                if number > 0 {
                    // The first is on its way meanwhile.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    return Some((Err(io::Error::other("a test's own")), number));
                }
                Some((Ok("client_ip\n"), number + 1))
            });
            AxumBody::from_stream(parts)
        });
        let daemon = Daemon::serve(Router::new().route("/cut", cut), None);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clients.csv");
        fs::write(&path, "old").unwrap();
        let answer = daemon.client(None).post("/cut", &json!({})).unwrap();
        let error = format!("{:#}", save(answer, &path).unwrap_err());
        assert!(error.contains("clients.csv"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
