//! What the card writes into receive descriptors.
//!
//! The driver's side is the same in all formats: the address of the buffer, and zeros. Legacy: 8254x manual,
//! 3.2.3. Extended: 82574 datasheet, 7.1.5. Advanced: 82576 datasheet, 7.1.5.

use super::model::RxFormat;
use crate::frame::Checksum;

/// Status bits, in the order that both formats have.
mod status {
    /// The descriptor is done.
    pub(super) const DD: u8 = 1 << 0;
    /// It holds the end of a frame.
    pub(super) const EOP: u8 = 1 << 1;
    /// The card has not looked at checksums.
    pub(super) const IXSM: u8 = 1 << 2;
    /// It has looked at the TCP or UDP checksum.
    pub(super) const TCPCS: u8 = 1 << 5;
}

/// Error bits, in the order that both formats have.
mod error {
    /// CE, SE, SEQ, CXE, RXE.
    pub(super) const FRAME: u8 = 0x97;
    /// TCPE, IPE.
    pub(super) const CHECKSUM: u8 = 0x60;
}

/// The second word of a receive descriptor.
#[derive(Clone, Copy)]
pub(super) struct RxStatus {
    status: u8,
    errors: u8,
    len: u16,
}

impl RxStatus {
    pub(super) const fn new(word: u64, format: RxFormat) -> Self {
        let bytes = word.to_le_bytes();
        let (status, errors, len) = match (format, bytes) {
            (RxFormat::Legacy, [a, b, _, _, status, errors, ..]) => (status, errors, [a, b]),
            (RxFormat::Extended, [status, _, _, errors, a, b, ..]) => (status, errors, [a, b]),
        };
        Self { status, errors, len: u16::from_le_bytes(len) }
    }
    /// The descriptor is done.
    pub(super) const fn done(self) -> bool {
        self.status & status::DD != 0
    }
    /// It holds the end of a frame.
    pub(super) const fn end(self) -> bool {
        self.status & status::EOP != 0
    }
    /// The frame arrived damaged.
    pub(super) const fn damaged(self) -> bool {
        self.errors & error::FRAME != 0
    }
    /// Bytes written to the buffer, if the card tells the truth.
    pub(super) const fn len(self) -> u16 {
        self.len
    }
    /// What the card knows of the checksum. A bad one is not an error here: the receiver looks again.
    pub(super) const fn checksum(self) -> Checksum {
        let checked = self.status & (status::IXSM | status::TCPCS) == status::TCPCS;
        if checked && self.errors & error::CHECKSUM == 0 { Checksum::Good } else { Checksum::Unknown }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_say_the_same_in_different_places() {
        for (word, format) in [(0x0000_8421_0000_05dc, RxFormat::Legacy), (0x0000_05dc_8400_0021, RxFormat::Extended)] {
            let status = RxStatus::new(word, format);
            assert!(status.done() && !status.end() && status.damaged());
            assert_eq!((status.len(), status.checksum()), (1500, Checksum::Good));
        }
    }

    #[test]
    fn what_the_driver_writes_is_not_done_in_any_format() {
        for format in [RxFormat::Legacy, RxFormat::Extended] {
            assert!(!RxStatus::new(0, format).done());
        }
    }
}
