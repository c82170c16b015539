//! A CD-ROM on an AHCI controller.

use sha2::{Digest as _, Sha256};

use super::bed::Storage;
use super::image::CD_BYTES;
use super::targets::refused;
use crate::failure::{Doing, Result, ensure};

/// At the port after that of the first disk.
const TARGET: &str = "ahci0p1";
/// What a frontend reads in `info`: 1 for a CD-ROM, 2 for a removable medium, 4 for what cannot be written.
const INFO: [(&str, &str); 2] = [("ro", "5"), ("ro devtype=cdrom", "7")];

pub(super) fn a_cd_is_read_to_its_end_and_not_written(storage: &mut Storage) -> Result<()> {
    let guest = storage.guest("g2")?;
    let medium = std::fs::read(storage.cd_file()).doing("reading the medium")?;
    let hash: String = Sha256::digest(&medium).iter().map(|byte| format!("{byte:02x}")).collect();
    let last = CD_BYTES.div_ceil(2048).saturating_sub(1);
    let script = format!(
        "echo 3 >/proc/sys/vm/drop_caches; sha256sum </dev/xvdb\n\
         dd if=/dev/xvdb bs=2048 skip={last} iflag=direct 2>/dev/null | tail -n 1\n\
         cd /sys/block/xvdb; cat size ro queue/logical_block_size removable; cd /\n\
         ! dd if=/dev/zero of=/dev/xvdb bs=2048 count=1 oflag=direct 2>/dev/null"
    );
    for (access, info) in INFO {
        let node = format!("/local/domain/{}/backend/vbd/{}/51728", storage.ensure_blkdom()?, guest.domid);
        storage.dom0(&format!(
            "rm -f /run/info; (for i in $(seq 300); do xenstore-read {node}/info >/run/info 2>/dev/null && break; sleep 0.1; done) &"
        ))?;
        let found = storage.with_vbd(&guest, access, TARGET, &script).doing(access)?;
        let number = CD_BYTES.div_ceil(16).saturating_sub(1);
        let wanted = format!("{hash}  -\nline {number:010}\n{}\n1\n2048\n", CD_BYTES.div_ceil(512));
        ensure(found.starts_with(&wanted), || format!("with {access}: wanted {wanted:?}, found {found:?}"))?;
        let offered = storage.dom0("cat /run/info")?;
        ensure(offered.trim() == info, || format!("with {access}: info is {offered:?}"))?;
    }
    refused(storage, guest.domid, TARGET, "RO")
}
