//! What libxl does to domains and their devices, with its timing and its complaints.
//!
//! Dom0 is slow: between a state being published and libxl reading it, [`READ_LATENCY`] passes. A state that
//! is gone by then was never seen.
//!
//! libxl: `libxl__device_generic_add`, `libxl__set_xenstore_nic`, `libxl__wait_device_connection`,
//! `libxl__initiate_device_generic_remove`, `device_hotplug`.

use std::time::Duration;

use xen_pv_rt::hyp::{Domid, Instant};
use xen_pv_rt::xenbus::{BackendPath, DeviceKind};

use crate::machine::FakeXen;
use crate::store::{Perm, Perms};

/// A device: which kind, of which frontend, which number.
pub type DeviceId = BackendPath;

/// How long Dom0 takes from a watch event to reading the node.
pub const READ_LATENCY: Duration = Duration::from_millis(200);
/// `LIBXL_INIT_TIMEOUT` and `LIBXL_DESTROY_TIMEOUT`.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What `vif=[...]` says.
#[derive(Clone, Debug)]
pub struct VifConfig {
    /// `mac=`.
    pub mac: String,
    /// `bridge=`.
    pub bridge: String,
    /// More keys for the backend directory, such as `rate`.
    pub more: Vec<(String, String)>,
}

impl Default for VifConfig {
    fn default() -> Self {
        Self { mac: "00:16:3e:00:00:01".to_string(), bridge: "xenbr0".to_string(), more: Vec::new() }
    }
}

/// What `disk=[...]` says.
#[derive(Clone, Debug)]
pub struct VbdConfig {
    /// `target=`.
    pub target: String,
    /// `access=`: `w` or `r`.
    pub mode: &'static str,
    /// More keys for the backend directory, such as `discard-enable`.
    pub more: Vec<(String, String)>,
}

impl Default for VbdConfig {
    fn default() -> Self {
        Self { target: "nvme0n1".to_string(), mode: "w", more: Vec::new() }
    }
}

/// What `xl` would complain about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolstackError {
    /// The backend did not show the state that libxl waits for, in ten seconds.
    TimedOut,
    /// The directory went away before libxl had read the state.
    Vanished,
    /// The directory is still there ten seconds after `Closed`.
    Stays,
}

/// How an operation ended; `None` while it is under way.
pub type Outcome = Option<Result<(), ToolstackError>>;

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Waits until `state` reads exactly this.
    State {
        wanted: &'static str,
        seen: Option<u32>,
        read_at: Option<Instant>,
    },
    /// Waits until the directory is gone.
    Gone,
    Done(Result<(), ToolstackError>),
}

#[derive(Clone, Copy)]
struct Job {
    device: DeviceId,
    removal: bool,
    started: Instant,
    phase: Phase,
}

/// The toolstack in Dom0.
pub struct Toolstack {
    xen: FakeXen,
    jobs: Vec<Job>,
    next_domid: u16,
    /// From a watch event to reading the node: [`READ_LATENCY`], or longer in a Dom0 that is busy.
    pub read_latency: Duration,
}

impl Toolstack {
    /// Starts the toolstack, and creates the driver domain's directory.
    pub fn new(xen: &FakeXen) -> Self {
        let this = Self { xen: xen.clone(), jobs: Vec::new(), next_domid: 10, read_latency: READ_LATENCY };
        this.create_directory(Domid::DOM0, "Domain-0");
        this.create_directory(xen.backend(), "driver");
        this
    }

    fn create_directory(&self, domid: Domid, name: &str) {
        let home = format!("/local/domain/{domid}");
        self.xen.set_perms(&home, Perms { owner: Domid::DOM0, others: Perm::None, listed: vec![(domid, Perm::Read)] });
        self.xen.write_store(&format!("{home}/name"), name);
        self.xen.write_store(&format!("{home}/domid"), domid.to_string());
        for own in ["data", "error", "drivers", "feature", "attr", "control/shutdown"] {
            self.xen.set_perms(&format!("{home}/{own}"), Perms::private(domid));
        }
        self.xen.0.grants.borrow_mut().add_domain(domid);
    }

    /// Creates a domain.
    pub fn create_domain(&mut self, name: &str) -> Domid {
        let domid = Domid::from_raw(self.next_domid);
        self.next_domid += 1;
        self.create_directory(domid, name);
        domid
    }

    /// The backend directory of a device.
    pub fn backend_path(&self, device: &DeviceId) -> String {
        format!("/local/domain/{}/{device}", self.xen.backend())
    }

    /// The frontend directory of a device.
    pub fn frontend_path(device: &DeviceId) -> String {
        format!("/local/domain/{}/device/{}/{}", device.frontend, device.kind, device.devid)
    }

    /// Creates the directories of a vif, as for `xl create`.
    pub fn create_vif(&self, frontend: Domid, devid: u32, config: &VifConfig) -> DeviceId {
        let device = DeviceId { kind: DeviceKind::Vif, frontend, devid };
        let (back, front) = (self.backend_path(&device), Self::frontend_path(&device));
        self.xen.set_perms(&front, Perms::shared(frontend, self.xen.backend()));
        for (key, value) in [
            ("backend", back.as_str()),
            ("backend-id", &self.xen.backend().to_string()),
            ("state", "1"),
            ("handle", &devid.to_string()),
            ("mac", &config.mac),
            ("trusted", "1"),
        ] {
            self.xen.write_store(&format!("{front}/{key}"), value);
        }
        self.xen.set_perms(&back, Perms::shared(self.xen.backend(), frontend));
        let keys = [
            ("frontend", front.as_str()),
            ("frontend-id", &frontend.to_string()),
            ("online", "1"),
            ("state", "1"),
            ("script", "/etc/xen/scripts/vif-bridge"),
            ("mac", &config.mac),
            ("bridge", &config.bridge),
            ("handle", &devid.to_string()),
            ("type", "vif"),
            ("hotplug-status", ""),
        ];
        let more = config.more.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let libxl = format!("/libxl/{frontend}/device/vif/{devid}");
        self.xen.write_store(&format!("{libxl}/frontend"), &front);
        self.xen.write_store(&format!("{libxl}/backend"), &back);
        for (key, value) in keys.into_iter().chain(more) {
            self.xen.write_store(&format!("{back}/{key}"), value);
            self.xen.write_store(&format!("{libxl}/{key}"), value);
        }
        device
    }

    /// Creates the directories of a vbd, as for `xl create`.
    pub fn create_vbd(&self, frontend: Domid, devid: u32, config: &VbdConfig) -> DeviceId {
        let device = DeviceId { kind: DeviceKind::Vbd, frontend, devid };
        let (back, front) = (self.backend_path(&device), Self::frontend_path(&device));
        self.xen.set_perms(&front, Perms::shared(frontend, self.xen.backend()));
        for (key, value) in [
            ("backend", back.as_str()),
            ("backend-id", &self.xen.backend().to_string()),
            ("state", "1"),
            ("virtual-device", &devid.to_string()),
            ("device-type", "disk"),
            ("trusted", "1"),
        ] {
            self.xen.write_store(&format!("{front}/{key}"), value);
        }
        self.xen.set_perms(&back, Perms::shared(self.xen.backend(), frontend));
        let keys = [
            ("frontend", front.as_str()),
            ("params", &config.target),
            ("script", "/etc/xen/scripts/block"),
            ("frontend-id", &frontend.to_string()),
            ("online", "1"),
            ("removable", "0"),
            ("bootable", "1"),
            ("state", "1"),
            ("dev", "xvda"),
            ("type", "phy"),
            ("mode", config.mode),
            ("device-type", "disk"),
            ("discard-enable", "1"),
            ("specification", "xen"),
        ];
        let more = config.more.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let libxl = format!("/libxl/{frontend}/device/vbd/{devid}");
        self.xen.write_store(&format!("{libxl}/frontend"), &front);
        self.xen.write_store(&format!("{libxl}/backend"), &back);
        for (key, value) in keys.into_iter().chain(more) {
            self.xen.write_store(&format!("{back}/{key}"), value);
            self.xen.write_store(&format!("{libxl}/{key}"), value);
        }
        device
    }

    /// `xl block-attach`: creates the directories and waits for the backend. The number is for
    /// [`outcome`](Self::outcome).
    pub fn attach_vbd(&mut self, frontend: Domid, devid: u32, config: &VbdConfig) -> (DeviceId, usize) {
        let device = self.create_vbd(frontend, devid, config);
        (device, self.start(device, false, "2"))
    }

    /// `xl network-attach`: creates the directories and waits for the backend. The number is for
    /// [`outcome`](Self::outcome).
    pub fn attach_vif(&mut self, frontend: Domid, devid: u32, config: &VifConfig) -> (DeviceId, usize) {
        let device = self.create_vif(frontend, devid, config);
        (device, self.start(device, false, "2"))
    }

    /// `xl network-detach`: asks the backend to let go, waits, and cleans up.
    pub fn detach(&mut self, device: DeviceId) -> usize {
        let back = self.backend_path(&device);
        let Some(state) = self.xen.read_store(&format!("{back}/state")) else {
            self.clean_up(&device);
            self.jobs.push(Job { device, removal: true, started: self.xen.now(), phase: Phase::Done(Ok(())) });
            return self.jobs.len() - 1;
        };
        self.xen.write_store(&format!("{back}/online"), "0");
        if state != "6" {
            self.xen.write_store(&format!("{back}/state"), "5");
        }
        self.start(device, true, "6")
    }

    /// `xl destroy`, the part about one device: the frontend's directory goes first.
    pub fn destroy_device(&mut self, device: DeviceId) -> usize {
        self.xen.remove_store(&Self::frontend_path(&device));
        self.detach(device)
    }

    /// The end of a domain, after its devices: event channels close, its directory goes.
    pub fn destroy_domain(&self, domid: Domid) {
        self.xen.0.events.borrow_mut().destroy(domid);
        self.xen.0.grants.borrow_mut().end(domid, None);
        self.xen.remove_store(&format!("/local/domain/{domid}"));
        self.xen.remove_store(&format!("/libxl/{domid}"));
    }

    fn start(&mut self, device: DeviceId, removal: bool, wanted: &'static str) -> usize {
        let phase =
            Phase::State { wanted, seen: None, read_at: Some(self.xen.now().saturating_add(self.read_latency)) };
        self.jobs.push(Job { device, removal, started: self.xen.now(), phase });
        self.jobs.len() - 1
    }

    /// How an operation ended.
    pub fn outcome(&self, job: usize) -> Outcome {
        match self.jobs[job].phase {
            Phase::Done(result) => Some(result),
            _ => None,
        }
    }

    /// Goes on with what is under way.
    pub fn step(&mut self) {
        for index in 0..self.jobs.len() {
            let Job { device, removal, started, phase } = self.jobs[index];
            let timed_out = self.xen.now() >= started.saturating_add(TIMEOUT);
            let next = match phase {
                Phase::Done(_) => continue,
                Phase::Gone => self.wait_gone(&device, timed_out),
                Phase::State { wanted, seen, read_at } => {
                    self.wait_state(&device, removal, wanted, seen, read_at, timed_out)
                }
            };
            if let (true, Phase::Done(Ok(()))) = (removal, next) {
                self.clean_up(&device);
            }
            if let (Phase::State { .. }, Phase::Gone) = (phase, next) {
                self.jobs[index].started = self.xen.now();
            }
            self.jobs[index].phase = next;
        }
    }

    fn wait_gone(&self, device: &DeviceId, timed_out: bool) -> Phase {
        if self.xen.read_store(&self.backend_path(device)).is_none() {
            return Phase::Done(Ok(()));
        }
        if timed_out { Phase::Done(Err(ToolstackError::Stays)) } else { Phase::Gone }
    }

    fn wait_state(
        &self,
        device: &DeviceId,
        removal: bool,
        wanted: &'static str,
        seen: Option<u32>,
        read_at: Option<Instant>,
        timed_out: bool,
    ) -> Phase {
        if timed_out {
            return Phase::Done(Err(ToolstackError::TimedOut));
        }
        let now = self.xen.now();
        let state = self.xen.read_store(&format!("{}/state", self.backend_path(device)));
        if read_at.is_some_and(|at| now >= at) {
            return match state.as_deref() {
                None => Phase::Done(Err(ToolstackError::Vanished)),
                Some(state) if state == wanted && removal => Phase::Gone,
                Some(state) if state == wanted => Phase::Done(Ok(())),
                Some(state) => Phase::State { wanted, seen: state.parse().ok(), read_at: None },
            };
        }
        let current = state.and_then(|state| state.parse().ok());
        if current != seen {
            // A watch event; one read answers for all that come until then.
            let read_at = Some(read_at.unwrap_or_else(|| now.saturating_add(self.read_latency)));
            return Phase::State { wanted, seen: current, read_at };
        }
        Phase::State { wanted, seen, read_at }
    }

    /// Removes what the backend does not: the frontend's directory, libxl's own, empty directories above.
    fn clean_up(&self, device: &DeviceId) {
        self.xen.0.grants.borrow_mut().end(device.frontend, Some(device));
        self.xen.remove_store(&self.backend_path(device));
        self.xen.remove_store(&Self::frontend_path(device));
        self.xen.remove_store(&format!("/libxl/{}/device/{}/{}", device.frontend, device.kind, device.devid));
        let above = format!("/local/domain/{}/backend/{}/{}", self.xen.backend(), device.kind, device.frontend);
        if self.xen.list_store(&above).is_empty() {
            self.xen.remove_store(&above);
        }
    }
}
