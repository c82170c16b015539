/// How much memory a domain has and uses at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Pages of the domain.
    pub total: u64,
    /// Pages in use: image, page tables, heap, DMA memory.
    pub used: u64,
    /// Bytes in use of the heap, which is a fixed part of `used`.
    pub heap_bytes: u64,
}

impl MemoryUse {
    /// Memory of the domain in KiB.
    pub const fn total_kib(&self) -> u64 {
        self.total.saturating_mul(4)
    }

    /// Memory in use in KiB.
    pub const fn used_kib(&self) -> u64 {
        self.used.saturating_mul(4)
    }
}
