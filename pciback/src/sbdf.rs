//! The address of a PCI function as this domain sees it.

use core::fmt;
use core::str::FromStr;

/// Segment, bus, device and function.
///
/// With xen-pciback in `vpci` mode this is an address of a small virtual bus, not of the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sbdf {
    /// PCI segment ("domain" in `pciif.h`).
    pub segment: u16,
    /// Bus.
    pub bus: u8,
    /// Device in bits 7 to 3, function in bits 2 to 0.
    pub devfn: u8,
}

impl Sbdf {
    /// Device number, 0 to 31.
    pub const fn device(self) -> u8 {
        self.devfn >> 3
    }
    /// Function number, 0 to 7.
    pub const fn function(self) -> u8 {
        self.devfn & 7
    }
}

impl From<Sbdf> for ring::pciif::Function {
    fn from(sbdf: Sbdf) -> Self {
        Self { domain: sbdf.segment.into(), bus: sbdf.bus.into(), devfn: sbdf.devfn.into() }
    }
}

impl fmt::Display for Sbdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{}", self.segment, self.bus, self.device(), self.function())
    }
}

/// A `vdev-N` key that is not an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadSbdf;

impl FromStr for Sbdf {
    type Err = BadSbdf;

    /// Reads `ssss:bb:dd.f`, all hexadecimal. The function may have a leading zero, as `vdev-N` has.
    fn from_str(text: &str) -> Result<Self, BadSbdf> {
        let (segment, rest) = text.split_once(':').ok_or(BadSbdf)?;
        let (bus, rest) = rest.split_once(':').ok_or(BadSbdf)?;
        let (device, function) = rest.split_once('.').ok_or(BadSbdf)?;
        let segment = u16::from_str_radix(segment, 16).map_err(|_| BadSbdf)?;
        let bus = u8::from_str_radix(bus, 16).map_err(|_| BadSbdf)?;
        let device = u8::from_str_radix(device, 16).map_err(|_| BadSbdf)?;
        let function = u8::from_str_radix(function, 16).map_err(|_| BadSbdf)?;
        if device > 31 || function > 7 {
            return Err(BadSbdf);
        }
        Ok(Self { segment, bus, devfn: device << 3 | function })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn an_address_reads_back() {
        let sbdf = Sbdf { segment: 1, bus: 10, devfn: 0xff };
        assert_eq!("0001:0a:1f.07".parse(), Ok(sbdf));
        assert_eq!((sbdf.device(), sbdf.function()), (31, 7));
        assert_eq!(sbdf.to_string(), "0001:0a:1f.7");
        assert_eq!(sbdf.to_string().parse(), Ok(sbdf));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in
            ["", "00:00.0", "0000:00:20.0", "0000:00:00.8", "0000:100:00.0", "10000:00:00.0", "0000:00:00", "x:y:z.w"]
        {
            assert_eq!(text.parse::<Sbdf>(), Err(BadSbdf), "{text}");
        }
    }
}
