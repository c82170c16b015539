//! A card that Dom0 takes back and gives again while guests run.

use std::time::Duration;

use super::checks::{eventually, ping, wire_address};
use super::policy::{
    SECOND_BDF, console_says, give, guest_with, second_wire, silent, with_second_card_assignable, with_two_cards,
};
use crate::bed::{ADDRESS_LIMIT, Bed, NETDOM};
use crate::failure::{Doing, Result};
use crate::guest::{Guest, XL_LIMIT};

/// How long a card may take until it has a link.
const LIMIT: Duration = Duration::from_secs(60);

pub(super) fn a_card_is_taken_back_and_given_again(bed: &mut Bed) -> Result<()> {
    let (first, second) = (bed.guest(1)?, bed.guest(2)?);
    let (wire, neighbour) = (wire_address(bed), second.address("eth0", ADDRESS_LIMIT)?);
    let bdf = bed.nic().bdf();
    ping(&first, &wire)?;
    for round in 0..2 {
        replace(bed, &first, &bdf, &wire, &neighbour).doing(format!("round {round}"))?;
    }
    Ok(())
}

pub(super) fn one_of_two_cards_is_taken_back_and_given_again(bed: &mut Bed) -> Result<()> {
    with_two_cards(bed, "", |bed| {
        let (near, far) = (wire_address(bed), second_wire(bed)?);
        let first = guest_with(bed, 32, ",bridge=xenbr0")?;
        let second = guest_with(bed, 33, ",bridge=xenbr1")?;
        let neighbour = guest_with(bed, 34, ",bridge=xenbr1")?;
        first.address("eth0", ADDRESS_LIMIT)?;
        second.address("eth0", ADDRESS_LIMIT)?;
        let address = neighbour.address("eth0", ADDRESS_LIMIT)?;
        replace(bed, &second, SECOND_BDF, &far, &address)?;
        ping(&first, &near).doing("the other card")
    })
}

pub(super) fn the_second_of_two_cards_comes_later(bed: &mut Bed) -> Result<()> {
    with_second_card_assignable(bed, "'extra=\"cards=2\"'", |bed| {
        let (near, far) = (wire_address(bed), second_wire(bed)?);
        let first = guest_with(bed, 35, ",bridge=xenbr0")?;
        let second = guest_with(bed, 36, ",bridge=xenbr1")?;
        first.address("eth0", ADDRESS_LIMIT)?;
        give(&second, "eth0", "10.0.1.236/24")?;
        silent(&second, &far).doing("before the card is there")?;
        bed.dom0().check(&format!("xl pci-attach {NETDOM} {SECOND_BDF}"), XL_LIMIT)?;
        eventually(LIMIT, || ping(&second, &far).is_ok());
        ping(&second, &far).doing("through the new card")?;
        give(&second, "eth0", "10.0.0.236/24")?;
        silent(&second, &near).doing("from bridge to bridge")?;
        ping(&first, &near).doing("the first card")
    })
}

/// Takes a card back and gives it again. `guest` reaches `wire` through it, and `neighbour` without it.
fn replace(bed: &Bed, guest: &Guest, bdf: &str, wire: &str, neighbour: &str) -> Result<()> {
    bed.dom0().check(&format!("xl pci-detach {NETDOM} {bdf}"), XL_LIMIT)?;
    console_says(bed, "PCI_REMOVED")?;
    silent(guest, wire).doing("without the card")?;
    ping(guest, neighbour).doing("guest to guest without the card")?;
    bed.dom0().check(&format!("xl pci-attach {NETDOM} {bdf}"), XL_LIMIT)?;
    eventually(LIMIT, || ping(guest, wire).is_ok());
    ping(guest, wire).doing("with the card again")
}
