//! System tests of the storage driver domain: stock guests, and Dom0, on disks that it serves.

mod bed;
mod cd;
mod crowd;
mod disks;
mod dom0;
mod files;
mod gpt;
mod grow;
mod hotplug;
mod image;
mod lvm;
mod power;
mod targets;
mod trace;

use crate::disk::DiskModel;
use crate::suite::{self, Length, Scenario, Selection, Tally};

pub use bed::{Storage, StorageConfig};
pub(crate) use dom0::has_no_disk_driver;

/// Every scenario, in the order that wastes least time.
const ALL: &[Scenario<Storage>] = &[
    short("dom0_is_a_frontend_and_has_no_disk_driver", dom0::dom0_is_a_frontend_and_has_no_disk_driver),
    short("a_file_system_outlives_its_guest", files::a_file_system_outlives_its_guest),
    short(
        "a_partition_and_a_slice_are_where_they_should_be",
        targets::a_partition_and_a_slice_are_where_they_should_be,
    ),
    short("fstrim_reaches_the_device", files::fstrim_reaches_the_device),
    medium("a_read_only_vbd_is_not_written", targets::a_read_only_vbd_is_not_written),
    medium("attached_and_detached_ten_times_nothing_leaks", hotplug::attached_and_detached_ten_times_nothing_leaks),
    medium("what_cannot_be_served_is_refused_and_named", targets::what_cannot_be_served_is_refused_and_named),
    medium("counters_move_while_a_vbd_is_there", dom0::counters_move_while_a_vbd_is_there),
    medium(
        "a_partition_that_dom0_makes_is_served_once_it_asks",
        targets::a_partition_that_dom0_makes_is_served_once_it_asks,
    ),
    medium(
        "a_guest_finds_gpt_partitions_by_each_of_their_names",
        gpt::a_guest_finds_gpt_partitions_by_each_of_their_names,
    ),
    medium("a_partition_grows_under_its_guest", gpt::a_partition_grows_under_its_guest),
    medium("linux_finds_what_a_guest_wrote_to_logical_volumes", lvm::linux_finds_what_a_guest_wrote_to_logical_volumes),
    medium("a_logical_volume_grows_under_its_guest", lvm::a_logical_volume_grows_under_its_guest),
    medium("a_logical_volume_of_another_kind_is_refused", lvm::a_logical_volume_of_another_kind_is_refused),
    medium("a_frontend_driver_lets_go_of_its_device", hotplug::a_frontend_driver_lets_go_of_its_device),
    medium("a_guest_sees_its_disk_grow", files::a_guest_sees_its_disk_grow),
    medium("a_guest_boots_with_its_root_on_a_vbd", files::a_guest_boots_with_its_root_on_a_vbd),
    medium("fio_finds_every_byte_it_wrote", files::fio_finds_every_byte_it_wrote),
    medium(
        "fio_finds_every_byte_through_two_queues_of_sixteen_pages",
        files::fio_finds_every_byte_through_two_queues_of_sixteen_pages,
    ),
    medium("a_guest_is_saved_and_restored", files::a_guest_is_saved_and_restored),
    medium("a_bootloader_finds_the_guests_kernel_on_its_disk", dom0::a_bootloader_finds_the_guests_kernel_on_its_disk),
    medium("a_guest_boots_from_a_kernel_on_dom0s_vbd", dom0::a_guest_boots_from_a_kernel_on_dom0s_vbd),
    medium("an_answered_write_survives_the_driver_domain", power::an_answered_write_survives_the_driver_domain),
    medium("what_was_flushed_survives_a_power_cut", power::what_was_flushed_survives_a_power_cut),
    long("attached_and_detached_fifty_times_nothing_leaks", hotplug::attached_and_detached_fifty_times_nothing_leaks),
    long("eight_guests_with_two_vbds_each", crowd::eight_guests_with_two_vbds_each),
    long("eight_guests_destroyed_at_once_leave_nothing", crowd::eight_guests_destroyed_at_once_leave_nothing),
];

/// Those that only an AHCI controller has a part in.
const OF_AHCI: &[Scenario<Storage>] =
    &[medium("a_cd_is_read_to_its_end_and_not_written", cd::a_cd_is_read_to_its_end_and_not_written)];

const fn short(name: &'static str, run: fn(&mut Storage) -> crate::failure::Result<()>) -> Scenario<Storage> {
    Scenario { name, run, length: Length::Short }
}

const fn medium(name: &'static str, run: fn(&mut Storage) -> crate::failure::Result<()>) -> Scenario<Storage> {
    Scenario { name, run, length: Length::Medium }
}

const fn long(name: &'static str, run: fn(&mut Storage) -> crate::failure::Result<()>) -> Scenario<Storage> {
    Scenario { name, run, length: Length::Long }
}

/// Boots a machine and runs the selected scenarios, one line each.
pub fn run_all(config: &StorageConfig, selection: &Selection) -> Tally {
    let tag = format!("xen {} {}", config.xen, config.model);
    let here = if config.model == DiskModel::Ahci { OF_AHCI } else { &[] };
    let chosen: Vec<_> = ALL.iter().chain(here).filter(|scenario| selection.takes(scenario)).collect();
    suite::run(&tag, &config.logs, || Storage::set_up(config), &chosen, |_| ())
}
