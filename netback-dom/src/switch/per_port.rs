//! Something for each port, found by its number.

use alloc::vec::Vec;

use super::PortId;

/// A value for each port that has one.
pub(super) struct PerPort<T> {
    vifs: Vec<Option<T>>,
    uplinks: Vec<Option<T>>,
}

impl<T> PerPort<T> {
    /// No values.
    pub(super) const fn new() -> Self {
        Self { vifs: Vec::new(), uplinks: Vec::new() }
    }

    /// The value of a port.
    pub(super) fn get(&self, id: PortId) -> Option<&T> {
        match id {
            PortId::Vif(number) => self.vifs.get(usize::from(number))?.as_ref(),
            PortId::Uplink(number) => self.uplinks.get(usize::from(number))?.as_ref(),
        }
    }

    /// The value of a port, for changing it.
    pub(super) fn get_mut(&mut self, id: PortId) -> Option<&mut T> {
        match id {
            PortId::Vif(number) => self.vifs.get_mut(usize::from(number))?.as_mut(),
            PortId::Uplink(number) => self.uplinks.get_mut(usize::from(number))?.as_mut(),
        }
    }

    /// Gives a port a value. Numbers are small: there is a place for each below the largest.
    pub(super) fn insert(&mut self, id: PortId, value: T) {
        let (values, at) = self.place(id);
        if values.len() <= at {
            values.resize_with(at.saturating_add(1), || None);
        }
        if let Some(place) = values.get_mut(at) {
            *place = Some(value);
        }
    }

    /// Takes the value of a port.
    pub(super) fn remove(&mut self, id: PortId) -> Option<T> {
        let (values, at) = self.place(id);
        values.get_mut(at)?.take()
    }

    fn place(&mut self, id: PortId) -> (&mut Vec<Option<T>>, usize) {
        match id {
            PortId::Vif(number) => (&mut self.vifs, usize::from(number)),
            PortId::Uplink(number) => (&mut self.uplinks, usize::from(number)),
        }
    }
}
