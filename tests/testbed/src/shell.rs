//! Shell code that several scripts share.

/// How often a condition is looked at, ten times a second: a minute and more, because a machine may be several times as slow as
/// another one. Scripts have limits of their own for what hangs.
const LOOKS: u32 = 600;

/// A list of commands that waits until the command `condition` succeeds, and fails if it never does.
#[must_use]
pub fn until(condition: &str) -> String {
    format!("for i in $(seq {LOOKS}); do {condition} && break; sleep 0.1; done; {condition}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn succeeds(script: &str) -> bool {
        std::process::Command::new("sh").args(["-c", script]).status().is_ok_and(|status| status.success())
    }

    #[test]
    fn it_ends_as_soon_as_the_condition_holds_and_with_its_status() {
        assert!(succeeds(&until("true")));
        assert!(succeeds(&format!("seq() {{ echo 1 2; }}; set -e; {} || exit 0; exit 1", until("false"))));
        let third = "n=0; third() { n=$((n + 1)); [ $n -gt 2 ]; };";
        assert!(succeeds(&format!("{third} set -e; {}; [ $n = 4 ]", until("third"))));
    }
}
