//! Which multicast frames a frontend wants, if it has asked us to choose for it.
//!
//! Xen: `feature-multicast-control`, `XEN_NETIF_EXTRA_TYPE_MCAST_ADD`, `XEN_NETIF_EXTRA_TYPE_MCAST_DEL`.

use crate::nic::MacAddress;

/// Most addresses of one vif.
const MAX_ADDRESSES: usize = 64;

/// The filter of one vif.
pub(super) struct Multicast {
    /// `request-multicast-control`: only addresses in the list are delivered.
    pub(super) on: bool,
    list: heapless::Vec<MacAddress, MAX_ADDRESSES>,
}

impl Multicast {
    /// A filter without addresses, to be applied or not.
    pub(super) const fn new(on: bool) -> Self {
        Self { on, list: heapless::Vec::new() }
    }

    /// Adds an address, or removes it. Returns `false` if there is no room for it.
    pub(super) fn change(&mut self, add: bool, address: MacAddress) -> bool {
        match self.list.iter().position(|known| *known == address) {
            Some(_) if add => true,
            Some(at) => {
                self.list.swap_remove(at);
                true
            }
            None => !add || self.list.push(address).is_ok(),
        }
    }

    /// Whether the frontend wants frames to `dest`. Broadcasts are no business of the filter.
    pub(super) fn takes(&self, dest: MacAddress) -> bool {
        !self.on || !dest.is_group() || dest == MacAddress::BROADCAST || self.list.contains(&dest)
    }
}
