//! Base address registers: decoding what sizing reads back.

/// What a BAR describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bar {
    /// Registers or memory in memory space.
    Memory {
        /// Machine address of the first byte.
        base: u64,
        /// Length in bytes, a power of two.
        len: u64,
        /// Whether it takes two BAR slots.
        wide: bool,
    },
    /// I/O ports, which this crate leaves alone.
    Io,
}

/// Why a BAR is not believed. Each is the end of a sentence that starts with "BAR 0".
mod fault {
    pub(super) const TYPE: &str = "has a reserved type";
    pub(super) const SIZE: &str = "reports a size that is no power of two";
    pub(super) const UNSET: &str = "has no address";
    pub(super) const ALIGN: &str = "is not aligned to its size";
    pub(super) const LIMIT: &str = "lies beyond what the machine can address";
}

/// Most physical address bits an x86 processor has.
const MAX_ADDRESS: u64 = 1 << 52;

/// The BAR takes the next slot for the upper half of its address.
pub(crate) const fn is_wide(low: u32) -> bool {
    low & 0b111 == 0b100
}

/// Decodes a BAR from its value and from what it read back after all ones were written.
///
/// Both are the low slot in the low half; the high half counts only if the BAR [`is_wide`].
/// `Ok(None)`: not implemented.
///
/// # Errors
/// The end of a sentence that says what is wrong with it.
pub(crate) fn decode(value: u64, sized: u64) -> Result<Option<Bar>, &'static str> {
    let low = value & 0xffff_ffff;
    if sized & 0xffff_ffff == 0 && low == 0 {
        return Ok(None);
    }
    if low & 1 == 1 {
        return Ok(Some(Bar::Io));
    }
    let wide = match low & 0b110 {
        0b000 => false,
        0b100 => true,
        _ => return Err(fault::TYPE),
    };
    let (base, mask) =
        if wide { (value & !0xf, sized & !0xf) } else { (low & !0xf, sized & 0xffff_fff0 | 0xffff_ffff_0000_0000) };
    let len = (!mask).wrapping_add(1);
    if mask == 0 || !len.is_power_of_two() || !wide && len > 1 << 31 {
        return Err(fault::SIZE);
    }
    if base == 0 {
        return Err(fault::UNSET);
    }
    if base & len.wrapping_sub(1) != 0 {
        return Err(fault::ALIGN);
    }
    if base.checked_add(len).is_none_or(|end| end > MAX_ADDRESS) {
        return Err(fault::LIMIT);
    }
    Ok(Some(Bar::Memory { base, len, wide }))
}

/// Whether two memory BARs share a byte.
pub(crate) fn overlap(a: Bar, b: Bar) -> bool {
    match (a, b) {
        (Bar::Memory { base, len, .. }, Bar::Memory { base: other, len: other_len, .. }) => {
            base < other.saturating_add(other_len) && other < base.saturating_add(len)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_32_bit_bar_is_decoded() {
        assert_eq!(
            decode(0xfebc_0000, 0xfffe_0000),
            Ok(Some(Bar::Memory { base: 0xfebc_0000, len: 0x2_0000, wide: false }))
        );
    }

    #[test]
    fn a_64_bit_bar_above_4_gib_is_decoded() {
        assert_eq!(
            decode(0x8_0000_400c, 0xffff_ffff_ffff_c00c),
            Ok(Some(Bar::Memory { base: 0x8_0000_4000, len: 0x4000, wide: true }))
        );
    }

    #[test]
    fn io_and_missing_bars_are_told_apart() {
        assert_eq!(decode(0xc001, 0xffff_ffc1), Ok(Some(Bar::Io)));
        assert_eq!(decode(0, 0), Ok(None));
    }

    #[test]
    fn impossible_bars_are_refused() {
        for (value, sized, why) in [
            (0xfebc_0002, 0xfffe_0002, fault::TYPE),
            (0xfebc_0000, 0xfff1_0000, fault::SIZE),
            (0xfebc_0000, 0, fault::SIZE),
            (0xfebc_0004, 0, fault::SIZE),
            (0x0000_0000, 0xffff_f000, fault::UNSET),
            (0xfebc_1000, 0xfffe_0000, fault::ALIGN),
            (0x10_0000_0000_0004, 0xffff_ffff_ffff_c004, fault::LIMIT),
        ] {
            assert_eq!(decode(value, sized), Err(why), "{value:#x} {sized:#x}");
        }
    }

    #[test]
    fn overlap_is_seen_and_adjacency_is_not() {
        let bar = |base, len| Bar::Memory { base, len, wide: false };
        assert!(overlap(bar(0x1000, 0x1000), bar(0x1800, 0x800)));
        assert!(overlap(bar(0x1800, 0x800), bar(0x1000, 0x1000)));
        assert!(!overlap(bar(0x1000, 0x1000), bar(0x2000, 0x1000)));
        assert!(!overlap(bar(0x1000, 0x1000), Bar::Io));
    }
}
