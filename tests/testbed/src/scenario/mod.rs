//! The system tests: each scenario works on one booted [`Bed`] and says in one sentence what went wrong.
//!
//! One Xen boot runs all scenarios of a NIC. A failed one prints the end of every console and leaves the bed
//! clean for the next.

pub mod checks;
mod commands;
pub mod content;
mod features;
mod guests;
mod hotplug;
mod ipv6;
mod isolation;
mod lifecycle;
mod limits;
mod link;
mod management;
mod policy;
mod queues;
mod refusals;
mod replace;
mod runtime;
mod scale;
mod soak;
pub mod statistics;
mod traffic;

use crate::bed::{Bed, BedConfig, Driver};
use crate::failure::Result;
use crate::measure::Costs;
use crate::nic::NicModel;
use crate::suite::{self, Length, Scenario, Selection, Tally, TestBed as _};

/// A scenario of the network, and whom it is about.
#[derive(Debug)]
pub struct NetworkScenario {
    /// The scenario. One that takes minutes is [`Length::Long`].
    scenario: Scenario<Bed>,
    about: About,
    again: Again,
    /// The one card it can be tried with, if it cannot with any.
    card: Option<NicModel>,
}

/// Whom a scenario is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    /// Driver domains in general: it must hold for a Linux one too.
    AnyDriver,
    /// Our domain.
    Ours,
}

/// How often a scenario is worth running in the long matrix, the most often first. A machine with a card that was
/// asked for by name is worth all but the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Again {
    /// With each card: its driver is at work.
    EachCard,
    /// It is about vifs or the toolstack: with one card that cuts and checks packets itself and one that does not.
    EachKind,
    /// With each Xen release, whatever the card.
    EachRelease,
}

/// Memory of the machine when there are scenarios that need more than the usual.
const LARGE_MIB: u32 = 4096;

/// Every scenario, in the order that wastes least time.
pub const ALL: &[NetworkScenario] = &[
    shared("dom0_has_no_hardware_driver", guests::dom0_has_no_hardware_driver),
    shared("dom0_gets_its_only_nic_from_the_driver_domain", guests::dom0_gets_its_only_nic_from_the_driver_domain),
    shared("guests_get_addresses_and_reach_each_other", guests::guests_get_addresses_and_reach_each_other),
    shared("a_64_mib_file_arrives_whole_from_wire_and_guest", guests::a_64_mib_file_arrives_whole_from_wire_and_guest),
    shared("pings_of_every_size_are_answered", traffic::pings_of_every_size_are_answered),
    shared("bulk_tcp_and_udp_leave_no_bad_frame_on_the_wire", traffic::bulk_tcp_and_udp_leave_no_bad_frame_on_the_wire),
    shared("guest_to_guest_traffic_stays_off_the_wire", traffic::guest_to_guest_traffic_stays_off_the_wire),
    shared("flows_of_a_guest_use_all_its_queues", features::flows_of_a_guest_use_all_its_queues),
    with(
        NicModel::VirtioQueues,
        ours("flows_use_several_queue_pairs_of_the_card", queues::flows_use_several_queue_pairs_of_the_card),
    ),
    shared(
        "bulk_tcp_over_ipv6_arrives_whole_in_both_directions",
        ipv6::bulk_tcp_over_ipv6_arrives_whole_in_both_directions,
    ),
    shared("datagrams_come_back_with_their_content", ipv6::datagrams_come_back_with_their_content),
    for_each_kind(shared("guests_reach_each_other_over_ipv6", ipv6::guests_reach_each_other_over_ipv6)),
    ours("counters_move_and_only_dom0_reads_them", statistics::counters_move_and_only_dom0_reads_them),
    long("a_reloaded_frontend_driver_is_served_again", features::a_reloaded_frontend_driver_is_served_again),
    long("a_restored_guest_is_back_on_the_network", features::a_restored_guest_is_back_on_the_network),
    ours("an_mtu_holds_and_jumbo_frames_stay_whole", features::an_mtu_holds_and_jumbo_frames_stay_whole),
    long("a_guest_may_look_at_packets_with_xdp", features::a_guest_may_look_at_packets_with_xdp),
    for_each_kind(shared(
        "hot_attach_and_detach_ten_times_leaks_nothing",
        hotplug::hot_attach_and_detach_ten_times_leaks_nothing,
    )),
    long("a_card_is_taken_back_and_given_again", replace::a_card_is_taken_back_and_given_again),
    ours("the_link_goes_and_comes_back", link::the_link_goes_and_comes_back),
    for_each_kind(shared(
        "guest_reboots_and_is_back_on_the_network",
        lifecycle::guest_reboots_and_is_back_on_the_network,
    )),
    for_each_kind(shared(
        "guest_destroyed_under_traffic_leaves_nothing",
        lifecycle::guest_destroyed_under_traffic_leaves_nothing,
    )),
    for_each_kind(shared(
        "a_frontend_that_never_connects_delays_nobody",
        isolation::a_frontend_that_never_connects_delays_nobody,
    )),
    for_each_kind(shared(
        "traffic_goes_on_while_xenstored_is_stopped",
        isolation::traffic_goes_on_while_xenstored_is_stopped,
    )),
    long(
        "every_xl_network_command_fifty_times_leaks_nothing",
        commands::every_xl_network_command_fifty_times_leaks_nothing,
    ),
    long("traffic_survives_guests_and_vifs_that_come_and_go", soak::traffic_survives_guests_and_vifs_that_come_and_go),
    long(
        "sixteen_guests_with_two_vifs_each_on_32_mib_all_pass_traffic",
        scale::sixteen_guests_with_two_vifs_each_on_32_mib_all_pass_traffic,
    ),
    shared("driver_domain_shuts_down_and_serves_again", lifecycle::driver_domain_shuts_down_and_serves_again),
    runtime("the_runtime_keeps_its_promises", runtime::the_runtime_keeps_its_promises),
    runtime("a_panic_says_where", runtime::a_panic_says_where),
    runtime("a_fault_says_where", runtime::a_fault_says_where),
    runtime("a_stack_that_runs_out_ends_the_domain", runtime::a_stack_that_runs_out_ends_the_domain),
    for_each_kind(ours("guests_use_the_addresses_they_were_given", policy::guests_use_the_addresses_they_were_given)),
    ours("guests_stay_in_their_vlans", policy::guests_stay_in_their_vlans),
    ours("jumbo_frames_reach_the_wire_and_come_back", features::jumbo_frames_reach_the_wire_and_come_back),
    long("isolated_guests_reach_the_wire_only", policy::isolated_guests_reach_the_wire_only),
    long("multicast_control_is_switched_while_connected", limits::multicast_control_is_switched_while_connected),
    long("a_rate_holds_and_changes_while_the_guest_runs", limits::a_rate_holds_and_changes_while_the_guest_runs),
    long("options_in_xenstore_limit_a_broadcast_storm", limits::options_in_xenstore_limit_a_broadcast_storm),
    long("two_cards_have_a_bridge_each", policy::two_cards_have_a_bridge_each),
    long("two_cards_share_a_bridge_without_a_loop", policy::two_cards_share_a_bridge_without_a_loop),
    long("one_of_two_cards_is_taken_back_and_given_again", replace::one_of_two_cards_is_taken_back_and_given_again),
    long("the_second_of_two_cards_comes_later", replace::the_second_of_two_cards_comes_later),
    for_each_kind(ours("a_domain_without_a_device_says_so", refusals::a_domain_without_a_device_says_so)),
    for_each_kind(ours("an_unsupported_device_is_named", refusals::an_unsupported_device_is_named)),
    for_each_kind(ours("too_little_memory_is_named", refusals::too_little_memory_is_named)),
    for_each_kind(ours(
        "ping_and_metrics_work_at_the_management_address",
        management::ping_and_metrics_work_at_the_management_address,
    )),
    for_each_kind(ours("an_unknown_option_is_named", refusals::an_unknown_option_is_named)),
];

const fn shared(name: &'static str, run: fn(&mut Bed) -> Result<()>) -> NetworkScenario {
    let scenario = Scenario { name, run, length: Length::Short };
    NetworkScenario { scenario, about: About::AnyDriver, again: Again::EachCard, card: None }
}

const fn ours(name: &'static str, run: fn(&mut Bed) -> Result<()>) -> NetworkScenario {
    NetworkScenario { about: About::Ours, ..shared(name, run) }
}

const fn for_each_kind(entry: NetworkScenario) -> NetworkScenario {
    NetworkScenario { again: Again::EachKind, ..entry }
}

const fn runtime(name: &'static str, run: fn(&mut Bed) -> Result<()>) -> NetworkScenario {
    NetworkScenario { again: Again::EachRelease, ..ours(name, run) }
}

const fn long(name: &'static str, run: fn(&mut Bed) -> Result<()>) -> NetworkScenario {
    let scenario = Scenario { name, run, length: Length::Long };
    NetworkScenario { scenario, about: About::Ours, again: Again::EachRelease, card: None }
}

const fn with(card: NicModel, entry: NetworkScenario) -> NetworkScenario {
    NetworkScenario { card: Some(card), ..entry }
}

/// Which scenarios to run on a machine.
#[derive(Debug)]
pub struct Choice<'a> {
    /// By name or length.
    pub selection: &'a Selection,
    /// Without names: up to those that are worth running this seldom.
    pub again: Again,
}

impl Choice<'_> {
    fn takes(&self, entry: &NetworkScenario, driver: Driver, card: NicModel) -> bool {
        let about = entry.card.is_none_or(|only| only == card)
            && (entry.about == About::AnyDriver || driver == Driver::Bulkhead);
        let again = entry.again <= self.again || !self.selection.only.is_empty();
        about && again && self.selection.takes(&entry.scenario)
    }
}

/// Boots a bed and runs every chosen scenario, one line each.
pub fn run_all(config: &BedConfig, choice: &Choice<'_>) -> Tally {
    let tag = format!("xen {} {}", config.xen, config.nic);
    let entries = ALL.iter().filter(|entry| choice.takes(entry, config.driver, config.nic));
    let chosen: Vec<_> = entries.map(|entry| &entry.scenario).collect();
    let large = chosen.iter().any(|scenario| scenario.length == Length::Long);
    let memory_mib = if large { LARGE_MIB } else { config.memory_mib };
    let config = &BedConfig { memory_mib, ..config.clone() };
    let nics = if chosen.iter().any(|scenario| scenario.name.contains("two_cards")) { 2 } else { 1 };
    let finish = |bed: &mut Bed| {
        if choice.selection.only.is_empty() && config.driver == Driver::Bulkhead {
            print_costs(bed, &tag);
        }
    };
    suite::run(&tag, &config.logs, || Bed::set_up_with(config, nics), &chosen, finish)
}

/// The numbers that are measured and not asserted.
fn print_costs(bed: &mut Bed, tag: &str) {
    match bed.reset().and_then(|()| Costs::of_first_start(bed)) {
        Ok(costs) => print!("[{tag}] measured, not asserted:\n{costs}"),
        Err(failure) => println!("[{tag}] nothing measured: {failure}"),
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    fn names(card: NicModel, again: Again, longest: Length, only: &[&str]) -> Vec<&'static str> {
        let selection = Selection { only: only.iter().map(|word| (*word).into()).collect(), longest };
        let choice = Choice { selection: &selection, again };
        let entries = ALL.iter().filter(|entry| choice.takes(entry, Driver::Bulkhead, card));
        entries.map(|entry| entry.scenario.name).collect()
    }

    #[test]
    fn the_seldom_ones_run_with_few_cards_unless_they_are_named() {
        let [card, kind, release] = [Again::EachCard, Again::EachKind, Again::EachRelease]
            .map(|again| names(NicModel::VirtioQueues, again, Length::Long, &[]));
        assert!(card.len() < kind.len() && kind.len() < release.len() && release.len() == ALL.len());
        assert!(card.contains(&"bulk_tcp_and_udp_leave_no_bad_frame_on_the_wire"));
        assert!(!kind.contains(&"a_panic_says_where"));
        assert_eq!(names(NicModel::E1000, Again::EachCard, Length::Short, &["panic"]), ["a_panic_says_where"]);
    }

    #[test]
    fn what_one_card_has_is_tried_with_that_card() {
        let name = "flows_use_several_queue_pairs_of_the_card";
        for card in NicModel::value_variants() {
            let named = names(*card, Again::EachRelease, Length::Long, &[name]);
            assert_eq!(named.contains(&name), *card == NicModel::VirtioQueues);
        }
    }

    #[test]
    fn a_linux_driver_domain_is_not_asked_for_what_is_ours() {
        let selection = Selection { only: Vec::new(), longest: Length::Long };
        let choice = Choice { selection: &selection, again: Again::EachRelease };
        let linux: Vec<_> = ALL.iter().filter(|entry| choice.takes(entry, Driver::Linux, NicModel::Virtio)).collect();
        assert!(!linux.is_empty() && linux.iter().all(|entry| entry.about == About::AnyDriver));
    }
}
