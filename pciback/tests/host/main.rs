//! The domain's side of PCI passthrough against a model of xen-pciback, well behaved and not.

#![forbid(unsafe_code)]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unimplemented,
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub,
    reason = "test code: a panic is a failed test"
)]

mod platform;

use std::time::Duration;

use pciback::{BusError, InterruptKind, PciBus, PciCause, PciDevice, PciError, Sbdf};
use platform::{BACKEND, Function, Platform, elapsed};
use xen_pv_rt::hyp::{Clock, Instant};
use xen_pv_rt::xenbus::XenbusState;

const FIRST: Sbdf = Sbdf { segment: 0, bus: 0, devfn: 0 };
const MSIX: (u8, u8, &[u8]) = (0x11, 0x50, &[3, 0]);
const MSI: (u8, u8, &[u8]) = (0x05, 0x60, &[0, 0]);

fn nic() -> Function {
    Function::new(0x8086, 0x100e).bar(0, 0xfebc_0000, 0xfffe_0000).bar(1, 0xc001, 0xffff_ffc1).line(11)
}

fn with(function: Function) -> Platform {
    Platform::new(&[("0000:00:00.00", (0, 0, 0), function)])
}

fn connect(platform: &Platform) -> PciBus<Platform> {
    platform.run(PciBus::connect(platform.clone())).unwrap()
}

fn device(platform: &Platform) -> PciDevice<Platform> {
    connect(platform).device(FIRST).unwrap()
}

fn causes<T>(result: Result<T, PciError>) -> PciCause {
    result.err().expect("it worked").cause
}

#[test]
fn connecting_goes_through_the_states_and_finds_every_function() {
    let second = Function::new(0x1af4, 0x1041);
    let platform = Platform::new(&[("0000:00:00.00", (0, 0, 0), nic()), ("0001:02:03.04", (1, 2, 0x1c), second)]);
    let bus = connect(&platform);
    assert_eq!(platform.get("device/pci/0/state").as_deref(), Some("4"));
    assert_eq!(bus.functions(), [FIRST, Sbdf { segment: 1, bus: 2, devfn: 0x1c }]);
    let ids: Vec<_> = bus.functions().iter().map(|at| bus.device(*at).unwrap()).collect();
    assert_eq!(
        ids.iter().map(|it| (it.vendor_id(), it.device_id())).collect::<Vec<_>>(),
        [(0x8086, 0x100e), (0x1af4, 0x1041)]
    );
}

#[test]
fn a_domain_without_devices_says_so() {
    let platform = Platform::default();
    let error = platform.run(PciBus::connect(platform.clone())).err();
    assert_eq!(error, Some(BusError::NoDevices));
    assert!(error.unwrap().to_string().contains("pci=[...]"));
    // A bus whose functions were all removed again.
    let platform = Platform::new(&[]);
    assert_eq!(platform.run(PciBus::connect(platform.clone())).err(), Some(BusError::NoDevices));
}

#[test]
fn a_backend_that_never_connects_is_given_up_with_its_state() {
    let platform = with(nic());
    platform.0.manners.borrow_mut().never_connects = true;
    let error = platform.run(PciBus::connect(platform.clone())).err();
    assert_eq!(error, Some(BusError::NotConnected(XenbusState::InitWait)));
    let platform = with(nic());
    platform.set(&format!("{BACKEND}/state"), "5");
    let error = platform.run(PciBus::connect(platform.clone())).err();
    assert_eq!(error, Some(BusError::NotConnected(XenbusState::Closing)));
}

#[test]
fn an_address_that_is_none_ends_connecting() {
    for vdev in ["", "banana", "0000:00:20.0", "0000:00:00.00.00"] {
        let platform = Platform::new(&[(vdev, (0, 0, 0), nic())]);
        let error = platform.run(PciBus::connect(platform.clone())).err();
        assert!(matches!(error, Some(BusError::Xenstore(..))), "{vdev}");
    }
}

#[test]
fn disconnecting_closes_and_waits_for_the_backend_to_let_go() {
    let platform = with(nic());
    let bus = connect(&platform);
    platform.run(bus.disconnect());
    assert_eq!(platform.get("device/pci/0/state").as_deref(), Some("6"));
    assert_eq!(platform.get(&format!("{BACKEND}/state")).as_deref(), Some("5"));
}

#[test]
fn the_bus_being_taken_away_is_noticed() {
    for state in ["5", "6", "7"] {
        let platform = with(nic());
        let bus = connect(&platform);
        platform.set(&format!("{BACKEND}/state"), state);
        assert_eq!(platform.run(bus.removal()), XenbusState::parse(state.as_bytes()));
    }
    let platform = with(nic());
    let bus = connect(&platform);
    platform.0.store.borrow_mut().clear();
    assert_eq!(platform.run(bus.removal()), XenbusState::Unknown);
}

/// What `xl pci-detach` does to the first of two functions.
fn detach_first() -> (Platform, PciBus<Platform>) {
    let second = Function::new(0x1af4, 0x1041);
    let platform = Platform::new(&[("0000:00:00.00", (0, 0, 0), nic()), ("0000:00:01.00", (0, 0, 8), second)]);
    let bus = connect(&platform);
    platform.set(&format!("{BACKEND}/state-0"), "5");
    platform.set(&format!("{BACKEND}/state-1"), "3");
    platform.set(&format!("{BACKEND}/state"), "7");
    (platform, bus)
}

#[test]
fn a_function_that_is_wanted_back_is_named_and_the_others_stay_in_use() {
    let (platform, bus) = detach_first();
    let other = bus.device(Sbdf { devfn: 8, ..FIRST }).unwrap();
    assert_eq!(platform.run(bus.wanted_back()), [FIRST]);
    assert!(platform.run(bus.confirm_removal()));
    assert_eq!(platform.get("device/pci/0/state").as_deref(), Some("4"));
    assert_eq!(platform.get(&format!("{BACKEND}/state")).as_deref(), Some("4"));
    assert_eq!(other.read32(0).unwrap(), 0x1041_1af4, "requests go on");
    // And once more.
    platform.set(&format!("{BACKEND}/state-1"), "5");
    platform.set(&format!("{BACKEND}/state"), "7");
    assert_eq!(platform.run(bus.wanted_back()), [Sbdf { devfn: 8, ..FIRST }]);
}

#[test]
fn a_function_that_is_added_is_named_once_and_can_be_used() {
    let platform = with(nic());
    let bus = connect(&platform);
    platform.set(&format!("{BACKEND}/state-0"), "3");
    platform.0.functions.borrow_mut().insert((0, 0, 8), Function::new(0x1af4, 0x1041));
    platform.set(&format!("{BACKEND}/num_devs"), "2");
    platform.set(&format!("{BACKEND}/state-1"), "1");
    platform.set(&format!("{BACKEND}/state"), "7");
    assert_eq!(platform.run(bus.wanted_back()), []);
    assert!(platform.run(bus.confirm_removal()));
    let second = Sbdf { devfn: 8, ..FIRST };
    assert_eq!(platform.run(bus.added()), [second]);
    assert_eq!(platform.run(bus.added()), [], "once");
    assert_eq!(bus.functions(), [FIRST, second]);
    assert_eq!(bus.device(second).unwrap().vendor_id(), 0x1af4);
}

#[test]
fn a_function_that_was_taken_back_is_added_again_only_when_dom0_says_so() {
    let (platform, bus) = detach_first();
    assert_eq!(platform.run(bus.wanted_back()), [FIRST]);
    assert!(platform.run(bus.confirm_removal()));
    // xen-pciback leaves its keys to libxl, which is slower than we are.
    platform.set(&format!("{BACKEND}/state-0"), "5");
    platform.set(&format!("{BACKEND}/vdev-0"), "0000:00:00.00");
    assert_eq!(platform.run(bus.added()), []);
    assert_eq!(bus.functions(), [Sbdf { devfn: 8, ..FIRST }]);
    platform.set(&format!("{BACKEND}/state-0"), "1");
    platform.set(&format!("{BACKEND}/state"), "7");
    assert_eq!(platform.run(bus.wanted_back()), []);
    assert!(platform.run(bus.confirm_removal()));
    assert_eq!(platform.run(bus.added()), [FIRST]);
}

#[test]
fn a_bus_that_goes_wants_every_function_back() {
    for state in ["5", "6"] {
        let (platform, bus) = detach_first();
        platform.set(&format!("{BACKEND}/state"), state);
        assert_eq!(platform.run(bus.wanted_back()).len(), 2);
        assert!(!platform.run(bus.confirm_removal()));
        assert_eq!(platform.get("device/pci/0/state").as_deref(), Some("6"));
    }
}

#[test]
fn a_bus_whose_directory_is_gone_is_not_written_to() {
    let (platform, bus) = detach_first();
    platform.0.store.borrow_mut().clear();
    assert_eq!(platform.run(bus.wanted_back()).len(), 2);
    assert!(!platform.run(bus.confirm_removal()));
    assert!(platform.0.store.borrow().is_empty());
}

#[test]
fn a_removal_that_the_backend_does_not_finish_is_given_up() {
    let (platform, bus) = detach_first();
    platform.0.manners.borrow_mut().never_connects = true;
    assert_eq!(platform.run(bus.wanted_back()), [FIRST]);
    let start = platform.now();
    assert!(!platform.run(bus.confirm_removal()));
    assert!(elapsed(&platform, start) < Duration::from_secs(5));
}

#[test]
fn pc_01_a_backend_that_stops_answering_costs_one_deadline_and_an_error_each_after() {
    let platform = with(nic());
    let device = device(&platform);
    platform.0.manners.borrow_mut().silent_from = Some(1);
    let start = platform.now();
    assert_eq!(causes(device.read16(0)), PciCause::NoAnswer);
    assert!((Duration::from_secs(2)..Duration::from_secs(4)).contains(&elapsed(&platform, start)));
    for _ in 0..100 {
        assert_eq!(causes(device.enable_interrupts(1)), PciCause::NoAnswer);
    }
    assert!(elapsed(&platform, start) < Duration::from_secs(4));
}

#[test]
fn a_request_sleeps_until_it_is_answered_whatever_else_is_pending() {
    let platform = with(nic());
    let device = device(&platform);
    let interrupts = device.enable_interrupts(1).unwrap();
    platform.0.manners.borrow_mut().is_late = true;
    platform.raise(11);
    let sleeps = platform.0.sleeps.get();
    assert_eq!(device.read16(0).unwrap(), 0x8086);
    assert_eq!(platform.0.sleeps.get() - sleeps, 1, "Dom0, who is to answer, would not get the CPU");
    assert!(interrupts.take_pending(), "it is there for who looks for it");
}

#[test]
fn pc_03_a_request_for_error_recovery_is_declined_whatever_it_says() {
    // Commands that exist and do not, for functions that exist and do not.
    for (command, devfn) in [(7, 0), (10, 0x98), (0, 0), (99, 0xff), (u32::MAX, u32::MAX)] {
        let platform = with(nic());
        let bus = connect(&platform);
        bus.poll();
        assert_eq!(platform.aer_answer(), 0, "nobody asked");
        platform.ask_for_recovery(command, devfn);
        let requests = platform.0.requests.borrow().len();
        bus.poll();
        assert_eq!(platform.aer_answer(), 1, "command {command}: no driver takes part");
        assert!(!platform.recovery_is_pending());
        bus.poll();
        assert_eq!(platform.0.idle_notifications.get(), 1, "the backend is told once");
        assert_eq!(platform.0.requests.borrow().len(), requests);
        assert_eq!(bus.device(FIRST).unwrap().vendor_id(), 0x8086);
    }
}

#[test]
fn a_function_is_in_use_once_and_free_again_after() {
    let platform = with(nic());
    let bus = connect(&platform);
    let device = bus.device(FIRST).unwrap();
    assert_eq!(causes(bus.device(FIRST)), PciCause::Busy);
    device.enable_memory().unwrap();
    device.enable_bus_master().unwrap();
    assert_eq!(platform.0.functions.borrow()[&(0, 0, 0)].config[4] & 6, 6);
    drop(device);
    assert_eq!(platform.0.functions.borrow()[&(0, 0, 0)].config[4] & 6, 2, "its DMA is off");
    assert!(bus.device(FIRST).is_ok());
}

#[test]
fn dma_stays_off_until_the_driver_asks_for_it() {
    let mut function = nic();
    function.config[4] = 7;
    let platform = with(function);
    let device = device(&platform);
    device.enable_memory().unwrap();
    assert_eq!(platform.0.functions.borrow()[&(0, 0, 0)].config[4] & 6, 2);
}

#[test]
fn a_function_that_reads_as_all_ones_is_absent() {
    let platform = with(Function::new(0xffff, 0xffff));
    let error = connect(&platform).device(FIRST).err().unwrap();
    assert_eq!(error.cause, PciCause::Absent);
    assert!(error.to_string().starts_with("PCI device 0000:00:00.0: "));
    let missing = Sbdf { segment: 0, bus: 9, devfn: 0 };
    assert!(matches!(causes(connect(&platform).device(missing)), PciCause::Refused(_)));
}

#[test]
fn a_denied_command_register_is_an_error_that_names_it() {
    let platform = with(nic());
    platform.0.manners.borrow_mut().denies_command = true;
    let device = device(&platform);
    device.enable_memory().unwrap();
    assert_eq!(causes(device.enable_bus_master()), PciCause::Command("memory decoding"));
}

#[test]
fn pc_08_only_the_command_register_and_bar_sizing_are_written() {
    let platform = with(nic());
    let device = device(&platform);
    device.enable_memory().unwrap();
    device.map_bar(0, 0x2_0000).unwrap();
    let interrupts = device.enable_interrupts(1).unwrap();
    device.enable_bus_master().unwrap();
    drop((interrupts, device));
    for [command, offset, size, _] in platform.0.requests.borrow().iter().filter(|[command, ..]| *command == 1) {
        assert!(matches!((offset, size), (4, 2) | (0x10..0x28, 4)), "{command} {offset:#x} {size}");
    }
}

#[test]
fn a_function_is_taken_into_use_with_few_requests() {
    let platform = with(nic().bar(2, 0xfebd_0000, 0xffff_f000));
    let device = device(&platform);
    device.enable_memory().unwrap();
    device.map_bar(0, 0x2_0000).unwrap();
    let _interrupts = device.enable_interrupts(1).unwrap();
    device.enable_bus_master().unwrap();
    // Ids; command and status, command; four for the size of one BAR; the line; command, twice.
    let requests = platform.0.requests.borrow().len();
    assert_eq!(requests, 10, "{:x?}", platform.0.requests.borrow());
}

#[test]
fn bars_are_mapped_where_they_are() {
    let platform =
        with(Function::new(0x1af4, 0x1041).bar(1, 0xfebd_0000, 0xffff_f000).bar(4, 0x0000_400c, 0xffff_c00c).bar(
            5,
            0x8,
            0xffff_ffff,
        ));
    let device = device(&platform);
    device.map_bar(1, 0x1000).unwrap();
    device.map_bar(4, 0x4000).unwrap();
    assert_eq!(*platform.0.mapped.borrow(), [(0xfebd_0000, 0x1000), (0x8_0000_4000, 0x4000)]);
    assert!(!platform.0.requests.borrow().iter().any(|[command, offset, ..]| *command == 1 && *offset == 0x10));
}

#[test]
fn dv_17_a_bar_that_cannot_be_is_refused_by_number() {
    let function = |value, size| Function::new(1, 2).bar(0, value, size);
    for (name, function, index) in [
        ("empty", function(0xfebc_0000, 0), 0),
        ("odd size", function(0xfebc_0000, 0xff0f_0000), 0),
        ("not aligned to its size", function(0xfebc_1000, 0xffff_0000), 0),
        ("reserved type", function(0xfebc_0002, 0xffff_0002), 0),
        ("not aligned to a page", function(0xfebc_0800, 0xffff_f800), 0),
        ("too small", function(0xfebc_0000, 0xffff_f000), 0),
        ("not there", function(0, 0), 0),
        ("ports", function(0xc001, 0xffff_ffc1), 0),
        ("beyond the bus", function(0xfffc_000c, 0xfffe_000c).bar(1, u32::MAX, u32::MAX), 0),
        ("overlapping", function(0xfebc_0000, 0xfffe_0000).bar(1, 0xfebd_0000, 0xffff_0000), 1),
        ("no such BAR", function(0xfebc_0000, 0xfffe_0000), 6),
        ("the wide last", Function::new(1, 2).bar(5, 0xfebc_0004, 0xfffe_0004), 6),
    ] {
        let platform = with(function);
        let device = device(&platform);
        let cause = causes(device.map_bar(index.min(6), 0x2000));
        assert!(matches!(cause, PciCause::Bar(number, _) if number == index), "{name}: {cause:?}");
        assert_eq!(*platform.0.mapped.borrow(), [], "{name}");
    }
}

#[test]
fn a_capability_list_that_never_ends_is_ended() {
    let mut function = nic().capabilities(&[MSI, MSIX]);
    // From the last one back to the first.
    function.config[0x51] = 0x60;
    let platform = with(function);
    let list = device(&platform).capabilities().unwrap();
    assert!(list.len() <= 48 && platform.0.requests.borrow().len() < 60);
    let mut function = nic().capabilities(&[MSI]);
    function.config[0x61] = 0x10;
    assert_eq!(device(&with(function)).capabilities().unwrap().len(), 1, "into the header");
}

fn kind_and_pirqs(platform: &Platform, wanted: u16) -> (InterruptKind, Vec<u32>) {
    let device = device(platform);
    device.enable_memory().unwrap();
    let interrupts = device.enable_interrupts(wanted).unwrap();
    let pirqs = platform.0.pirqs.borrow().keys().copied().collect();
    assert_eq!(causes(device.enable_interrupts(1)), PciCause::Busy);
    let kind = interrupts.kind();
    drop(interrupts);
    assert_eq!(platform.0.pirqs.borrow().len(), 0, "ports are closed");
    drop(device.enable_interrupts(wanted).unwrap());
    (kind, pirqs)
}

#[test]
fn pc_06_interrupts_are_enabled_and_disabled_in_pairs() {
    let platform = with(nic().capabilities(&[MSIX, MSI]));
    assert_eq!(kind_and_pirqs(&platform, 2), (InterruptKind::MsiX, vec![40, 41]));
    assert_eq!(platform.commands(), [4, 5, 4, 5]);
    let platform = with(nic().capabilities(&[MSI]));
    assert_eq!(kind_and_pirqs(&platform, 2), (InterruptKind::Msi, vec![60]));
    assert_eq!(platform.commands(), [2, 3, 2, 3]);
    let platform = with(nic());
    assert_eq!(kind_and_pirqs(&platform, 2), (InterruptKind::Intx, vec![11]));
    assert_eq!(platform.commands(), []);
}

#[test]
fn no_more_vectors_are_asked_for_than_the_table_has() {
    let platform = with(nic().capabilities(&[MSIX]));
    assert_eq!(kind_and_pirqs(&platform, 100).1, [40, 41, 42, 43]);
}

#[test]
fn dv_30_a_vector_table_outside_of_the_bars_is_not_used() {
    let table = |place: u32| {
        let [a, b, c, d] = place.to_le_bytes();
        with(nic().capabilities(&[(0x11, 0x50, &[3, 0, a, b, c, d]), MSI]))
    };
    // BAR 0 has 128 KiB, BAR 1 is in I/O space; the table has 64 bytes.
    for (place, kind) in [
        (0x0000, InterruptKind::MsiX),
        (0x1_ffc0, InterruptKind::MsiX),
        (0x1_ffc8, InterruptKind::Msi),
        (0x2_0000, InterruptKind::Msi),
        (0xffff_fff8, InterruptKind::Msi),
        (0x0001, InterruptKind::Msi),
        (0x0002, InterruptKind::Msi),
        (0x0006, InterruptKind::Msi),
        (0x0007, InterruptKind::Msi),
    ] {
        assert_eq!(kind_and_pirqs(&table(place), 2).0, kind, "{place:#x}");
    }
}

#[test]
fn pc_02_impossible_vectors_fall_back_to_the_next_kind() {
    for (name, answer, disabled) in [
        ("zero", (0, 0, vec![40, 0]), true),
        ("none", (0, 0, vec![]), true),
        ("duplicate", (0, 0, vec![40, 40]), true),
        ("minus one", (0, 0, vec![40, 0xffff]), true),
        ("refused", (-5, 0, vec![]), false),
        ("already", (-114, 0, vec![]), false),
        ("positive error", (7, 0, vec![]), false),
        ("too few", (0, 1, vec![]), false),
        ("not bindable", (0, 0, vec![40, 50]), true),
    ] {
        let platform = with(nic().capabilities(&[MSIX, MSI]));
        platform.0.manners.borrow_mut().msix = Some(answer);
        platform.0.manners.borrow_mut().unbindable.insert(50);
        let device = device(&platform);
        device.enable_memory().unwrap();
        let interrupts = device.enable_interrupts(2).unwrap();
        assert_eq!(interrupts.kind(), InterruptKind::Msi, "{name}");
        assert_eq!(platform.commands(), if disabled { vec![4, 5, 2] } else { vec![4, 2] }, "{name}");
    }
    for msi in [(-5, 0), (0, 0), (0, u32::MAX), (0, 50)] {
        let platform = with(nic().capabilities(&[MSI]));
        platform.0.manners.borrow_mut().msi = Some(msi);
        platform.0.manners.borrow_mut().unbindable.insert(50);
        let device = device(&platform);
        assert_eq!(device.enable_interrupts(2).unwrap().kind(), InterruptKind::Intx, "{msi:?}");
    }
}

#[test]
fn a_function_that_cannot_interrupt_at_all_is_an_error() {
    for line in [0, 0xff] {
        let device = device(&with(nic().line(line)));
        assert!(matches!(causes(device.enable_interrupts(1)), PciCause::NoInterrupt(_)));
    }
    let platform = with(nic());
    platform.0.manners.borrow_mut().unbindable.insert(11);
    assert_eq!(
        causes(device(&platform).enable_interrupts(1)),
        PciCause::NoInterrupt("the interrupt line could not be bound")
    );
}

#[test]
fn functions_on_one_line_both_see_its_interrupts() {
    let platform = Platform::new(&[("0000:00:00.00", (0, 0, 0), nic()), ("0000:00:01.00", (0, 0, 8), nic())]);
    let bus = connect(&platform);
    let devices: Vec<_> = bus.functions().iter().map(|at| bus.device(*at).unwrap()).collect();
    let [first, second] = [0, 1].map(|at: usize| devices[at].enable_interrupts(1).unwrap());
    assert_eq!(platform.0.pirqs.borrow().len(), 1);
    platform.raise(11);
    assert!(first.take_pending() && second.take_pending());
    assert!(!first.take_pending() && !second.take_pending());
    platform.raise(11);
    assert!(second.take_pending() && first.take_pending());
    drop(first);
    assert_eq!(platform.0.pirqs.borrow().len(), 1, "the other still needs it");
    platform.raise(11);
    assert!(second.take_pending());
}

#[test]
fn each_interrupt_is_counted_once_when_it_is_noticed() {
    let platform = with(nic());
    let device = device(&platform);
    let interrupts = device.enable_interrupts(1).unwrap();
    assert_eq!(interrupts.noticed(), 0);
    platform.raise(11);
    platform.raise(11);
    assert_eq!(interrupts.noticed(), 0, "nobody has looked yet");
    assert!(interrupts.take_pending() && !interrupts.take_pending());
    assert_eq!(interrupts.noticed(), 1, "two at once are one event");
    platform.raise(11);
    interrupts.take_pending_vectors();
    assert_eq!(interrupts.noticed(), 2);
}

#[test]
fn end_of_interrupt_is_signalled_once_per_interrupt() {
    let platform = with(nic());
    let device = device(&platform);
    let interrupts = device.enable_interrupts(1).unwrap();
    interrupts.eoi();
    assert_eq!(platform.0.eois.borrow().len(), 0);
    platform.raise(11);
    interrupts.take_pending();
    interrupts.eoi();
    interrupts.eoi();
    assert_eq!(platform.0.eois.borrow().len(), 1);
}

#[test]
fn a_reset_is_refused_where_there_is_none() {
    let express: (u8, u8, &[u8]) = (0x10, 0x70, &[2, 0, 0, 0, 0, 0, 0, 0]);
    for function in [nic(), nic().capabilities(&[express])] {
        let platform = with(function);
        let device = device(&platform);
        assert_eq!(causes(platform.run(device.function_level_reset())), PciCause::NoReset);
    }
    let able: (u8, u8, &[u8]) = (0x10, 0x70, &[2, 0, 0, 0, 0, 0x10, 0, 0]);
    let platform = with(nic().capabilities(&[able]));
    let device = device(&platform);
    let start = platform.now();
    platform.run(device.function_level_reset()).unwrap();
    assert!(elapsed(&platform, start) >= Duration::from_millis(100));
    assert_eq!(platform.0.functions.borrow()[&(0, 0, 0)].config[4] & 6, 2);
    assert_ne!(start, Instant::from_nanos(0));
}
