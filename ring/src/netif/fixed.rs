//! A list of fixed capacity, for slots of one packet.

/// Up to `N` items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedVec<T, const N: usize> {
    items: [T; N],
    len: usize,
}

impl<T: Copy + Default, const N: usize> Default for FixedVec<T, N> {
    fn default() -> Self {
        Self { items: [T::default(); N], len: 0 }
    }
}

impl<T: Copy, const N: usize> FixedVec<T, N> {
    /// Appends an item; `false` if there is no room.
    #[must_use = "the item is lost if there is no room"]
    pub fn push(&mut self, item: T) -> bool {
        let Some(slot) = self.items.get_mut(self.len) else { return false };
        *slot = item;
        self.len = self.len.saturating_add(1);
        true
    }

    /// The items.
    pub fn as_slice(&self) -> &[T] {
        self.items.get(..self.len).unwrap_or(&[])
    }

    /// The items, for changing.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        self.items.get_mut(..self.len).unwrap_or(&mut [])
    }

    /// Forgets all items.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}
