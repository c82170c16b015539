//! The `testbed` command; everything is in the library.

use std::process::ExitCode;

use clap::Parser as _;
use testbed::command_line::{Arguments, execute};

fn main() -> ExitCode {
    match execute(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("testbed: {failure}");
            ExitCode::from(2)
        }
    }
}
