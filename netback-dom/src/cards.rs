//! The cards of the domain: found on the PCI bus at start, taken out of service when they fail or Dom0 wants them back.

mod cadence;
mod hotplug;
mod places;

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::fmt;

use pciback::{BusError, PciBus, Sbdf};
use xen_pv_rt::hyp::{Instant, Platform};
use xen_pv_rt::task::Tasks;

use crate::dataplane::Uplinks;
use crate::nic::{AttachedNic, Link, Nic, ProbeError, STANDARD_FRAME, Settings};
use crate::publish::CardReport;
use cadence::{Cadence, Look};
use hotplug::Exchange;
use places::Places;

/// Bytes of an Ethernet header with a VLAN tag.
const TAGGED_HEADER: usize = 18;
/// Least and most buffers that a card has besides those in its rings: received frames on their way to guests.
const SPARE_BUFFERS: (usize, usize) = (256, 2048);
/// What part of the domain's pages they may be, over all cards.
const SPARE_PART: usize = 7;
/// Spare buffers that no slow guest ever holds: a burst of frames for others.
const BURST: usize = 64;

/// Why the domain has no card to serve.
#[derive(Debug)]
pub enum NoCards {
    /// The connection to xen-pciback.
    Bus(BusError),
    /// A card was given and could not be used. One bad card is enough: what was asked for cannot be done.
    Card(ProbeError),
    /// More cards than there are places for: how many, and the places.
    TooMany(usize, usize),
}

impl fmt::Display for NoCards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bus(error) => error.fmt(f),
            Self::Card(error) => error.fmt(f),
            Self::TooMany(cards, places) => write!(f, "option cards={places}: there are {cards} cards"),
        }
    }
}

/// What the cards are to be.
#[derive(Clone, Copy, Debug)]
pub struct CardOptions {
    /// Largest MTU of the networks that they are on, in bytes.
    pub mtu: usize,
    /// Places for cards; none: as many as there are cards.
    pub places: Option<usize>,
    /// Pages of the domain, of which their buffers are a part.
    pub pages: u64,
}

/// All cards, in the order of `pci=[...]`; those that come later follow.
pub struct Cards<H: Platform> {
    /// `None` for a card that has failed, that Dom0 has taken back, or that has not come yet.
    cards: Vec<Option<AttachedNic<H>>>,
    places: Places,
    links: Vec<Link>,
    cadence: Cadence,
    exchange: Rc<Exchange<H>>,
    /// What cards are set to.
    settings: Settings,
}

impl<H: Platform> Cards<H> {
    /// Puts every function of the bus into service.
    ///
    /// # Errors
    /// [`NoCards`] if there is one that cannot be used, or one too many.
    pub async fn start(bus: PciBus<H>, options: CardOptions) -> Result<Self, NoCards> {
        let max_frame = options.mtu.saturating_add(TAGGED_HEADER).max(STANDARD_FRAME);
        let functions = bus.functions();
        if let Some(places) = options.places.filter(|places| *places < functions.len()) {
            return Err(NoCards::TooMany(functions.len(), places));
        }
        let places = Places::new(&functions, options.places.unwrap_or(0));
        let settings = Settings { spare: spare_buffers(options.pages, places.count()), max_frame };
        let mut cards = Vec::new();
        for sbdf in functions {
            cards.push(Some(attach(&bus, sbdf, settings).await.map_err(NoCards::Card)?));
        }
        cards.resize_with(places.count(), || None);
        let links = cards.iter().map(|_| Link::Down).collect();
        let exchange = Rc::new(Exchange::new(bus));
        Ok(Self { cards, places, links, cadence: Cadence::default(), exchange, settings })
    }

    /// Pages that may wait for slow guests, over all vifs. All of them may be buffers of one card.
    pub const fn held_pages(&self) -> usize {
        self.settings.spare.saturating_sub(BURST)
    }

    /// Starts to notice when Dom0 wants a card back or adds one (`xl pci-detach`, `xl pci-attach`).
    pub fn follow_bus(&self, hyp: &H, tasks: &Tasks) {
        tasks.spawn(hotplug::follow(hyp.clone(), self.exchange.clone(), self.settings, tasks.signal()));
    }

    /// Takes cards out of service that Dom0 wants back. Everything else goes on.
    fn remove_wanted(&mut self) {
        // Not while a card is dropped: that takes requests to xen-pciback.
        let wanted = self.exchange.wanted_back.take();
        for sbdf in wanted {
            for slot in &mut self.cards {
                if slot.take_if(|card| card.sbdf() == sbdf).is_some() {
                    log::warn!("be=hw pci={sbdf} cause=PCI_REMOVED text=\"Dom0 wants it back\" action=kill n=0");
                }
            }
        }
    }

    /// Puts cards into service that were attached, each in its place.
    fn add_arrived(&mut self) {
        let arrived = self.exchange.arrived.take();
        for card in arrived {
            let sbdf = card.sbdf();
            let place = self.places.claim(sbdf);
            let mut slots = self.cards.iter_mut().zip(&mut self.links);
            match place.and_then(|place| slots.nth(place)).filter(|(slot, _)| slot.is_none()) {
                Some((slot, link)) => (*slot, *link) = (Some(card), Link::Down),
                None => log::warn!(
                    "be=hw pci={sbdf} cause=NO_BRIDGE text=\"no place for one more card: option cards= makes some\" action=refuse n=0"
                ),
            }
        }
    }

    /// Looks at every card that has interrupted, and at all of them now and then.
    ///
    /// Returns whether there may be frames to take.
    pub fn poll(&mut self, now: Instant) -> bool {
        self.remove_wanted();
        self.add_arrived();
        let look = self.cadence.begin_turn(now, self.is_trusted());
        let slow = look != Look::No;
        if slow {
            self.exchange.bus.borrow().poll();
        }
        let mut work = false;
        for (slot, link) in self.cards.iter_mut().zip(&mut self.links) {
            let Some(card) = slot else { continue };
            let vectors = card.interrupts().take_pending_vectors();
            let interrupted = vectors != 0;
            if !interrupted && !slow {
                continue;
            }
            card.learn(interrupted, look == Look::Overdue);
            // One that was lost is found here: as if every vector had interrupted.
            card.card().note_interrupts(if slow { u32::MAX } else { vectors });
            let health = card.card().poll();
            work |= interrupted;
            if let Err(error) = health {
                log::error!("be=hw pci={} cause=NIC_FAILED text=\"{error}\" action=kill n=0", card.sbdf());
                *slot = None;
                continue;
            }
            report_link(card, link);
            if slow {
                // A loop that never sleeps would otherwise keep a shared interrupt line from its other owners.
                work |= card.card().enable_interrupts();
                card.interrupts().eoi();
            }
        }
        work
    }

    /// The cards in service, as they are now.
    pub fn reports(&mut self) -> Vec<CardReport> {
        let cards = self.cards.iter_mut().zip(0..).filter_map(|(slot, index)| slot.as_mut().map(|card| (card, index)));
        cards
            .map(|(card, index)| CardReport {
                index,
                sbdf: card.sbdf(),
                name: card.name(),
                mac: card.card().mac(),
                link: card.card().link(),
                counters: card.card().counters(),
                interrupts: card.interrupts().noticed(),
            })
            .collect()
    }

    /// Notes that packets moved.
    pub fn note_traffic(&mut self, now: Instant) {
        self.cadence.note_traffic(now, self.is_trusted());
    }

    /// When [`poll`](Self::poll) is due without an interrupt.
    pub fn next_poll(&self) -> Instant {
        self.cadence.deadline()
    }

    /// Whether the interrupts of every card are known to arrive.
    fn is_trusted(&self) -> bool {
        self.cards.iter().flatten().all(AttachedNic::is_trusted)
    }

    /// Asks every card for an interrupt. Returns whether one of them has work already.
    pub fn arm(&mut self) -> bool {
        let mut work = false;
        for card in self.cards.iter_mut().flatten() {
            work |= card.card().enable_interrupts();
            // Only now is the interrupt line deasserted; earlier, it would interrupt again at once.
            card.interrupts().eoi();
        }
        if !work {
            self.cadence.note_sleep();
        }
        work
    }

    /// Stops all cards, their interrupts and their DMA, for the end of the domain.
    ///
    /// The bus stays connected: to remove a function, stock libxl waits ten seconds for xen-pciback to be in
    /// Connected, so closing it here would make every `xl shutdown` that much longer.
    pub fn stop(mut self) {
        for card in self.cards.iter_mut().flatten() {
            card.card().quiesce();
        }
        self.cards.clear();
    }
}

/// Puts a function into service.
async fn attach<H: Platform>(bus: &PciBus<H>, sbdf: Sbdf, settings: Settings) -> Result<AttachedNic<H>, ProbeError> {
    let mut card = AttachedNic::attach(bus.device(sbdf)?, settings).await?;
    log::info!("nic {sbdf}: {}, {}, {}", card.name(), card.card().mac(), card.interrupt_kind());
    let (can, wanted) = (card.card().capabilities().max_frame, settings.max_frame);
    if can < wanted {
        log::warn!(
            "nic {sbdf}: frames of {can} bytes at most, for the mtu= that was asked for they would be of {wanted}"
        );
    }
    Ok(card)
}

/// Spare buffers of each of `cards` cards in a domain of `pages` pages.
fn spare_buffers(pages: u64, cards: usize) -> usize {
    let part = usize::try_from(pages).unwrap_or(usize::MAX).checked_div(SPARE_PART.saturating_mul(cards));
    part.unwrap_or(0).clamp(SPARE_BUFFERS.0, SPARE_BUFFERS.1)
}

fn report_link<H: Platform>(card: &mut AttachedNic<H>, last: &mut Link) {
    let link = card.card().link();
    if link == *last {
        return;
    }
    *last = link;
    match link {
        Link::Down => log::warn!("be=hw pci={} cause=LINK_DOWN text=\"link is down\" action=wait n=0", card.sbdf()),
        Link::Up(0) => log::info!("nic {}: link is up", card.sbdf()),
        Link::Up(speed) => log::info!("nic {}: link is up at {speed} Mbit/s", card.sbdf()),
    }
}

impl<H: Platform> Uplinks for Cards<H> {
    fn count(&self) -> u8 {
        u8::try_from(self.cards.len()).unwrap_or(u8::MAX)
    }

    fn nic(&mut self, index: u8) -> Option<&mut dyn Nic> {
        let card = self.cards.get_mut(usize::from(index))?.as_mut()?;
        Some(card.card())
    }
}

#[cfg(test)]
mod tests {
    use super::spare_buffers;

    #[test]
    fn cards_share_a_part_of_the_memory() {
        assert_eq!(spare_buffers(4096, 1), 585);
        assert_eq!(spare_buffers(4096, 2), 292);
        assert_eq!(spare_buffers(4096, 4), 256);
        assert_eq!(spare_buffers(65536, 1), 2048);
    }
}
