//! Segmentation: what the card wants changed in the headers of a frame that it cuts up.
//!
//! Frames come with complete headers for the whole packet. The card computes lengths and checksums of each
//! segment by itself and expects zeros, or a sum that leaves the length out, in their places.

use super::model::TxFormat;
use super::tx_desc::{Headers, Offload, ip_offset};
use crate::frame::{Checksum, Frame, Gso};

/// Offset of the checksum in a TCP header.
const TCP_CHECKSUM: u16 = 16;
/// Offset of the header length in a TCP header.
const TCP_DATA_OFFSET: usize = 12;

/// Changes the headers of a TCP frame and says how to send it. `None`, if they are not what they should be.
pub(super) fn prepare(frame: &mut Frame, gso: Gso, format: TxFormat) -> Option<Offload> {
    let Checksum::Blank { start, field: TCP_CHECKSUM } = frame.checksum else { return None };
    let len = frame.len();
    let head = frame.head_mut().bytes_mut();
    let tcp = usize::from(start);
    let ip = usize::from(ip_offset(head)?);
    let headers = tcp.checked_add(usize::from(*head.get(tcp.checked_add(TCP_DATA_OFFSET)?)? >> 4).checked_mul(4)?)?;
    if gso.size == 0 || ip >= tcp || headers > head.len() || headers >= len {
        return None;
    }
    if gso.ipv6 {
        // Payload length.
        head.get_mut(ip.checked_add(4)?..)?.first_chunk_mut::<2>()?.fill(0);
    } else {
        // Total length, then the checksum.
        head.get_mut(ip.checked_add(2)?..)?.first_chunk_mut::<2>()?.fill(0);
        head.get_mut(ip.checked_add(10)?..)?.first_chunk_mut::<2>()?.fill(0);
    }
    let checksum = head.get_mut(tcp.checked_add(usize::from(TCP_CHECKSUM))?..)?.first_chunk_mut::<2>()?;
    *checksum = without(u16::from_be_bytes(*checksum), u16::try_from(len.checked_sub(tcp)?).ok()?).to_be_bytes();
    let [ip, tcp, payload] = [ip, tcp, headers].map(|at| u8::try_from(at).ok());
    let headers = Headers { ip: ip?, tcp: tcp?, payload: payload? };
    Some(Offload::segments(gso, headers, u32::try_from(len).ok()?, format))
}

/// Takes `value` out of a one's complement sum.
const fn without(sum: u16, value: u16) -> u16 {
    // Adding the complement subtracts; a carry goes round.
    let (sum, carry) = sum.overflowing_add(!value);
    if carry { sum.wrapping_add(1) } else { sum }
}

#[cfg(test)]
mod tests {
    use super::without;

    #[test]
    fn what_is_taken_out_of_a_sum_can_be_added_again() {
        for (sum, value) in [(0x1234, 0x0234), (0x0001, 0x0002), (0xffff, 0xffff), (0x8000, 0x8001), (5, 0)] {
            let rest = without(sum, value);
            let (back, carry) = rest.overflowing_add(value);
            let back = if carry { back.wrapping_add(1) } else { back };
            // Zero has two representations.
            assert_eq!(back % 0xffff, sum % 0xffff, "{sum:#x} {value:#x}");
        }
    }
}
