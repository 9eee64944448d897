//! `ntpmon man`: the manual pages, made from what the command line says of itself.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
};

use anyhow::{Context, Result};
use clap::CommandFactory;

use super::{Arguments, client::written};

/// Write the manual pages
///
/// One page for ntpmon and one for each of its commands; man -l shows one.
#[derive(Debug, clap::Args)]
pub(super) struct Man {
    /// Where to write them; it is made if it is not there [default: ntpmon's own to standard output]
    directory: Option<PathBuf>,
}

impl Man {
    pub(super) fn run(self) -> Result<()> {
        let Some(directory) = self.directory else {
            let mut page = Vec::new();
            clap_mangen::Man::new(Arguments::command())
                .render(&mut page)
                .context("making the manual page")?;
            return written(io::stdout().write_all(&page));
        };
        fs::create_dir_all(&directory)
            .and_then(|()| clap_mangen::generate_to(Arguments::command(), &directory))
            .with_context(|| format!("writing the manual pages to {}", directory.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("share/man1");
        let man = Man {
            directory: Some(directory.clone()),
        };
        man.run().unwrap();
        let page = |name: &str| fs::read_to_string(directory.join(format!("{name}.1"))).unwrap();
        assert!(page("ntpmon").starts_with(".ie"));
        for command in Arguments::command().get_subcommands() {
            let page = page(&format!("ntpmon-{}", command.get_name()));
            assert!(page.contains(".SH SYNOPSIS"), "{}", command.get_name());
        }
        assert!(page("ntpmon-interfaces-start").contains("output"));
    }
}
