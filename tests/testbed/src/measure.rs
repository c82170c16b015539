//! The numbers printed at the end of a run, never asserted: size of the image, memory, time to serve.

use std::fmt;
use std::time::Duration;

use crate::bed::{Bed, NETDOM};
use crate::failure::{Doing, Result};
use crate::guest::{console_log, mac};

/// What the driver domain costs.
#[derive(Debug, Clone)]
pub struct Costs {
    /// Bytes of the domain image.
    pub image_bytes: u64,
    /// What the domain says of its memory.
    pub memory: String,
    /// What the domain says of its start: its own time, and what it waited.
    pub start: String,
    /// From the start of `xl create` until it returned, in ms.
    pub created_ms: u64,
    /// From the start of `xl create` until the first vif (Dom0's) was connected, in ms.
    pub connected_ms: u64,
    /// Of which `xl network-attach` took, in ms.
    pub attach_ms: u64,
}

impl Costs {
    /// Starts the driver domain and attaches a vif to Dom0, measuring; leaves both in place.
    ///
    /// # Errors
    /// An `xl` command failed, or the vif did not connect.
    pub fn of_first_start(bed: &Bed) -> Result<Self> {
        let script = format!(
            "now() {{ date +%s%3N; }}\n\
             start=$(now)\n\
             {create} >&2 || exit 1\n\
             created=$(now)\n\
             id=$(xl domid {NETDOM})\n\
             attach=$(now)\n\
             xl network-attach 0 mac={mac} backend={NETDOM} >&2 || exit 1\n\
             attached=$(now)\n\
             for i in $(seq 500); do\n\
             [ \"$(xenstore-read /local/domain/$id/backend/vif/0/0/state)\" = 4 ] && break; sleep 0.01; done\n\
             [ $i -lt 500 ] || exit 1\n\
             echo @ms $((created - start)) $(($(now) - start)) $((attached - attach))",
            create = bed.create_command(""),
            mac = mac(0xD0, 0),
        );
        let output = bed.dom0().check(&script, Duration::from_secs(120)).doing("starting the driver domain")?;
        let line = output.lines().find_map(|line| line.strip_prefix("@ms ")).unwrap_or_default();
        let mut numbers = line.split(' ').map(|word| word.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        let (created_ms, connected_ms, attach_ms) = (next(), next(), next());
        let console = bed.dom0().run(&format!("cat {}", console_log(NETDOM)), Duration::from_secs(10))?.output;
        let said = |words| {
            let found = console.lines().rev().find_map(|line| line.split_once(words).map(|(_, rest)| rest.trim()));
            found.unwrap_or("unknown").to_owned()
        };
        Ok(Self {
            image_bytes: std::fs::metadata(&bed.config.image).map(|image| image.len()).unwrap_or(0),
            memory: said("serving; "),
            start: said("start took "),
            created_ms,
            connected_ms,
            attach_ms,
        })
    }
}

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  image size                             {} KiB (aim: 512)", self.image_bytes / 1024)?;
        writeln!(f, "  memory                                 {}", self.memory)?;
        writeln!(f, "  start of the domain                    {} (aim: 100 of our own)", self.start)?;
        writeln!(f, "  xl create returned after               {} ms", self.created_ms)?;
        writeln!(
            f,
            "  xl create to the first vif connected   {} ms (aim: 1000), xl network-attach took {} of them",
            self.connected_ms, self.attach_ms
        )
    }
}
