//! What must hold of a frontend that behaves, and of one that does not.

use std::time::Duration;

use fake_xen::{Perms, Toolstack};

use super::{Guest, Rig};
use crate::packets::{REMOTE, frame};

impl Rig {
    /// A vif is refused for `cause`, in one line that holds `word`, and nothing is held for it.
    pub fn assert_refused(&mut self, guest: Guest, cause: &str, word: &str) {
        self.until("the vif is refused", |rig| rig.fronts[guest].backend_state() == 6);
        let lines = self.lines(guest, cause);
        assert_eq!(lines.len(), 1, "{}", self.state());
        assert!(lines[0].contains("action=refuse") && lines[0].contains(word), "{lines:?}");
        assert_eq!(self.backend_key(guest, "hotplug-status").as_deref(), Some("error"));
    }

    /// Two guests that trade packets, the first of which is about to misbehave.
    pub fn attacker_and_victim() -> (Self, Guest, Guest) {
        let mut rig = Self::new();
        let (attacker, victim) = (rig.guest(), rig.guest());
        rig.assert_works(attacker);
        rig.assert_works(victim);
        (rig, attacker, victim)
    }

    /// A guest exchanges packets with the wire.
    pub fn assert_works(&mut self, guest: Guest) {
        let out = frame(REMOTE, Self::mac(guest), 300, 1);
        let back = frame(Self::mac(guest), REMOTE, 300, 2);
        self.fronts[guest].take_answers();
        self.fronts[guest].receive_all();
        let sent = self.wire.sent.len();
        let id = self.fronts[guest].send(&out);
        self.until("the packet is answered", |rig| rig.fronts[guest].tx_unanswered() == 0);
        let answers = self.fronts[guest].take_answers();
        assert_eq!(answers.iter().map(|answer| (answer.id, answer.status)).collect::<Vec<_>>(), [(id, 0)]);
        assert_eq!(
            self.wire.sent.get(sent).map(|sent| &sent.bytes),
            Some(&out),
            "guest {guest} does not reach the wire"
        );
        self.wire.inject(&back);
        self.run(Duration::from_millis(20));
        let received: Vec<_> = self.fronts[guest].receive_all().into_iter().map(|packet| packet.bytes).collect();
        assert_eq!(received, [back], "the wire does not reach guest {guest}");
    }

    /// The attacker is taken out of service for `cause`, once and with one line; nothing of it is left; the
    /// victim does not notice; and when the frontend starts over it is served again.
    pub fn assert_killed(&mut self, attacker: Guest, victim: Guest, cause: &str) {
        self.until("the attacker is closed", |rig| rig.fronts[attacker].backend_state() == 6);
        self.until("the attacker has its pages back", |rig| !rig.fronts[attacker].is_connected());
        let lines = self.lines(attacker, cause);
        assert_eq!(lines.len(), 1, "{}", self.state());
        assert!(lines[0].contains("action=kill"), "{lines:?}");
        assert!(self.error_node(attacker).is_some_and(|text| text.contains(cause)), "{}", self.state());
        let usage = self.usage();
        assert_eq!((usage.mapped, usage.ports), (2, 2), "what the victim has is what there is");
        self.assert_works(victim);
        self.fronts[attacker].reopen();
        self.until("the attacker is connected again", |rig| rig.is_connected(attacker));
        self.assert_works(attacker);
        self.assert_works(victim);
    }

    /// The attacker's packet is dropped for `cause`: each of its `slots` requests is answered with an error, one line is
    /// logged, and everybody goes on.
    pub fn assert_dropped(&mut self, attacker: Guest, victim: Guest, cause: &str, slots: usize) {
        self.until("the slots are answered", |rig| rig.fronts[attacker].tx_unanswered() == 0);
        let answers: Vec<i16> = self.fronts[attacker].take_answers().iter().map(|answer| answer.status).collect();
        assert_eq!(answers, vec![-1; slots]);
        // A line may wait for its second.
        self.run(Duration::from_millis(1100));
        let lines = self.lines(attacker, cause);
        assert_eq!(lines.len(), 1, "{}", self.state());
        assert!(lines[0].contains("action=drop"), "{lines:?}");
        assert!(self.is_connected(attacker));
        self.assert_works(attacker);
        self.assert_works(victim);
    }

    /// A frontend closes and connects again as it should, with a directory that is in order.
    pub fn start_over(&mut self, guest: Guest) {
        self.fronts[guest].deaf = true;
        self.fronts[guest].set_state(6);
        self.until("the backend is closed", |rig| rig.fronts[guest].backend_state() == 6);
        self.fronts[guest].reclaim();
        let directory = Toolstack::frontend_path(&self.device(guest));
        for (path, _) in self.xen.dump_store(&directory) {
            self.xen.set_perms(&path, Perms::shared(self.domid(guest), self.xen.backend()));
        }
        for key in ["multi-queue-num-queues", "event-channel", "event-channel-tx", "event-channel-rx"] {
            self.xen.remove_store(&format!("{directory}/{key}"));
        }
        self.fronts[guest].deaf = false;
        self.fronts[guest].reopen();
        self.until("connected after starting over", |rig| rig.is_connected(guest));
    }
}
