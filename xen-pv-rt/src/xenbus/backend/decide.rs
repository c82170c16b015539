//! What a backend device does next, as a pure function of what xenstore says.
//!
//! Our own state is known from where the task stands ([`Phase`]); the frontend's state is data and may be
//! anything, as may our own node, which the toolstack writes too. Every combination has an answer here.

use crate::xenbus::XenbusState;

/// Where the task stands: which state it has published, or is about to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// 2: everything is advertised, no ring is mapped.
    InitWait,
    /// 4, or held back at 2 with the rings mapped.
    Connected,
    /// 6: nothing is mapped.
    Closed,
}

/// What xenstore says about our directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ours {
    /// The directory, or its `state`, is gone.
    Gone,
    /// It exists.
    Present {
        /// `state`.
        state: XenbusState,
        /// `online`; a missing key counts as 1.
        online: bool,
    },
}

/// What xenstore says about a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct View {
    /// Our end.
    pub(super) ours: Ours,
    /// The frontend's state; [`XenbusState::Unknown`] if it is missing, unreadable or nonsense.
    pub(super) theirs: XenbusState,
}

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing to do until something changes.
    Wait,
    /// The frontend is ready: map its rings.
    Connect,
    /// Take the device out of service.
    Close,
    /// The same, because the frontend's directory has gone while it was connected.
    CloseGone,
    /// The frontend starts over: advertise again.
    Reopen,
    /// The toolstack wants the device gone: remove the directory.
    Remove,
    /// The directory is gone: drop everything, publish nothing.
    Vanish,
}

/// Decides.
pub(super) fn next(phase: Phase, view: View) -> Step {
    use XenbusState::{
        Closed, Closing, Connected, InitWait, Initialised, Initialising, Reconfigured, Reconfiguring, Unknown,
    };
    let Ours::Present { state, online } = view.ours else { return Step::Vanish };
    // The toolstack asks for removal with both; either one is enough.
    let told_to_close = !online || matches!(state, Closing | Closed);
    match (phase, view.theirs) {
        (Phase::Closed, _) if !online => Step::Remove,
        (Phase::Closed, Initialising | InitWait) => Step::Reopen,
        (Phase::Closed, _) => Step::Wait,
        _ if told_to_close => Step::Close,
        (_, Closing | Closed) => Step::Close,
        (Phase::InitWait, Initialised | Connected) => Step::Connect,
        (Phase::InitWait, Unknown | Initialising | InitWait | Reconfiguring | Reconfigured) => Step::Wait,
        (Phase::Connected, Initialised | Connected | Reconfiguring | Reconfigured) => Step::Wait,
        // It starts over without having closed: a crashed kernel's successor, for instance.
        (Phase::Connected, Initialising | InitWait) => Step::Close,
        (Phase::Connected, Unknown) => Step::CloseGone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use XenbusState as S;

    const THEIRS: [S; 9] = [
        S::Unknown,
        S::Initialising,
        S::InitWait,
        S::Initialised,
        S::Connected,
        S::Closing,
        S::Closed,
        S::Reconfiguring,
        S::Reconfigured,
    ];

    fn steps(phase: Phase, state: S, online: bool) -> [Step; 9] {
        THEIRS.map(|theirs| next(phase, View { ours: Ours::Present { state, online }, theirs }))
    }

    #[test]
    fn every_pair_of_states_has_an_answer() {
        use Step::{Close as OFF, CloseGone, Connect, Reopen, Wait};
        let table = [
            (Phase::InitWait, S::InitWait, [Wait, Wait, Wait, Connect, Connect, OFF, OFF, Wait, Wait]),
            (Phase::Connected, S::Connected, [CloseGone, OFF, OFF, Wait, Wait, OFF, OFF, Wait, Wait]),
            (Phase::Closed, S::Closed, [Wait, Reopen, Reopen, Wait, Wait, Wait, Wait, Wait, Wait]),
        ];
        for (phase, state, expected) in table {
            assert_eq!(steps(phase, state, true), expected, "{phase:?}");
        }
    }

    #[test]
    fn the_toolstacks_wish_goes_before_the_frontends_state() {
        for phase in [Phase::InitWait, Phase::Connected] {
            for (state, online) in [(S::Closing, true), (S::Closed, true), (S::Connected, false), (S::Closing, false)] {
                assert_eq!(steps(phase, state, online), [Step::Close; 9]);
            }
        }
        assert_eq!(steps(Phase::Closed, S::Closed, false), [Step::Remove; 9]);
    }

    #[test]
    fn a_directory_that_is_gone_ends_everything() {
        for phase in [Phase::InitWait, Phase::Connected, Phase::Closed] {
            for theirs in THEIRS {
                assert_eq!(next(phase, View { ours: Ours::Gone, theirs }), Step::Vanish);
            }
        }
    }

    #[test]
    fn nonsense_in_our_own_node_changes_nothing() {
        for state in [S::Unknown, S::Initialising, S::Initialised, S::Reconfigured] {
            assert_eq!(steps(Phase::Connected, state, true), steps(Phase::Connected, S::Connected, true));
        }
    }
}
