//! `ntpmon token`: who may ask the daemon over HTTP.

use std::{
    fs::DirBuilder,
    io::{self, IsTerminal, Write},
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
};

use anyhow::{Context, Result};
use clap::Subcommand;

use super::config::ConfigFile;
use crate::tokens::{Change, Created, Scope, Tokens};

/// Make, list and remove the tokens by which the API knows who asks
///
/// A running daemon reads them again on SIGHUP.
#[derive(Debug, clap::Args)]
pub(super) struct TokenCommand {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(Create),
    List(List),
    Remove(Remove),
}

/// Make a token and print it: it is stored nowhere and cannot be shown again
#[derive(Debug, clap::Args)]
struct Create {
    /// Whose it is: letters, digits, or - _ . @
    name: String,
    /// What it allows: to ask, or to change as well
    #[arg(long, value_enum)]
    scope: Scope,
    #[command(flatten)]
    file: ConfigFile,
}

/// List the tokens, without themselves
#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    file: ConfigFile,
}

/// Remove a token
#[derive(Debug, clap::Args)]
struct Remove {
    /// Whose it is
    name: String,
    #[command(flatten)]
    file: ConfigFile,
}

impl TokenCommand {
    pub(super) fn run(self) -> Result<()> {
        match self.command {
            Command::Create(create) => create.run(),
            Command::List(list) => list.run(),
            Command::Remove(remove) => remove.run(),
        }
    }
}

impl Create {
    fn run(self) -> Result<()> {
        let path = tokens_file(self.file)?;
        if let Some(folder) = path.parent() {
            // A token may be wanted before the daemon's first start.
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .with_context(|| format!("making the directory {}", folder.display()))?;
        }
        let mut change = Change::begin(&path)?;
        let Created(token) = change.create(&self.name, self.scope)?;
        change.commit()?;
        // Only the token: it may go straight into a file.
        writeln!(io::stdout(), "{token}").context("writing the token to standard output")?;
        if io::stderr().is_terminal() {
            tell_reload();
        }
        Ok(())
    }
}

impl List {
    fn run(self) -> Result<()> {
        let tokens = Tokens::load(&tokens_file(self.file)?)?;
        let width = tokens.all().iter().map(|token| token.name.len()).max();
        let mut text = String::new();
        for token in tokens.all() {
            text += &format!(
                "{:width$}  {:5}  {}\n",
                token.name,
                token.scope.name(),
                token.created,
                width = width.unwrap_or(0)
            );
        }
        match io::stdout().write_all(text.as_bytes()) {
            // Nobody wants to know.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => written.context("writing to standard output"),
        }
    }
}

impl Remove {
    fn run(self) -> Result<()> {
        let mut change = Change::begin(&tokens_file(self.file)?)?;
        change.remove(&self.name)?;
        change.commit()?;
        if io::stderr().is_terminal() {
            tell_reload();
        }
        Ok(())
    }
}

fn tell_reload() {
    tracing::info!("a running daemon takes it on SIGHUP: systemctl reload ntpmon");
}

fn tokens_file(file: ConfigFile) -> Result<PathBuf> {
    let loaded = file.load()?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    Ok(loaded.config.tokens_file())
}
