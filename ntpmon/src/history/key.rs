//! What clients and servers are found by, in memory and on disk: an address on an interface.

use std::net::{IpAddr, Ipv6Addr};

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::{BigEndian, U16},
};

/// An address, IPv4 mapped into IPv6, on an interface. Ordered as its bytes are.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Key {
    /// The address.
    pub address: [u8; 16],
    /// The number that the history gave to the interface.
    interface: U16<BigEndian>,
}

/// The number that the history gave to an interface's name.
pub type InterfaceId = u16;

impl Key {
    /// How many bytes it has.
    pub const SIZE: usize = size_of::<Self>();

    /// An address on an interface.
    #[must_use]
    pub const fn new(address: [u8; 16], interface: InterfaceId) -> Self {
        Self {
            address,
            interface: U16::new(interface),
        }
    }

    /// Where it was seen.
    #[must_use]
    pub const fn interface(&self) -> InterfaceId {
        self.interface.get()
    }

    /// The address as people write it.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        Ipv6Addr::from(self.address).to_canonical()
    }

    /// As the database has it.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 18] {
        zerocopy::transmute_ref!(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_ordered_by_address_and_then_by_interface() {
        let key = |last, interface| {
            let mut address = [0; 16];
            address[15] = last;
            Key::new(address, interface)
        };
        let ordered = [key(1, 0), key(1, 1), key(1, 256), key(2, 0)];
        assert!(ordered.is_sorted());
        assert!(ordered.map(|key| *key.bytes()).is_sorted());
    }
}
