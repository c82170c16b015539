//! Counts the instructions of the pure parts of both backends under valgrind.
//!
//! `cargo bench -p instructions` runs each [`cases::ALL`] twice under `valgrind --tool=callgrind`, with few and
//! with many iterations: the difference is what the iterations cost, and set-up falls out of it. The count does not
//! depend on the machine's load, so a change of a few percent is a change of the code.

#![forbid(unsafe_code)]

pub mod cases;
pub mod counts;
