//! Where cards belong: a place each, held for the function that was there first.
//!
//! The number of places is fixed at start, so that bridges, ports and memory are decided once. A card that is given
//! again takes its own place; one from elsewhere takes a place that nobody has had yet (`cards=`).

use alloc::vec::Vec;

use pciback::Sbdf;

/// The places of a domain, in the order of their numbers.
pub(super) struct Places(Vec<Option<Sbdf>>);

impl Places {
    /// The places of the functions there are, and as many more as make `wanted`, which is not less.
    pub(super) fn new(functions: &[Sbdf], wanted: usize) -> Self {
        let mut places: Vec<_> = functions.iter().copied().map(Some).collect();
        places.resize(wanted.max(places.len()), None);
        Self(places)
    }

    /// Number of places.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// The place of a function: its own, or the first that nobody has had. `None`: there is none for it.
    pub(super) fn claim(&mut self, sbdf: Sbdf) -> Option<usize> {
        let at = |wanted| self.0.iter().position(|place| *place == wanted);
        let at = at(Some(sbdf)).or_else(|| at(None))?;
        *self.0.get_mut(at)? = Some(sbdf);
        Some(at)
    }
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "tests")]
mod tests {
    use super::*;

    fn functions(slots: &[u8]) -> Vec<Sbdf> {
        slots.iter().map(|slot| Sbdf { segment: 0, bus: 0, devfn: slot << 3 }).collect()
    }

    #[test]
    fn a_card_comes_back_to_its_own_place() {
        let here = functions(&[3, 4]);
        let mut places = Places::new(&here, 4);
        assert_eq!(places.count(), 4);
        assert_eq!((places.claim(here[1]), places.claim(here[0])), (Some(1), Some(0)));
    }

    #[test]
    fn one_from_elsewhere_takes_the_first_that_nobody_has_had() {
        let (here, elsewhere) = (functions(&[3]), functions(&[7, 5, 6]));
        let mut places = Places::new(&here, 3);
        assert_eq!(places.claim(elsewhere[0]), Some(1));
        assert_eq!(places.claim(elsewhere[1]), Some(2));
        assert_eq!(places.claim(elsewhere[2]), None, "all places are somebody's");
        assert_eq!(places.claim(elsewhere[0]), Some(1), "its own by now");
    }

    #[test]
    fn no_place_is_kept_free_unless_that_is_asked_for() {
        let mut places = Places::new(&functions(&[3]), 0);
        assert_eq!(places.claim(functions(&[4])[0]), None);
    }
}
