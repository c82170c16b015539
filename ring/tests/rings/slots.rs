//! Slots of the TX ring as a frontend writes them.

use ring::netif::TxSlot;

pub(crate) const CSUM_BLANK: u16 = 1;
pub(crate) const MORE_DATA: u16 = 4;
pub(crate) const EXTRA_INFO: u16 = 8;

/// A request's words.
pub(crate) fn words(gref: u32, offset: u16, flags: u16, id: u16, size: u16) -> [u32; 3] {
    let pair = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
    [gref, pair(offset, flags), pair(id, size)]
}

/// A request.
pub(crate) fn request(gref: u32, offset: u16, flags: u16, id: u16, size: u16) -> TxSlot {
    TxSlot::from_words(words(gref, offset, flags, id, size))
}

/// An extra segment of any type.
pub(crate) fn extra(kind: u8, more: bool, body: [u8; 6]) -> TxSlot {
    let [a, b, c, d, e, f] = body;
    TxSlot::from_words([u32::from_le_bytes([kind, more.into(), a, b]), u32::from_le_bytes([c, d, e, f]), 0])
}

/// An extra segment that asks for segmentation.
pub(crate) fn gso(size: u16, kind: u8) -> TxSlot {
    let [low, high] = size.to_le_bytes();
    extra(1, false, [low, high, kind, 0, 0, 0])
}
