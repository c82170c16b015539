//! A real driver on a model of its controller, under the whole backend: what guests see when it misbehaves.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use blkback_dom::disk::nvme::{Nvme, Patience, Quiet};
use blkback_dom::disk::{Controller, Health};
use blkback_dom::vbd::Controllers;
use fake_xen::{BlkfrontOptions, FakeHyp};

use crate::device::nvme::{Fate, Model, Namespace, Registers, op};
use crate::history::NOTHING;
use crate::replay::{REGION, Random, Writer};
use crate::rig::{DISK, Rig, target_config};

/// Less than the second after which the driver looks at its controller.
const SHORT: Duration = Duration::from_millis(300);

struct OneNvme(Nvme<Registers, FakeHyp>);

impl Controllers for OneNvme {
    fn get(&mut self, number: u8) -> Option<&mut dyn Controller> {
        (number == 0).then_some(&mut self.0 as &mut dyn Controller)
    }
    fn count(&self) -> u8 {
        1
    }
}

/// A rig whose first disk is a namespace of an NVMe controller, which is given so long for a command.
fn nvme(command: Duration) -> (Rig, Rc<RefCell<Model>>) {
    let mut rig = Rig::new();
    let model = Rc::new(RefCell::new(Model::new(rig.xen.memory(), vec![Namespace::new(1, DISK, 512)])));
    let reset = Quiet::reset(Registers(model.clone()), rig.xen.hyp());
    let Poll::Ready(quiet) = pin!(reset).poll(&mut Context::from_waker(Waker::noop())) else { panic!("it waits") };
    let patience = Patience { command, admin: Duration::from_millis(200) };
    let mut nvme = quiet.unwrap().start(rig.xen.memory(), patience).unwrap();
    while nvme.health() != Health::Running {
        nvme.poll(rig.xen.now(), &mut |_, _| panic!("nothing was asked"));
        rig.xen.advance(Duration::from_millis(1));
    }
    rig.instead = Some(Box::new(OneNvme(nvme)));
    (rig, model)
}

#[test]
fn guests_go_on_while_the_controller_resets_itself_dv_37() {
    let (mut rig, model) = nvme(Duration::from_secs(3));
    let (a, b) = (rig.guest(), rig.guest());
    for round in 0..4 {
        model.borrow_mut().judge = Some(Box::new(|_| Fate::Lose));
        let kept: Vec<_> = (0..16).map(|at| rig.transfer(a, at % 2, u64::from(at) * 8, 4096)).collect();
        let requests: Vec<_> = kept.iter().map(|(request, _)| *request).collect();
        rig.fronts[a].submit(&requests);
        rig.run(Duration::from_millis(3));
        model.borrow_mut().judge = None;
        if round % 2 == 0 {
            model.borrow_mut().reset_itself()
        } else {
            model.borrow_mut().fatal = true
        }
        rig.until("all is answered", |rig| rig.fronts[a].unanswered() == 0);
        assert!(rig.fronts[a].take_answers().iter().all(|answer| answer.status == 0), "round {round}");
        rig.assert_works(b);
        rig.assert_works(a);
    }
}

#[test]
fn a_controller_that_goes_away_is_an_error_for_every_guest_dv_32() {
    let (mut rig, model) = nvme(SHORT);
    let (a, b) = (rig.guest(), rig.guest());
    model.borrow_mut().judge = Some(Box::new(|_| Fate::Lose));
    for guest in [a, b] {
        let requests: Vec<_> = (0..32).map(|at| rig.transfer(guest, 1, at * 8, 4096).0).collect();
        rig.fronts[guest].submit(&requests);
    }
    rig.run(Duration::from_millis(3));
    model.borrow_mut().gone = true;
    rig.run(Duration::from_millis(1100));
    for guest in [a, b] {
        let answers = rig.fronts[guest].take_answers();
        assert_eq!(answers.len(), 32);
        assert!(answers.iter().all(|answer| answer.status == -1));
        assert_eq!(rig.read(guest, 0, 4096), Err(-1));
        assert!(rig.is_connected(guest));
        let detach = rig.toolstack.detach(rig.device(guest));
        rig.until("detached", |rig| rig.toolstack.outcome(detach) == Some(Ok(())));
    }
}

#[test]
fn a_command_that_never_completes_is_an_error_and_disturbs_nobody_dv_24() {
    for fate in [Fate::Lose, Fate::LoseForGood] {
        let (mut rig, model) = nvme(SHORT);
        let (a, b) = (rig.guest(), rig.guest());
        model.borrow_mut().judge =
            Some(Box::new(
                move |command| if command.opcode() == op::READ && command.lba() == 512 { fate } else { Fate::Execute },
            ));
        let (read, _pages) = rig.transfer(a, 0, 512, 4096);
        rig.fronts[a].submit(&[read]);
        rig.run(Duration::from_millis(100));
        rig.assert_works(b);
        rig.until("it is answered", |rig| rig.fronts[a].unanswered() == 0);
        assert_eq!(rig.fronts[a].take_answers()[0].status, -1, "{fate:?}");
        rig.assert_works(a);
        rig.assert_works(b);
    }
}

/// What a sector is of: the number that it starts with.
fn number(block: &[u8]) -> u64 {
    u64::from_le_bytes(block[..8].try_into().unwrap())
}

/// Writes at random to a controller that fails, loses and forgets commands, and looks after every step at what it
/// would hold after a power cut.
fn trace(seed: u64, steps: u64) -> Result<(), String> {
    let (mut rig, model) = nvme(SHORT);
    let options = BlkfrontOptions { queues: 2, ..BlkfrontOptions::default() };
    let guest = rig.guest_with(&target_config("nvme0n1"), options);
    let mut fates = Random(seed + 9);
    let calm = Rc::new(Cell::new(false));
    let is_calm = calm.clone();
    model.borrow_mut().judge = Some(Box::new(move |_| match fates.below(50) {
        _ if is_calm.get() => Fate::Execute,
        0 => Fate::Lose,
        1 => Fate::Fail(0x4280),
        2 => Fate::Fail(0x082),
        3..20 => Fate::Hold,
        _ => Fate::Execute,
    }));
    let mut writer = Writer::new(guest, 2, seed * 13 + 5);
    for step in 0..steps {
        if step == steps - 400 {
            calm.set(true);
        }
        if step < steps - 400 {
            writer.submit(&mut rig);
            match writer.random.below(100) {
                0 => model.borrow_mut().reset_itself(),
                1 => model.borrow_mut().fatal = true,
                _ => {}
            }
        }
        (0..writer.random.below(3)).for_each(|_| model.borrow_mut().release());
        rig.step();
        writer.take_answers(&mut rig);
        let model = model.borrow();
        let namespace = model.namespace(1).unwrap();
        for sector in 0..REGION {
            let (stable, seen) = (number(&namespace.stable_block(sector)), number(&namespace.block(sector)));
            writer.history.check_stable(sector, stable)?;
            writer.history.check_seen(sector, seen)?;
            if seen == NOTHING && stable != NOTHING {
                return Err(format!("sector {sector} was emptied"));
            }
        }
    }
    let unanswered = rig.fronts[guest].unanswered();
    if unanswered == 0 { Ok(()) } else { Err(format!("{unanswered} requests were never answered")) }
}

#[test]
fn a_power_cut_loses_nothing_that_a_controller_in_trouble_has_flushed_ft_17_dv_25() {
    for seed in 0..4 {
        assert_eq!(trace(seed, 700), Ok(()), "seed {seed}");
    }
}
