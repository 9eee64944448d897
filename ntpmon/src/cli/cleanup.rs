//! `ntpmon cleanup`: removes what a dead ntpmon left in the kernel.

use anyhow::{Context, Result};

use crate::{capture, netlink, privileges};

/// Remove what a killed ntpmon, or one with --pin, left attached or pinned
///
/// What a running ntpmon uses is left alone.
#[derive(Debug, clap::Args)]
pub(super) struct Cleanup {
    /// Only this interface; may be given several times [default: all]
    #[arg(short, long = "interface", value_name = "NIC")]
    interfaces: Vec<String>,
}

impl Cleanup {
    pub(super) fn run(self) -> Result<()> {
        privileges::check_capture()?;
        let all = netlink::interfaces()?;
        let mut removed = 0;
        let chosen: Vec<_> = if self.interfaces.is_empty() {
            for what in capture::cleanup_gone(&all)? {
                removed += 1;
                println!("removed {what}, of an interface that is gone");
            }
            all
        } else {
            self.interfaces
                .iter()
                .map(|name| netlink::find(&all, name).cloned())
                .collect::<Result<_>>()?
        };
        for interface in chosen {
            let gone = capture::cleanup(&interface)
                .with_context(|| format!("cleaning up {}", interface.name))?;
            removed += gone.len();
            for what in gone {
                println!("{}: removed {what}", interface.name);
            }
        }
        if removed == 0 {
            println!("nothing to remove");
        }
        Ok(())
    }
}
