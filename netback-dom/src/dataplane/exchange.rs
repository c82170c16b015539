//! The copies of a turn: what goes together, and what a failure means.

use ring::netif::Status;
use xen_pv_rt::hyp::{Copied, Hypervisor, Instant};

use super::copies::{CopyBatch, Owner};
use super::job::{RxSource, Stage};
use super::{Plane, transfer};
use crate::vif::Cause;

impl<H: Hypervisor> Plane<H> {
    /// Packets in and frames out, together.
    pub(super) fn copy_in(&mut self, now: Instant) {
        let copied = {
            let mut batch = CopyBatch::new(&self.hyp, &mut self.failed);
            for (at, job) in self.tx.iter_mut().enumerate() {
                transfer::gather(&mut batch, at, job, 0);
            }
            for (at, job) in self.rx.iter().enumerate() {
                transfer::scatter(&mut batch, at, job, &[]);
            }
            batch.finish()
        };
        self.settle(copied, now);
    }

    /// Packets to other vifs.
    pub(super) fn copy_out(&mut self, now: Instant) {
        let copied = {
            let mut batch = CopyBatch::new(&self.hyp, &mut self.failed);
            for (at, job) in self.rx.iter().enumerate() {
                transfer::scatter(&mut batch, at, job, &self.tx);
            }
            batch.finish()
        };
        self.settle(copied, now);
    }

    /// The rest of packets of which only the headers were copied, but could not be handed on like that.
    pub(super) fn copy_rest(&mut self, now: Instant) {
        let copied = {
            let mut batch = CopyBatch::new(&self.hyp, &mut self.failed);
            for (at, job) in self.tx.iter_mut().enumerate().filter(|(_, job)| job.stage == Stage::NeedsWhole) {
                let len = job.len();
                let from = core::mem::replace(&mut job.copied, len);
                job.stage = Stage::Pending;
                let grown = job.frame.as_mut().is_some_and(|frame| self.memory.grow(frame, len).is_some());
                if !grown {
                    job.fail(Status::Dropped);
                    if let Some(Some(port)) = self.vifs.get_mut(usize::from(job.ring.vif)) {
                        port.drop_tx(Cause::NoBuffer, now);
                    }
                }
                transfer::gather(&mut batch, at, job, from);
            }
            batch.finish()
        };
        self.settle(copied, now);
    }

    /// Marks the jobs that failed in a batch.
    fn settle(&mut self, copied: Copied, now: Instant) {
        self.copied.add(copied);
        let Self { failed, rx, tx, vifs, .. } = self;
        for owner in failed.drain(..) {
            let sender = match owner {
                Owner::Tx(at) => Some(at),
                Owner::Rx(at) => rx.get_mut(at).and_then(|job| {
                    job.failed = true;
                    match job.source {
                        RxSource::Direct(from) => Some(from),
                        RxSource::Stored(_) => None,
                    }
                }),
            };
            let Some(job) = sender.and_then(|at| tx.get_mut(at)) else { continue };
            let Some(Some(port)) = vifs.get_mut(usize::from(job.ring.vif)) else { continue };
            match owner {
                Owner::Tx(_) => {
                    job.fail(Status::Error);
                    port.drop_tx(Cause::Grant, now);
                }
                // Whose grant was bad is not known.
                Owner::Rx(_) => {
                    job.status = Status::Dropped;
                    port.direct = false;
                }
            }
        }
    }
}
