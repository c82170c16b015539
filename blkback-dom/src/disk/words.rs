//! Taking words apart and putting them together, without casts.

/// The low half.
pub(crate) const fn low32(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// The high half.
pub(crate) const fn high32(value: u64) -> u32 {
    let [_, _, _, _, a, b, c, d] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// The low half.
pub(crate) const fn low16(value: u32) -> u16 {
    let [a, b, ..] = value.to_le_bytes();
    u16::from_le_bytes([a, b])
}

/// The high half.
pub(crate) const fn high16(value: u32) -> u16 {
    let [_, _, a, b] = value.to_le_bytes();
    u16::from_le_bytes([a, b])
}

/// One 64-bit word of two halves.
pub(crate) const fn join32(low: u32, high: u32) -> u64 {
    let [a, b, c, d] = low.to_le_bytes();
    let [e, f, g, h] = high.to_le_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// One 32-bit word of two halves.
pub(crate) const fn join16(low: u16, high: u16) -> u32 {
    let [a, b] = low.to_le_bytes();
    let [c, d] = high.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// The byte at `offset`; 0 beyond the end.
pub(crate) fn byte_at(bytes: &[u8], offset: usize) -> u8 {
    bytes.get(offset).copied().unwrap_or(0)
}

/// The little-endian number at `offset`; 0 if it is not all there.
pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([byte_at(bytes, offset), byte_at(bytes, offset.saturating_add(1))])
}

/// The little-endian number at `offset`; missing bytes count as 0.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    join16(u16_at(bytes, offset), u16_at(bytes, offset.saturating_add(2)))
}

/// The little-endian number at `offset`; missing bytes count as 0.
pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    join32(u32_at(bytes, offset), u32_at(bytes, offset.saturating_add(4)))
}
