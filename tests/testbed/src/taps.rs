//! A NIC with several queues, and the way from there to its wire.
//!
//! QEMU gives a virtio-net device several queue pairs only if what is behind it has as many queues, and of that a tap is
//! the simplest. So that nothing of it is seen on the host, QEMU runs in a network namespace of its own, with
//!
//! ```text
//! NIC -- tap with a queue for each pair -- bridge -- another tap -- hub in QEMU -- stream -- Wire
//! ```
//!
//! It all goes when QEMU does. This needs root, a kernel with taps and bridges, and `ip` and `unshare`.

use std::process::{Command, Stdio};

use crate::nic::QUEUE_PAIRS;

/// The taps and the bridge of one NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taps {
    /// The NIC's slot, for their names.
    pub slot: u8,
}

impl Taps {
    /// Why there can be none here.
    #[must_use]
    pub fn refusal() -> Option<String> {
        let mut probe = within(&[Self { slot: 0 }]);
        match probe.arg("true").stdin(Stdio::null()).output() {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")),
            Err(error) => Some(format!("unshare: {error}")),
        }
    }

    /// QEMU's netdevs: `near` is what the NIC is on, `cable` the end of the wire, whose id is `cable`.
    pub(crate) fn netdevs(self, near: &str, cable: &str) -> Vec<String> {
        let slot = self.slot;
        vec![
            format!("tap,id={near},ifname=near{slot},queues={QUEUE_PAIRS},script=no,downscript=no,vhost=off"),
            // Without a header: what comes out of it is complete frames, as on a cable.
            format!("tap,id=far{slot},ifname=far{slot},script=no,downscript=no,vnet_hdr=off"),
            cable.replacen("id=cable", &format!("id=cable{slot}"), 1),
            format!("hubport,id=left{slot},hubid={},netdev=far{slot}", HUBS + u32::from(slot)),
            format!("hubport,id=right{slot},hubid={},netdev=cable{slot}", HUBS + u32::from(slot)),
        ]
    }

    /// Shell commands that make them.
    fn commands(self) -> String {
        let slot = self.slot;
        format!(
            "ip link add cable{slot} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
             ip tuntap add near{slot} mode tap multi_queue\n\
             ip tuntap add far{slot} mode tap\n\
             ip link set far{slot} txqueuelen 10000\n\
             ip link set near{slot} master cable{slot} up\n\
             ip link set far{slot} master cable{slot} up\n\
             ip link set cable{slot} up\n"
        )
    }
}

/// Numbers of hubs from here on are ours; those below are NICs without a wire.
const HUBS: u32 = 100;

/// A command in a network namespace with these taps; the program to run is its next argument.
#[must_use]
pub fn within(taps: &[Taps]) -> Command {
    // The namespace says nothing of its own: no router solicitations, no listener reports.
    let silent = "set -e\necho 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6\n".to_owned();
    let script = taps.iter().fold(silent, |script, taps| script + &taps.commands());
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", &format!("{script}exec \"$@\""), "sh"]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nic_with_queues_is_on_a_tap_of_as_many_and_its_wire_at_the_far_end() {
        let netdevs = Taps { slot: 3 }.netdevs("wire3", "stream,id=cable,server=off");
        assert!(netdevs.iter().any(|netdev| netdev.starts_with("tap,id=wire3,ifname=near3,queues=4,")));
        assert!(netdevs.contains(&"stream,id=cable3,server=off".to_owned()));
        assert!(netdevs.contains(&"hubport,id=left3,hubid=103,netdev=far3".to_owned()));
    }
}
