//! What a program is told once, at load. In the kernel these are read-only globals, so the
//! verifier removes what is switched off.

/// How a frame begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Link {
    /// An Ethernet header.
    Ethernet = 0,
    /// The IP header at once: tun, WireGuard, PPP.
    Ip = 1,
}

/// The UDP ports that are NTP: one bit a port, so that asking costs the same for one port as for
/// eight.
#[repr(C)]
pub struct PortSet(pub [u64; 1024]);

impl PortSet {
    /// No port.
    pub const EMPTY: Self = Self([0; 1024]);

    /// Exactly these ports.
    #[must_use]
    pub const fn of(ports: &[u16]) -> Self {
        let mut set = Self::EMPTY;
        let mut index = 0;
        while index < ports.len() {
            let port = ports[index] as usize;
            set.0[port / 64] |= 1 << (port % 64);
            index += 1;
        }
        set
    }

    /// Whether the port is among them.
    #[inline(always)]
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        let word = &raw const self.0[usize::from(port) / 64];
        // In the kernel the loader patches this set after compilation: the compiler must not take
        // the zeros that it sees for the truth.
        // SAFETY: a pointer made from a reference just above.
        let word = unsafe { word.read_volatile() };
        word >> (port % 64) & 1 == 1
    }
}

/// Something that is on or off, looked up where it matters rather than handed around: packets that
/// never get there pay nothing for it.
#[repr(transparent)]
pub struct Switch(pub u8);

impl Switch {
    /// Off.
    pub const OFF: Self = Self(0);
    /// On.
    pub const ON: Self = Self(1);

    /// Whether it is on.
    #[inline(always)]
    #[must_use]
    pub fn is_on(&self) -> bool {
        // As in a port set: the loader patches it after compilation.
        // SAFETY: a pointer made from a reference.
        unsafe { (&raw const self.0).read_volatile() != 0 }
    }
}

/// How many NTP ports may be watched at once.
pub const MAX_PORTS: usize = 8;

/// How many rings an interface may have; a power of two.
pub const MAX_RINGS: usize = 4;

/// Names of the read-only globals in the object.
pub mod globals {
    /// [`super::PortSet`], as `[u64; 1024]`.
    pub const PORTS: &str = "PORTS";
    /// `u8`: [`super::Link`].
    pub const LINK: &str = "LINK";
    /// `u8`: 1 to look into tunnels.
    pub const DECAPSULATE: &str = "DECAPSULATE";
    /// [`super::Switch`], as `u8`: 1 to recognise PTP.
    pub const PTP: &str = "PTP";
    /// `u8`: rings in use minus one (1, 2 or 4 rings).
    pub const RING_MASK: &str = "RING_MASK";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_set_holds_exactly_its_ports() {
        let set = PortSet::of(&[0, 63, 64, 123, 65535]);
        let held: usize = (0..=u16::MAX).filter(|&port| set.contains(port)).count();
        assert_eq!(held, 5);
        for port in [0, 63, 64, 123, 65535] {
            assert!(set.contains(port), "{port}");
        }
    }
}
