//! Event channel ports, of which there are few: how many queues a vif is offered.
//!
//! The domain sleeps on 128 ports at most (`SCHEDOP_poll`), and a queue with split channels takes two. So the first
//! vifs are offered many queues and later ones fewer, down to one, always leaving most ports for those to come.
//! What was offered and is not used is free again when the frontend connects.
//!
//! Xen: `public/sched.h`, `SCHEDOP_poll`.

use alloc::vec::Vec;

use xen_pv_rt::xenbus::BackendPath;

/// Ports for vifs; the others are for xenstored, for PCI and for interrupts of cards.
const VIF_PORTS: usize = 112;
/// Ports of a queue with split event channels.
const PORTS_PER_QUEUE: usize = 2;
/// Free ports that a vif must leave for each further queue it is offered.
const FREE_PER_QUEUE: usize = 24;

/// Which vif has how many ports, or was promised them.
pub(super) struct Ports {
    max_queues: usize,
    held: Vec<(BackendPath, usize)>,
}

impl Ports {
    /// No vifs yet; later on at most `max_queues` queues for each.
    pub(super) const fn new(max_queues: usize) -> Self {
        Self { max_queues, held: Vec::new() }
    }

    fn free(&self) -> usize {
        self.held.iter().fold(VIF_PORTS, |free, (_, ports)| free.saturating_sub(*ports))
    }

    /// Decides how many queues to offer for a vif; `None` if not even one has ports.
    pub(super) fn offer(&mut self, path: &BackendPath) -> Option<usize> {
        self.release(path);
        let free = self.free();
        let most = free.checked_div(FREE_PER_QUEUE).unwrap_or(0);
        let queues = most.min(self.max_queues).max(1);
        let ports = queues.saturating_mul(PORTS_PER_QUEUE);
        (ports <= free).then(|| {
            self.held.push((*path, ports));
            queues
        })
    }

    /// How many queues a vif was offered.
    pub(super) fn offered(&self, path: &BackendPath) -> usize {
        let held = self.held.iter().find(|(device, _)| device == path);
        held.map_or(0, |(_, ports)| ports.checked_div(PORTS_PER_QUEUE).unwrap_or(0))
    }

    /// Notes how many ports a vif that connects takes. Returns whether there are that many.
    pub(super) fn take(&mut self, path: &BackendPath, ports: usize) -> bool {
        let others = self.held.iter().filter(|(device, _)| device != path);
        let free = others.fold(VIF_PORTS, |free, (_, ports)| free.saturating_sub(*ports));
        let mine = self.held.iter_mut().find(|(device, _)| device == path);
        match mine {
            Some((_, held)) if ports <= free => {
                *held = ports;
                true
            }
            _ => false,
        }
    }

    /// The vif is gone.
    pub(super) fn release(&mut self, path: &BackendPath) {
        self.held.retain(|(device, _)| device != path);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use xen_pv_rt::hyp::Domid;
    use xen_pv_rt::xenbus::DeviceKind;

    use super::*;

    fn vif(number: u16) -> BackendPath {
        BackendPath { kind: DeviceKind::Vif, frontend: Domid::from_raw(number), devid: 0 }
    }

    #[test]
    fn sixteen_guests_with_two_vifs_each_are_all_offered_a_queue() {
        let mut ports = Ports::new(4);
        let offers: Vec<_> = (0..32).map(|number| ports.offer(&vif(number)).unwrap()).collect();
        assert_eq!(offers.first(), Some(&4));
        assert!(offers.is_sorted_by(|a, b| a >= b), "{offers:?}");
    }

    #[test]
    fn no_more_is_promised_than_there_is() {
        let mut ports = Ports::new(8);
        let promised: usize = (0..200).map_while(|number| ports.offer(&vif(number))).sum();
        assert!(promised * PORTS_PER_QUEUE <= VIF_PORTS);
        assert_eq!(ports.offer(&vif(999)), None);
        ports.release(&vif(0));
        assert!(ports.offer(&vif(999)).is_some());
    }

    #[test]
    fn what_a_frontend_does_not_use_is_free_again() {
        let mut ports = Ports::new(4);
        for number in 0..56 {
            assert!(ports.offer(&vif(number)).is_some(), "vif {number}");
            assert!(ports.take(&vif(number), 2));
        }
        assert_eq!(ports.offer(&vif(56)), None);
    }

    #[test]
    fn a_vif_may_take_more_than_its_queues_only_while_ports_are_free() {
        let mut ports = Ports::new(4);
        assert_eq!(ports.offer(&vif(0)), Some(4));
        assert!(ports.take(&vif(0), 9));
        assert!(!ports.take(&vif(0), VIF_PORTS + 1));
        assert_eq!(ports.offered(&vif(0)), 4);
        assert!(!ports.take(&vif(1), 2), "nothing was offered to it");
    }

    #[test]
    fn an_offer_that_is_made_again_replaces_the_first() {
        let mut ports = Ports::new(4);
        for _ in 0..100 {
            assert_eq!(ports.offer(&vif(0)), Some(4));
        }
    }
}
