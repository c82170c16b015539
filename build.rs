//! Link arguments of domain images; shared by every image crate (`build = "../build.rs"`).
//!
//! Link arguments do not propagate from dependencies, so each image crate runs this itself. Without
//! `--cfg xen_guest` the binary is an ordinary host program and nothing is added.

#![allow(clippy::expect_used, reason = "a build script fails by panicking")]

use std::path::Path;

fn main() {
    if std::env::var_os("CARGO_CFG_XEN_GUEST").is_none() {
        return;
    }
    let dir = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets the manifest directory");
    let script = Path::new(&dir).ancestors().map(|dir| dir.join("pv.ld")).find(|script| script.exists());
    let script = script.expect("pv.ld is in the workspace's root");
    println!("cargo:rerun-if-changed={}", script.display());
    let plain = ["-nostartfiles", "-nostdlib", "-static", "-no-pie"];
    let linker = ["--build-id=none", "--gc-sections", "-zmax-page-size=4096", "-znoexecstack", "-znorelro"];
    for arg in plain {
        println!("cargo:rustc-link-arg-bins={arg}");
    }
    for arg in linker {
        println!("cargo:rustc-link-arg-bins=-Wl,{arg}");
    }
    println!("cargo:rustc-link-arg-bins=-Wl,-T,{}", script.display());
}
