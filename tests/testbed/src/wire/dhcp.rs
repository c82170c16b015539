//! A small DHCP server: one address per MAC address, always the same.
//!
//! Works on whole frames beside the stack, because a client without an address cannot be reached through it.
//! RFC 2131; no relay, no decline list, leases of an hour that are never taken back.

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol,
    Ipv4Address, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr,
};

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
const LEASE_SECONDS: u32 = 3600;
/// The last byte of the first address given out.
const FIRST_HOST: u8 = 100;
const MAX_LEASES: usize = 150;

/// One address given to one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The client.
    pub mac: EthernetAddress,
    /// Its address.
    pub address: Ipv4Address,
}

/// The server's own addresses and its leases.
#[derive(Debug)]
pub struct Server {
    mac: EthernetAddress,
    address: Ipv4Address,
    leases: Vec<Lease>,
}

/// What to send, and whether it gave a lease.
#[derive(Debug)]
pub struct Answer {
    /// The whole frame.
    pub frame: Vec<u8>,
    /// The lease this frame acknowledges.
    pub acknowledged: Option<Lease>,
}

impl Server {
    /// A server that gives out addresses of `address`'s /24 network.
    #[must_use]
    pub fn new(mac: EthernetAddress, address: Ipv4Address) -> Self {
        Self { mac, address, leases: Vec::new() }
    }

    /// Answers a frame if it is a DHCP request that wants one.
    pub fn answer(&mut self, frame: &[u8]) -> Option<Answer> {
        let request = frame_to_udp(frame)?;
        let request = DhcpPacket::new_checked(request).ok()?;
        let request = DhcpRepr::parse(&request).ok()?;
        let lease = self.lease(request.client_hardware_address)?;
        let kind = match request.message_type {
            DhcpMessageType::Discover => DhcpMessageType::Offer,
            DhcpMessageType::Request => match request.requested_ip.unwrap_or(request.client_ip) {
                wanted if wanted == lease.address => DhcpMessageType::Ack,
                _ => DhcpMessageType::Nak,
            },
            _ => return None,
        };
        let reply = DhcpRepr {
            message_type: kind,
            your_ip: lease.address,
            server_ip: self.address,
            router: Some(self.address),
            subnet_mask: Some(Ipv4Address::new(255, 255, 255, 0)),
            requested_ip: None,
            client_identifier: None,
            server_identifier: Some(self.address),
            parameter_request_list: None,
            dns_servers: None,
            max_size: None,
            lease_duration: Some(LEASE_SECONDS),
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
            ..request
        };
        let acknowledged = (kind == DhcpMessageType::Ack).then_some(lease);
        Some(Answer { frame: self.reply_frame(lease, &reply)?, acknowledged })
    }

    /// The client's lease, made on first sight.
    fn lease(&mut self, mac: EthernetAddress) -> Option<Lease> {
        if let Some(lease) = self.leases.iter().find(|lease| lease.mac == mac) {
            return Some(*lease);
        }
        if self.leases.len() >= MAX_LEASES {
            return None;
        }
        let host = FIRST_HOST.checked_add(u8::try_from(self.leases.len()).ok()?)?;
        let [a, b, c, _] = self.address.octets();
        let lease = Lease { mac, address: Ipv4Address::new(a, b, c, host) };
        self.leases.push(lease);
        Some(lease)
    }

    fn reply_frame(&self, lease: Lease, reply: &DhcpRepr<'_>) -> Option<Vec<u8>> {
        let checksums = ChecksumCapabilities::default();
        let to = Ipv4Address::BROADCAST;
        let udp = UdpRepr { src_port: SERVER_PORT, dst_port: CLIENT_PORT };
        let ip = Ipv4Repr {
            src_addr: self.address,
            dst_addr: to,
            next_header: IpProtocol::Udp,
            payload_len: udp.header_len().checked_add(reply.buffer_len())?,
            hop_limit: 64,
        };
        let ethernet = EthernetRepr {
            src_addr: self.mac,
            dst_addr: if reply.broadcast { EthernetAddress::BROADCAST } else { lease.mac },
            ethertype: EthernetProtocol::Ipv4,
        };
        let length = ethernet.buffer_len().checked_add(ip.buffer_len())?.checked_add(ip.payload_len)?;
        let mut bytes = vec![0; length];
        let mut frame = EthernetFrame::new_unchecked(bytes.as_mut_slice());
        ethernet.emit(&mut frame);
        let mut packet = Ipv4Packet::new_unchecked(frame.payload_mut());
        ip.emit(&mut packet, &checksums);
        let mut datagram = UdpPacket::new_unchecked(packet.payload_mut());
        let mut written = Ok(());
        let emit = |payload: &mut [u8]| written = reply.emit(&mut DhcpPacket::new_unchecked(payload));
        udp.emit(&mut datagram, &self.address.into(), &to.into(), reply.buffer_len(), emit, &checksums);
        written.ok().map(|()| bytes)
    }
}

/// The payload of a UDP datagram to the DHCP server port.
fn frame_to_udp(frame: &[u8]) -> Option<&[u8]> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    if ethernet.ethertype() != EthernetProtocol::Ipv4 {
        return None;
    }
    let packet = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
    if packet.next_header() != IpProtocol::Udp {
        return None;
    }
    let udp = UdpPacket::new_checked(packet.payload()).ok()?;
    (udp.dst_port() == SERVER_PORT).then(|| udp.payload())
}
