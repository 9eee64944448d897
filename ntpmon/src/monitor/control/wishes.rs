//! What is to be watched and what is not, as it is remembered over restarts.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::monitor::Options;

/// What is to be watched and what is not, as it is remembered.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wishes {
    /// Of this layout.
    version: u32,
    /// Interfaces were only ever stopped, none of which was watched: the default route still says
    /// what is.
    #[serde(default)]
    open: bool,
    interfaces: BTreeMap<String, Wish>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    /// Otherwise it was stopped.
    pub(super) watch: bool,
    /// Only what was asked for: without, the defaults, which may be others after a restart.
    pub(super) options: Option<Options>,
}

impl Wishes {
    const VERSION: u32 = 1;

    pub(super) fn read(bytes: Option<&[u8]>) -> Result<Self> {
        let Some(bytes) = bytes else {
            return Ok(Self::default());
        };
        let mut wishes: Self = serde_json::from_slice(bytes)?;
        ensure!(
            wishes.version == Self::VERSION,
            "it has layout {}, this ntpmon knows {}",
            wishes.version,
            Self::VERSION
        );
        for wish in wishes.interfaces.values_mut() {
            wish.options = wish.options.take().map(Options::checked).transpose()?;
        }
        Ok(wishes)
    }

    pub(super) fn write(&self) -> Result<Vec<u8>> {
        let wishes = serde_json::json!({
            "version": Self::VERSION,
            "open": self.open,
            "interfaces": self.interfaces,
        });
        Ok(serde_json::to_vec(&wishes)?)
    }

    /// Nobody has wished for anything to be watched.
    pub(super) fn leave_it_open(&self) -> bool {
        self.interfaces.is_empty() || self.open
    }

    /// Says whether that is news.
    pub(super) fn set_open(&mut self, open: bool) -> bool {
        std::mem::replace(&mut self.open, open) != open
    }

    /// Says whether that is news.
    pub(super) fn set(&mut self, name: &str, wish: Wish) -> bool {
        if self.interfaces.get(name) == Some(&wish) {
            return false;
        }
        self.interfaces.insert(name.to_owned(), wish);
        true
    }

    /// Says whether an interface was wished for that nothing had been said of.
    pub(super) fn watch_unless_known(&mut self, name: String) -> bool {
        let is_new = !self.interfaces.contains_key(&name);
        self.interfaces.entry(name).or_insert(Wish {
            watch: true,
            options: None,
        });
        is_new
    }

    /// Forgets those that were stopped, are not kept, and so are watched no more without a word:
    /// interfaces come and go without end. One wish is always left, for without any the default
    /// route's interface would be watched.
    pub(super) fn forget_stopped(&mut self, keep: impl Fn(&str) -> bool) {
        let mut left = self.interfaces.len();
        self.interfaces.retain(|name, wish| {
            let stays = wish.watch || keep(name) || left == 1;
            left -= usize::from(!stays);
            stays
        });
    }

    pub(super) fn is_stopped(&self, name: &str) -> bool {
        self.interfaces.get(name).is_some_and(|wish| !wish.watch)
    }

    pub(super) fn options(&self, name: &str) -> Option<&Options> {
        self.interfaces.get(name)?.options.as_ref()
    }

    /// What is watched at start, of these and those that are named.
    pub(super) fn watched<'a>(&'a self, named: &'a BTreeSet<String>) -> BTreeSet<&'a str> {
        let wished = self.interfaces.iter().filter(|(_, wish)| wish.watch);
        let named = named.iter().filter(|name| !self.is_stopped(name));
        wished
            .map(|(name, _)| name)
            .chain(named)
            .map(String::as_str)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn wishes(wished: &[(&str, bool)]) -> Wishes {
        let interfaces = wished.iter().map(|(name, watch)| {
            let wish = Wish {
                watch: *watch,
                options: None,
            };
            ((*name).to_owned(), wish)
        });
        Wishes {
            version: Wishes::VERSION,
            open: false,
            interfaces: interfaces.collect(),
        }
    }

    #[test]
    fn named_interfaces_are_watched_unless_they_were_stopped() {
        let wishes = wishes(&[("eth0", false), ("eth1", true), ("eth2", false)]);
        let named = named(&["eth0", "eth3"]);
        let watched: Vec<&str> = wishes.watched(&named).into_iter().collect();
        assert_eq!(watched, ["eth1", "eth3"]);
    }

    #[test]
    fn wishes_come_back_as_they_were() {
        let mut wishes = wishes(&[("eth0", false), ("eth1", true)]);
        wishes.interfaces.insert(
            "eth2".to_owned(),
            Wish {
                watch: true,
                options: Some(Options::default()),
            },
        );
        for open in [false, true] {
            wishes.set_open(open);
            let bytes = wishes.write().unwrap();
            assert_eq!(Wishes::read(Some(&bytes)).unwrap(), wishes);
        }
    }

    #[test]
    fn what_was_stopped_and_is_gone_is_forgotten_but_for_the_last() {
        let mut several = wishes(&[("eth0", false), ("eth1", true), ("veth7", false)]);
        several.forget_stopped(|name| name == "eth0");
        assert_eq!(several, wishes(&[("eth0", false), ("eth1", true)]));
        let mut stopped = wishes(&[("veth7", false), ("veth8", false)]);
        stopped.forget_stopped(|_| false);
        assert_eq!(stopped, wishes(&[("veth8", false)]));
        assert!(!stopped.leave_it_open());
    }

    #[test]
    fn what_is_no_wish_or_of_a_later_layout_is_refused() {
        assert_eq!(Wishes::read(None).unwrap(), Wishes::default());
        let impossible = {
            let mut wishes = wishes(&[]);
            let options = Some(Options {
                ports: vec![0],
                ..Options::default()
            });
            wishes.set(
                "eth0",
                Wish {
                    watch: true,
                    options,
                },
            );
            String::from_utf8(wishes.write().unwrap()).unwrap()
        };
        let later = "{\"version\":2,\"interfaces\":{}}";
        for wrong in ["", "{}", "[]", later, &impossible] {
            assert!(Wishes::read(Some(wrong.as_bytes())).is_err(), "{wrong}");
        }
    }
}
