//! From slots to packets: which slots belong together, and whether they make sense.
//!
//! The first slot's size is that of the whole packet; later slots' sizes are those of their fragments, so the
//! first fragment has what is left. Extra information, if any, follows the first slot.
//!
//! What is wrong with a chain is either a reason to drop one packet, all slots of which are still answered
//! ([`TxReject`]), or a sign that the frontend's idea of the ring is not ours ([`TxKill`]). The lines between the
//! two are those that Linux draws, because its frontends live with them.

use super::extra::{Extra, GsoKind};
use super::tx::{TxFlags, TxRequest, TxSlot};
use super::{ETHERNET_HEADER, FixedVec, MAX_SLOTS, PAGE_BYTES};
use crate::GrantRef;
use crate::back::{Debt, Ticket};

/// Slots beyond which a packet is no mistake any more (Linux: `fatal_skb_slots`).
const FATAL_SLOTS: usize = 20;
/// Extra slots of one packet: one of each type.
const MAX_EXTRAS: usize = 5;

/// What the frontend may use, as negotiated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Negotiated {
    /// `feature-gso-tcpv4` was offered.
    pub gso_tcpv4: bool,
    /// `feature-gso-tcpv6` was offered.
    pub gso_tcpv6: bool,
    /// `feature-multicast-control` was offered.
    pub multicast_control: bool,
    /// `feature-ctrl-ring` was offered: packets may come with their hash, which is not used.
    pub hash: bool,
}

/// Why a single packet is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxReject {
    /// Shorter than an Ethernet header.
    Short,
    /// The fragments add up to more than the packet.
    Total,
    /// 19 or 20 slots.
    Slots,
}

impl TxReject {
    /// The cause code of log lines.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Short => "TX_SHORT",
            Self::Total => "TX_TOTAL",
            Self::Slots => "TX_SLOTS",
        }
    }
}

/// Why the interface is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxKill {
    /// A fragment reaches beyond its page.
    Page,
    /// The packet goes on where the frontend has published nothing.
    Chain,
    /// More than 20 slots.
    Slots,
    /// Extra information was announced and is not there.
    ExtraMissing,
    /// Extra information of a type that does not exist or was not negotiated.
    ExtraType,
    /// More extra information than there are types.
    ExtraChain,
    /// Segments of 0 bytes.
    GsoSize,
    /// Segments of an unknown or not negotiated protocol.
    GsoType,
}

impl TxKill {
    /// The cause code of log lines.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Page => "TX_PAGE",
            Self::Chain => "TX_CHAIN",
            Self::Slots => "TX_SLOTS",
            Self::ExtraMissing => "TX_EXTRA_MISSING",
            Self::ExtraType => "TX_EXTRA_TYPE",
            Self::ExtraChain => "TX_EXTRA_CHAIN",
            Self::GsoSize => "GSO_SIZE",
            Self::GsoType => "GSO_TYPE",
        }
    }
}

/// A run of bytes in a granted page: `offset + size` is at most 4096, `size` at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The granted page.
    pub gref: GrantRef,
    /// First byte in the page.
    pub offset: u16,
    /// Number of bytes.
    pub size: u16,
}

impl Default for Fragment {
    fn default() -> Self {
        Self { gref: GrantRef::from_raw(0), offset: 0, size: 0 }
    }
}

/// How a slot is to be answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SlotKind {
    /// With the packet's status and this id.
    Request(u16),
    /// With [`Status::Null`](super::Status::Null).
    #[default]
    Extra,
}

/// A packet's slots, taken off the ring. Each is owed an answer, in this order.
#[derive(Debug, Default)]
pub struct Packet {
    /// Where the bytes are; empty fragments are left out.
    pub fragments: FixedVec<Fragment, MAX_SLOTS>,
    /// Slots to be answered.
    pub slots: FixedVec<SlotKind, { FATAL_SLOTS + MAX_EXTRAS }>,
    /// The tickets of those slots.
    pub debt: Debt,
    /// Length in bytes.
    pub total: u16,
    /// Flags of the first slot.
    pub flags: TxFlags,
    /// Segment size and protocol, if it is to be cut up.
    pub gso: Option<(u16, GsoKind)>,
    /// Multicast addresses to add (`true`) or remove, in this order.
    pub multicast: FixedVec<(bool, [u8; 6]), MAX_EXTRAS>,
}

/// What a chain of slots turned out to be.
#[derive(Debug)]
pub enum Assembled {
    /// A packet.
    Packet(Packet),
    /// A packet to drop. Its slots are to be answered with an error; its fragments mean nothing.
    Rejected(TxReject, Packet),
}

/// Takes the slots of one packet through `next`, which gives `None` where the frontend has published no more.
///
/// Returns `None` if there is nothing at all.
///
/// # Errors
/// [`TxKill`] if the interface is to be closed; the slots taken so far need no answers any more.
pub fn assemble(
    negotiated: &Negotiated,
    mut next: impl FnMut() -> Option<(TxSlot, Ticket)>,
) -> Result<Option<Assembled>, TxKill> {
    let Some((slot, ticket)) = next() else { return Ok(None) };
    let first = slot.request();
    let mut packet = Packet { total: first.size, flags: first.flags, ..Packet::default() };
    packet.owe(SlotKind::Request(first.id), ticket);
    if first.flags.extra_info() {
        extras(negotiated, &mut packet, &mut next)?;
    }
    let mut reject = None;
    // Room for the first fragment, whose size is known last.
    let _ = packet.fragments.push(Fragment::default());
    let mut left = first.size;
    let mut flags = first.flags;
    let mut slots = 1_usize;
    while flags.more_data() {
        let (slot, ticket) = next().ok_or(TxKill::Chain)?;
        let request = slot.request();
        slots = slots.saturating_add(1);
        if slots > FATAL_SLOTS {
            return Err(TxKill::Slots);
        }
        packet.owe(SlotKind::Request(request.id), ticket);
        check_page(request.offset, request.size)?;
        match left.checked_sub(request.size) {
            Some(rest) => left = rest,
            None => reject = reject.or(Some(TxReject::Total)),
        }
        if !packet.add(&request, request.size) || slots > MAX_SLOTS {
            reject = reject.or(Some(TxReject::Slots));
        }
        flags = request.flags;
    }
    if let Some(reject) = reject {
        return Ok(Some(Assembled::Rejected(reject, packet)));
    }
    check_page(first.offset, left)?;
    // A request that only changes the multicast filter needs no data.
    if u32::from(first.size) < ETHERNET_HEADER && packet.multicast.as_slice().is_empty() {
        return Ok(Some(Assembled::Rejected(TxReject::Short, packet)));
    }
    packet.set_first(&first, left);
    Ok(Some(Assembled::Packet(packet)))
}

fn check_page(offset: u16, size: u16) -> Result<(), TxKill> {
    if u32::from(offset).saturating_add(u32::from(size)) > PAGE_BYTES { Err(TxKill::Page) } else { Ok(()) }
}

impl Packet {
    fn owe(&mut self, kind: SlotKind, ticket: Ticket) {
        // Capacity is the most that `assemble` takes, so nothing is lost.
        if self.slots.push(kind) {
            self.debt.add(ticket);
        }
    }

    fn change_filter(&mut self, add: bool, address: [u8; 6]) {
        // There is room for as many as there may be extra segments.
        let _ = self.multicast.push((add, address));
    }

    fn add(&mut self, request: &TxRequest, size: u16) -> bool {
        size == 0 || self.fragments.push(Fragment { gref: request.gref, offset: request.offset, size })
    }

    /// Fills in the first fragment, or removes it if later ones leave nothing for it.
    fn set_first(&mut self, first: &TxRequest, size: u16) {
        if size > 0 {
            if let Some(fragment) = self.fragments.as_mut_slice().first_mut() {
                *fragment = Fragment { gref: first.gref, offset: first.offset, size };
            }
            return;
        }
        let rest = self.fragments;
        self.fragments.clear();
        for fragment in rest.as_slice().iter().skip(1) {
            let _ = self.fragments.push(*fragment);
        }
    }
}

fn extras(
    negotiated: &Negotiated,
    packet: &mut Packet,
    next: &mut impl FnMut() -> Option<(TxSlot, Ticket)>,
) -> Result<(), TxKill> {
    for _ in 0..MAX_EXTRAS {
        let (slot, ticket) = next().ok_or(TxKill::ExtraMissing)?;
        packet.owe(SlotKind::Extra, ticket);
        let raw = slot.extra();
        match raw.parse() {
            Extra::Gso { size: 0, .. } => return Err(TxKill::GsoSize),
            Extra::Gso { size, kind: Ok(kind) } if negotiated.allows(kind) => packet.gso = Some((size, kind)),
            Extra::Gso { .. } => return Err(TxKill::GsoType),
            Extra::McastAdd(address) if negotiated.multicast_control => packet.change_filter(true, address),
            Extra::McastDel(address) if negotiated.multicast_control => packet.change_filter(false, address),
            Extra::Hash { .. } if negotiated.hash => {}
            _ => return Err(TxKill::ExtraType),
        }
        if !raw.more() {
            return Ok(());
        }
    }
    Err(TxKill::ExtraChain)
}

impl Negotiated {
    const fn allows(&self, kind: GsoKind) -> bool {
        match kind {
            GsoKind::TcpV4 => self.gso_tcpv4,
            GsoKind::TcpV6 => self.gso_tcpv6,
        }
    }
}
