//! Messages as bytes, against the structures of `public/io/netif.h`.

use ring::netif::{
    Ctrl, CtrlCommand, CtrlResponse, CtrlStatus, Extra, GsoKind, Rx, RxFlags, RxResponse, Status, Tx, TxResponse,
};
use ring::{BackRing, GrantRef, Protocol};

use crate::slots::{extra, request, words};

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[test]
fn a_transmit_request_has_the_headers_layout() {
    let words = words(0x0403_0201, 0x0605, 0x0807, 0x0a09, 0x0c0b);
    assert_eq!(bytes(&words), (1..=12).collect::<Vec<u8>>());
    let request = request(0x0403_0201, 0x0605, 0, 0x0a09, 0x0c0b).request();
    let fields = (request.gref.into_raw(), request.offset, request.id, request.size);
    assert_eq!(fields, (0x0403_0201, 0x0605, 0x0a09, 0x0c0b));
}

#[test]
fn each_transmit_flag_is_its_own_bit() {
    let read = |bits| {
        let flags = request(0, 0, bits, 0, 0).request().flags;
        [flags.csum_blank(), flags.data_validated(), flags.more_data(), flags.extra_info()]
    };
    assert_eq!(read(0xfff0), [false; 4]);
    for bit in 0..4 {
        let mut expected = [false; 4];
        expected[bit] = true;
        assert_eq!(read(1 << bit), expected);
    }
}

#[test]
fn a_transmit_response_is_one_word() {
    assert_eq!(Tx::RESPONSE_WORDS, 1);
    for (status, raw) in [(Status::Okay, 0_i16), (Status::Error, -1), (Status::Dropped, -2), (Status::Null, 1)] {
        let words = Tx::encode(&TxResponse { id: 0x0201, status });
        let [low, high] = raw.to_le_bytes();
        assert_eq!(bytes(&words[..1]), [1, 2, low, high]);
    }
}

#[test]
fn a_receive_request_has_the_headers_layout() {
    let request = Rx::decode(&[0xffff_0201, 0x0807_0605]);
    assert_eq!((request.id, request.gref.into_raw()), (0x0201, 0x0807_0605));
}

#[test]
fn a_receive_response_carries_its_length_as_status() {
    let flags = RxFlags::MORE_DATA.with(RxFlags::EXTRA_INFO);
    let words = Rx::encode(&RxResponse::Data { id: 0x0201, offset: 0x0403, flags, size: 0x0807 });
    assert_eq!(bytes(&words), [1, 2, 3, 4, 12, 0, 7, 8]);
    let words = Rx::encode(&RxResponse::Error { id: 0x0201 });
    assert_eq!(bytes(&words), [1, 2, 0, 0, 0, 0, 0xff, 0xff]);
}

#[test]
fn the_checksum_bits_are_the_other_way_round_on_the_receive_ring() {
    assert_eq!(RxFlags::DATA_VALIDATED.into_raw(), 1);
    assert_eq!(RxFlags::CSUM_BLANK.into_raw(), 2);
    assert!(request(0, 0, 1, 0, 0).request().flags.csum_blank());
}

#[test]
fn an_extra_segment_reads_back() {
    for extra in [
        Extra::Gso { size: 0x0504, kind: Ok(GsoKind::TcpV4) },
        Extra::Gso { size: 1, kind: Ok(GsoKind::TcpV6) },
        Extra::Gso { size: 1, kind: Err(9) },
        Extra::McastAdd([1, 2, 3, 4, 5, 6]),
        Extra::McastDel([6, 5, 4, 3, 2, 1]),
        Extra::Hash { kind: 2, algorithm: 1, value: [9, 8, 7, 6] },
        Extra::Xdp { headroom: 256 },
    ] {
        let [first, second] = Rx::encode(&RxResponse::Extra { extra, more: false });
        let raw = ring::netif::TxSlot::from_words([first, second, 0]).extra();
        assert_eq!((raw.parse(), raw.more()), (extra, false));
    }
}

#[test]
fn an_extra_segment_has_the_headers_layout() {
    let words =
        Rx::encode(&RxResponse::Extra { extra: Extra::Gso { size: 0x0504, kind: Ok(GsoKind::TcpV6) }, more: false });
    assert_eq!(bytes(&words), [1, 0, 4, 5, 2, 0, 0, 0]);
    assert!(extra(1, true, [0; 6]).extra().more());
    assert_eq!(extra(77, false, [0; 6]).extra().parse(), Extra::Unknown(77));
}

#[test]
fn an_extra_segment_says_whether_another_follows() {
    for more in [false, true] {
        let [first, second] = Rx::encode(&RxResponse::Extra { extra: Extra::Xdp { headroom: 256 }, more });
        assert_eq!(ring::netif::TxSlot::from_words([first, second, 0]).extra().more(), more);
    }
}

#[test]
fn a_hash_is_told_least_significant_byte_first() {
    let extra = Extra::Hash { kind: 3, algorithm: 1, value: 0x0a0b_0c0d_u32.to_le_bytes() };
    let words = Rx::encode(&RxResponse::Extra { extra, more: false });
    assert_eq!(bytes(&words), [4, 0, 3, 1, 0x0d, 0x0c, 0x0b, 0x0a]);
}

#[test]
fn a_control_request_has_the_headers_layout() {
    let request = |kind: u32| Ctrl::decode(&[0x0201 | kind << 16, 3, 4, 5]);
    let gref = GrantRef::from_raw(3);
    let expected = [
        (0, CtrlCommand::Unknown),
        (1, CtrlCommand::GetHashFlags),
        (2, CtrlCommand::SetHashFlags(3)),
        (3, CtrlCommand::SetHashKey { gref, len: 4 }),
        (4, CtrlCommand::GetMappingSize),
        (5, CtrlCommand::SetMappingSize(3)),
        (6, CtrlCommand::SetMapping { gref, len: 4, offset: 5 }),
        (7, CtrlCommand::SetAlgorithm(3)),
        (8, CtrlCommand::Unknown),
        (65535, CtrlCommand::Unknown),
    ];
    for (kind, command) in expected {
        let request = request(kind);
        assert_eq!((request.id, u32::from(request.kind), request.command), (0x0201, kind, command));
    }
}

#[test]
fn a_control_response_has_the_headers_layout() {
    assert_eq!(Ctrl::RESPONSE_WORDS, 3);
    let statuses = [
        (CtrlStatus::Success, 0),
        (CtrlStatus::NotSupported, 1),
        (CtrlStatus::InvalidParameter, 2),
        (CtrlStatus::BufferOverflow, 3),
    ];
    for (status, raw) in statuses {
        let words = Ctrl::encode(&CtrlResponse { id: 0x0201, kind: 7, status, data: 0x0807_0605 });
        assert_eq!(bytes(&words[..3]), [1, 2, 7, 0, raw, 0, 0, 0, 5, 6, 7, 8]);
    }
}

/// A page as a frontend lays it out, field by field at its offset in bytes.
fn page(fields: &[(usize, &[u8])]) -> Vec<std::sync::atomic::AtomicU32> {
    let mut page = [0_u8; 4096];
    for (at, bytes) in fields {
        page[*at..][..bytes.len()].copy_from_slice(bytes);
    }
    page.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word).into()).collect()
}

/// No field is wider than four bytes, so a 32-bit frontend has each of them at the same offset as a 64-bit one.
#[test]
fn rings_of_32_bit_frontends_have_every_field_in_the_same_place() {
    let two = 2_u32.to_le_bytes();
    // Indices in the first 16 bytes, the first slot at 64; slots of 12, 8 and 16 bytes.
    let tx = page(&[(0, &two), (76, &[1, 0, 0, 0]), (80, &[2, 0]), (82, &[4, 0]), (84, &[3, 0]), (86, &[60, 0])]);
    let mut tx = BackRing::<Tx, _>::attach(tx).unwrap();
    tx.take_request().unwrap();
    let request = tx.take_request().unwrap().unwrap().0.request();
    assert_eq!((request.gref.into_raw(), request.offset, request.id, request.size), (1, 2, 3, 60));
    assert!(request.flags.more_data());
    assert_eq!(tx.nr_ents(), 256);

    let mut rx = BackRing::<Rx, _>::attach(page(&[(0, &two), (72, &[5, 0]), (76, &[6, 0, 0, 0])])).unwrap();
    rx.take_request().unwrap();
    let request = rx.take_request().unwrap().unwrap().0;
    assert_eq!((request.id, request.gref.into_raw()), (5, 6));
    assert_eq!(rx.nr_ents(), 256);

    let fields: [(usize, &[u8]); 6] =
        [(0, &two), (80, &[7, 0]), (82, &[6, 0]), (84, &[8, 0, 0, 0]), (88, &[9, 0, 0, 0]), (92, &[10, 0, 0, 0])];
    let mut ctrl = BackRing::<Ctrl, _>::attach(page(&fields)).unwrap();
    ctrl.take_request().unwrap();
    let request = ctrl.take_request().unwrap().unwrap().0;
    let command = CtrlCommand::SetMapping { gref: GrantRef::from_raw(8), len: 9, offset: 10 };
    assert_eq!((request.id, request.command), (7, command));
    assert_eq!(ctrl.nr_ents(), 128);
}
