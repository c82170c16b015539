use std::vec::Vec;

use super::*;

fn vid(number: u16) -> Vid {
    Vid::new(number).unwrap()
}

fn tags(outer: Option<u16>, nested: bool) -> Tags {
    Tags { outer, nested }
}

fn members(text: &str) -> Vec<(u16, Form)> {
    let vlans = Vlans::parse(text).unwrap();
    (1..=4094).filter_map(|number| Some((number, vlans.egress(vid(number))?))).collect()
}

#[test]
fn libxls_notation_is_read() {
    use Form::{Tagged, Untagged};
    assert_eq!(members("10"), [(10, Untagged)]);
    assert_eq!(members("10p"), [(10, Untagged)]);
    assert_eq!(members("10p/20"), [(10, Untagged), (20, Tagged)]);
    assert_eq!(members("20-22/10p"), [(10, Untagged), (20, Tagged), (21, Tagged), (22, Tagged)]);
    assert_eq!(
        members("10p/100+10x4").iter().map(|(number, _)| *number).collect::<Vec<_>>(),
        [10, 100, 110, 120, 130, 140]
    );
    assert_eq!(members("10p/20u/30-31u"), [(10, Untagged), (20, Untagged), (30, Untagged), (31, Untagged)]);
    assert_eq!(members("1p/2-4094").len(), 4094);
}

#[test]
fn what_is_not_that_is_refused() {
    for text in [
        "",
        "0",
        "4095",
        "x",
        "p",
        "10/20",
        "10p/20p",
        "10p/",
        "/10p",
        "10p/20-10",
        "10p/20-4095",
        "10p/4090+1x5",
        "10p/100+10",
        "10p/100+x3",
        "10u",
        "+10",
        "10 ",
        "10p/1-2p",
        "65546",
        "10p/10+65535x65535",
    ] {
        assert_eq!(Vlans::parse(text), None, "{text}");
    }
}

#[test]
fn frames_enter_the_vlans_of_their_port_only() {
    let access = Vlans::parse("10").unwrap();
    assert_eq!(access.ingress(tags(None, false)), Some(vid(10)));
    assert_eq!(access.ingress(tags(Some(0), false)), Some(vid(10)));
    assert_eq!(access.ingress(tags(Some(10), false)), Some(vid(10)));
    for other in [1, 11, 4094, 4095] {
        assert_eq!(access.ingress(tags(Some(other), false)), None);
    }
    let trunk = Vlans::parse("10p/20").unwrap();
    assert_eq!(trunk.ingress(tags(Some(20), false)), Some(vid(20)));
    assert_eq!(trunk.ingress(tags(Some(21), false)), None);
    assert_eq!(Vlans::Wire.ingress(tags(None, false)), Some(Vid::NATIVE));
    assert_eq!(Vlans::Wire.ingress(tags(Some(7), true)), Some(vid(7)));
    assert_eq!(Vlans::Wire.ingress(tags(Some(4095), false)), None);
}

#[test]
fn a_second_tag_never_comes_out_in_front() {
    for text in ["10", "1", "10p/20", "10p/1"] {
        let vlans = Vlans::parse(text).unwrap();
        for outer in [None, Some(0), Some(1), Some(10)] {
            assert_eq!(vlans.ingress(tags(outer, true)), None, "{text} {outer:?}");
        }
    }
    assert_eq!(Vlans::parse("10p/20").unwrap().ingress(tags(Some(20), true)), Some(vid(20)));
}

#[test]
fn tags_are_found_in_the_header() {
    let frame = |types: &[u8]| {
        let mut frame = std::vec![0; 12];
        frame.extend_from_slice(types);
        Tags::of(&frame)
    };
    assert_eq!(frame(&[8, 0]), tags(None, false));
    assert_eq!(frame(&[0x81, 0, 0xe0, 10, 8, 0]), tags(Some(10), false));
    assert_eq!(frame(&[0x81, 0, 0, 10, 0x81, 0]), tags(Some(10), true));
    assert_eq!(frame(&[0x88, 0xa8, 0, 10, 8, 0]), tags(None, true));
    assert_eq!(frame(&[0x91, 0]), tags(None, true));
    // Truncated behind the type: there is no tag to speak of, but no way to send it without one either.
    assert_eq!(frame(&[0x81, 0]), tags(None, true));
    assert_eq!(frame(&[]), tags(None, false));
}
