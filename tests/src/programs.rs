//! The kernel programs without an interface: loaded with given settings, run over given frames
//! through `BPF_PROG_TEST_RUN`. The differential test and the benchmark of the programs stand on it.

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf, EbpfLoader, TestRun, TestRunOptions,
    maps::{MapData, PerCpuArray, RingBuf},
    programs::{SchedClassifier, Xdp},
};
use ntpmon::capture::OBJECT;
use ntpmon_common::{
    Counters, Event, PtpEvent,
    settings::{Link, PortSet, globals},
};

/// One of the entry points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// TC, as it is attached to what comes in.
    TcIngress,
    /// TC, as it is attached to what goes out.
    TcEgress,
    /// XDP.
    XdpIngress,
}

impl Program {
    /// Every entry point.
    pub const ALL: [Self; 3] = [Self::TcIngress, Self::TcEgress, Self::XdpIngress];

    /// Its name in the object.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TcIngress => "tc_ingress",
            Self::TcEgress => "tc_egress",
            Self::XdpIngress => "xdp_ingress",
        }
    }
}

/// What the programs are loaded with.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// The UDP ports that are NTP.
    pub ports: &'a [u16],
    /// How a frame begins.
    pub link: Link,
    /// Whether to look into tunnels.
    pub decapsulate: bool,
    /// Whether PTP is recognised.
    pub ptp: bool,
    /// Size of the ring, a power of two and at least a page.
    pub ring_bytes: u32,
}

impl Default for Settings<'_> {
    fn default() -> Self {
        Self {
            ports: &[123],
            link: Link::Ethernet,
            decapsulate: false,
            ptp: false,
            ring_bytes: 1 << 20,
        }
    }
}

/// What came out of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// An NTP packet.
    Ntp(Event),
    /// A PTP message.
    Ptp(PtpEvent),
}

/// The loaded object, attached to nothing.
pub struct Programs {
    object: Ebpf,
    ring: RingBuf<MapData>,
}

impl Programs {
    /// Loads the three entry points of the daemon's object.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn load(settings: &Settings<'_>) -> Result<Self> {
        let ports = PortSet::of(settings.ports);
        let mut object = EbpfLoader::new()
            .override_global(globals::PORTS, &ports.0, true)
            .override_global(globals::LINK, &(settings.link as u8), true)
            .override_global(globals::DECAPSULATE, &u8::from(settings.decapsulate), true)
            .override_global(globals::PTP, &u8::from(settings.ptp), true)
            .override_global(globals::RING_MASK, &0u8, true)
            .override_global("AYA_LOG_LEVEL", &0u8, true)
            .map_max_entries("RING_0", settings.ring_bytes)
            .load(OBJECT)
            .context("load the kernel programs")?;
        for program in Program::ALL {
            load_program(&mut object, program.name())?;
        }
        let ring = RingBuf::try_from(object.take_map("RING_0").context("no map RING_0")?)?;
        Ok(Self { object, ring })
    }

    /// Runs one program over a frame, `repeat` times. The time is the kernel's mean of one run.
    ///
    /// # Errors
    /// When the kernel refuses the frame or the run.
    pub fn run(&self, program: Program, frame: &[u8], repeat: u32) -> Result<std::time::Duration> {
        run(&self.object, program.name(), frame, repeat)
    }

    /// What the programs counted since they were loaded, over all CPUs.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn counters(&self) -> Result<Counters> {
        let map = self.object.map("COUNTERS").context("no map COUNTERS")?;
        let map: PerCpuArray<_, Counters> = PerCpuArray::try_from(map)?;
        let mut sum = Counters::default();
        for counters in map.get(&0, 0).context("read the counters")?.iter() {
            sum.add(counters);
        }
        Ok(sum)
    }

    /// Takes everything out of the ring; returns how many events there were.
    ///
    /// # Errors
    /// When a record is not an event.
    pub fn drain(&mut self, mut take: impl FnMut(&Taken)) -> Result<u64> {
        const NTP: usize = size_of::<Event>();
        const PTP: usize = size_of::<PtpEvent>();
        let mut count = 0;
        while let Some(record) = self.ring.next() {
            // SAFETY: as long as what is read, of which every bit pattern is a value.
            let taken = unsafe {
                match record.len() {
                    NTP => Taken::Ntp(record.as_ptr().cast::<Event>().read_unaligned()),
                    PTP => Taken::Ptp(record.as_ptr().cast::<PtpEvent>().read_unaligned()),
                    other => bail!("a record of {other} bytes is not an event"),
                }
            };
            take(&taken);
            count += 1;
        }
        Ok(count)
    }

    /// How many instructions of each program the verifier left, as they were translated.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn instructions(&self) -> Result<Vec<(Program, usize)>> {
        Program::ALL
            .into_iter()
            .map(|program| {
                let loaded = self.object.program(program.name());
                let info = loaded.context("no such program")?.info()?;
                let bytes = info.size_translated().context("no size")?;
                Ok((program, bytes as usize / 8))
            })
            .collect()
    }
}

/// Loads one program of an object, whatever its kind.
///
/// # Errors
/// When there is none of that name, or the kernel refuses it.
pub fn load_program(object: &mut Ebpf, name: &str) -> Result<()> {
    let program = object
        .program_mut(name)
        .with_context(|| format!("no program {name}"))?;
    if let Ok(program) = <&mut SchedClassifier>::try_from(&mut *program) {
        program.load()
    } else {
        <&mut Xdp>::try_from(program)?.load()
    }
    .with_context(|| format!("load the program {name}"))
}

/// Runs one program of an object over a frame; returns the kernel's mean time of one run.
///
/// # Errors
/// When the kernel refuses the frame or the run.
pub fn run(object: &Ebpf, name: &str, frame: &[u8], repeat: u32) -> Result<std::time::Duration> {
    let program = object
        .program(name)
        .with_context(|| format!("no program {name}"))?;
    let options = TestRunOptions {
        data_in: Some(frame),
        repeat,
        ..TestRunOptions::default()
    };
    let result = if let Ok(program) = <&SchedClassifier>::try_from(program) {
        program.test_run(options)
    } else {
        <&Xdp>::try_from(program)?.test_run(options)
    };
    Ok(result
        .with_context(|| format!("run {name} over {} bytes", frame.len()))?
        .duration)
}
