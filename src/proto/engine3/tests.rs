//! Byte vectors of H-2 to H-6 and H-18, and what must be linear.

use super::*;

/// The packets of a binary payload, as text.
fn said(body: &[u8]) -> Vec<String> {
    let packet = |item: Result<Item<'_>, Malformed>| {
        format!("{:?}", item.as_ref().map_err(|error| *error).and_then(Item::packet))
    };
    binary_payload(body).map(packet).collect()
}

type Packets<'a> = Vec<Result<Packet<'a>, Malformed>>;

fn binary(bytes: &[u8]) -> Result<Packet<'_>, Malformed> {
    Ok(Packet::Binary(bytes.into()))
}

#[test]
fn h2_lengths_count_utf16_code_units() {
    let table: &[(&str, Packets<'_>)] = &[
        ("2:40", vec![Ok(Packet::Message("0"))]),
        ("1:22:40", vec![Ok(Packet::Ping("")), Ok(Packet::Message("0"))]),
        ("6:2probe1:6", vec![Ok(Packet::Ping("probe")), Ok(Packet::Noop)]),
        ("2:4é1:1", vec![Ok(Packet::Message("é")), Ok(Packet::Close)]),
        ("3:4é1:1", vec![Ok(Packet::Message("é1")), Err(Malformed)]),
        // One character beyond the basic plane is two code units, four bytes.
        ("3:4😀2:4€", vec![Ok(Packet::Message("😀")), Ok(Packet::Message("€"))]),
        ("002:4a", vec![Ok(Packet::Message("a"))]),
        // No packets.
        ("0:", vec![]),
        ("0:0:2:4a0:", vec![Ok(Packet::Message("a"))]),
    ];
    for (body, expected) in table {
        assert_eq!(&payload(body).collect::<Vec<_>>(), expected, "{body}");
    }
}

#[test]
fn h3_base64_items() {
    assert_eq!(payload("10:b4AQIDBA==").collect::<Vec<_>>(), [binary(&[1, 2, 3, 4])]);
    assert_eq!(payload("2:b41:3").collect::<Vec<_>>(), [binary(&[]), Ok(Packet::Pong)]);
    assert_eq!(decode("b6AQ"), Ok(Packet::Noop));
    for bad in ["b", "bAQID", "b7AQ", "7", "é"] {
        assert_eq!(decode(bad), Err(Malformed), "{bad}");
    }
}

#[test]
fn h4_h5_binary_payloads() {
    let body = [
        &[0, 3, 255][..],
        "4é".as_bytes(),
        &[1, 5, 255, 4, 1, 2, 3, 4],
        &[1, 0, 1, 255, 4],
        &[0, 0, 255],
        &[0, 6, 255],
        b"b4AQI=",
        &[1, 1, 255, 2],
    ]
    .concat();
    let expected = [
        Ok(Packet::Message("é")),
        binary(&[1, 2, 3, 4]),
        binary(&[]),
        binary(&[1, 2]),
        Ok(Packet::Ping("")),
    ];
    assert_eq!(said(&body), expected.map(|packet| format!("{packet:?}")));
}

#[test]
fn h15_text_that_is_no_utf8() {
    let body = [0, 5, 255, b'4', b'a', 0xED, 0xA0, 0x80, 0, 2, 255, b'4', 0xFF];
    assert_eq!(
        said(&body),
        ["Ok(Message(\"a\u{fffd}\u{fffd}\u{fffd}\"))", "Ok(Message(\"\u{fffd}\"))"]
    );
}

#[test]
fn h6_the_type_is_the_first_byte() {
    assert_eq!(decode_binary(&[4, 9]), binary(&[9]));
    assert_eq!(decode_binary(&[2, 9]), Ok(Packet::Ping("")));
    assert_eq!(decode_binary(&[1]), Ok(Packet::Close));
    for bad in [&[][..], &[7], &[b'4', 1]] {
        assert_eq!(decode_binary(bad), Err(Malformed), "{bad:?}");
    }
    let (mut frame, mut text) = (Vec::new(), Vec::new());
    encode_binary(&[1, 2], &mut frame);
    encode_base64(&[1, 2], &mut text);
    assert_eq!((frame.as_slice(), text.as_slice()), (&[4, 1, 2][..], &b"b4AQI="[..]));
}

/// What the reference takes for a number, and what is none (W-19, H-18).
#[test]
fn w19_h18_lengths_are_digits_few_and_true() {
    let digits = format!("{}2:40", "0".repeat(9));
    assert_eq!(payload(&digits).count(), 1);
    let too_many = format!("{}:40", "1".repeat(11));
    let endless = "1".repeat(100_000);
    for bad in [
        "",
        ":",
        ":40",
        "2",
        "2.0:40",
        "0x2:40",
        " 2:40",
        "+2:40",
        "-2:40",
        "2e0:40",
        "٢:40",
        "3:40",
        "9999999999:40",
        "1:😀",
        "2:4😀",
        "4",
        &too_many,
        &endless,
    ] {
        let found: Packets<'_> = payload(bad).collect();
        assert_eq!(found, [Err(Malformed)], "{bad}");
    }
    assert_eq!(payload("2:4a2:4").collect::<Vec<_>>(), [Ok(Packet::Message("a")), Err(Malformed)]);
    let endless = [&[1][..], &[9; 100_000]].concat();
    for bad in [
        &[][..],
        &[0],
        &[2, 1, 255, 4],
        &[0, 255, 4],
        &[0, 1, 4],
        &[0, 2, 255, b'4'],
        &[0, 10, 255, b'4'],
        &[1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 255, 4],
        &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 255, 4],
        &endless,
    ] {
        assert_eq!(said(bad), ["Err(Malformed)"], "{bad:?}");
    }
}

#[test]
fn h2_h3_h4_payloads_out() {
    let plain = "0{\"sid\":1}\x1e42[\"é😀\"]\x1e6";
    let mixed = "451-[{\"_placeholder\":true,\"num\":0}]\x1ebAQIDBA==";
    let mut out = Vec::new();
    assert!(!encode_payload(plain.as_bytes(), false, &mut out));
    assert_eq!(String::from_utf8(out).expect("text"), "10:0{\"sid\":1}9:42[\"é😀\"]1:6");
    let mut out = Vec::new();
    assert!(!encode_payload(mixed.as_bytes(), true, &mut out));
    let text = "35:451-[{\"_placeholder\":true,\"num\":0}]10:b4AQIDBA==";
    assert_eq!(String::from_utf8(out).expect("text"), text);
    let mut out = Vec::new();
    assert!(encode_payload(mixed.as_bytes(), false, &mut out));
    let head = &mixed.as_bytes()[..35];
    assert_eq!(out, [&[0, 3, 5, 255][..], head, &[1, 5, 255, 4, 1, 2, 3, 4]].concat());
}

/// Both forms, through both directions.
#[test]
fn payloads_round_trip() {
    let mut random = fastrand::Rng::with_seed(3);
    let alphabet = ['a', 'é', '€', '😀', '"', '\n', 'b', '4'];
    for round in 0..500 {
        let mut payload4 = Vec::new();
        let mut expected = Vec::new();
        for at in 0..random.usize(1..6) {
            if at > 0 {
                payload4.push(SEPARATOR);
            }
            if random.bool() {
                let len = random.usize(0..12);
                let text: String = (0..len).map(|_| alphabet[random.usize(0..8)]).collect();
                payload4.push(b'4');
                payload4.extend_from_slice(text.as_bytes());
                expected.push(format!("text {text}"));
            } else {
                let len = random.usize(0..300);
                let bytes: Vec<u8> = (0..len).map(|_| random.u8(..)).collect();
                engine::encode_base64(&bytes, &mut payload4);
                expected.push(format!("bytes {bytes:?}"));
            }
        }
        let mut out = Vec::new();
        fn name(packet: Result<Packet<'_>, Malformed>) -> String {
            match packet {
                Ok(Packet::Message(text)) => format!("text {text}"),
                Ok(Packet::Binary(bytes)) => format!("bytes {bytes:?}"),
                other => format!("{other:?}"),
            }
        }
        let found: Vec<String> = match encode_payload(&payload4, round % 2 == 0, &mut out) {
            true => binary_payload(&out)
                .map(|item| name(item.as_ref().map_err(|error| *error).and_then(Item::packet)))
                .collect(),
            false => payload(std::str::from_utf8(&out).expect("text")).map(name).collect(),
        };
        assert_eq!(found, expected);
    }
}

#[test]
fn no_truncation_or_mutation_panics() {
    let mut random = fastrand::Rng::with_seed(9);
    let seeds: [&[u8]; 3] = [
        "13:42[\"a\",\"é😀\"]10:b4AQIDBA==1:20:".as_bytes(),
        &[0, 2, 255, b'4', b'2', 1, 5, 255, 4, 1, 2, 3, 4, 0, 0, 255],
        &[1, 1, 0, 255, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 255, 2],
    ];
    for _ in 0..50_000 {
        let mut bytes = seeds[random.usize(0..3)].to_vec();
        for _ in 0..random.usize(0..4) {
            let at = random.usize(0..bytes.len());
            bytes[at] = random.u8(..);
        }
        bytes.truncate(random.usize(0..=bytes.len()));
        let text = String::from_utf8_lossy(&bytes);
        let errors = |packets: Packets<'_>| {
            // An error is the last of all.
            let found = packets.iter().position(Result::is_err);
            assert!(found.is_none_or(|at| at + 1 == packets.len()), "{bytes:?}");
        };
        errors(payload(&text).collect());
        let found = said(&bytes);
        let error = found.iter().position(|packet| packet == "Err(Malformed)");
        assert!(error.is_none() || !found.is_empty());
        let _ = (decode(&text), decode_binary(&bytes));
        encode_payload(&bytes, random.bool(), &mut Vec::new());
    }
}

/// A million empty packets are passed over without recursion and in linear time: quadratic would
/// not end.
#[test]
fn empty_packets_cost_no_more_than_their_bytes() {
    assert_eq!(payload(&"0:".repeat(500_000)).count(), 0);
    assert_eq!(binary_payload(&[0, 0, 255].repeat(300_000)).count(), 0);
    assert_eq!(payload(&"1:6".repeat(300_000)).count(), 300_000);
}
