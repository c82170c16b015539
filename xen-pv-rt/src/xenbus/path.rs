//! Paths of device directories, built from ids instead of strings.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;

use crate::hyp::Domid;

/// The kind of a split device, as it appears in paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceKind {
    /// A network interface.
    Vif,
    /// A block device.
    Vbd,
}

impl DeviceKind {
    /// The path component.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Vif => "vif",
            Self::Vbd => "vbd",
        }
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One of our backend directories: `backend/<kind>/<frontend domid>/<device id>`, relative to our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BackendPath {
    /// The kind of device.
    pub kind: DeviceKind,
    /// The domain it serves.
    pub frontend: Domid,
    /// Its number in that domain.
    pub devid: u32,
}

impl BackendPath {
    /// Reads the device out of a path at or below its directory. `None` for any other path.
    pub fn parse(kind: DeviceKind, path: &str) -> Option<Self> {
        let below = path.split_once(&format!("backend/{kind}/"))?.1;
        let mut parts = below.split('/');
        let frontend = Domid::from_raw(parts.next()?.parse().ok()?);
        let devid = parts.next()?.parse().ok()?;
        Some(Self { kind, frontend, devid })
    }

    /// The path of `key` in the directory.
    pub fn key(&self, key: &str) -> String {
        format!("{self}/{key}")
    }
}

impl fmt::Display for BackendPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "backend/{}/{}/{}", self.kind, self.frontend, self.devid)
    }
}

/// Why a `frontend` key was not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// The path does not lie in the directory of the domain that the backend directory belongs to.
    NotTheFrontends,
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("frontend path is not in the frontend domain's directory")
    }
}

/// A frontend's directory, known to belong to the domain that we serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontendPath(String);

impl FrontendPath {
    /// Checks the `frontend` key of `device`.
    ///
    /// # Errors
    /// [`PathError::NotTheFrontends`] unless it lies under `/local/domain/<frontend domid>/` and has no empty
    /// or dotted component.
    pub fn new(device: &BackendPath, value: &str) -> Result<Self, PathError> {
        let below = value.strip_prefix("/local/domain/").ok_or(PathError::NotTheFrontends)?;
        let (domid, rest) = below.split_once('/').ok_or(PathError::NotTheFrontends)?;
        let clean = rest.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
        if domid != device.frontend.to_string() || !clean || value.len() > 1024 {
            return Err(PathError::NotTheFrontends);
        }
        Ok(Self(value.to_string()))
    }

    /// The path of `key` in the directory.
    pub fn key(&self, key: &str) -> String {
        format!("{}/{key}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIF: BackendPath = BackendPath { kind: DeviceKind::Vif, frontend: Domid::from_raw(7), devid: 1 };

    #[test]
    fn a_backend_path_reads_back_from_any_path_below_it() {
        for path in ["backend/vif/7/1", "/local/domain/3/backend/vif/7/1", "backend/vif/7/1/state"] {
            assert_eq!(BackendPath::parse(DeviceKind::Vif, path), Some(VIF));
        }
        assert_eq!(VIF.key("state"), "backend/vif/7/1/state");
    }

    #[test]
    fn other_paths_are_no_device() {
        for path in [
            "backend",
            "backend/vif",
            "backend/vif/7",
            "backend/vbd/7/1",
            "backend/vif/x/1",
            "backend/vif/7/-1",
            "backend/vif/70000/1",
        ] {
            assert_eq!(BackendPath::parse(DeviceKind::Vif, path), None, "{path}");
        }
    }

    #[test]
    fn a_frontend_path_must_lie_in_the_frontends_directory() {
        assert!(FrontendPath::new(&VIF, "/local/domain/7/device/vif/1").is_ok());
        for path in [
            "/local/domain/8/device/vif/1",
            "/local/domain/77/device/vif/1",
            "device/vif/1",
            "/local/domain/7",
            "/local/domain/7/",
            "/local/domain/7/../8/device",
            "/local/domain/7//x",
            "/local/domain/07/device/vif/1",
            "",
        ] {
            assert_eq!(FrontendPath::new(&VIF, path), Err(PathError::NotTheFrontends), "{path}");
        }
    }
}
