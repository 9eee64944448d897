//! `ntpmon config`: whether the configuration is right, and what is in force. And the flags by
//! which commands are told of the configuration.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Write},
    net::SocketAddr,
    path::{self, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use clap::Subcommand;
use serde_json::{Map, json};
use toml::Value;

use crate::{
    api::Tls,
    config::{Config, DEFAULT_FILE, Flag, KEYS, LISTS, Loaded, Sources},
    tokens::Tokens,
};

/// Where the configuration is.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ConfigFile {
    /// The configuration; NTPMON_CONFIG may name it too [default: /etc/ntpmon/ntpmon.toml, if it
    /// is there]
    #[arg(long = "config", value_name = "FILE", global = true)]
    file: Option<PathBuf>,
}

impl ConfigFile {
    /// What is in force, by the file and the environment.
    pub(super) fn load(self) -> Result<Loaded> {
        Ok(Config::load(&Sources::of_process(self.file, Vec::new()))?)
    }
}

/// Where the configuration is, and what the daemon's command line sets over it.
#[derive(Debug, clap::Args)]
pub(super) struct Settings {
    /// An interface to watch; may be given several times [default: that of the default route]
    #[arg(short, long = "interface", value_name = "NIC")]
    interfaces: Vec<String>,
    /// Where to serve the API [default: 127.0.0.1:8000]
    #[arg(long, value_name = "ADDRESS", value_parser = parse_listen)]
    listen: Option<SocketAddr>,
    /// Where everything that is remembered lies [default: /var/lib/ntpmon]
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    file: ConfigFile,
}

fn parse_listen(text: &str) -> Result<SocketAddr> {
    text.parse().map_err(|_| {
        anyhow!("expected an address and a port, such as 127.0.0.1:8000 or [::1]:8000")
    })
}

impl Settings {
    /// Where all settings are.
    pub(super) fn sources(self) -> Result<Sources> {
        let mut flags = Vec::new();
        let mut flag = |name, key, value| flags.push(Flag { name, key, value });
        if !self.interfaces.is_empty() {
            let names = self.interfaces.into_iter().map(Value::String).collect();
            flag("--interface", "interfaces", Value::Array(names));
        }
        if let Some(listen) = self.listen {
            flag("--listen", "api.listen", Value::String(listen.to_string()));
        }
        if let Some(directory) = self.data_dir {
            // At the command line it is meant from where one is.
            let directory = path::absolute(&directory)
                .with_context(|| format!("--data-dir {}", directory.display()))?;
            let text = directory.into_os_string().into_string();
            let text = text.map_err(|it| anyhow!("--data-dir {}: is not UTF-8", it.display()))?;
            flag("--data-dir", "data_dir", Value::String(text));
        }
        Ok(Sources::of_process(self.file.file, flags))
    }
}

/// Check the daemon's configuration, or show what is in force
#[derive(Debug, clap::Args)]
pub(super) struct Configuration {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(Check),
    Show(Show),
}

/// Check that the configuration is right; tell every fault if it is not
///
/// What it names is looked at too: the tokens, the certificate and its key.
#[derive(Debug, clap::Args)]
struct Check {
    #[command(flatten)]
    settings: Settings,
}

/// Show what is in force, and for each key where its value comes from
#[derive(Debug, clap::Args)]
struct Show {
    #[command(flatten)]
    settings: Settings,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Configuration {
    pub(super) fn run(self) -> Result<()> {
        match self.command {
            Command::Check(check) => check.run(),
            Command::Show(show) => show.run(),
        }
    }
}

impl Check {
    fn run(self) -> Result<()> {
        let loaded = Config::load(&self.settings.sources()?)?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let config = &loaded.config;
        let tokens = Tokens::load(&config.tokens_file())?;
        tokens.check_listen(config.api.listen)?;
        if let Some((certificate, key)) = config.api.tls.pair() {
            for (name, path) in [("certificate", certificate), ("key", key)] {
                File::open(path)
                    .with_context(|| format!("api.tls.{name} = \"{}\"", path.display()))?;
            }
            Tls::load(certificate, key).context("api.tls")?;
        }
        let text = match &loaded.file {
            Some(path) => format!("{} is right\n", path.display()),
            None => format!("there is no {DEFAULT_FILE}, and what is set elsewhere is right\n"),
        };
        print(&text)
    }
}

impl Show {
    fn run(self) -> Result<()> {
        let loaded = Config::load(&self.settings.sources()?)?;
        let text = if self.json {
            format!("{}\n", serde_json::to_string_pretty(&as_json(&loaded)?)?)
        } else {
            as_toml(&loaded)
        };
        print(&text)
    }
}

fn print(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        // Nobody wants to know.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("writing to standard output"),
    }
}

/// A file that would set the same.
fn as_toml(loaded: &Loaded) -> String {
    let mut text = String::new();
    let mut section = "";
    for key in KEYS {
        let (within, name) = key.path.rsplit_once('.').unwrap_or(("", key.path));
        if within != section {
            section = within;
            let _ = write!(text, "\n[{section}]\n");
        }
        let _ = match loaded.value(key.path) {
            Some(value) => writeln!(text, "{name} = {value} # {}", loaded.source(key.path)),
            None if key.path == "api.tokens_file" => {
                let path = loaded.config.tokens_file();
                writeln!(
                    text,
                    "# {name} = \"{}\" # default: in data_dir",
                    path.display()
                )
            }
            None => writeln!(text, "# {name} is not set"),
        };
    }
    for list in LISTS {
        for entry in loaded.entries(list) {
            let _ = write!(text, "\n[[{}]] # {}\n", list.path, entry.source);
            for (key, value, source) in entry.keys {
                let name = key.path;
                let _ = match value {
                    Some(value) => writeln!(text, "{name} = {value} # {source}"),
                    None => writeln!(text, "# {name} is not set"),
                };
            }
        }
    }
    text
}

fn as_json(loaded: &Loaded) -> Result<Map<String, serde_json::Value>> {
    let mut object = Map::new();
    for key in KEYS {
        let mut value = serde_json::to_value(loaded.value(key.path))?;
        if key.path == "api.tokens_file" {
            value = json!(loaded.config.tokens_file());
        }
        let source = loaded.source(key.path).to_string();
        let entry = json!({ "value": value, "source": source });
        object.insert(key.path.to_owned(), entry);
    }
    for entry in LISTS.iter().flat_map(|list| loaded.entries(list)) {
        for (key, value, source) in entry.keys {
            let value = serde_json::to_value(value)?;
            let shown = json!({ "value": value, "source": source.to_string() });
            object.insert(format!("{}.{}", entry.name, key.path), shown);
        }
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_check_finds_what_would_keep_the_daemon_from_starting() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ntpmon.toml");
        let pem = folder.path().join("certificate.pem");
        fs::write(&pem, "no certificate").unwrap();
        let check = |text: &str| {
            fs::write(&path, text).unwrap();
            let settings = Settings {
                interfaces: Vec::new(),
                listen: None,
                data_dir: Some(folder.path().join("data")),
                file: ConfigFile {
                    file: Some(path.clone()),
                },
            };
            Check { settings }
                .run()
                .map_err(|error| format!("{error:#}"))
        };
        check("").unwrap();
        let pem = pem.display();
        let error = check(&format!(
            "[api.tls]\ncertificate = '{pem}'\nkey = '{pem}'\n"
        ));
        let error = error.unwrap_err();
        assert!(
            error.contains("api.tls") && error.contains("holds no certificate"),
            "{error}"
        );
        let error = check("[api]\ncors_origins = ['http://[:']\n").unwrap_err();
        assert!(
            error.contains("api.cors_origins") && error.contains("http://[:"),
            "{error}"
        );
    }

    #[test]
    fn what_is_shown_is_a_file_that_sets_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let load = |text: &str| {
            let path = folder.path().join("ntpmon.toml");
            fs::write(&path, text).unwrap();
            let sources = Sources {
                file: Some(path),
                ..Sources::default()
            };
            Config::load(&sources).unwrap()
        };
        let text = "interfaces = ['eth0']\n[history]\nflush_interval_seconds = 2\n\
                    [history.sessions]\nkeep = '1/8'\n[log]\nfile = '/var/log/\"ntpmon\"'\n";
        let listed = "[[check]]\nserver = '[::1]:1123'\nname = 'a \\b'\n[[check]]\nserver = 'a'\n";
        for loaded in [load(""), load(text), load(listed)] {
            let shown = as_toml(&loaded);
            assert_eq!(load(&shown).config, loaded.config, "{shown}");
        }
    }
}
