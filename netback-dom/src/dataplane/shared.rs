//! Frames that several receivers hold at once.
//!
//! A broadcast to many guests is one frame in our memory, however many queues it waits in. The cells that
//! count its holders are allocated once, so sharing a frame does not touch the heap.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use crate::frame::Frame;

type Cell = Rc<Option<Frame>>;

/// Preallocated cells for shared frames. Cloning gives another handle to the same pool.
#[derive(Clone)]
pub(super) struct SharedPool(Rc<RefCell<Vec<Cell>>>);

impl SharedPool {
    /// A pool for `frames` frames at a time.
    pub(super) fn new(frames: usize) -> Self {
        Self(Rc::new(RefCell::new((0..frames).map(|_| Rc::new(None)).collect())))
    }

    /// Makes a frame shareable; `None`, and the frame is dropped, if all cells are in use.
    pub(super) fn share(&self, frame: Frame) -> Option<SharedFrame> {
        let mut cell = self.0.borrow_mut().pop()?;
        // A cell in the pool has one holder, so this is always its only handle.
        *Rc::get_mut(&mut cell)? = Some(frame);
        Some(SharedFrame { cell, pool: self.clone() })
    }
}

/// A frame with one or more holders; its buffers go back when the last one drops it.
#[derive(Clone)]
pub(super) struct SharedFrame {
    cell: Cell,
    pool: SharedPool,
}

impl SharedFrame {
    /// The frame.
    pub(super) fn get(&self) -> Option<&Frame> {
        self.cell.as_ref().as_ref()
    }
}

impl Drop for SharedFrame {
    fn drop(&mut self) {
        if let Some(frame) = Rc::get_mut(&mut self.cell) {
            *frame = None;
            // The pool never holds more than it was made with, so this does not allocate.
            self.pool.0.borrow_mut().push(self.cell.clone());
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use xen_pv_rt::hyp::{Dma, HostMemory};

    use super::*;
    use crate::frame::Segment;

    #[test]
    fn the_buffers_come_back_with_the_last_holder() {
        let buffers = HostMemory::new().dma_pool(1).unwrap();
        let pool = SharedPool::new(1);
        for _ in 0..3 {
            let segment = Segment { buf: buffers.take().unwrap(), offset: 0, len: 60 };
            let first = pool.share(Frame::new(segment)).unwrap();
            let second = first.clone();
            drop(first);
            assert_eq!(second.get().unwrap().len(), 60);
            assert_eq!(buffers.available(), 0);
            drop(second);
            assert_eq!(buffers.available(), 1);
        }
    }

    #[test]
    fn a_frame_without_a_cell_is_dropped() {
        let buffers = HostMemory::new().dma_pool(2).unwrap();
        let pool = SharedPool::new(1);
        let mut frames =
            core::iter::repeat_with(|| Frame::new(Segment { buf: buffers.take().unwrap(), offset: 0, len: 60 }));
        let held = pool.share(frames.next().unwrap());
        assert!(held.is_some());
        assert!(pool.share(frames.next().unwrap()).is_none());
        assert_eq!(buffers.available(), 1);
    }
}
