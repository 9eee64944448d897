//! What the kernel says of links, addresses, routes and traffic filters, and when that changes.
//! Blocking: each question is one system call or two, asked at start and on changes, never for a
//! packet.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
    os::fd::{AsRawFd, RawFd},
};

use anyhow::{Context, Result, bail};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{LinkAttribute, LinkFlags, LinkMessage, LinkXdp},
    route::{RouteAttribute, RouteHeader, RouteMessage, RouteType},
    tc::{TcAttribute, TcHandle, TcMessage},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::ntp::exchange::LocalAddresses;

/// An interface as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index; a new one each time it is made.
    pub index: u32,
    /// ARPHRD_…: how its frames begin.
    pub link_layer: u16,
    /// Whether what goes out comes in again.
    pub loopback: bool,
    /// Whether packets can pass: it is up, and so is what it is connected to.
    pub running: bool,
    /// The XDP program on it, by id.
    pub xdp_program: Option<u32>,
    /// The bridge or bond that it is a port of.
    pub master: Option<u32>,
    /// The interface of this namespace that it stands on, as a VLAN or macvlan does.
    pub below: Option<u32>,
}

/// Every interface of this network namespace.
///
/// # Errors
/// When the kernel does not answer.
pub fn interfaces() -> Result<Vec<Interface>> {
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    dump(request, |message| match message {
        RouteNetlinkMessage::NewLink(link) => interface_of(&link),
        _ => None,
    })
    .context("asking the kernel for its interfaces")
}

/// An interface by its name.
///
/// # Errors
/// When there is none: names those that there are.
pub fn find<'a>(interfaces: &'a [Interface], name: &str) -> Result<&'a Interface> {
    interfaces
        .iter()
        .find(|interface| interface.name == name)
        .with_context(|| {
            let known: Vec<&str> = interfaces.iter().map(|known| known.name.as_str()).collect();
            format!("no interface {name}; there are: {}", known.join(", "))
        })
}

fn interface_of(link: &LinkMessage) -> Option<Interface> {
    let mut interface = Interface {
        name: String::new(),
        index: link.header.index,
        link_layer: link.header.link_layer_type.into(),
        loopback: link.header.flags.contains(LinkFlags::Loopback),
        running: link
            .header
            .flags
            .contains(LinkFlags::Up | LinkFlags::Running),
        xdp_program: None,
        master: None,
        below: None,
    };
    let mut elsewhere = false;
    for attribute in &link.attributes {
        match attribute {
            // What it is linked to, the other end of a veth for instance, has a number of its own
            // over there.
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::IfName(name) => interface.name.clone_from(name),
            LinkAttribute::Controller(index) => interface.master = Some(*index),
            LinkAttribute::Xdp(xdp) => {
                interface.xdp_program = xdp.iter().find_map(|attribute| match attribute {
                    LinkXdp::ProgId(id) => Some(*id),
                    _ => None,
                });
            }
            LinkAttribute::Link(index) => interface.below = Some(*index),
            _ => {}
        }
    }
    if elsewhere {
        interface.below = None;
    }
    (!interface.name.is_empty()).then_some(interface)
}

/// The name of the interface that the default route leaves by, IPv4 before IPv6, the lowest
/// metric first.
///
/// # Errors
/// When the kernel does not answer.
pub fn default_route_interface() -> Result<Option<String>> {
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        let routes = dump(
            RouteNetlinkMessage::GetRoute(request),
            |message| match message {
                RouteNetlinkMessage::NewRoute(route) => default_route(&route),
                _ => None,
            },
        )
        .context("asking the kernel for its routes")?;
        let best = routes.into_iter().min_by_key(|&(metric, _)| metric);
        if let Some((_, index)) = best {
            let interfaces = interfaces()?;
            let found = interfaces.into_iter().find(|known| known.index == index);
            return Ok(found.map(|interface| interface.name));
        }
    }
    Ok(None)
}

/// Metric and interface of a route, if it is a default route of the main table that packets leave
/// by: one that is `unreachable` names an interface too, the loopback.
fn default_route(route: &RouteMessage) -> Option<(u32, u32)> {
    if route.header.destination_prefix_length != 0
        || route.header.table != RouteHeader::RT_TABLE_MAIN
        || route.header.kind != RouteType::Unicast
    {
        return None;
    }
    let mut metric = 0;
    let mut interface = None;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::MultiPath(hops) => {
                interface = interface.or(hops.first().map(|hop| hop.interface_index));
            }
            _ => {}
        }
    }
    interface.map(|index| (metric, index))
}

/// Every address of this network namespace.
///
/// # Errors
/// When the kernel does not answer.
pub fn addresses() -> Result<LocalAddresses> {
    let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let addresses = dump(request, |message| match message {
        RouteNetlinkMessage::NewAddress(address) => local_address(&address),
        _ => None,
    })
    .context("asking the kernel for its addresses")?;
    Ok(addresses.into_iter().collect())
}

/// On a point-to-point link the plain address is the other end's.
fn local_address(message: &AddressMessage) -> Option<[u8; 16]> {
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(local) => return Some(mapped(*local)),
            AddressAttribute::Address(plain) => address = Some(mapped(*plain)),
            _ => {}
        }
    }
    address
}

/// An address as events carry it: IPv4 mapped into IPv6.
#[must_use]
pub fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// A filter on an interface's clsact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The interface's index.
    pub interface: u32,
    /// Where it hangs: the minor number of clsact's ingress or egress.
    pub parent: u16,
    /// Its priority.
    pub priority: u16,
    /// Its handle, major and minor.
    pub handle: (u16, u16),
    /// Whether it is a BPF program.
    pub bpf: bool,
    /// As the kernel wants it back to delete it.
    info: u32,
}

/// The handle of the qdisc that filters for both directions hang on.
const CLSACT: TcHandle = TcHandle {
    major: 0xffff,
    minor: 0,
};
/// Where clsact keeps ingress filters.
pub const CLSACT_INGRESS: u16 = 0xfff2;
/// Where clsact keeps egress filters.
pub const CLSACT_EGRESS: u16 = 0xfff3;

/// The filters of an interface, both directions; none when there is no clsact.
///
/// # Errors
/// When the kernel does not answer.
pub fn filters(interface: u32) -> Result<Vec<Filter>> {
    let mut filters = Vec::new();
    for parent in [CLSACT_INGRESS, CLSACT_EGRESS] {
        let mut request = TcMessage::with_index(interface.cast_signed());
        request.header.parent = TcHandle {
            minor: parent,
            ..CLSACT
        };
        let found = dump(RouteNetlinkMessage::GetTrafficFilter(request), |message| {
            let RouteNetlinkMessage::NewTrafficFilter(filter) = message else {
                return None;
            };
            let handle = filter.header.handle;
            let bpf = filter
                .attributes
                .iter()
                .any(|attribute| matches!(attribute, TcAttribute::Kind(kind) if kind == "bpf"));
            (handle != TcHandle::UNSPEC).then_some(Filter {
                interface,
                parent,
                priority: (filter.header.info >> 16) as u16,
                handle: (handle.major, handle.minor),
                bpf,
                info: filter.header.info,
            })
        })
        .with_context(|| format!("asking the kernel for the filters of interface {interface}"))?;
        filters.extend(found);
    }
    Ok(filters)
}

/// The kind of the qdisc that filters for ingress hang on, `clsact` or the older `ingress`; nothing
/// when there is none.
///
/// # Errors
/// When the kernel does not answer.
pub fn ingress_qdisc(interface: u32) -> Result<Option<String>> {
    let request = TcMessage::with_index(interface.cast_signed());
    // The kernel lists those of every interface, whatever it is asked.
    let found = dump(
        RouteNetlinkMessage::GetQueueDiscipline(request),
        |message| match message {
            RouteNetlinkMessage::NewQueueDiscipline(qdisc)
                if qdisc.header.index == interface.cast_signed()
                    && qdisc.header.handle == CLSACT =>
            {
                qdisc
                    .attributes
                    .into_iter()
                    .find_map(|attribute| match attribute {
                        TcAttribute::Kind(kind) => Some(kind),
                        _ => None,
                    })
            }
            _ => None,
        },
    )
    .with_context(|| format!("asking the kernel for the qdiscs of interface {interface}"))?;
    Ok(found.into_iter().next_back())
}

/// Removes one filter.
///
/// # Errors
/// When the kernel refuses.
pub fn delete_filter(filter: &Filter) -> Result<()> {
    let mut message = TcMessage::with_index(filter.interface.cast_signed());
    message.header.parent = TcHandle {
        minor: filter.parent,
        ..CLSACT
    };
    message.header.handle = TcHandle {
        major: filter.handle.0,
        minor: filter.handle.1,
    };
    message.header.info = filter.info;
    message.attributes.push(TcAttribute::Kind("bpf".to_owned()));
    change(RouteNetlinkMessage::DelTrafficFilter(message))
        .with_context(|| format!("removing a filter from interface {}", filter.interface))
}

/// Removes the clsact qdisc of an interface, and every filter on it.
///
/// # Errors
/// When the kernel refuses.
pub fn delete_clsact(interface: u32) -> Result<()> {
    let mut message = TcMessage::with_index(interface.cast_signed());
    message.header.parent = TcHandle {
        major: 0xffff,
        minor: 0xfff1,
    };
    message.header.handle = CLSACT;
    message
        .attributes
        .push(TcAttribute::Kind("clsact".to_owned()));
    change(RouteNetlinkMessage::DelQueueDiscipline(message))
        .with_context(|| format!("removing clsact from interface {interface}"))
}

/// Tells when links or addresses change.
#[derive(Debug)]
pub struct Changes(Socket);

const GROUP_LINK: u32 = 1;
const GROUP_IPV4_ADDRESS: u32 = 5;
const GROUP_IPV6_ADDRESS: u32 = 9;

impl Changes {
    /// Begins to listen.
    ///
    /// # Errors
    /// When there is no such socket to be had.
    pub fn new() -> Result<Self> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            for group in [GROUP_LINK, GROUP_IPV4_ADDRESS, GROUP_IPV6_ADDRESS] {
                socket.add_membership(group)?;
            }
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        open()
            .map(Self)
            .context("listening for changes of interfaces and addresses")
    }

    /// Takes all that has been told so far, and says which interfaces, by index, were deleted or
    /// left the namespace: one that is back already may have the same index. All else that it
    /// says does not matter: whoever listens asks for the whole state again, so that a message
    /// lost under load loses nothing.
    pub fn drain(&self) -> Vec<u32> {
        let mut deleted = Vec::new();
        loop {
            match self.0.recv_from_full() {
                Ok((bytes, _)) => {
                    let read = messages(&bytes, |message| {
                        if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) =
                            message.payload
                            // A port that leaves its bridge is told in the same words.
                            && link.header.interface_family == AddressFamily::Unspec
                        {
                            deleted.push(link.header.index);
                        }
                        Ok(Flow::More)
                    });
                    if let Err(error) = read {
                        tracing::warn!(%error, "reading changes of interfaces");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return deleted,
                // Too many changes for the socket's buffer: there are more, and we were told.
                Err(error)
                    if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {}
                Err(error) => {
                    tracing::warn!(%error, "reading changes of interfaces");
                    return deleted;
                }
            }
        }
    }
}

impl AsRawFd for Changes {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket lives as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

/// How often a question is asked whose answer changed while it was given.
const ATTEMPTS: usize = 10;

/// What `keep` makes of the messages of one answer. The rest is dropped as it is read: a router's
/// table has a million routes.
fn dump<T>(
    request: RouteNetlinkMessage,
    mut keep: impl FnMut(RouteNetlinkMessage) -> Option<T>,
) -> Result<Vec<T>> {
    for _ in 0..ATTEMPTS {
        let mut kept = Vec::new();
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        if exchange(request.clone(), flags, |message| kept.extend(keep(message)))? {
            return Ok(kept);
        }
    }
    // An answer with a hole would look like an interface that is gone.
    bail!("the answer changed while it was given, {ATTEMPTS} times")
}

fn change(request: RouteNetlinkMessage) -> Result<()> {
    exchange(request, NLM_F_REQUEST | NLM_F_ACK, |_| ()).map(drop)
}

/// Sends a request and reads its answers to the end. Says whether they are of one moment.
fn exchange(
    request: RouteNetlinkMessage,
    flags: u16,
    mut on_message: impl FnMut(RouteNetlinkMessage),
) -> Result<bool> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = 1;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut whole = true;
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let flow = messages(&bytes, |message| {
            whole &= message.header.flags & NLM_F_DUMP_INTR == 0;
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(Flow::End),
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(Flow::End),
                NetlinkPayload::Error(error) => return Err(error.to_io().into()),
                NetlinkPayload::InnerMessage(message) => on_message(message),
                _ => {}
            }
            Ok(Flow::More)
        })?;
        if flow == Flow::End {
            return Ok(whole);
        }
    }
}

/// Whether more messages are awaited.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    More,
    End,
}

/// The messages in what one read gave, until one is the last.
fn messages(
    bytes: &[u8],
    mut on_message: impl FnMut(NetlinkMessage<RouteNetlinkMessage>) -> Result<Flow>,
) -> Result<Flow> {
    let mut rest = bytes;
    while let Some(length) = rest.first_chunk::<4>() {
        let length = u32::from_ne_bytes(*length) as usize;
        if length < 16 || length > rest.len() {
            bail!("the kernel sent a netlink message of impossible length {length}");
        }
        match NetlinkMessage::deserialize(&rest[..length]) {
            Ok(message) => {
                if on_message(message)? == Flow::End {
                    return Ok(Flow::End);
                }
            }
            // An attribute that the library does not know yet: of no interest here.
            Err(error) => tracing::debug!(%error, "a netlink message was not understood"),
        }
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
    }
    Ok(Flow::More)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ntp::exchange::Role;

    #[test]
    fn the_loopback_interface_and_its_addresses_are_known() {
        let interfaces = interfaces().unwrap();
        let loopback = interfaces.iter().find(|known| known.loopback).unwrap();
        assert_eq!((loopback.name.as_str(), loopback.link_layer), ("lo", 772));
        let addresses = addresses().unwrap();
        let localhost = mapped(IpAddr::from([127, 0, 0, 1]));
        let elsewhere = mapped(IpAddr::from([192, 0, 2, 1]));
        assert_eq!(addresses.role(&elsewhere, &localhost), Some(Role::Server));
    }

    #[test]
    fn a_default_route_is_of_the_main_table_and_leads_somewhere() {
        let mut route = RouteMessage::default();
        route.header.table = RouteHeader::RT_TABLE_MAIN;
        route.header.kind = RouteType::Unicast;
        route.attributes = vec![RouteAttribute::Priority(100), RouteAttribute::Oif(7)];
        assert_eq!(default_route(&route), Some((100, 7)));
        for spoil in [
            (|header| header.kind = RouteType::Unreachable) as fn(&mut RouteHeader),
            |header| header.destination_prefix_length = 8,
            |header| header.table = 255,
        ] {
            let mut other = route.clone();
            spoil(&mut other.header);
            assert_eq!(default_route(&other), None, "{other:?}");
        }
    }

    #[test]
    fn an_interface_without_clsact_has_no_filters() {
        let interfaces = interfaces().unwrap();
        let loopback = interfaces.iter().find(|known| known.loopback).unwrap();
        assert_eq!(filters(loopback.index).unwrap(), []);
    }
}
