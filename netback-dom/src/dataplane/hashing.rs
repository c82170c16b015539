//! Which queue of a vif a frame goes to: by a hash of our own, or as the frontend has asked through its control
//! ring.
//!
//! Xen: `XEN_NETIF_CTRL_HASH_*`.

use ring::netif::HashKind;

use crate::flow::{self, Flow, remainder};
use crate::wire::Protocol;

/// Longest key in bytes: enough for IPv6 addresses and ports.
pub(super) const MAX_KEY: usize = 40;
/// Most entries of a mapping.
pub(super) const MAX_MAPPING: usize = 128;

/// How a vif's frames are spread over its queues.
pub(super) struct Hashing {
    /// Of our own hash, so that nobody can aim flows at one queue.
    seed: u64,
    /// The Toeplitz hash is used, in so far as flags say so.
    pub(super) toeplitz: bool,
    /// Bits of [`HashKind`].
    pub(super) flags: u32,
    key: [u8; MAX_KEY],
    mapping: [u8; MAX_MAPPING],
    /// Entries of the mapping in use; 0: the remainder decides.
    mapping_len: usize,
}

impl Hashing {
    /// Nothing was asked for yet.
    pub(super) const fn new(seed: u64) -> Self {
        let (key, mapping) = ([0; MAX_KEY], [0; MAX_MAPPING]);
        Self { seed, toeplitz: false, flags: 0, key, mapping, mapping_len: 0 }
    }

    /// The queue, of `count`, for a frame of `len` bytes that starts with `head`. The same for all frames of a flow.
    pub(super) fn queue(&self, head: &[u8], len: usize, count: usize) -> usize {
        if count < 2 {
            return 0;
        }
        if !self.is_on() {
            return remainder(flow::hash(head, len, self.seed), count);
        }
        let hash = self.hash(head, len).map_or(0, |(_, hash)| hash);
        if self.mapping_len == 0 {
            return remainder(hash, count);
        }
        // Entries were checked against the number of queues when they were set.
        self.mapping.get(remainder(hash, self.mapping_len)).map_or(0, |queue| usize::from(*queue))
    }

    /// Whether the frontend wants a hash of its kind, and to be told.
    pub(super) const fn is_on(&self) -> bool {
        self.toeplitz && self.flags != 0
    }

    /// The hash that the frontend is told about a frame; `None` if it wants none for such frames.
    pub(super) fn hash(&self, head: &[u8], len: usize) -> Option<(HashKind, u32)> {
        if !self.is_on() {
            return None;
        }
        let flow = Flow::find(head, len)?;
        let (plain, tcp) =
            if flow.ipv6 { (HashKind::Ipv6, HashKind::Ipv6Tcp) } else { (HashKind::Ipv4, HashKind::Ipv4Tcp) };
        if flow.transport == Some(Protocol::Tcp) && self.flags & tcp.flag() != 0 {
            return Some((tcp, toeplitz(&self.key, flow.tuple())));
        }
        (self.flags & plain.flag() != 0).then(|| (plain, toeplitz(&self.key, flow.addresses())))
    }

    /// Sets the key; what it leaves out is 0.
    pub(super) fn set_key(&mut self, key: &[u8]) {
        self.key = [0; MAX_KEY];
        for (to, byte) in self.key.iter_mut().zip(key) {
            *to = *byte;
        }
    }

    /// Sets the number of entries of the mapping, at most [`MAX_MAPPING`]; all of them are 0 then. Returns whether
    /// that was possible.
    pub(super) fn set_mapping_len(&mut self, len: u32) -> bool {
        let Some(len) = usize::try_from(len).ok().filter(|len| *len <= MAX_MAPPING) else { return false };
        self.mapping = [0; MAX_MAPPING];
        self.mapping_len = len;
        true
    }

    /// Whether `len` entries from `offset` on are within the mapping.
    pub(super) fn has_entries(&self, offset: u32, len: u32) -> bool {
        let end = offset.checked_add(len).and_then(|end| usize::try_from(end).ok());
        end.is_some_and(|end| end <= self.mapping_len)
    }

    /// Sets entries from `offset` on, if all of them are queues out of `count`. Returns whether they are.
    pub(super) fn set_mapping(&mut self, offset: u32, entries: &[u8], count: usize) -> bool {
        let (words, rest) = entries.as_chunks::<4>();
        let queue = |word: &[u8; 4]| u8::try_from(u32::from_le_bytes(*word)).ok().filter(|n| usize::from(*n) < count);
        if !rest.is_empty() || words.iter().any(|word| queue(word).is_none()) {
            return false;
        }
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        for (to, word) in self.mapping.iter_mut().skip(offset).zip(words) {
            *to = queue(word).unwrap_or(0);
        }
        true
    }
}

/// The Toeplitz hash: for each set bit of `data`, the 32 bits of `key` from there on.
fn toeplitz(key: &[u8; MAX_KEY], data: &[u8]) -> u32 {
    let (first, rest) = key.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
    let mut window = u32::from_be_bytes(*first);
    let mut following = rest.iter();
    let mut hash = 0;
    for byte in data {
        let next = following.next().copied().unwrap_or(0);
        for bit in (0..8).rev() {
            if byte >> bit & 1 != 0 {
                hash ^= window;
            }
            window = window << 1 | u32::from(next >> bit & 1);
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;

    /// The key of the published verification suite for receive-side scaling.
    const KEY: [u8; MAX_KEY] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca,
        0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b,
        0xbe, 0xac, 0x01, 0xfa,
    ];

    fn hashing(flags: u32) -> Hashing {
        let mut hashing = Hashing::new(1);
        hashing.toeplitz = true;
        hashing.flags = flags;
        hashing.set_key(&KEY);
        hashing
    }

    fn ipv4(source: [u8; 4], source_port: u16, dest: [u8; 4], dest_port: u16) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]);
        frame.extend(source);
        frame.extend(dest);
        frame.extend(source_port.to_be_bytes());
        frame.extend(dest_port.to_be_bytes());
        frame.extend([0; 16]);
        frame
    }

    fn ipv6(source: [u16; 8], source_port: u16, dest: [u16; 8], dest_port: u16) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
        frame.extend(source.iter().chain(&dest).flat_map(|word| word.to_be_bytes()));
        frame.extend(source_port.to_be_bytes());
        frame.extend(dest_port.to_be_bytes());
        frame.extend([0; 16]);
        frame
    }

    #[test]
    fn the_published_ipv4_vectors_hold() {
        let vectors = [
            ([66, 9, 149, 187], 2794, [161, 142, 100, 80], 1766, 0x323e_8fc2, 0x51cc_c178),
            ([199, 92, 111, 2], 14230, [65, 69, 140, 83], 4739, 0xd718_262a, 0xc626_b0ea),
            ([24, 19, 198, 95], 12898, [12, 22, 207, 184], 38024, 0xd2d0_a5de, 0x5c2b_394a),
            ([38, 27, 205, 30], 48228, [209, 142, 163, 6], 2217, 0x8298_9176, 0xafc7_327f),
            ([153, 39, 163, 191], 44251, [202, 188, 127, 2], 1303, 0x5d18_09c5, 0x10e8_28a2),
        ];
        for (source, source_port, dest, dest_port, addresses, ports) in vectors {
            let frame = ipv4(source, source_port, dest, dest_port);
            let plain = hashing(HashKind::Ipv4.flag());
            assert_eq!(plain.hash(&frame, frame.len()), Some((HashKind::Ipv4, addresses)));
            let both = hashing(HashKind::Ipv4.flag() | HashKind::Ipv4Tcp.flag());
            assert_eq!(both.hash(&frame, frame.len()), Some((HashKind::Ipv4Tcp, ports)));
        }
    }

    #[test]
    fn the_published_ipv6_vectors_hold() {
        let vectors = [
            (
                [0x3ffe, 0x2501, 0x0200, 0x1fff, 0, 0, 0, 7],
                2794,
                [0x3ffe, 0x2501, 0x0200, 0x0003, 0, 0, 0, 1],
                1766,
                0x2cc1_8cd5,
                0x4020_7d3d,
            ),
            (
                [0x3ffe, 0x0501, 0x0008, 0, 0x0260, 0x97ff, 0xfe40, 0xefab],
                14230,
                [0xff02, 0, 0, 0, 0, 0, 0, 1],
                4739,
                0x0f0c_461c,
                0xdde5_1bbf,
            ),
        ];
        for (source, source_port, dest, dest_port, addresses, ports) in vectors {
            let frame = ipv6(source, source_port, dest, dest_port);
            let plain = hashing(HashKind::Ipv6.flag());
            assert_eq!(plain.hash(&frame, frame.len()), Some((HashKind::Ipv6, addresses)));
            let both = hashing(HashKind::ALL);
            assert_eq!(both.hash(&frame, frame.len()), Some((HashKind::Ipv6Tcp, ports)));
        }
    }

    #[test]
    fn a_kind_that_is_not_wanted_is_not_hashed() {
        let frame = ipv4([1, 2, 3, 4], 5, [6, 7, 8, 9], 10);
        assert_eq!(hashing(HashKind::Ipv6.flag() | HashKind::Ipv6Tcp.flag()).hash(&frame, frame.len()), None);
        assert_eq!(hashing(0).hash(&frame, frame.len()), None);
        assert_eq!(Hashing::new(1).hash(&frame, frame.len()), None);
    }

    #[test]
    fn the_mapping_decides_or_the_remainder() {
        let frame = ipv4([66, 9, 149, 187], 2794, [161, 142, 100, 80], 1766);
        let mut hashing = hashing(HashKind::Ipv4.flag());
        assert_eq!(hashing.queue(&frame, frame.len(), 4), 0x323e_8fc2 % 4);
        assert!(hashing.set_mapping_len(8));
        assert_eq!(hashing.queue(&frame, frame.len(), 4), 0);
        let at = 0x323e_8fc2_u32 % 8;
        assert!(hashing.set_mapping(at, &3_u32.to_le_bytes(), 4));
        assert_eq!(hashing.queue(&frame, frame.len(), 4), 3);
    }

    #[test]
    fn entries_that_are_no_queues_change_nothing() {
        let mut hashing = hashing(HashKind::ALL);
        assert!(hashing.set_mapping_len(4));
        let entries: Vec<u8> = [1, 2, 4, 0_u32].iter().flat_map(|entry| entry.to_le_bytes()).collect();
        assert!(!hashing.set_mapping(0, &entries, 4));
        assert_eq!(hashing.mapping[..4], [0; 4]);
        assert!(!hashing.set_mapping_len(129));
        assert!(hashing.has_entries(0, 4) && !hashing.has_entries(1, 4) && !hashing.has_entries(u32::MAX, 2));
    }
}
