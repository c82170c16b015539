//! BARs of a function: sizing them, and mapping them as register windows.

use xen_pv_rt::hyp::{Maddr, Platform};

use crate::bar::{self, Bar};
use crate::{PciCause, PciDevice, PciError};

/// Offset of the first BAR in configuration space. PCI Local Bus 3.0, 6.2.5.
const BAR0: u16 = 0x10;
/// The bits of an address within a page.
const PAGE_MASK: u64 = 0xfff;

/// Where BAR `index` is in configuration space.
pub(crate) const fn bar_offset(index: u8) -> u16 {
    let [low, high] = [index.saturating_mul(4), 0];
    BAR0.saturating_add(u16::from_le_bytes([low, high]))
}

/// The BARs of a function that were looked at so far.
#[derive(Clone, Copy, Default)]
pub(crate) struct Bars {
    found: [Option<Bar>; 6],
    /// The slots before this one were looked at.
    next: u8,
}

impl<H: Platform> PciDevice<H> {
    /// BAR `index`, if the function has it. The slot that a wide BAR takes up in addition is none.
    ///
    /// Those before it are looked at as well, since they may be wide; those behind it are not: each takes xen-pciback
    /// up to four requests, and a domain starts no sooner than that.
    ///
    /// # Errors
    /// [`PciCause::Bar`] if one of them is impossible or overlaps another, or as [`read8`](Self::read8).
    pub fn bar(&self, index: u8) -> Result<Option<Bar>, PciError> {
        let mut bars = self.bars.get();
        while bars.next <= index.min(5) {
            let (at, bar) = (bars.next, self.read_bar(bars.next)?);
            if bar.is_some_and(|bar| bars.found.iter().flatten().any(|other| bar::overlap(*other, bar))) {
                return Err(self.error(PciCause::Bar(at, "overlaps another")));
            }
            if let Some(slot) = bars.found.get_mut(usize::from(at)) {
                *slot = bar;
            }
            let slots = if matches!(bar, Some(Bar::Memory { wide: true, .. })) { 2 } else { 1 };
            bars.next = at.saturating_add(slots);
            self.bars.set(bars);
        }
        Ok(bars.found.get(usize::from(index)).copied().flatten())
    }

    fn read_bar(&self, index: u8) -> Result<Option<Bar>, PciError> {
        let (low, low_sized) = self.size_bar(index, false)?;
        let (value, sized) = if bar::is_wide(low) {
            let (high, high_sized) = self.size_bar(index.saturating_add(1), true)?;
            (u64::from(high) << 32 | u64::from(low), u64::from(high_sized) << 32 | u64::from(low_sized))
        } else {
            (u64::from(low), u64::from(low_sized))
        };
        bar::decode(value, sized).map_err(|what| self.error(PciCause::Bar(index, what)))
    }

    /// A BAR slot's value, and what it reads back after all ones. pciback stages that one write and keeps the
    /// real register as it is, so this is safe while the function decodes.
    fn size_bar(&self, index: u8, upper: bool) -> Result<(u32, u32), PciError> {
        if index > 5 {
            return Err(self.error(PciCause::Bar(index, "does not exist")));
        }
        let offset = bar_offset(index);
        let value = self.read32(offset)?;
        // I/O ports are left alone, and pciback shows a slot that is not implemented as zero. But half of a wide
        // BAR may well be zero.
        if !upper && (value == 0 || value & 1 == 1) {
            return Ok((value, 0));
        }
        self.write32(offset, u32::MAX)?;
        let sized = self.read32(offset)?;
        self.write32(offset, value)?;
        Ok((value, sized))
    }

    /// Maps BAR `index`, which has to be at least `min_len` bytes long.
    ///
    /// # Errors
    /// [`PciCause::Bar`] unless it is a memory BAR of that length that starts on a page, or as
    /// [`bar`](Self::bar); [`PciCause::Map`] if Xen refuses.
    pub fn map_bar(&self, index: u8, min_len: usize) -> Result<H::Region, PciError> {
        let fault = |what| Err(self.error(PciCause::Bar(index, what)));
        let Some(bar) = self.bar(index)? else { return fault("is not there") };
        let Bar::Memory { base, len, .. } = bar else { return fault("is not in memory space") };
        let Ok(len) = usize::try_from(len) else { return fault("is too large") };
        if len < min_len {
            return fault("is too small");
        }
        // A page that starts with another device's registers must not be mapped here: XSA-461.
        if base & PAGE_MASK != 0 {
            return fault("does not start on a page");
        }
        self.platform().map_mmio(Maddr::from_raw(base), len).map_err(|e| self.error(PciCause::Map(index, e)))
    }
}
