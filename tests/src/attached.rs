//! What hangs on an interface, seen by others than ntpmon: bpftool's and tc's lists, and programs of
//! somebody else, which must go on seeing every packet.

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::PerCpuArray,
    programs::{
        LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode,
        tc::{NlOptions, TcAttachOptions, TcHandle, qdisc_add_clsact},
    },
};
use ntpmon_common::{
    Counters,
    settings::{PortSet, globals},
};
use serde_json::Value;

use crate::namespace::Namespace;

/// The programs on an interface of a namespace, as `HOOK NAME`: none when nothing is attached.
/// Filters on clsact and XDP as bpftool lists them, which on Debian does not know TCX: for that the
/// kernel itself is asked.
pub fn programs(namespace: &Namespace, device: &str) -> Result<Vec<String>> {
    let printed = namespace.run("bpftool", ["-j", "net", "show"])?;
    let lists: Value = serde_json::from_str(&printed).context("bpftool prints JSON")?;
    let mut found = Vec::new();
    for list in lists.as_array().into_iter().flatten() {
        for (hook, entries) in list.as_object().into_iter().flatten() {
            for entry in entries.as_array().into_iter().flatten() {
                // Newer ones do know it.
                let kind = entry["kind"].as_str().unwrap_or_default();
                if entry["devname"] == device && !kind.starts_with("tcx") {
                    found.push(match entry["name"].as_str() {
                        Some(name) => format!("{hook} {name}"),
                        None => hook.clone(),
                    });
                }
            }
        }
    }
    namespace.enter(|| {
        for (hook, direction) in [
            ("tcx-egress", TcAttachType::Egress),
            ("tcx-ingress", TcAttachType::Ingress),
        ] {
            let (_, programs) = SchedClassifier::query_tcx(device, direction)?;
            for program in programs {
                let name = program.name_as_str().unwrap_or_default();
                found.push(format!("{hook} {name}"));
            }
        }
        Ok(found)
    })
}

/// Where a program of somebody else hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The end of the TCX list for ingress.
    Tcx,
    /// A filter for ingress on clsact.
    Clsact,
    /// XDP in the driver.
    Xdp,
}

/// A program of somebody else on an interface's ingress, which counts every packet. It is made of
/// our own object, for it counts exactly, but with maps of its own.
#[derive(Debug)]
pub struct Foreign {
    programs: Ebpf,
}

impl Foreign {
    /// Attaches it.
    pub fn attach(namespace: &Namespace, device: &str, place: Place) -> Result<Self> {
        namespace.enter(|| {
            let mut programs = EbpfLoader::new()
                .override_global(globals::PORTS, &PortSet::of(&[123]).0, true)
                .load(ntpmon::capture::OBJECT)
                .context("cannot load it")?;
            let name = if place == Place::Xdp {
                "xdp_ingress"
            } else {
                "tc_ingress"
            };
            let program = programs.program_mut(name).context("the object has it")?;
            if place == Place::Xdp {
                let xdp: &mut Xdp = program.try_into()?;
                xdp.load()?;
                xdp.attach(device, XdpMode::Driver)?;
                return Ok(Self { programs });
            }
            let options = if place == Place::Tcx {
                TcAttachOptions::TcxOrder(LinkOrder::default())
            } else {
                qdisc_add_clsact(device)?;
                TcAttachOptions::Netlink(NlOptions {
                    priority: 50,
                    handle: TcHandle::new(0, 1),
                    ..NlOptions::default()
                })
            };
            let classifier: &mut SchedClassifier = program.try_into()?;
            classifier.load()?;
            classifier.attach_with_options(device, TcAttachType::Ingress, options)?;
            Ok(Self { programs })
        })
    }

    /// How many NTP packets it saw, those for which its rings had no room among them.
    pub fn seen(&self) -> Result<u64> {
        use ntpmon_common::Counter::{Emitted, RingFull};
        let map = self.programs.map("COUNTERS").context("the object has it")?;
        let counters: PerCpuArray<_, Counters> = PerCpuArray::try_from(map)?;
        Ok(counters
            .get(&0, 0)?
            .iter()
            .map(|counters| counters.get(Emitted) + counters.get(RingFull))
            .sum())
    }
}
