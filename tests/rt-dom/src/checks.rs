//! What the runtime promises, tried out. Each check prints a line; a failed one panics.

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use core::time::Duration;

use embedded_io::Write as _;
use xen_pv_rt::arch::{ConsoleStream, Virq, Xen, memory_use, run_times};
use xen_pv_rt::hyp::{
    Access, BoundPort as _, Clock as _, CopyDest, CopySource, Dma as _, Domid, EventChannels as _, GrantCopy, GrantRef,
    Grants as _, PAGE_SIZE, PeerSpan, RemotePort, SharedPage as _, Transaction, Watch as _, Xenstore as _, XsError,
    sleep,
};
use xen_pv_rt::task::block_on;

const NONE: Transaction = Transaction::NONE;

/// Runs all of them.
pub(crate) fn run(xen: Xen) {
    let domid = block_on(&xen, own_domid(xen));
    heap();
    done("heap");
    dma(xen);
    done("contiguous DMA memory");
    grants(xen, domid);
    done("grants");
    events(xen, domid);
    done("event channels");
    time(xen);
    done("time");
    block_on(&xen, store(xen));
    done("xenstore");
    console();
    done("console");
    log::info!("rt-dom: all checks passed");
}

fn done(what: &str) {
    log::info!("rt-dom: ok: {what}");
}

async fn own_domid(xen: Xen) -> Domid {
    let text = String::from_utf8(xen.read(NONE, "domid").await.expect("domid")).expect("domid is text");
    Domid::from_raw(text.parse().expect("domid is a number"))
}

fn heap() {
    let mut blocks: Vec<Vec<u8>> = (1..200).map(|size| vec![0x5a; size * 37]).collect();
    blocks.retain(|block| block.len() % 2 == 0);
    assert!(blocks.iter().flatten().all(|byte| *byte == 0x5a));
}

fn dma(xen: Xen) {
    let before = memory_use().used;
    for pages in [1, 2, 4, 16] {
        let ring = xen.dma_ring(pages).expect("contiguous memory");
        assert_eq!(ring.len(), pages * PAGE_SIZE);
        assert_eq!(ring.maddr().into_raw() % (pages * PAGE_SIZE) as u64, 0, "aligned to its size");
        assert!(ring.words().iter().all(|word| word.load(Ordering::Relaxed) == 0), "zeroed");
        for (index, word) in ring.words().iter().enumerate() {
            word.store(index as u32, Ordering::Relaxed);
        }
        assert!(ring.words().iter().enumerate().all(|(index, word)| word.load(Ordering::Relaxed) == index as u32));
    }
    assert_eq!(memory_use().used, before, "all of it came back");
    // Pages that were exchanged and given back are as good as any.
    let pool = xen.dma_pool(32).expect("pages");
    let mut taken: Vec<_> = core::iter::from_fn(|| pool.take()).collect();
    assert_eq!(taken.len(), 32);
    for (index, buf) in taken.iter_mut().enumerate() {
        buf.bytes_mut().fill(index as u8);
    }
    assert!(taken.iter().enumerate().all(|(index, buf)| buf.bytes().iter().all(|byte| *byte == index as u8)));
}

/// A domain may map and copy its own grants.
fn grants(xen: Xen, domid: Domid) {
    let shared = xen.share(domid, Access::ReadWrite).expect("a page to share");
    let mapped = xen.map_one(domid, shared.gref()).expect("the page maps");
    mapped[7].store(0x1234_5678, Ordering::Relaxed);
    assert_eq!(shared[7].load(Ordering::Relaxed), 0x1234_5678, "both see the same page");

    let mut to = xen.dma_pool(1).expect("a page").take().expect("a buffer");
    let span = |gref, offset| CopySource::Peer(PeerSpan { domid, gref, offset });
    let bytes = to.bytes_mut();
    let (first, second) = bytes.split_at_mut(100);
    let mut ops = [
        GrantCopy::new(span(shared.gref(), 28), CopyDest::Local(first), 4),
        GrantCopy::new(span(GrantRef::from_raw(500), 0), CopyDest::Local(second), 4),
    ];
    xen.copy(&mut ops);
    assert_eq!(ops[0].status, Ok(()));
    assert!(ops[1].status.is_err(), "each operation has a status of its own");
    assert_eq!(to.bytes()[..4], 0x1234_5678_u32.to_le_bytes());

    let outcomes = xen.map(domid, &[GrantRef::from_raw(500), shared.gref()], Access::ReadWrite);
    assert!(outcomes[0].is_err() && outcomes[1].is_ok(), "one bad grant does not spoil the batch");
    xen.unmap(outcomes.into_iter().flatten().collect());
    drop(mapped);
}

fn events(xen: Xen, domid: Domid) {
    let ours = xen.alloc_unbound(domid).expect("a port");
    let theirs = xen.bind_interdomain(domid, RemotePort::from_raw(ours.port().into_raw())).expect("the other end");
    xen.take_pending(&ours);
    xen.take_pending(&theirs);
    xen.notify(&ours);
    assert!(!xen.take_pending(&ours));
    // Pending already: no sleep.
    xen.wait(None);
    let start = xen.now();
    xen.wait_on(&theirs, start.saturating_add(Duration::from_secs(60)));
    assert!(xen.now().saturating_since(start) < Duration::from_secs(30), "slept though it was pending");
    // Only the other one is pending: a sleep, in which the CPU is not ours.
    let (before, until) = (run_times(), xen.now().saturating_add(Duration::from_millis(50)));
    while xen.now() < until {
        xen.wait_on(&ours, until);
    }
    let slept = run_times().blocked.saturating_sub(before.blocked);
    assert!(slept >= Duration::from_millis(40), "slept {slept:?} while another port was pending");
    assert!(xen.take_pending(&theirs));
    assert!(!xen.take_pending(&theirs), "taking clears it");
    assert!(xen.bind_interdomain(domid, RemotePort::from_raw(1000)).is_err());
    let debug = xen.bind_virq(Virq::Debug).expect("a virtual interrupt");
    assert!(!xen.take_pending(&debug), "nobody pressed a debug key");
    assert!(xen.bind_virq(Virq::Debug).is_err(), "only once at a time");
}

fn time(xen: Xen) {
    let (start, before) = (xen.now(), run_times());
    let until = start.saturating_add(Duration::from_millis(50));
    while xen.now() < until {
        xen.wait(Some(until));
    }
    let after = run_times();
    let slept = (after.blocked + after.runnable).saturating_sub(before.blocked + before.runnable);
    assert!(slept >= Duration::from_millis(40) && slept <= xen.now().saturating_since(start), "slept {slept:?}");
    assert!(after.running > before.running, "running takes time");
    let mut last = xen.now();
    for _ in 0..1000 {
        let now = xen.now();
        assert!(now >= last, "time went backwards");
        last = now;
    }
}

async fn store(xen: Xen) {
    xen.write(NONE, "data/rt/a", "1").await.expect("write");
    xen.write(NONE, "data/rt/b", "").await.expect("write of nothing");
    assert_eq!(xen.read(NONE, "data/rt/a").await, Ok(b"1".to_vec()));
    assert_eq!(xen.list(NONE, "data/rt").await, Ok(vec!["a".to_string(), "b".to_string()]));
    assert_eq!(xen.read(NONE, "data/rt/c").await, Err(XsError::NoEntry));
    assert_eq!(xen.write(NONE, "/local/domain/0/x", "").await, Err(XsError::Denied));
    let big = "x".repeat(5000);
    assert_eq!(xen.write(NONE, "data/rt/big", &big).await, Err(XsError::TooBig));

    let t = xen.begin().await.expect("a transaction");
    xen.write(t, "data/rt/a", "2").await.expect("write in it");
    assert_eq!(xen.read(NONE, "data/rt/a").await, Ok(b"1".to_vec()), "not seen outside");
    xen.commit(t).await.expect("commit");
    assert_eq!(xen.read(NONE, "data/rt/a").await, Ok(b"2".to_vec()));

    let watch = xen.watch("data/rt").await.expect("a watch");
    watch.next().await;
    xen.write(NONE, "data/rt/d", "x").await.expect("write");
    assert!(watch.next().await.ends_with("data/rt/d"));
    drop(watch);
    sleep(&xen, Duration::from_millis(10)).await;
    xen.remove(NONE, "data/rt").await.expect("remove");
    assert_eq!(xen.read(NONE, "data/rt/a").await, Err(XsError::NoEntry));
}

fn console() {
    ConsoleStream.write_all(b"bytes as they are\r\n").expect("the console takes bytes");
}
