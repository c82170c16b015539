//! The RX ring of a frontend: buffers out, packets in.

use xen_pv_rt::hyp::{Access, GrantRef};

use super::Netfront;
use crate::page::Page;

const MORE_DATA: u16 = 4;
const EXTRA_INFO: u16 = 8;
/// `XEN_NETIF_NR_SLOTS_MIN`.
const MAX_SLOTS: usize = 18;

/// A packet as the frontend got it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RxPacket {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// `XEN_NETRXF_*` of the first slot.
    pub flags: u16,
    /// Extra segments, as words.
    pub extras: Vec<[u32; 2]>,
    /// Data slots.
    pub slots: usize,
    /// Where in its buffer each piece starts.
    pub offsets: Vec<usize>,
    /// The queue it came in.
    pub queue: usize,
    /// Status of a slot that was not filled.
    pub error: Option<i16>,
    more_extras: bool,
    more_data: bool,
}

impl RxPacket {
    /// The transport checksum is blank.
    pub fn csum_blank(&self) -> bool {
        self.flags & 2 != 0
    }
    /// The checksum need not be checked.
    pub fn data_validated(&self) -> bool {
        self.flags & 1 != 0
    }
}

impl Netfront {
    /// Posts buffers until `count` are under way. Published, and the backend notified if it asked for it.
    pub fn post_up_to(&mut self, count: u32) {
        let missing = count.saturating_sub(u32::try_from(self.link().posted.len()).unwrap());
        if missing > 0 {
            self.post(missing);
        }
    }

    /// Posts `count` more buffers.
    pub fn post(&mut self, count: u32) {
        for _ in 0..count {
            let page = Page::new();
            // What a backend does not write must not be taken for data.
            page.write(0, &[0xa5; 4096]);
            let gref = self.xen.grant_for(self.device, &page, Access::ReadWrite);
            let id = u16::try_from(self.link().rx.req_prod_pvt & 0xff).unwrap();
            self.put_buffer(id, gref, page);
        }
        self.push_rx();
    }

    /// Puts one buffer with any id and grant. Not published yet.
    pub fn put_buffer(&mut self, id: u16, gref: GrantRef, page: Page) {
        let link = self.link_mut();
        link.rx.put([u32::from(id), gref.into_raw()]);
        link.posted.push_back((id, gref, page));
    }

    /// Publishes what was put, and notifies the backend if it asked for it.
    pub fn push_rx(&mut self) {
        if self.link_mut().rx.push() {
            self.notify_rx();
        }
    }

    /// Publishes what was put, without a word to the backend.
    pub fn publish_rx(&mut self) {
        self.link_mut().rx.push();
    }

    /// Keeps this many buffers posted from now on; 0 posts no more.
    pub fn keep_posted(&mut self, count: u32) {
        self.options.rx_buffers = count;
    }

    /// Buffers under way.
    pub fn posted(&self) -> usize {
        self.link().posted.len()
    }

    /// Publishes any producer index on the RX ring and notifies the backend.
    pub fn set_rx_req_prod(&mut self, value: u32) {
        self.link_mut().rx.set_req_prod(value);
        self.notify_rx();
    }

    /// The private producer index of the RX ring.
    pub fn rx_req_prod(&self) -> u32 {
        self.link().rx.req_prod_pvt
    }

    /// The oldest packet not looked at yet.
    pub fn receive(&mut self) -> Option<RxPacket> {
        self.received.pop_front()
    }

    /// Every packet not looked at yet.
    pub fn receive_all(&mut self) -> Vec<RxPacket> {
        self.received.drain(..).collect()
    }

    pub(super) fn collect_packets(&mut self) {
        let mut done = Vec::new();
        for (queue, link) in self.links.iter_mut().enumerate() {
            while let Some(words) = link.rx.take() {
                let (id, gref, page) = link.posted.pop_front().expect("a response to a buffer that was not posted");
                done.push(gref);
                let mut packet = link.partial.take().unwrap_or_default();
                packet.queue = queue;
                let complete = packet.add(words, id, &page);
                if complete {
                    self.received.push_back(packet);
                } else {
                    link.partial = Some(packet);
                }
            }
            link.rx.want_response_event();
        }
        for gref in done {
            let held = self.xen.revoke(self.device.frontend, gref);
            assert!(!held, "the backend answers with a buffer that it still holds");
        }
    }
}

impl RxPacket {
    /// Adds a slot. Returns whether the packet is complete.
    fn add(&mut self, words: [u32; 2], id: u16, page: &Page) -> bool {
        if self.more_extras {
            self.extras.push(words);
            self.more_extras = words[0] >> 8 & 1 != 0;
            return !self.more_extras && !self.more_data;
        }
        let ([i0, i1, o0, o1], [f0, f1, s0, s1]) = (words[0].to_le_bytes(), words[1].to_le_bytes());
        assert_eq!(u16::from_le_bytes([i0, i1]), id, "buffers are answered in order, with their own id");
        let offset = usize::from(u16::from_le_bytes([o0, o1]));
        let (flags, status) = (u16::from_le_bytes([f0, f1]), i16::from_le_bytes([s0, s1]));
        if self.slots == 0 {
            self.flags = flags;
        }
        self.slots += 1;
        assert!(self.slots <= MAX_SLOTS, "a packet of {} slots", self.slots);
        match usize::try_from(status) {
            Ok(len) => {
                assert!(offset + len <= 4096, "a slot beyond its page: offset {offset}, length {len}");
                assert!(self.slots > 1 || len >= 14 || self.error.is_some(), "a first slot of {len} bytes");
                assert!(self.slots == 1 || len > 0, "an empty slot");
                self.offsets.push(offset);
                let start = self.bytes.len();
                self.bytes.resize(start + len, 0);
                page.read(offset, &mut self.bytes[start..]);
            }
            Err(_) => {
                assert!(matches!(status, -1 | -2), "a slot with status {status}");
                self.error = Some(status);
            }
        }
        self.more_extras = self.slots == 1 && flags & EXTRA_INFO != 0;
        self.more_data = flags & MORE_DATA != 0;
        !self.more_extras && !self.more_data
    }
}
