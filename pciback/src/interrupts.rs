//! Interrupts of a function as event channels: MSI-X, else MSI, else the interrupt line.
//!
//! For MSI and MSI-X, pciback programs the function and answers with Xen's number for each interrupt (pirq);
//! for the line, the number is in the interrupt line register. Either way an event channel is bound to it.
//!
//! The order that a line needs: notice the interrupt ([`Interrupts::take_pending`]), serve the function, have
//! its driver deassert the line, then [`Interrupts::eoi`]. Until the last step Xen keeps the line quiet, for
//! functions of other domains on it as well, so a domain that is busy for long does the last two now and then.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::fmt;

use ring::pciif::OpRequest;
use xen_pv_rt::hyp::{Pirq, Platform};

use crate::bar::Bar;
use crate::bus::Inner;
use crate::{PciCause, PciDevice, PciError, Sbdf};

/// Capability id of MSI.
const CAP_MSI: u8 = 0x05;
/// Capability id of MSI-X.
const CAP_MSIX: u8 = 0x11;
/// Interrupt line register, with the interrupt pin register above it. PCI Local Bus 3.0, 6.2.4.
const INTERRUPT_LINE: u16 = 0x3c;

/// How a function interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptKind {
    /// MSI-X.
    MsiX,
    /// One MSI.
    Msi,
    /// The interrupt line: level triggered, perhaps shared, and quiet until [`Interrupts::eoi`].
    Intx,
}

impl fmt::Display for InterruptKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MsiX => "MSI-X",
            Self::Msi => "MSI",
            Self::Intx => "INTx",
        })
    }
}

/// An event channel bound to an interrupt. Functions on the same line share it.
pub(crate) struct Source<P> {
    port: P,
    /// Times it was found pending; wraps.
    fired: Cell<u32>,
    /// It was found pending and end of interrupt was not signalled yet.
    owed: Cell<bool>,
}

impl<P> Source<P> {
    fn new(port: P) -> Self {
        Self { port, fired: Cell::new(0), owed: Cell::new(false) }
    }
}

/// One vector of a function.
struct Vector<P> {
    source: Rc<Source<P>>,
    /// What [`Source::fired`] was when the function last looked.
    seen: Cell<u32>,
}

impl<P> Vector<P> {
    fn new(source: Rc<Source<P>>) -> Self {
        let seen = Cell::new(source.fired.get());
        Self { source, seen }
    }
}

/// Whether a table of `entries` MSI-X vectors is where the capability at `cap` says: in a memory BAR, all of it.
///
/// xen-pciback and Xen write to it, not we; but a function that is wrong about it interrupts nobody, or worse.
fn has_table<H: Platform>(device: &PciDevice<H>, cap: u16, entries: u16) -> Result<bool, PciError> {
    /// Bytes of an entry. PCI Local Bus 3.0, 6.8.2.
    const ENTRY: u64 = 16;
    /// The number of the BAR, in the low bits of the offset in it.
    const BAR: u32 = 7;
    let place = device.read32(cap.saturating_add(4))?;
    let end = u64::from(place & !BAR).saturating_add(u64::from(entries).saturating_mul(ENTRY));
    let [index, ..] = (place & BAR).to_le_bytes();
    let bar = device.bar(index)?;
    Ok(matches!(bar, Some(Bar::Memory { len, .. }) if end <= len))
}

/// The interrupts of a function. Dropping them unbinds the ports and has pciback disable them.
pub struct Interrupts<H: Platform> {
    bus: Rc<Inner<H>>,
    sbdf: Sbdf,
    kind: InterruptKind,
    /// One per vector.
    vectors: Vec<Vector<H::Port>>,
    /// Interrupts noticed so far; wraps.
    noticed: Cell<u64>,
    state: Rc<Cell<Option<InterruptKind>>>,
}

impl<H: Platform> Interrupts<H> {
    pub(crate) fn enable(device: &PciDevice<H>, wanted: u16) -> Result<Self, PciError> {
        if device.interrupts().get().is_some() {
            return Err(device.error(PciCause::Busy));
        }
        let mut why = "the function has none";
        for attempt in [Self::msix, Self::msi, Self::line] {
            match attempt(device, wanted) {
                Ok(Some(interrupts)) => return Ok(interrupts),
                Ok(None) => {}
                Err(Failure::Backend(error)) if error.cause == PciCause::NoAnswer => return Err(error),
                Err(Failure::Backend(error)) => {
                    log::warn!("{error}");
                    why = "xen-pciback refused";
                }
                Err(Failure::Other(what)) => {
                    log::warn!("PCI device {}: {what}", device.sbdf());
                    why = what;
                }
            }
        }
        Err(device.error(PciCause::NoInterrupt(why)))
    }

    /// How the function interrupts.
    pub fn kind(&self) -> InterruptKind {
        self.kind
    }

    /// How many interrupts there are: vectors of MSI-X, or one.
    pub fn count(&self) -> u16 {
        u16::try_from(self.vectors.len()).unwrap_or(u16::MAX)
    }

    /// Whether the function, or another one on its line, has interrupted since the last call.
    pub fn take_pending(&self) -> bool {
        self.take_pending_vectors() != 0
    }

    /// Which vectors have interrupted since the last call: a bit for each of the first 31, the highest bit for
    /// all others together.
    pub fn take_pending_vectors(&self) -> u32 {
        let mut pending = 0;
        for (Vector { source, seen }, number) in self.vectors.iter().zip(0_u32..) {
            if self.bus.hyp.take_pending(&source.port) {
                source.fired.set(source.fired.get().wrapping_add(1));
                source.owed.set(true);
            }
            if seen.replace(source.fired.get()) != source.fired.get() {
                pending |= 1_u32.checked_shl(number.min(31)).unwrap_or(0);
                self.noticed.set(self.noticed.get().wrapping_add(1));
            }
        }
        pending
    }

    /// Interrupts that [`Self::take_pending_vectors`] has noticed so far, of all vectors together. On a shared line they
    /// are those of the other functions too.
    pub fn noticed(&self) -> u64 {
        self.noticed.get()
    }

    /// Lets the line interrupt again. To be called when the driver has made the function deassert it; before,
    /// it would interrupt again at once. Does nothing unless there was an interrupt.
    pub fn eoi(&self) {
        for Vector { source, .. } in &self.vectors {
            if source.owed.take() {
                self.bus.hyp.eoi(&source.port);
            }
        }
    }

    fn msix(device: &PciDevice<H>, wanted: u16) -> Result<Option<Self>, Failure> {
        let Some(cap) = device.capability(CAP_MSIX)? else { return Ok(None) };
        let table = (device.read16(cap.saturating_add(2))? & 0x7ff).saturating_add(1);
        let count = wanted.min(table).min(ring::pciif::MAX_VECTORS);
        if count == 0 {
            return Ok(None);
        }
        if !has_table(device, cap, table)? {
            return Err(Failure::Other("its MSI-X table is in none of its BARs"));
        }
        let reply = match device.bus().ops.call(&OpRequest::enable_msix(device.function(), count)) {
            Ok(reply) => reply,
            Err(cause) => return Err(Failure::Backend(device.error(cause))),
        };
        // A positive value says how many there are when there are too few; then nothing was enabled.
        if reply.value != 0 {
            return Err(Failure::Other("too few MSI-X vectors"));
        }
        let this = Self::enabled(device, InterruptKind::MsiX);
        let pirqs: Vec<u16> = reply.vectors().take(count.into()).collect();
        let distinct = pirqs.iter().enumerate().all(|(i, pirq)| !pirqs.iter().take(i).any(|other| other == pirq));
        if !distinct || pirqs.iter().any(|pirq| matches!(pirq, 0 | 0xffff)) {
            return Err(Failure::Other("xen-pciback answered with impossible MSI-X vectors"));
        }
        this.bind(pirqs.into_iter().map(u32::from)).map(Some)
    }

    fn msi(device: &PciDevice<H>, _wanted: u16) -> Result<Option<Self>, Failure> {
        if device.capability(CAP_MSI)?.is_none() {
            return Ok(None);
        }
        let pirq = device.call(OpRequest::enable_msi(device.function()))?;
        let this = Self::enabled(device, InterruptKind::Msi);
        if pirq == 0 || pirq > 0xffff {
            return Err(Failure::Other("xen-pciback answered with an impossible MSI"));
        }
        this.bind([pirq].into_iter()).map(Some)
    }

    fn line(device: &PciDevice<H>, _wanted: u16) -> Result<Option<Self>, Failure> {
        let [line, pin] = device.read16(INTERRUPT_LINE)?.to_le_bytes();
        if pin == 0 || matches!(line, 0 | 0xff) {
            return Ok(None);
        }
        let pirq = Pirq::from_raw(line.into());
        let mut this = Self::enabled(device, InterruptKind::Intx);
        let mut lines = device.bus().lines.borrow_mut();
        lines.retain(|(_, source)| source.strong_count() > 0);
        let known = lines.iter().find(|(other, _)| *other == pirq).and_then(|(_, source)| source.upgrade());
        let source = match known {
            Some(source) => source,
            None => {
                let bound = device.bus().hyp.bind_pirq(pirq, true);
                let port = bound.map_err(|_| Failure::Other("the interrupt line could not be bound"))?;
                let source = Rc::new(Source::new(port));
                lines.push((pirq, Rc::downgrade(&source)));
                source
            }
        };
        this.vectors.push(Vector::new(source));
        Ok(Some(this))
    }

    /// From here on, dropping the value disables what pciback has enabled.
    fn enabled(device: &PciDevice<H>, kind: InterruptKind) -> Self {
        let state = device.interrupts().clone();
        state.set(Some(kind));
        Self { bus: device.bus().clone(), sbdf: device.sbdf(), kind, vectors: Vec::new(), noticed: Cell::new(0), state }
    }

    fn bind(mut self, pirqs: impl Iterator<Item = u32>) -> Result<Self, Failure> {
        for pirq in pirqs {
            match self.bus.hyp.bind_pirq(Pirq::from_raw(pirq), false) {
                Ok(port) => self.vectors.push(Vector::new(Rc::new(Source::new(port)))),
                Err(_) => return Err(Failure::Other("an MSI could not be bound to an event channel")),
            }
        }
        Ok(self)
    }
}

impl<H: Platform> Drop for Interrupts<H> {
    fn drop(&mut self) {
        // Ports first: pciback's disabling ends the pirqs behind them.
        self.vectors.clear();
        let function = self.sbdf.into();
        let request = match self.kind {
            InterruptKind::MsiX => Some(OpRequest::disable_msix(function)),
            InterruptKind::Msi => Some(OpRequest::disable_msi(function)),
            InterruptKind::Intx => None,
        };
        if let Some(Err(cause)) = request.map(|request| self.bus.ops.call(&request)) {
            log::warn!("{}", PciError { sbdf: self.sbdf, cause });
        }
        self.state.set(None);
    }
}

enum Failure {
    /// A request to pciback failed.
    Backend(PciError),
    /// Anything else.
    Other(&'static str),
}

impl From<PciError> for Failure {
    fn from(error: PciError) -> Self {
        Self::Backend(error)
    }
}
