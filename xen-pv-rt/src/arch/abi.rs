//! The hypervisor's binary interface: numbers and layouts, as far as they are used.
//!
//! Xen: `public/xen.h`, `public/arch-x86/xen.h`, `xen-x86_64.h`, `memory.h`, `sched.h`, `event_channel.h`,
//! `physdev.h`, `grant_table.h` (version 1), `vcpu.h`.

use core::mem::{offset_of, size_of};
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

pub(super) const PAGE_SHIFT: u32 = 12;
pub(super) const PAGE_SIZE: u64 = 4096;

/// `DOMID_SELF`.
pub(super) const DOMID_SELF: u16 = 0x7ff0;

/// Hypercall numbers (`__HYPERVISOR_*`).
pub(super) mod nr {
    pub(crate) const SET_TRAP_TABLE: usize = 0;
    pub(crate) const MMU_UPDATE: usize = 1;
    pub(crate) const MEMORY_OP: usize = 12;
    pub(crate) const UPDATE_VA_MAPPING: usize = 14;
    pub(crate) const GRANT_TABLE_OP: usize = 20;
    pub(crate) const VCPU_OP: usize = 24;
    pub(crate) const SCHED_OP: usize = 29;
    pub(crate) const EVENT_CHANNEL_OP: usize = 32;
    pub(crate) const PHYSDEV_OP: usize = 33;
}

/// `MACH2PHYS_VIRT_START`: Xen's table of the pfn of each mfn, readable by every PV guest.
pub(super) const MACH2PHYS: u64 = 0xffff_8000_0000_0000;

/// `FLAT_KERNEL_CS` of a 64-bit PV guest.
pub(super) const FLAT_KERNEL_CS: u16 = 0xe033;

/// `UVMF_INVLPG`: flush the one address on this CPU.
pub(super) const UVMF_INVLPG: usize = 2;

/// `VCPUOP_get_runstate_info`.
pub(super) const VCPUOP_GET_RUNSTATE_INFO: usize = 4;
/// `VCPUOP_register_runstate_memory_area`.
pub(super) const VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA: usize = 5;
/// `VCPUOP_stop_periodic_timer`.
pub(super) const VCPUOP_STOP_PERIODIC_TIMER: usize = 7;
/// `VCPUOP_set_singleshot_timer`.
pub(super) const VCPUOP_SET_SINGLESHOT_TIMER: usize = 8;

/// `struct vcpu_set_singleshot_timer`.
#[repr(C)]
pub(super) struct SetSingleshotTimer {
    /// System time.
    pub(super) timeout_abs_ns: u64,
    pub(super) flags: u32,
}
const _: () = assert!(size_of::<SetSingleshotTimer>() == 16);

/// `struct vcpu_runstate_info`.
#[derive(Default)]
#[repr(C)]
pub(super) struct RunstateInfo {
    pub(super) state: u32,
    _pad: u32,
    pub(super) state_entry_time: u64,
    /// Nanoseconds in each state: running, runnable, blocked, offline.
    pub(super) time: [u64; 4],
}
const _: () = assert!(size_of::<RunstateInfo>() == 48);

/// What the domain builder hands over in `rsi` (`struct start_info`).
#[repr(C)]
pub(super) struct StartInfo {
    pub(super) magic: [u8; 32],
    pub(super) nr_pages: u64,
    /// Machine address of the shared info page.
    pub(super) shared_info: u64,
    pub(super) flags: u32,
    pub(super) store_mfn: u64,
    pub(super) store_evtchn: u32,
    pub(super) console_mfn: u64,
    pub(super) console_evtchn: u32,
    /// Virtual address of the top-level page table.
    pub(super) pt_base: u64,
    pub(super) nr_pt_frames: u64,
    /// Virtual address of the table of the mfn of each pfn.
    pub(super) mfn_list: u64,
    pub(super) mod_start: u64,
    pub(super) mod_len: u64,
    pub(super) cmd_line: [u8; 1024],
}
const _: () = assert!(offset_of!(StartInfo, store_mfn) == 56);
const _: () = assert!(offset_of!(StartInfo, console_mfn) == 72);
const _: () = assert!(offset_of!(StartInfo, pt_base) == 88);
const _: () = assert!(offset_of!(StartInfo, cmd_line) == 128);

/// Time as Xen publishes it (`struct vcpu_time_info`).
#[repr(C)]
pub(super) struct VcpuTime {
    pub(super) version: AtomicU32,
    _pad: u32,
    pub(super) tsc_timestamp: AtomicU64,
    pub(super) system_time: AtomicU64,
    pub(super) tsc_to_system_mul: AtomicU32,
    pub(super) tsc_shift: AtomicU8,
    pub(super) flags: AtomicU8,
    _pad1: [u8; 2],
}

/// `struct vcpu_info`.
#[repr(C)]
pub(super) struct VcpuInfo {
    pub(super) evtchn_upcall_pending: AtomicU8,
    _pad0: u8,
    pub(super) evtchn_upcall_mask: AtomicU8,
    _pad1: [u8; 5],
    pub(super) evtchn_pending_sel: AtomicU64,
    pub(super) cr2: AtomicU64,
    _arch_pad: u64,
    pub(super) time: VcpuTime,
}
const _: () = assert!(size_of::<VcpuInfo>() == 64);

/// `struct shared_info`, up to the event channel bitmaps.
#[repr(C)]
pub(super) struct SharedInfo {
    pub(super) vcpu_info: [VcpuInfo; 32],
    pub(super) evtchn_pending: [AtomicU64; 64],
    pub(super) evtchn_mask: [AtomicU64; 64],
}
const _: () = assert!(offset_of!(SharedInfo, evtchn_pending) == 2048);

/// `struct mmu_update`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct MmuUpdate {
    /// Machine address of the entry; the low two bits are the command (0: normal update).
    pub(super) ptr: u64,
    pub(super) val: u64,
}

/// `struct trap_info`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct TrapInfo {
    pub(super) vector: u8,
    pub(super) flags: u8,
    pub(super) cs: u16,
    pub(super) address: u64,
}

/// `SCHEDOP_*`.
pub(super) mod sched {
    pub(crate) const YIELD: usize = 0;
    pub(crate) const SHUTDOWN: usize = 2;
    pub(crate) const POLL: usize = 3;
    /// `struct sched_shutdown` reasons.
    pub(crate) const SHUTDOWN_POWEROFF: u32 = 0;
    pub(crate) const SHUTDOWN_REBOOT: u32 = 1;
    pub(crate) const SHUTDOWN_CRASH: u32 = 3;

    /// `struct sched_poll`.
    #[repr(C)]
    pub(crate) struct Poll {
        pub(crate) ports: *const u32,
        pub(crate) nr_ports: u32,
        /// Absolute system time in nanoseconds; 0 for none.
        pub(crate) timeout: u64,
    }
    /// Most ports `SCHEDOP_poll` takes.
    pub(crate) const POLL_MAX: usize = 128;
}

/// `EVTCHNOP_*`.
pub(super) mod evtchn {
    pub(crate) const BIND_INTERDOMAIN: usize = 0;
    pub(crate) const BIND_VIRQ: usize = 1;
    pub(crate) const BIND_PIRQ: usize = 2;
    pub(crate) const CLOSE: usize = 3;
    pub(crate) const SEND: usize = 4;
    pub(crate) const ALLOC_UNBOUND: usize = 6;
    pub(crate) const UNMASK: usize = 9;
    /// `BIND_PIRQ__WILL_SHARE`.
    pub(crate) const WILL_SHARE: u32 = 1;

    #[repr(C)]
    pub(crate) struct AllocUnbound {
        pub(crate) dom: u16,
        pub(crate) remote_dom: u16,
        pub(crate) port: u32,
    }
    #[repr(C)]
    pub(crate) struct BindInterdomain {
        pub(crate) remote_dom: u16,
        pub(crate) remote_port: u32,
        pub(crate) local_port: u32,
    }
    #[repr(C)]
    pub(crate) struct BindVirq {
        pub(crate) virq: u32,
        pub(crate) vcpu: u32,
        pub(crate) port: u32,
    }
    #[repr(C)]
    pub(crate) struct BindPirq {
        pub(crate) pirq: u32,
        pub(crate) flags: u32,
        pub(crate) port: u32,
    }
}

/// `PHYSDEVOP_*`.
pub(super) mod physdev {
    pub(crate) const IRQ_STATUS_QUERY: usize = 5;
    pub(crate) const EOI: usize = 12;
    /// `PHYSDEVOP_pirq_eoi_gmfn_v2`: the argument is one frame number.
    pub(crate) const PIRQ_EOI_GMFN: usize = 28;
    /// `XENIRQSTAT_needs_eoi`.
    pub(crate) const NEEDS_EOI: u32 = 1;

    #[repr(C)]
    pub(crate) struct IrqStatus {
        pub(crate) irq: u32,
        pub(crate) flags: u32,
    }
}

/// `XENMEM_*`.
pub(super) mod memory {
    pub(crate) const EXCHANGE: usize = 11;

    /// `struct xen_memory_reservation`.
    #[repr(C)]
    pub(crate) struct Reservation {
        pub(crate) extent_start: *mut u64,
        pub(crate) nr_extents: u64,
        pub(crate) extent_order: u32,
        pub(crate) mem_flags: u32,
        pub(crate) domid: u16,
    }
    /// `struct xen_memory_exchange`.
    #[repr(C)]
    pub(crate) struct Exchange {
        pub(crate) input: Reservation,
        pub(crate) output: Reservation,
        pub(crate) nr_exchanged: u64,
    }
}

/// `GNTTABOP_*`, version 1.
pub(super) mod gnttab {
    pub(crate) const MAP_GRANT_REF: usize = 0;
    pub(crate) const UNMAP_GRANT_REF: usize = 1;
    pub(crate) const SETUP_TABLE: usize = 2;
    pub(crate) const COPY: usize = 5;

    /// `GNTMAP_host_map`.
    pub(crate) const MAP_HOST: u32 = 2;
    /// `GNTMAP_readonly`.
    pub(crate) const MAP_READONLY: u32 = 4;
    /// `GNTCOPY_source_gref`.
    pub(crate) const COPY_SOURCE_GREF: u16 = 1;
    /// `GNTCOPY_dest_gref`.
    pub(crate) const COPY_DEST_GREF: u16 = 2;

    /// `GTF_permit_access`.
    pub(crate) const PERMIT_ACCESS: u16 = 1;
    /// `GTF_readonly`.
    pub(crate) const READONLY: u16 = 4;
    /// `GTF_reading | GTF_writing`: the peer has it mapped.
    pub(crate) const IN_USE: u16 = 0x18;

    #[repr(C)]
    #[derive(Clone, Copy)]
    pub(crate) struct Map {
        pub(crate) host_addr: u64,
        pub(crate) flags: u32,
        pub(crate) gref: u32,
        pub(crate) dom: u16,
        pub(crate) status: i16,
        pub(crate) handle: u32,
        pub(crate) dev_bus_addr: u64,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    pub(crate) struct Unmap {
        pub(crate) host_addr: u64,
        pub(crate) dev_bus_addr: u64,
        pub(crate) handle: u32,
        pub(crate) status: i16,
    }
    #[repr(C)]
    pub(crate) struct SetupTable {
        pub(crate) dom: u16,
        pub(crate) nr_frames: u32,
        pub(crate) status: i16,
        pub(crate) frame_list: *mut u64,
    }
    /// One end of a copy: `u` is a grant reference or a frame number.
    #[repr(C)]
    #[derive(Clone, Copy)]
    pub(crate) struct CopyPtr {
        pub(crate) u: u64,
        pub(crate) domid: u16,
        pub(crate) offset: u16,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    pub(crate) struct Copy {
        pub(crate) source: CopyPtr,
        pub(crate) dest: CopyPtr,
        pub(crate) len: u16,
        pub(crate) flags: u16,
        pub(crate) status: i16,
    }
    const _: () = assert!(size_of::<Map>() == 32 && size_of::<Unmap>() == 24 && size_of::<Copy>() == 40);
}
