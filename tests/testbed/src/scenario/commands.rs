//! Every network command of `xl`, again and again.

use std::time::Duration;

use super::checks::{complaint, nothing_left_behind, ping, stock, wire_address};
use crate::bed::{Bed, NETDOM};
use crate::failure::{Doing, Failure, Result};
use crate::guest::mac;
use crate::shell::until;

const ROUNDS: u8 = 50;
/// How long a round may take: three commands, each below the shortest time-out of libxl (10 s), and the waits between.
const ROUND_LIMIT: Duration = Duration::from_secs(60);

pub(super) fn every_xl_network_command_fifty_times_leaks_nothing(bed: &mut Bed) -> Result<()> {
    let guest = bed.guest(1)?;
    let devices = [Target { domain: guest.name.clone(), domid: guest.domid, devid: 1 }, Target::dom0()];
    // The first round warms up what is kept on purpose (xenstore directories, frontend state).
    devices.iter().try_for_each(|device| device.round(bed, 0))?;
    let before = stock(bed)?;
    for number in 1..=ROUNDS {
        for device in &devices {
            device.round(bed, number).doing(format!("round {number} on {}", device.domain))?;
        }
    }
    nothing_left_behind(bed, &before)?;
    ping(&guest, &wire_address(bed))
}

/// Whom a vif is given to.
struct Target {
    domain: String,
    domid: u16,
    /// The device id that the next vif gets.
    devid: u8,
}

impl Target {
    fn dom0() -> Self {
        Self { domain: "0".into(), domid: 0, devid: 0 }
    }

    /// Attaches a vif, waits until it is connected, lists, detaches, lists again. One script, so that the commands
    /// follow each other as fast as they can.
    fn round(&self, bed: &Bed, number: u8) -> Result<()> {
        let Self { domain, domid, devid } = self;
        let mac = mac(number, 0x10);
        let connected = until("[ \"$(xenstore-read $state 2>/dev/null)\" = 4 ]");
        let script = format!(
            "state=/local/domain/$(xl domid {NETDOM})/backend/vif/{domid}/{devid}/state\n\
             xl network-attach {domain} mac={mac} backend={NETDOM} || exit 1\n\
             {connected}\n\
             xl network-list {domain} >/run/list || exit 1\n\
             grep -q '^{devid} .* {mac} .* 4 ' /run/list || {{ echo 'not in the list as connected:'; cat /run/list; exit 1; }}\n\
             xl network-detach {domain} {devid} || exit 1\n\
             xl network-list {domain} >/run/list || exit 1\n\
             ! grep '{mac}' /run/list || {{ echo 'still in the list'; exit 1; }}\n\
             ! xenstore-read $state 2>/dev/null || {{ echo 'the backend directory is still there'; exit 1; }}"
        );
        let output = bed.dom0().check(&script, ROUND_LIMIT)?;
        complaint(&output).map_or(Ok(()), |line| Err(Failure::new(format!("xl said: {line}"))))
    }
}
