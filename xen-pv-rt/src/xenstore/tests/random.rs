//! Random traffic, random fragments, random damage.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use proptest::prelude::*;

use crate::hyp::{Transaction, Xenstore, XsError};

use super::daemon::{CONNECTION, Daemon, FEATURES, RSP_PROD, SharedPage};
use super::{Bench, Outcome};

const NONE: Transaction = Transaction::NONE;

#[derive(Clone, Debug)]
enum Op {
    Write(u8, usize),
    Read(u8),
    Remove(u8),
    List,
}

fn op() -> impl Strategy<Value = Op> {
    let length = prop_oneof![8 => 0..60usize, 1 => 900..1100usize, 1 => 3900..4080usize];
    prop_oneof![
        4 => (0..6u8, length).prop_map(|(node, len)| Op::Write(node, len)),
        4 => (0..6u8).prop_map(Op::Read),
        1 => (0..6u8).prop_map(Op::Remove),
        1 => Just(Op::List),
    ]
}

/// What the operation answers, as text.
async fn perform(xs: super::Xs, op: Op) -> String {
    match op {
        Op::Write(node, len) => format!("{:?}", xs.write(NONE, &format!("data/{node}"), &"x".repeat(len)).await),
        Op::Read(node) => format!("{:?}", xs.read(NONE, &format!("data/{node}")).await.map(|value| value.len())),
        Op::Remove(node) => format!("{:?}", xs.remove(NONE, &format!("data/{node}")).await),
        Op::List => format!("{:?}", xs.list(NONE, "data").await),
    }
}

/// What it should answer, when operations happen in order.
fn expected(nodes: &mut BTreeMap<u8, usize>, op: &Op) -> String {
    match op {
        Op::Write(node, len) => {
            nodes.insert(*node, *len);
            "Ok(())".into()
        }
        Op::Read(node) => format!("{:?}", nodes.get(node).copied().ok_or(XsError::NoEntry)),
        Op::Remove(node) => {
            nodes.remove(node);
            "Ok(())".into()
        }
        Op::List if nodes.is_empty() => "Err(NoEntry)".into(),
        Op::List => {
            let names: Vec<String> = nodes.keys().map(|node| format!("{node}")).collect();
            format!("Ok({names:?})")
        }
    }
}

proptest! {
    #[test]
    fn every_answer_is_right_however_bytes_and_replies_arrive(
        ops in prop::collection::vec(op(), 1..60),
        start in prop_oneof![Just(0u32), Just(u32::MAX - 700), any::<u32>()],
        steps in prop::collection::vec((0..90u32, 0..90u32, any::<prop::sample::Index>()), 1..40),
    ) {
        let daemon = Daemon::new(&SharedPage::new());
        daemon.start_indices_at(start);
        let mut bench = Bench::on(daemon);
        bench.settle();
        bench.daemon.held = Some(Vec::new());
        let mut nodes = BTreeMap::new();
        let wanted: Vec<String> = ops.iter().map(|op| expected(&mut nodes, op)).collect();
        let outcomes: Vec<Outcome<String>> = ops.into_iter().map(|op| bench.spawn(|xs| perform(xs, op))).collect();
        for (take, give, pick) in steps.iter().cycle() {
            if outcomes.iter().all(|outcome| !outcome.is_pending()) {
                break;
            }
            bench.daemon.step(*take + 1, *give + 1);
            let held = bench.daemon.held.as_mut().unwrap();
            if !held.is_empty() {
                let reply = held.remove(pick.index(held.len()));
                bench.daemon.release(&reply);
            }
            let _ = bench.turn();
        }
        for (outcome, wanted) in outcomes.iter().zip(wanted) {
            prop_assert_eq!(outcome.get(), wanted);
        }
        bench.assert_idle();
    }
}

#[derive(Clone, Debug)]
enum Evil {
    /// Bytes that are no message.
    Junk(Vec<u8>),
    /// A word of the page, request ring excepted: index, feature, connection or error.
    Word(usize, u32),
    /// A message of any type to any request.
    Message(u32, u32, Vec<u8>),
    /// Bytes vanish on their way to us.
    Lose(usize),
    /// A pause.
    Sleep(u64),
    /// One of ours goes about its business.
    Use(Op),
    /// A watch comes.
    Watch(u8),
    /// A task gives up.
    GiveUp(prop::sample::Index),
}

fn evil() -> impl Strategy<Value = Evil> {
    let word = prop_oneof![Just(RSP_PROD), FEATURES..=518usize];
    let value = prop_oneof![0..5u32, any::<u32>()];
    let body = || prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..80);
    prop_oneof![
        2 => prop::collection::vec(prop_oneof![0..4u8, any::<u8>()], 1..300).prop_map(Evil::Junk),
        2 => (word, value).prop_map(|(word, value)| Evil::Word(word, value)),
        2 => (0..30u32, 0..60u32, body()).prop_map(|(kind, id, body)| Evil::Message(kind, id, body)),
        1 => (1..200usize).prop_map(Evil::Lose),
        1 => (0..30u64).prop_map(Evil::Sleep),
        6 => op().prop_map(Evil::Use),
        2 => (0..4u8).prop_map(Evil::Watch),
        1 => any::<prop::sample::Index>().prop_map(Evil::GiveUp),
    ]
}

/// A model that keeps its own indices sane: the client's view of them is what is being damaged.
fn daemon_step(bench: &mut Bench, take: u32, give: u32) {
    let page = &bench.daemon.page;
    // xenstored drops a domain whose indices it finds insane; it need not look at them at every moment.
    let waiting = page.get(RSP_PROD).wrapping_sub(page.get(super::daemon::RSP_CONS));
    if waiting <= 1024 && page.get(super::daemon::SERVER_ERROR) == 0 {
        bench.daemon.step(take, give);
    }
}

proptest! {
    /// Damage on xenstored's side never makes the client panic or break the protocol itself (the model would panic),
    /// and once the damage ends and xenstored offers a reset, the connection works again.
    #[test]
    fn no_damage_breaks_the_client(
        evils in prop::collection::vec((evil(), 0..200u32, 0..200u32), 1..80),
    ) {
        let mut bench = Bench::new();
        // What xenstored has lost or garbled still counts as outstanding with it.
        bench.daemon.strict = false;
        let mut busy = Vec::new();
        let mut cx = core::task::Context::from_waker(core::task::Waker::noop());
        for (evil, take, give) in evils {
            let xs = bench.xs.clone();
            match evil {
                Evil::Junk(bytes) => bench.daemon.send_raw(&bytes),
                Evil::Word(word, value) => bench.daemon.page.set(word, value),
                Evil::Message(kind, id, body) => bench.daemon.send(kind, id, &body),
                Evil::Lose(count) => drop(bench.daemon.output.drain(..count.min(bench.daemon.output.len()))),
                Evil::Sleep(seconds) => bench.seconds += seconds,
                Evil::Use(op) => busy.push(alloc::boxed::Box::pin(async move { drop(perform(xs, op).await) })
                    as core::pin::Pin<alloc::boxed::Box<dyn Future<Output = ()>>>),
                Evil::Watch(node) => busy.push(alloc::boxed::Box::pin(async move {
                    if let Ok(watch) = xs.watch(&format!("data/{node}")).await {
                        crate::hyp::Watch::next(&watch).await;
                    }
                })),
                Evil::GiveUp(which) if !busy.is_empty() => drop(busy.remove(which.index(busy.len()))),
                Evil::GiveUp(_) => {}
            }
            busy.retain_mut(|task| task.as_mut().poll(&mut cx).is_pending());
            daemon_step(&mut bench, take, give);
            let _ = bench.turn();
            prop_assert!(bench.xs.0.connection.borrow().requests.in_flight() <= 20);
        }
        drop(busy);
        let page = bench.daemon.page.clone();
        page.set(FEATURES, 3);
        page.set(super::daemon::SERVER_ERROR, 1);
        let _ = bench.turn();
        prop_assert_eq!(page.get(CONNECTION), 1);
        bench.settle();
        bench.daemon.write("data/a", b"fine");
        let value = bench.run(|xs| async move { xs.read(NONE, "data/a").await });
        prop_assert_eq!(value, Ok(b"fine".to_vec()));
        prop_assert!(bench.daemon.watches.is_empty());
        bench.assert_idle();
    }
}
