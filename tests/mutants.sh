#!/bin/sh
# Checks the checkers: seeds one bug at a time in a copy of the tree and wants the tests to fail.
#
#   tests/mutants.sh            all of them (about ten minutes)
#   tests/mutants.sh WORD       those whose name contains WORD
#
# A bug that no test notices is printed as SURVIVED, and the exit status is 1.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
only=${1:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
(cd "$root" && tar -cf - --exclude=./target --exclude=./out --exclude=./.git .) | tar -xf - -C "$work"
export CARGO_TARGET_DIR="${MUTANTS_TARGET_DIR:-$work/target}"
survived=0
number=0

run_tests() {
    case $1 in
    ring) cargo test --quiet -p ring --lib --test rings ;;
    netback) cargo test --quiet -p netback-dom --test host ;;
    vbd) cargo test --quiet -p blkback-dom --test vbd ;;
    volume) cargo test --quiet -p blkback-dom --lib volume ;;
    esac >"$work/log" 2>&1
}

# mutant NAME SUITE FILE FROM TO: replaces the first FROM (a literal) by TO.
mutant() {
    case $1 in *"$only"*) ;; *) return 0 ;; esac
    number=$((number + 1))
    cp "$work/$3" "$work/original"
    FROM=$4 TO=$5 perl -0pi -e 's/\Q$ENV{FROM}\E/$ENV{TO}/' "$work/$3"
    if cmp -s "$work/$3" "$work/original"; then
        echo "STALE     $1: not found in $3"
        survived=$((survived + 1))
    elif run_tests "$2"; then
        echo "SURVIVED  $1"
        survived=$((survived + 1))
    elif ! grep -q 'test result: FAILED' "$work/log"; then
        echo "BROKEN    $1: does not build"
        survived=$((survived + 1))
    else
        echo "caught    $1"
    fi
    # A new time stamp, or cargo would not notice that the file is as it was.
    cat "$work/original" >"$work/$3"
    touch "$work/$3"
}

cd "$work"
back=ring/src/back.rs
chain=ring/src/netif/assemble.rs
mutant ring-backwards ring $back 'self.nr_ents.saturating_sub(self.outstanding())' 'self.nr_ents'
mutant ring-bound ring $back 'if ready > self.nr_ents' 'if ready > 1 + self.nr_ents'
mutant ring-full ring $back 'if ready > self.nr_ents' 'if ready >= self.nr_ents'
mutant ring-mask ring $back 'index & self.nr_ents.wrapping_sub(1)' 'index & self.nr_ents'
mutant ring-foreign-ticket ring $back 'if self.outstanding() == 0 {' 'if false {'
mutant ring-published ring $back 'self.rsp_prod = new;' ''
mutant ring-notify-late ring $back 'if new.wrapping_sub(rsp_event) < new' 'if new.wrapping_sub(rsp_event) < 1 + new'
mutant ring-event ring $back 'self.req_cons.wrapping_add(more)' 'self.req_cons'
mutant ring-fence-response ring $back 'both could miss the other.
        self.mem.full_fence();' 'both could miss the other.'
mutant ring-fence-request ring $back 'look for the last time.
        self.mem.full_fence();' 'look for the last time.'
mutant ring-acquire ring $back 'self.mem.load(REQ_PROD, Ordering::Acquire)' 'self.mem.load(REQ_PROD, Ordering::Relaxed)'
mutant ring-release ring $back 'self.mem.store(RSP_PROD, new, Ordering::Release)' 'self.mem.store(RSP_PROD, new, Ordering::Relaxed)'
mutant ring-double-fetch ring $back '*copy = self.mem.load(word, Ordering::Relaxed);' '*copy = self.mem.load(word, Ordering::Relaxed); *copy = self.mem.load(word, Ordering::Relaxed);'
mutant chain-page ring $chain '> PAGE_BYTES' '> PAGE_BYTES + 1'
mutant chain-page-wraps ring $chain 'u32::from(offset).saturating_add(u32::from(size))' 'u32::from(offset.wrapping_add(size))'
mutant chain-first-page ring $chain 'check_page(first.offset, left)?;' ''
mutant chain-fatal ring $chain 'slots > FATAL_SLOTS' 'slots > FATAL_SLOTS + 1'
mutant chain-slots ring $chain 'slots > MAX_SLOTS' 'slots > MAX_SLOTS + 1'
mutant chain-short ring $chain '< ETHERNET_HEADER' '< ETHERNET_HEADER - 1'
mutant chain-total ring $chain 'None => reject = reject.or(Some(TxReject::Total)),' 'None => {}'
mutant chain-empty ring $chain 'size == 0 ||' 'size == 9999 ||'
mutant chain-extras ring $chain 'for _ in 0..MAX_EXTRAS' 'for _ in 0..MAX_EXTRAS + 1'
mutant chain-gso-size ring $chain 'Extra::Gso { size: 0, .. } => return Err(TxKill::GsoSize),' ''
mutant chain-gso-kind ring $chain 'if negotiated.allows(kind)' 'if true'

device=xen-pv-rt/src/xenbus/backend/device.rs
mutant hold-two netback $device 'self.published.saturating_add(self.hold())' 'self.published'
mutant hold-six netback $device 'sleep(self.hyp(), self.hold()).await;' ''
mutant close-mapped netback $device 'self.backend().disconnect(id).await;' ''
mutant close-forced netback $device 'if self.hyp().now() >= deadline {' 'if false {'
mutant frontend-path netback xen-pv-rt/src/xenbus/path.rs 'if domid != device.frontend.to_string() ||' 'if'

blkif=ring/src/blkif
mutant blkif-sect ring $blkif/segment.rs 'last_sect >= SECTORS_PER_PAGE' 'last_sect > SECTORS_PER_PAGE'
mutant blkif-sect-order ring $blkif/segment.rs '|| first_sect > last_sect' ''
mutant blkif-range ring $blkif/command.rs 'if end > limits.sectors' 'if sector > limits.sectors'
mutant blkif-wrap ring $blkif/command.rs 'sector.checked_add(sectors).ok_or(BlkReject::Range)?' 'sector.wrapping_add(sectors)'
mutant blkif-align ring $blkif/command.rs 'aligned(sector) && aligned(sectors)' 'aligned(sector)'
mutant blkif-padding ring $blkif/abi.rs 'u32::from_le_bytes([self.operation.into_raw(), 0, low, high])' 'u32::from_le_bytes([self.operation.into_raw(), 1, low, high])'
mutant blkif-missing-protocol ring $blkif/abi.rs 'None | Some("x86_32-abi") => Some(Self::X86_32)' 'None => Some(Self::X86_64), Some("x86_32-abi") => Some(Self::X86_32)'
mutant blkif-indirect-answer ring $blkif/abi.rs 'Operation::Indirect => Operation::from_raw(self.head().0)' 'Operation::Indirect => Operation::Indirect'

vbd=blkback-dom/src/vbd
mutant vbd-failed-okay vbd $vbd/device.rs 'work.failed.map_or(Status::Okay, Cause::status)' 'Status::Okay'
mutant vbd-flush-one-disk vbd $vbd/work.rs 'self.flush_next >= disks' 'self.flush_next >= disks.min(1)'
mutant vbd-barrier-not-alone vbd $vbd/build.rs '(work.barrier && !alone) ||' ''
mutant vbd-discard-greedy vbd $vbd/build.rs 'work.kind == Kind::Discard &&' 'false &&'
mutant vbd-discard-overtaken vbd $vbd/build.rs '|| self.waits_for_passed(work, place)' ''
mutant vbd-barrier-no-stop vbd $vbd/device.rs '&& !self.barrier && !self.free_works' '&& !self.free_works'
mutant vbd-barrier-no-flush-after vbd $vbd/work.rs 'Stage::Data if self.barrier => Stage::After' 'Stage::Data if self.barrier => Stage::Done'
mutant vbd-close-at-once vbd $vbd/backend.rs 'while !self.plane.borrow().is_drained(id)' 'while false'
mutant vbd-read-of-failure vbd $vbd/plane.rs '&& part.failed.is_none()) {' ') {'
mutant vbd-copy-error-ignored vbd $vbd/work.rs 'self.failed.or(self.copy_error.get().map(Cause::from))' 'self.failed'
mutant vbd-write-bad-copy vbd $vbd/plane.rs 'match (part.copy_error.get(), tag)' 'match (None::<xen_pv_rt::hyp::GrantError>, tag)'
mutant vbd-list-not-validated vbd $vbd/device.rs 'None => indirect.validate(list.bytes(), &limits)' 'None => indirect.validate(list.bytes(), &ring::blkif::Limits { sectors: u64::MAX, ..limits })'
mutant vbd-claims vbd $vbd/backend.rs 'writes: !keys.read_only' 'writes: false'
mutant vbd-stale-size vbd $vbd/plane.rs 'vbd.limits.sectors = map.sectors();' ''

volume=blkback-dom/src/volume
mutant volume-overlap volume $volume/map.rs 'self.sector < end(other) && other.sector' 'self.sector <= end(other) && other.sector'
mutant volume-stripe volume $volume/map.rs 'run.chunk.checked_sub(within)?.min(left)' 'run.chunk.min(left)'
mutant volume-gpt-crc volume $volume/table/gpt.rs '&& checksum(&zeroed) == u32_at(header, 16)' ''
mutant volume-gpt-array volume $volume/table/gpt.rs 'checksum(array) != header.entries_crc' 'false'
mutant volume-borders volume $volume/table/mod.rs 'piece.sector < free_from ||' ''
mutant volume-lvm-label volume $volume/lvm/label.rs '|| u32_at(sector, 16) != crc32(INITIAL_CRC, checked)' ''
mutant volume-lvm-text volume $volume/lvm/label.rs '(crc32(INITIAL_CRC, &bytes) == crc).then_some(bytes)' 'Some(bytes)'
mutant volume-lvm-newest volume $volume/lvm/mod.rs '(&a.id, b.seqno).cmp(&(&b.id, a.seqno))' '(&a.id, a.seqno).cmp(&(&b.id, b.seqno))'
mutant volume-lvm-extents volume $volume/lvm/group.rs 'end > member.extents' 'end > 1 + member.extents'

echo "$((number - survived)) of $number seeded bugs caught"
[ "$survived" -eq 0 ]
