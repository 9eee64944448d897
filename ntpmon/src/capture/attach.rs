//! Brings the programs onto an interface: the only place with fallbacks. TCX links where the
//! kernel has them (6.6), clsact filters where not; XDP in the driver, then generic, then TC
//! instead. What resulted is reported, and what a killed predecessor left is removed.
//!
//! Links vanish with their process. Filters on clsact and pins do not, so each is marked as ours:
//! a filter by its handle, a pin by its directory. Whether their owner still lives is told by a
//! lock that the kernel releases with the process.

use std::fmt;

use anyhow::{Context, Result, anyhow, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::Map,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode,
        links::FdLink,
        loaded_programs,
        tc::{
            NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
        },
        xdp::XdpLink,
    },
};
use aya_log::EbpfLogger;
use ntpmon_common::settings::{Link, MAX_RINGS, PortSet, globals};

use super::{OBJECT, Settings};
use super::{
    leftovers::{
        HANDLE_MAJOR, MADE_QDISC, made_qdisc, remove_filters, remove_filters_of_the_dead,
        remove_qdisc_if_empty, slot_of,
    },
    pins::Pins,
    slot::{Slot, Turn},
};
use crate::{
    netlink::{self, Interface},
    privileges,
};

/// Where in the kernel a program hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// A TCX link.
    Tcx,
    /// A filter on the clsact qdisc.
    Clsact,
    /// XDP in the driver.
    XdpDriver,
    /// XDP behind the driver: works everywhere, slower.
    XdpGeneric,
}

impl fmt::Display for Hook {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
            Self::XdpDriver => "xdp-driver",
            Self::XdpGeneric => "xdp-generic",
        })
    }
}

/// How an interface is captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// What comes in.
    pub ingress: Hook,
    /// What goes out; nothing on loopback, where it comes in again.
    pub egress: Option<Hook>,
}

impl fmt::Display for Mode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.egress {
            Some(egress) => write!(formatter, "ingress {}, egress {egress}", self.ingress),
            None => write!(formatter, "ingress {} (both ways)", self.ingress),
        }
    }
}

const INGRESS: &str = "tc_ingress";
const EGRESS: &str = "tc_egress";
const XDP: &str = "xdp_ingress";
/// The ways to attach it, the better one first.
const XDP_MODES: [(XdpMode, Hook); 2] = [
    (XdpMode::Driver, Hook::XdpDriver),
    (XdpMode::Skb, Hook::XdpGeneric),
];

/// Where the programs' log lines go. Programs are made to log only on request, so what they say is
/// shown, whatever level they give it.
#[derive(Debug)]
pub(super) struct KernelLog;

impl log::Log for KernelLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        tracing::info!("kernel: {}", record.args());
    }

    fn flush(&self) {}
}

/// Loaded and attached programs.
pub(super) struct Attached {
    pub(super) mode: Mode,
    pub(super) notes: Vec<String>,
    ebpf: Option<Ebpf>,
    logger: Option<EbpfLogger<KernelLog>>,
    interface: u32,
    made_qdisc: bool,
    pins: Option<Pins>,
    kept: bool,
    slot: Slot,
}

impl fmt::Debug for Attached {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Attached")
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

impl Attached {
    pub(super) fn take_map(&mut self, name: &str) -> Result<Map> {
        self.ebpf
            .as_mut()
            .and_then(|ebpf| ebpf.take_map(name))
            .ok_or_else(|| anyhow!("the kernel object has no map {name}"))
    }

    pub(super) const fn take_logger(&mut self) -> Option<EbpfLogger<KernelLog>> {
        self.logger.take()
    }

    /// Whether programs and rings stay when this is detached.
    pub(super) const fn pinned(&self) -> bool {
        self.pins.is_some()
    }

    /// Events are being taken: from here on pins are kept when this is detached.
    pub(super) const fn keep(&mut self) {
        self.kept = true;
    }

    /// Gives the pins up: detaching then takes everything off the interface. For one that is gone,
    /// or has another name now, and for which nobody will come back.
    pub(super) fn unpin(&mut self) {
        let Some(pins) = self.pins.take() else {
            return;
        };
        if let Err(error) = pins.remove_all() {
            tracing::warn!("{error:#}");
        }
        // A renamed interface still has the filters, which no link of ours stands for any more.
        if let Err(error) = remove_filters(self.interface, self.slot.number, None) {
            tracing::debug!(%error, "leaving filters in place");
        }
    }

    /// Takes the programs off the interface; pinned ones stay, unless they are new and nobody ever
    /// took their events. Maps that were taken live on.
    pub(super) fn detach(&mut self) {
        if !self.kept && self.pins.as_ref().is_some_and(|pins| pins.new) {
            self.unpin();
        }
        if self.ebpf.is_none() {
            return;
        }
        // Without the turn another process may be about to use the qdisc that is given back.
        let turn = Turn::wait(self.interface);
        self.ebpf = None;
        match turn {
            Ok(_turn) if self.pins.is_none() && self.made_qdisc => {
                give_back_qdisc(self.interface);
            }
            Ok(_) => {}
            Err(error) => tracing::warn!("leaving the clsact qdisc in place: {error:#}"),
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.detach();
    }
}

fn give_back_qdisc(interface: u32) {
    if let Err(error) = remove_qdisc_if_empty(interface) {
        tracing::debug!(%error, "leaving the clsact qdisc in place");
    }
}

pub(super) fn attach(interface: &Interface, settings: &Settings) -> Result<Attached> {
    privileges::check_capture()?;
    let link = link_of(interface)?;
    let _turn = Turn::wait(interface.index)?;
    for removed in remove_filters_of_the_dead(interface.index)? {
        tracing::warn!(interface = interface.name, "removed {removed}");
    }
    let slot = Slot::take(interface.index, settings.pin)?;
    let pins = settings
        .pin
        .then(|| Pins::prepare(&interface.name))
        .transpose()?;
    let mut made_qdisc = false;
    let loaded = load_and_attach(
        interface,
        link,
        settings,
        pins.as_ref(),
        slot.number,
        &mut made_qdisc,
    );
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            // Nothing of a half-made capture stays; what a predecessor pinned waits for a better try.
            if let Some(pins) = pins.filter(|pins| pins.new) {
                let removed = pins
                    .remove_all()
                    .and_then(|()| remove_filters(interface.index, slot.number, None));
                if let Err(error) = removed {
                    tracing::warn!("{error:#}");
                }
            }
            if made_qdisc {
                give_back_qdisc(interface.index);
            }
            return Err(error);
        }
    };
    for note in &loaded.notes {
        tracing::warn!(interface = interface.name, "{note}");
    }
    Ok(Attached {
        mode: loaded.mode,
        notes: loaded.notes,
        ebpf: Some(loaded.ebpf),
        logger: loaded.logger,
        interface: interface.index,
        made_qdisc,
        pins,
        kept: false,
        slot,
    })
}

struct Loaded {
    mode: Mode,
    notes: Vec<String>,
    ebpf: Ebpf,
    logger: Option<EbpfLogger<KernelLog>>,
}

fn load_and_attach(
    interface: &Interface,
    link: Link,
    settings: &Settings,
    pins: Option<&Pins>,
    slot: u16,
    made_qdisc: &mut bool,
) -> Result<Loaded> {
    let mut notes = Vec::new();
    let mut ebpf = load(link, settings, pins)?;
    let logger = settings
        .debug
        .then(|| EbpfLogger::init_with_logger(&mut ebpf, KernelLog))
        .transpose()
        .context("reading what the kernel programs log")?;
    let mut attacher = Attacher {
        ebpf: &mut ebpf,
        interface,
        pins,
        slot,
        made_qdisc,
        notes: &mut notes,
    };
    let ingress = attacher.ingress(settings.xdp)?;
    let egress = if interface.loopback {
        None
    } else {
        Some(attacher.tc(EGRESS, TcAttachType::Egress)?)
    };
    Ok(Loaded {
        mode: Mode { ingress, egress },
        notes,
        ebpf,
        logger,
    })
}

/// How frames begin, by the kernel's ARPHRD number.
fn link_of(interface: &Interface) -> Result<Link> {
    match interface.link_layer {
        // Ethernet, loopback.
        1 | 772 => Ok(Link::Ethernet),
        // PPP, raw IP, IP and IPv6 tunnels, SIT, GRE, GRE over IPv6, none (tun, WireGuard).
        512 | 519 | 768 | 769 | 776 | 778 | 823 | 65534 => Ok(Link::Ip),
        other => bail!(
            "{} has a link layer (ARPHRD {other}) that ntpmon cannot read; \
             Ethernet and IP-only interfaces are supported",
            interface.name
        ),
    }
}

fn load(link: Link, settings: &Settings, pins: Option<&Pins>) -> Result<Ebpf> {
    let ports = PortSet::of(&settings.ports);
    let (link, decapsulate) = (link as u8, u8::from(settings.decapsulate));
    let ptp = u8::from(settings.ptp);
    let ring_mask = (settings.rings - 1) as u8;
    let log_level: u8 = if settings.debug { 4 } else { 0 };
    let names: Vec<String> = (0..MAX_RINGS).map(|ring| format!("RING_{ring}")).collect();
    let mut loader = EbpfLoader::new();
    loader
        .override_global(globals::PORTS, &ports.0, true)
        .override_global(globals::LINK, &link, true)
        .override_global(globals::DECAPSULATE, &decapsulate, true)
        .override_global(globals::PTP, &ptp, true)
        .override_global(globals::RING_MASK, &ring_mask, true)
        .override_global("AYA_LOG_LEVEL", &log_level, false);
    if let Some(pins) = pins {
        pins.check_rings(&names, settings)?;
        // One more set: what was told already, see `counters`.
        loader.map_max_entries("COUNTERS", 2);
        loader.map_pin_path("COUNTERS", pins.directory.join("COUNTERS"));
    }
    for (index, name) in names.iter().enumerate() {
        if index >= settings.rings {
            // Not in use: as small as the kernel takes them.
            loader.map_max_entries(name, rustix::param::page_size() as u32);
            continue;
        }
        loader.map_max_entries(name, settings.ring_size());
        if let Some(pins) = pins {
            loader.map_pin_path(name, pins.directory.join(name));
        }
    }
    let mut ebpf = loader
        .load(OBJECT)
        .context("loading the maps of the kernel programs")?;
    for name in [INGRESS, EGRESS] {
        let program: &mut SchedClassifier = program(&mut ebpf, name)?;
        program
            .load()
            .with_context(|| format!("loading the program {name}"))?;
    }
    Ok(ebpf)
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| anyhow!("the kernel object has no program {name}"))?;
    Ok(program.try_into()?)
}

struct Attacher<'a> {
    ebpf: &'a mut Ebpf,
    interface: &'a Interface,
    pins: Option<&'a Pins>,
    slot: u16,
    made_qdisc: &'a mut bool,
    notes: &'a mut Vec<String>,
}

impl Attacher<'_> {
    fn ingress(&mut self, xdp: bool) -> Result<Hook> {
        if xdp {
            match self.xdp() {
                Ok(hook) => return Ok(hook),
                Err(error) => self
                    .notes
                    .push(format!("no XDP, using TC for ingress: {error:#}")),
            }
        }
        if let Some(pins) = self.pins {
            // A predecessor's, with other settings: both would count.
            for (_, hook) in XDP_MODES {
                pins.remove(&pin_of(hook));
            }
        }
        self.tc(INGRESS, TcAttachType::Ingress)
    }

    fn xdp(&mut self) -> Result<Hook> {
        let program: &mut Xdp = program(self.ebpf, XDP)?;
        program.load().context("loading the program xdp_ingress")?;
        for (_, hook) in XDP_MODES {
            if let Some(pins) = self.pins
                && let Some(link) = pins.take_over(&pin_of(hook))
            {
                let taken = XdpLink::try_from(link)
                    .map_err(anyhow::Error::from)
                    .and_then(|link| Ok(program.attach_to_link(link)?));
                match taken {
                    Ok(_) => return Ok(hook),
                    // The interface that it was made for is gone.
                    Err(error) => {
                        tracing::debug!(%error, "a pinned XDP link cannot be taken over");
                        pins.remove(&pin_of(hook));
                    }
                }
            }
        }
        if let Some(id) = self.interface.xdp_program {
            bail!("the interface has an XDP program already: {}", name_of(id));
        }
        if let Some(pins) = self.pins {
            // A predecessor's, with other settings: both would count.
            pins.remove(&pin_of_tc(INGRESS));
            let ingress = Some(netlink::CLSACT_INGRESS);
            remove_filters(self.interface.index, self.slot, ingress)?;
        }
        let mut refusals = Vec::new();
        for (mode, hook) in XDP_MODES {
            match program.attach_to_if_index(self.interface.index, mode) {
                Ok(id) => {
                    if hook == Hook::XdpGeneric {
                        self.notes.push(format!(
                            "XDP runs in generic mode, which is slow: {}",
                            refusals.join(", ")
                        ));
                    }
                    if let Some(pins) = self.pins {
                        let link: FdLink = program.take_link(id)?.try_into()?;
                        pins.pin(link, &pin_of(hook))?;
                    }
                    return Ok(hook);
                }
                Err(error) => refusals.push(format!("{hook}: {}", root_cause(&error))),
            }
        }
        bail!("{}", refusals.join(", "))
    }

    fn tc(&mut self, name: &str, direction: TcAttachType) -> Result<Hook> {
        if self.take_over_tc(name)? {
            return Ok(Hook::Tcx);
        }
        let interface = &self.interface.name;
        let program: &mut SchedClassifier = program(self.ebpf, name)?;
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        match program.attach_with_options(interface, direction, options) {
            Ok(id) => {
                if let Some(pins) = self.pins {
                    let link: SchedClassifierLink = program.take_link(id)?;
                    pins.pin(link.try_into()?, &pin_of_tc(name))?;
                }
                return Ok(Hook::Tcx);
            }
            // Kernels before 6.6 do not know this kind of link.
            Err(ProgramError::SyscallError(error))
                if error.io_error.raw_os_error()
                    == Some(rustix::io::Errno::INVAL.raw_os_error()) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("attaching {name} through TCX"));
            }
        }
        self.clsact(name, direction)
            .with_context(|| format!("attaching {name} through clsact"))?;
        Ok(Hook::Clsact)
    }

    /// Puts the new program behind a link that an earlier process pinned.
    fn take_over_tc(&mut self, name: &str) -> Result<bool> {
        let Some(pins) = self.pins else {
            return Ok(false);
        };
        let Some(link) = pins.take_over(&pin_of_tc(name)) else {
            return Ok(false);
        };
        let program: &mut SchedClassifier = program(self.ebpf, name)?;
        let taken = SchedClassifierLink::try_from(link)
            .map_err(anyhow::Error::from)
            .and_then(|link| Ok(program.attach_to_link(link)?))
            .and_then(|id| Ok(program.take_link(id)?));
        match taken {
            Ok(link) => {
                // The pin holds it; ours is one reference more.
                drop(link);
                Ok(true)
            }
            // The interface that it was made for is gone.
            Err(error) => {
                tracing::debug!(%error, "a pinned link cannot be taken over");
                pins.remove(&pin_of_tc(name));
                Ok(false)
            }
        }
    }

    fn clsact(&mut self, name: &str, direction: TcAttachType) -> Result<()> {
        match qdisc_add_clsact(&self.interface.name) {
            Ok(()) => *self.made_qdisc = true,
            Err(TcError::AlreadyAttached) => {}
            Err(TcError::NetlinkError(error)) if format!("{error:?}").contains("code: 17") => {}
            Err(error) => return Err(error).context("adding the clsact qdisc"),
        }
        // The older qdisc in the same place takes filters for egress too, and runs them on ingress.
        if let Some(kind) = netlink::ingress_qdisc(self.interface.index)?
            && kind != "clsact"
        {
            bail!(
                "the interface has a qdisc {kind} in the place that clsact needs, and what goes out \
                 cannot be seen with it: put clsact there, which takes the same filters"
            );
        }
        let parent = match direction {
            TcAttachType::Egress => netlink::CLSACT_EGRESS,
            _ => netlink::CLSACT_INGRESS,
        };
        let ours: Vec<netlink::Filter> = netlink::filters(self.interface.index)?
            .into_iter()
            .filter(|filter| slot_of(filter).is_some())
            .collect();
        // Whoever of us made it: the last one to go removes it.
        *self.made_qdisc |= ours.iter().any(made_qdisc);
        let previous: Vec<&netlink::Filter> = ours
            .iter()
            .filter(|filter| filter.parent == parent && slot_of(filter) == Some(self.slot))
            .collect();
        let program: &mut SchedClassifier = program(self.ebpf, name)?;
        let id = if let Some((replaced, doubled)) = previous.split_first() {
            for filter in doubled {
                netlink::delete_filter(filter)?;
            }
            // In one step: both would count what passes between one step and another.
            let (major, minor) = replaced.handle;
            program.attach_to_link(SchedClassifierLink::attached(
                &self.interface.name,
                direction,
                replaced.priority,
                TcHandle::new(major, minor),
                None,
            )?)?
        } else {
            let minor = (self.slot + 1) | if *self.made_qdisc { MADE_QDISC } else { 0 };
            program.attach_with_options(
                &self.interface.name,
                direction,
                TcAttachOptions::Netlink(NlOptions {
                    handle: TcHandle::new(HANDLE_MAJOR, minor),
                    ..NlOptions::default()
                }),
            )?
        };
        if self.pins.is_some() {
            // A filter needs no pin to outlive us, only not to be taken off.
            std::mem::forget(program.take_link(id)?);
        }
        Ok(())
    }
}

/// What the pin of a TC program's link is called.
fn pin_of_tc(program: &str) -> String {
    format!("link_{program}")
}

/// What the pin of the XDP program's link is called: who takes it over has to know its mode.
fn pin_of(hook: Hook) -> String {
    format!("link_{}", hook.to_string().replace('-', "_"))
}

fn name_of(program: u32) -> String {
    loaded_programs()
        .flatten()
        .find(|known| known.id() == program)
        .and_then(|known| known.name_as_str().map(str::to_owned))
        .map_or_else(
            || format!("program {program}"),
            |name| format!("{name} (program {program})"),
        )
}

fn root_cause(error: &ProgramError) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
