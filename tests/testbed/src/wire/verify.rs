//! Inspects every frame that comes out of a NIC: sizes and checksums.
//!
//! What a driver domain puts on the wire must be right for any receiver, so nothing is forgiven here: a blank
//! checksum, a segment longer than the MTU or a length that disagrees with its frame is a [`Fault`].

use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4Packet, Icmpv6Packet, IpAddress, IpProtocol, Ipv4Packet,
    Ipv6Packet, TcpPacket, UdpPacket,
};

/// What is wrong with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Shorter than an Ethernet header, or than its own headers say.
    Truncated,
    /// Longer than the MTU allows.
    Oversize,
    /// IPv4 header checksum.
    BadIpv4Checksum,
    /// TCP checksum.
    BadTcpChecksum,
    /// UDP checksum; also a zero one over IPv6, where none may be left out.
    BadUdpChecksum,
    /// ICMP or ICMPv6 checksum.
    BadIcmpChecksum,
}

/// Checks one frame; `mtu` is the IP MTU in bytes.
///
/// # Errors
/// The first fault found, from the outside in.
pub fn inspect(frame: &[u8], mtu: usize) -> Result<(), Fault> {
    let ethernet = EthernetFrame::new_checked(frame).map_err(|_| Fault::Truncated)?;
    let (mut protocol, mut payload) = (ethernet.ethertype(), ethernet.payload());
    // 802.1Q: four bytes more on the wire, which do not count against the MTU.
    if protocol == EthernetProtocol::Unknown(0x8100) {
        let (tag, rest) = payload.split_at_checked(4).ok_or(Fault::Truncated)?;
        let inner = tag.last_chunk::<2>().map_or(0, |bytes| u16::from_be_bytes(*bytes));
        (protocol, payload) = (EthernetProtocol::from(inner), rest);
    }
    if payload.len() > mtu {
        return Err(Fault::Oversize);
    }
    match protocol {
        EthernetProtocol::Ipv4 => inspect_ipv4(payload),
        EthernetProtocol::Ipv6 => inspect_ipv6(payload),
        _ => Ok(()),
    }
}

/// The source address of a frame, if it has one.
#[must_use]
pub fn source(frame: &[u8]) -> Option<EthernetAddress> {
    EthernetFrame::new_checked(frame).ok().map(|frame| frame.src_addr())
}

fn inspect_ipv4(payload: &[u8]) -> Result<(), Fault> {
    let packet = Ipv4Packet::new_checked(payload).map_err(|_| Fault::Truncated)?;
    if !packet.verify_checksum() {
        return Err(Fault::BadIpv4Checksum);
    }
    // A fragment carries a piece of a transport packet: its checksum covers more than is here.
    if packet.more_frags() || packet.frag_offset() != 0 {
        return Ok(());
    }
    let (from, to) = (IpAddress::Ipv4(packet.src_addr()), IpAddress::Ipv4(packet.dst_addr()));
    match packet.next_header() {
        IpProtocol::Icmp => {
            let icmp = Icmpv4Packet::new_checked(packet.payload()).map_err(|_| Fault::Truncated)?;
            if icmp.verify_checksum() { Ok(()) } else { Err(Fault::BadIcmpChecksum) }
        }
        other => inspect_transport(other, packet.payload(), from, to),
    }
}

fn inspect_ipv6(payload: &[u8]) -> Result<(), Fault> {
    let packet = Ipv6Packet::new_checked(payload).map_err(|_| Fault::Truncated)?;
    let (from, to) = (packet.src_addr(), packet.dst_addr());
    match packet.next_header() {
        IpProtocol::Icmpv6 => {
            let icmp = Icmpv6Packet::new_checked(packet.payload()).map_err(|_| Fault::Truncated)?;
            if icmp.verify_checksum(&from, &to) { Ok(()) } else { Err(Fault::BadIcmpChecksum) }
        }
        other => inspect_transport(other, packet.payload(), from.into(), to.into()),
    }
}

fn inspect_transport(protocol: IpProtocol, payload: &[u8], from: IpAddress, to: IpAddress) -> Result<(), Fault> {
    match protocol {
        IpProtocol::Tcp => {
            let tcp = TcpPacket::new_checked(payload).map_err(|_| Fault::Truncated)?;
            if tcp.verify_checksum(&from, &to) { Ok(()) } else { Err(Fault::BadTcpChecksum) }
        }
        IpProtocol::Udp => {
            let udp = UdpPacket::new_checked(payload).map_err(|_| Fault::Truncated)?;
            let left_out = udp.checksum() == 0 && matches!(from, IpAddress::Ipv4(_));
            if left_out || (udp.checksum() != 0 && udp.verify_checksum(&from, &to)) {
                Ok(())
            } else {
                Err(Fault::BadUdpChecksum)
            }
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{
        EthernetRepr, Icmpv6Repr, Ipv4Address, Ipv4Repr, Ipv6Address, Ipv6Repr, TcpControl, TcpRepr, TcpSeqNumber,
        UdpRepr,
    };

    fn udp_frame(payload: &[u8]) -> Vec<u8> {
        let (from, to) = (Ipv4Address::new(10, 0, 0, 1), Ipv4Address::new(10, 0, 0, 2));
        let udp = UdpRepr { src_port: 1, dst_port: 2 };
        let ip = Ipv4Repr {
            src_addr: from,
            dst_addr: to,
            next_header: IpProtocol::Udp,
            payload_len: udp.header_len() + payload.len(),
            hop_limit: 64,
        };
        let ethernet = EthernetRepr {
            src_addr: EthernetAddress([2, 0, 0, 0, 0, 1]),
            dst_addr: EthernetAddress([2, 0, 0, 0, 0, 2]),
            ethertype: EthernetProtocol::Ipv4,
        };
        let mut bytes = vec![0; 14 + ip.buffer_len() + ip.payload_len];
        let mut frame = EthernetFrame::new_unchecked(bytes.as_mut_slice());
        ethernet.emit(&mut frame);
        let mut packet = Ipv4Packet::new_unchecked(frame.payload_mut());
        ip.emit(&mut packet, &ChecksumCapabilities::default());
        let mut datagram = UdpPacket::new_unchecked(packet.payload_mut());
        let fill = |to: &mut [u8]| to.copy_from_slice(payload);
        udp.emit(&mut datagram, &from.into(), &to.into(), payload.len(), fill, &ChecksumCapabilities::default());
        bytes
    }

    /// An IPv6 frame around what `emit` makes of `length` bytes.
    fn ipv6_frame(
        next_header: IpProtocol,
        length: usize,
        emit: impl FnOnce(&mut [u8], Ipv6Address, Ipv6Address),
    ) -> Vec<u8> {
        let (from, to) = (Ipv6Address::new(0xfd00, 0, 0, 0, 0, 0, 0, 1), Ipv6Address::new(0xfd00, 0, 0, 0, 0, 0, 0, 2));
        let ip = Ipv6Repr { src_addr: from, dst_addr: to, next_header, payload_len: length, hop_limit: 64 };
        let ethernet = EthernetRepr {
            src_addr: EthernetAddress([2, 0, 0, 0, 0, 1]),
            dst_addr: EthernetAddress([2, 0, 0, 0, 0, 2]),
            ethertype: EthernetProtocol::Ipv6,
        };
        let mut bytes = vec![0; 14 + 40 + length];
        let mut frame = EthernetFrame::new_unchecked(bytes.as_mut_slice());
        ethernet.emit(&mut frame);
        let mut packet = Ipv6Packet::new_unchecked(frame.payload_mut());
        ip.emit(&mut packet);
        emit(packet.payload_mut(), from, to);
        bytes
    }

    fn ipv6_frames() -> [(Vec<u8>, Fault); 3] {
        let caps = ChecksumCapabilities::default();
        let udp = UdpRepr { src_port: 1, dst_port: 2 };
        let datagram = ipv6_frame(IpProtocol::Udp, 8 + 5, |bytes, from, to| {
            let fill = |to: &mut [u8]| to.copy_from_slice(b"hello");
            udp.emit(&mut UdpPacket::new_unchecked(bytes), &from.into(), &to.into(), 5, fill, &caps);
        });
        let tcp = TcpRepr {
            src_port: 1,
            dst_port: 2,
            control: TcpControl::Psh,
            seq_number: TcpSeqNumber(7),
            ack_number: Some(TcpSeqNumber(9)),
            window_len: 100,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: b"segment",
        };
        let segment = ipv6_frame(IpProtocol::Tcp, tcp.buffer_len(), |bytes, from, to| {
            tcp.emit(&mut TcpPacket::new_unchecked(bytes), &from.into(), &to.into(), &caps);
        });
        let echo = Icmpv6Repr::EchoRequest { ident: 1, seq_no: 2, data: b"ping" };
        let ping = ipv6_frame(IpProtocol::Icmpv6, echo.buffer_len(), |bytes, from, to| {
            echo.emit(&from, &to, &mut Icmpv6Packet::new_unchecked(bytes), &caps);
        });
        [(datagram, Fault::BadUdpChecksum), (segment, Fault::BadTcpChecksum), (ping, Fault::BadIcmpChecksum)]
    }

    #[test]
    fn a_wrong_byte_under_an_ipv6_checksum_is_found_in_every_protocol() {
        for (frame, fault) in ipv6_frames() {
            assert_eq!(inspect(&frame, 1500), Ok(()), "{fault:?}");
            let mut broken = frame.clone();
            *broken.last_mut().unwrap() ^= 1;
            assert_eq!(inspect(&broken, 1500), Err(fault));
            // The addresses are under it too.
            let mut broken = frame;
            broken[14 + 39] ^= 1;
            assert_eq!(inspect(&broken, 1500), Err(fault));
        }
    }

    #[test]
    fn a_checksum_left_out_over_ipv6_is_a_fault() {
        let [(mut frame, fault), ..] = ipv6_frames();
        frame[14 + 40 + 6..14 + 40 + 8].fill(0);
        assert_eq!(inspect(&frame, 1500), Err(fault));
    }

    #[test]
    fn a_right_frame_passes_and_padding_is_ignored() {
        let mut frame = udp_frame(b"hello");
        assert_eq!(inspect(&frame, 1500), Ok(()));
        frame.resize(60, 0xAA);
        assert_eq!(inspect(&frame, 1500), Ok(()));
    }

    #[test]
    fn every_flipped_bit_behind_the_addresses_is_found() {
        let frame = udp_frame(b"hello, wire");
        for at in 14..frame.len() {
            for bit in 0..8 {
                let mut broken = frame.clone();
                broken[at] ^= 1 << bit;
                assert!(inspect(&broken, 1500).is_err(), "byte {at} bit {bit}");
            }
        }
    }

    #[test]
    fn a_blank_checksum_is_a_fault_and_a_left_out_one_is_not() {
        // A frontend that leaves the checksum to the backend stores the pseudo-header sum only.
        let mut frame = udp_frame(b"blank");
        frame[40..42].copy_from_slice(&0x1234_u16.to_be_bytes());
        assert_eq!(inspect(&frame, 1500), Err(Fault::BadUdpChecksum));
        frame[40..42].copy_from_slice(&[0, 0]);
        assert_eq!(inspect(&frame, 1500), Ok(()));
    }

    #[test]
    fn a_segment_over_the_mtu_is_a_fault() {
        assert_eq!(inspect(&udp_frame(&[0; 1472]), 1500), Ok(()));
        assert_eq!(inspect(&udp_frame(&[0; 1473]), 1500), Err(Fault::Oversize));
    }
}
