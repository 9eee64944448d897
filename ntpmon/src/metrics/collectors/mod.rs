//! What is told, a file for each part that tells. A collector declares its families and fills them
//! from what its part keeps in memory, in a millisecond or so, whatever else there is a million of.

mod alerts;
mod api;
mod checks;
mod clients;
mod exchanges;
mod export;
mod health;
mod history;
mod interfaces;
pub(super) mod own;
mod process;
mod ptp;
mod servers;

use anyhow::Result;

use super::{Family, Samples, Sources};

/// Something that tells numbers.
pub struct Collector {
    /// What it is called in its own metrics and in messages.
    pub name: &'static str,
    /// What it tells.
    pub families: &'static [&'static Family],
    /// Fills them; on a thread that may block for a short time.
    pub collect: fn(&Sources, &mut Samples) -> Result<()>,
}

/// All of them, in the order of what is answered.
pub static COLLECTORS: &[Collector] = &[
    Collector {
        name: "health",
        families: health::FAMILIES,
        collect: health::collect,
    },
    Collector {
        name: "interfaces",
        families: interfaces::FAMILIES,
        collect: interfaces::collect,
    },
    Collector {
        name: "exchanges",
        families: exchanges::FAMILIES,
        collect: exchanges::collect,
    },
    Collector {
        name: "servers",
        families: servers::FAMILIES,
        collect: servers::collect,
    },
    Collector {
        name: "clients",
        families: clients::FAMILIES,
        collect: clients::collect,
    },
    Collector {
        name: "checks",
        families: checks::FAMILIES,
        collect: checks::collect,
    },
    Collector {
        name: "alerts",
        families: alerts::FAMILIES,
        collect: alerts::collect,
    },
    Collector {
        name: "ptp",
        families: ptp::FAMILIES,
        collect: ptp::collect,
    },
    Collector {
        name: "history",
        families: history::FAMILIES,
        collect: history::collect,
    },
    Collector {
        name: "api",
        families: api::FAMILIES,
        collect: api::collect,
    },
    Collector {
        name: "export",
        families: export::FAMILIES,
        collect: export::collect,
    },
    Collector {
        name: "process",
        families: process::FAMILIES,
        collect: process::collect,
    },
];

/// Every family that there is, whether or not it has samples at the moment.
pub fn families() -> impl Iterator<Item = &'static Family> {
    let collected = COLLECTORS.iter().map(|collector| collector.families);
    collected.chain([own::FAMILIES]).flatten().copied()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{COLLECTORS, families, own};
    use crate::metrics::{Family, Kind};

    #[test]
    fn names_are_by_the_conventions_and_each_is_there_once() {
        let mut names = BTreeSet::new();
        for family in families() {
            let name = family.name;
            assert!(names.insert(family.base()), "{name} is there twice");
            assert!(
                name.starts_with("ntpmon_") || name.starts_with("process_"),
                "{name}"
            );
            assert_eq!(
                name.ends_with("_total"),
                family.kind == Kind::Counter,
                "{name}"
            );
            assert_eq!(name.ends_with("_info"), family.kind == Kind::Info, "{name}");
            assert!(
                ["_count", "_sum", "_bucket", "_created"]
                    .iter()
                    .all(|end| !family.base().ends_with(end)),
                "{name}"
            );
            let is_word = |word: &str| {
                word.starts_with(|it: char| it.is_ascii_lowercase())
                    && word
                        .chars()
                        .all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == '_')
            };
            assert!(
                is_word(name) && family.labels.iter().all(|it| is_word(it)),
                "{name}"
            );
            // Clients are without number; tokens are nobody's business.
            for label in family.labels {
                assert!(
                    !["client", "token", "le", "quantile"].contains(label),
                    "{name}"
                );
            }
            assert!(
                family.help.len() > 20 && !family.help.ends_with('.'),
                "{name}"
            );
        }
        assert!(names.len() > 60, "{}", names.len());
    }

    #[test]
    fn the_documentation_has_every_family_with_what_it_means_and_no_other() {
        let row = |family: &&Family| {
            let labels: Vec<String> = family.labels.iter().map(|it| format!("`{it}`")).collect();
            format!(
                "| `{}` | {} | {} | {} |\n",
                family.name,
                family.kind.name(),
                labels.join(", "),
                family.help
            )
        };
        let own = [("collectors", own::FAMILIES)];
        let all = COLLECTORS
            .iter()
            .map(|it| (it.name, it.families))
            .chain(own);
        let expected: String = all
            .map(|(name, families)| {
                let rows: String = families.iter().map(row).collect();
                format!("\n### {name}\n\n| family | kind | labels | what it means |\n|---|---|---|---|\n{rows}")
            })
            .collect();
        let text = include_str!("../../../../docs/metrics.md");
        let (_, told) = text.split_once("\n## Families\n").unwrap();
        assert!(told == expected, "docs/metrics.md should say:\n{expected}");
    }
}
