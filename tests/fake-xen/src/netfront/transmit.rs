//! The TX ring of a frontend: packets, slots and lies.

use xen_pv_rt::hyp::{Access, GrantRef};

use super::Netfront;
use crate::page::Page;

/// A response on the TX ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxAnswer {
    /// The request's id.
    pub id: u16,
    /// `XEN_NETIF_RSP_*`: 0 sent, -1 error, -2 dropped.
    pub status: i16,
}

const CSUM_BLANK: u16 = 1;
const MORE_DATA: u16 = 4;
const RSP_NULL: i16 = 1;

impl Netfront {
    /// Sends a packet in as few slots as possible. Returns the id of its first slot.
    pub fn send(&mut self, packet: &[u8]) -> u16 {
        self.send_with(packet, 0)
    }

    /// Sends a packet whose transport checksum is blank.
    pub fn send_blank(&mut self, packet: &[u8]) -> u16 {
        self.send_with(packet, CSUM_BLANK)
    }

    fn send_with(&mut self, packet: &[u8], flags: u16) -> u16 {
        let lengths: Vec<usize> = packet.chunks(4096).map(<[u8]>::len).collect();
        let id = self.put_packet(packet, &lengths, flags);
        self.push_tx();
        id
    }

    /// Sends a packet in slots of the given lengths, which sum up to its length.
    pub fn send_in(&mut self, packet: &[u8], lengths: &[usize]) -> u16 {
        assert_eq!(lengths.iter().sum::<usize>(), packet.len(), "fragments do not make the packet");
        let id = self.put_packet(packet, lengths, 0);
        self.push_tx();
        id
    }

    fn put_packet(&mut self, packet: &[u8], lengths: &[usize], flags: u16) -> u16 {
        let mut first_id = None;
        let mut rest = packet;
        for (index, len) in lengths.iter().enumerate() {
            let (part, tail) = rest.split_at(*len);
            rest = tail;
            let more = if index + 1 < lengths.len() { MORE_DATA } else { 0 };
            let (size, flags) = if index == 0 { (packet.len(), flags | more) } else { (*len, more) };
            let page = Page::new();
            // A different offset each time, as far as the part leaves room.
            let offset = (index * 40).min(4096 - len);
            page.write(offset, part);
            let id = self.put_request(&page, u16::try_from(offset).unwrap(), u16::try_from(size).unwrap(), flags);
            first_id.get_or_insert(id);
        }
        first_id.expect("a packet has a slot")
    }

    /// Puts one request for a page of its own. Not published yet. Returns its id.
    pub fn put_request(&mut self, page: &Page, offset: u16, size: u16, flags: u16) -> u16 {
        let gref = self.xen.grant_for(self.device, page, Access::ReadOnly);
        self.put_request_for(gref, offset, size, flags)
    }

    /// Puts one request with any grant. Not published yet. Returns its id.
    pub fn put_request_for(&mut self, gref: GrantRef, offset: u16, size: u16, flags: u16) -> u16 {
        let link = self.link_mut();
        while link.sent.contains_key(&link.next_id) {
            link.next_id = link.next_id.wrapping_add(1);
        }
        let id = link.next_id;
        link.next_id = id.wrapping_add(1);
        link.sent.insert(id, gref);
        let pair = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
        link.tx.put([gref.into_raw(), pair(offset, flags), pair(id, size)]);
        id
    }

    /// Puts an extra segment. Not published yet.
    pub fn put_extra(&mut self, words: [u32; 2]) {
        let link = self.link_mut();
        link.extras += 1;
        link.tx.put([words[0], words[1], 0]);
    }

    /// Puts three words of anything. Not published yet, and nothing is expected in return.
    pub fn put_raw(&mut self, words: [u32; 3]) {
        self.link_mut().tx.put(words);
    }

    /// Publishes what was put, and notifies the backend if it asked for it.
    pub fn push_tx(&mut self) {
        if self.link_mut().tx.push() {
            self.notify_tx();
        }
    }

    /// Publishes what was put, and notifies nobody, whatever the backend asked for.
    pub fn publish_tx(&mut self) {
        let _ = self.link_mut().tx.push();
    }

    /// Slots that are free.
    pub fn tx_free(&self) -> u32 {
        self.link().tx.free()
    }

    /// Requests that have no response, in all queues.
    pub fn tx_unanswered(&self) -> usize {
        assert!(self.is_connected(), "the frontend has no rings");
        self.links.iter().map(|link| link.sent.len() + link.extras as usize).sum()
    }

    /// The private producer index of the TX ring.
    pub fn tx_req_prod(&self) -> u32 {
        self.link().tx.req_prod_pvt
    }

    /// Publishes any producer index on the TX ring and notifies the backend.
    pub fn set_tx_req_prod(&mut self, value: u32) {
        self.link_mut().tx.set_req_prod(value);
        self.notify_tx();
    }

    /// Asks for a notification when the backend publishes response `value`.
    pub fn set_tx_rsp_event(&mut self, value: u32) {
        self.link_mut().tx.set_rsp_event(value);
    }

    /// The backend's `req_event` on the TX ring.
    pub fn tx_req_event(&self) -> u32 {
        self.link().tx.req_event()
    }

    /// The backend's `rsp_prod` on the TX ring.
    pub fn tx_rsp_prod(&self) -> u32 {
        self.link().tx.rsp_prod()
    }

    /// Overwrites the fields of both rings that are the backend's.
    pub fn scribble_indices(&mut self, value: u32) {
        self.link_mut().tx.scribble(value);
        self.link_mut().rx.scribble(value);
    }

    /// The oldest response not looked at yet.
    pub fn take_answer(&mut self) -> Option<TxAnswer> {
        self.answers.pop_front()
    }

    /// Every response not looked at yet.
    pub fn take_answers(&mut self) -> Vec<TxAnswer> {
        self.answers.drain(..).collect()
    }

    pub(super) fn collect_answers(&mut self) {
        let mut done = Vec::new();
        for link in &mut self.links {
            while let Some([word, ..]) = link.tx.take() {
                let [i0, i1, s0, s1] = word.to_le_bytes();
                let (id, status) = (u16::from_le_bytes([i0, i1]), i16::from_le_bytes([s0, s1]));
                if status == RSP_NULL {
                    assert!(link.extras > 0, "a response to an extra segment that was not sent");
                    link.extras -= 1;
                    continue;
                }
                assert!(matches!(status, -2..=0), "response with status {status}");
                let gref = link.sent.remove(&id);
                done.push(gref.unwrap_or_else(|| panic!("a response to request {id}, which is not under way")));
                self.answers.push_back(TxAnswer { id, status });
            }
            link.tx.want_response_event();
        }
        for gref in done {
            let held = self.xen.revoke(self.device.frontend, gref);
            assert!(!held, "the backend answers a request whose page it still holds");
        }
    }
}
