//! Vectors made by npm's notepack, messages of the reference, and messages that nobody should send.

use bytes::Bytes;
use serde_json::Value;

use super::*;
use crate::options::{Limits, Options};
use crate::proto::packet::{self, Kind};
use crate::proto::parser::Outgoing;

/// Made by `tests/npm/msgpack-vectors.mjs`, which explains the columns.
const VECTORS: &str = include_str!("vectors.txt");

fn limits() -> Limits {
    Options::default().limits().expect("defaults hold")
}

fn read(message: &[u8]) -> Result<Packet, Error> {
    decode(message, &limits())
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| {
        let digit = |at: usize| char::from(pair[at]).to_digit(16).expect("a digit") as u8;
        digit(0) << 4 | digit(1)
    };
    digits.chunks(2).map(byte).collect()
}

fn text_bytes(text: &str) -> Vec<u8> {
    assert!(text.len() < 32);
    [&[0xa0 | text.len() as u8], text.as_bytes()].concat()
}

/// `{type: 2, data: ["v", value], nsp: "/"}`.
fn event(value: &[u8]) -> Vec<u8> {
    let (kind, data, nsp) = (text_bytes("type"), text_bytes("data"), text_bytes("nsp"));
    let parts: [&[u8]; 8] =
        [&[0x83], &kind, &[2], &data, &[0x92, 0xa1, b'v'], value, &nsp, &[0xa1, b'/']];
    parts.concat()
}

/// The one argument of [`event`] as it was understood.
fn argument(packet: &Packet) -> &str {
    let (name, args) = packet::event_parts(&packet.data).expect("an event");
    assert_eq!(name, "v");
    args
}

fn written(args: &str, attachments: &[Bytes]) -> Vec<u8> {
    let args = args.as_bytes();
    let packet = Outgoing::Event { name: "v", id: None, args, attachments };
    encode("/", &packet).expect("writes").to_vec()
}

fn rows(how: &str) -> impl Iterator<Item = Vec<&'static str>> {
    let rows = VECTORS.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    rows.filter(move |row| row[0] == how)
}

#[test]
fn t4_values_are_written_as_by_the_reference() {
    let mut count = 0;
    for row in rows("both") {
        let attachments: Vec<Bytes> = row[3..].iter().map(|it| hex(it).into()).collect();
        assert_eq!(written(row[1], &attachments), event(&hex(row[2])), "{row:?}");
        count += 1;
    }
    assert!(count > 70);
}

#[test]
fn t3_t5_values_are_read_as_json_has_them() {
    for row in rows("both").chain(rows("in")) {
        let packet = read(&event(&hex(row[2]))).unwrap_or_else(|error| panic!("{row:?}: {error}"));
        let expected = if row[1].is_empty() { "null" } else { row[1] };
        let json = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
        assert_eq!(json(argument(&packet)), json(expected), "{row:?}");
        let attachments: Vec<Vec<u8>> = row[3..].iter().map(|it| hex(it)).collect();
        assert_eq!(packet.attachments, attachments, "{row:?}");
        // What is read is written as the client would have written what JSON has of it.
        let again = read(&written(argument(&packet), &packet.attachments)).expect("reads");
        assert_eq!(again, packet, "{row:?}");
    }
}

#[test]
fn t4_lengths_at_the_edges_of_formats() {
    let large = Limits { message_bytes_max: 1 << 30, ..limits() };
    for row in rows("sized") {
        let (kind, len) = row[1].split_once(' ').expect("a kind and a length");
        let len: usize = len.parse().expect("a length");
        let (json, attachments) = match kind {
            "str" => (format!("\"{}\"", "s".repeat(len)), vec![]),
            "bin" => (r#"{"_placeholder":true,"num":0}"#.into(), vec![Bytes::from(vec![7; len])]),
            "array" => (format!("[{}]", vec!["null"; len].join(",")), vec![]),
            "map" => {
                let keys: Vec<String> = (0..len).map(|i| format!("\"k{i}\":null")).collect();
                (format!("{{{}}}", keys.join(",")), vec![])
            }
            other => panic!("{other}"),
        };
        let message = written(&json, &attachments);
        let frame = event(&[]).len();
        assert_eq!(message.len() - frame, row[3].parse::<usize>().expect("a number"), "{row:?}");
        let start = event(&[]).len() - text_bytes("nsp").len() - 2;
        assert_eq!(message[start..start + 8], hex(row[2]), "{row:?}");
        let packet = decode(&message, &large).expect("reads");
        assert!(argument(&packet) == json.as_str() && packet.attachments == attachments, "{row:?}");
    }
}

/// Written by a server of the reference (npm socket.io 4.8.4 with the parser 3.0.2), but for `pid`,
/// which it writes as undefined where there is no recovery.
#[test]
fn t1_packets_of_a_server() {
    let attachment = [Bytes::from_static(&[1, 2])];
    let placeholder = br#"1,{"_placeholder":true,"num":0}"#;
    let plain = |name, id, args| Outgoing::Event { name, id, args, attachments: &[] };
    let table: [(&str, Outgoing<'_>, &str); 8] = [
        (
            "/",
            Outgoing::Connect { sid: "0KKiIRUGcNplw5EFAAAA", pid: None },
            "83a47479706500a46461746181a3736964b4304b4b6949525547634e706c7735454641414141
             a36e7370a12f",
        ),
        (
            "/",
            Outgoing::Event { name: "hi", id: None, args: placeholder, attachments: &attachment },
            "83a47479706502a46461746193a2686901c4020102a36e7370a12f",
        ),
        (
            "/",
            plain("ask", Some(0), b"1"),
            "84a47479706502a46461746192a361736b01a2696400a36e7370a12f",
        ),
        ("/", plain("all", None, b"1"), "83a47479706502a46461746192a3616c6c01a36e7370a12f"),
        (
            "/",
            Outgoing::Ack { id: 7, args: br#""x""#, attachments: &[] },
            "84a2696407a47479706503a46461746191a178a36e7370a12f",
        ),
        ("/", Outgoing::Disconnect, "82a47479706501a36e7370a12f"),
        (
            "/no",
            Outgoing::ConnectError { message: "nope", data: Some(r#"{"a":1}"#) },
            "83a47479706504a46461746182a76d657373616765a46e6f7065a46461746181a16101
             a36e7370a32f6e6f",
        ),
        (
            "/no",
            Outgoing::ConnectError { message: "nope", data: None },
            "83a47479706504a46461746181a76d657373616765a46e6f7065a36e7370a32f6e6f",
        ),
    ];
    for (namespace, packet, expected) in table {
        assert_eq!(encode(namespace, &packet).expect("writes"), hex(expected), "{packet:?}");
    }
}

/// A map of the keys and values given as hexadecimal digits, keys as text.
fn map(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut message = vec![0x80 | pairs.len() as u8];
    for (key, value) in pairs {
        message.extend(text_bytes(key));
        message.extend(hex(value));
    }
    message
}

#[test]
fn t1_packets_of_a_client() {
    let nothing = "d40000";
    let packet = |kind, id, data: &str| {
        let (namespace, data) = ("/".into(), data.into());
        Ok(Packet { kind, namespace, id, data, attachments: vec![] })
    };
    let nsp = ("nsp", "a12f");
    let table = [
        // socket.io-client: undefined where there is nothing, and `options` in events.
        (map(&[("type", "00"), ("data", nothing), nsp]), packet(Kind::Connect, None, "")),
        (map(&[("type", "00"), nsp]), packet(Kind::Connect, None, "")),
        (
            map(&[("type", "00"), ("data", "81a16101"), nsp]),
            packet(Kind::Connect, None, r#"{"a":1}"#),
        ),
        (map(&[("type", "01"), nsp]), packet(Kind::Disconnect, None, "")),
        (map(&[("type", "01"), ("data", nothing), nsp]), packet(Kind::Disconnect, None, "")),
        // Python's client.
        (map(&[("type", "01"), ("data", "c0"), nsp]), packet(Kind::Disconnect, None, "")),
        (
            map(&[
                ("type", "02"),
                ("data", "92a16101"),
                ("options", "81a8636f6d7072657373c3"),
                ("id", nothing),
                nsp,
            ]),
            packet(Kind::Event, None, r#"["a",1]"#),
        ),
        (
            map(&[nsp, ("id", "07"), ("data", "9107"), ("type", "02")]),
            packet(Kind::Event, Some(7), "[7]"),
        ),
        (
            map(&[("type", "03"), ("data", "90"), ("id", "00"), nsp]),
            packet(Kind::Ack, Some(0), "[]"),
        ),
        (map(&[("type", "04"), ("data", "a16e"), nsp]), packet(Kind::ConnectError, None, "\"n\"")),
        (map(&[("type", "04"), ("data", "80"), nsp]), packet(Kind::ConnectError, None, "{}")),
        // Number.isInteger holds.
        (
            map(&[
                ("type", "cb4000000000000000"),
                ("data", "91a161"),
                ("id", "cf001fffffffffffff"),
                nsp,
            ]),
            packet(Kind::Event, Some((1 << 53) - 1), r#"["a"]"#),
        ),
        // The last of equal keys; keys that mean nothing.
        (
            map(&[("type", "00"), ("type", "01"), nsp, ("data", "01"), ("data", nothing)]),
            packet(Kind::Disconnect, None, ""),
        ),
        (
            map(&[("x", "94c0c401618190c3d40000"), ("type", "01"), nsp]),
            packet(Kind::Disconnect, None, ""),
        ),
    ];
    for (at, (message, expected)) in table.into_iter().enumerate() {
        assert_eq!(read(&message), expected, "{at}");
    }
}

#[test]
fn t2_what_is_no_packet() {
    use packet::Error::*;
    let nsp = ("nsp", "a12f");
    let event = |data| map(&[("type", "02"), ("data", data), nsp]);
    let id = |id| map(&[("type", "02"), ("data", "91a161"), ("id", id), nsp]);
    let table: Vec<(Vec<u8>, Error)> = vec![
        (vec![], Error::Truncated),
        (hex("c0"), Error::InvalidType),
        (hex("90"), Error::InvalidType),
        (hex("a12f"), Error::InvalidType),
        (hex("80"), Error::InvalidType),
        (map(&[nsp]), Error::InvalidType),
        (map(&[("type", "05"), ("data", "91a161"), nsp]), Error::InvalidType),
        (map(&[("type", "ff"), nsp]), Error::InvalidType),
        (map(&[("type", "a132"), nsp]), Error::InvalidType),
        (map(&[("type", "c2"), nsp]), Error::InvalidType),
        (map(&[("type", "cb3fe0000000000000"), nsp]), Error::InvalidType),
        (map(&[("type", "cb7ff8000000000000"), nsp]), Error::InvalidType),
        (map(&[("type", "9102"), nsp]), Error::InvalidType),
        (map(&[("type", "01")]), Error::InvalidNamespace),
        (map(&[("type", "01"), ("nsp", "c0")]), Error::InvalidNamespace),
        (map(&[("type", "01"), ("nsp", "c4012f")]), Error::InvalidNamespace),
        (map(&[("type", "01"), ("data", "80"), nsp]), InvalidPayload.into()),
        // U-8.
        (map(&[("type", "00"), ("data", "c0"), nsp]), InvalidPayload.into()),
        (map(&[("type", "00"), ("data", "90"), nsp]), InvalidPayload.into()),
        (map(&[("type", "00"), ("data", "a161"), nsp]), InvalidPayload.into()),
        (map(&[("type", "04"), ("data", "90"), nsp]), InvalidPayload.into()),
        (map(&[("type", "04"), nsp]), InvalidPayload.into()),
        (map(&[("type", "02"), nsp]), InvalidPayload.into()),
        (map(&[("type", "03"), ("data", "80"), ("id", "00"), nsp]), InvalidPayload.into()),
        (event("80"), InvalidPayload.into()),
        (event("90"), InvalidPayload.into()),
        (event("a161"), InvalidPayload.into()),
        (event("91c0"), InvalidPayload.into()),
        (event("9180"), InvalidPayload.into()),
        (event("91c40161"), InvalidPayload.into()),
        (event("91d40000"), InvalidPayload.into()),
        (event("91cb7ff8000000000000"), InvalidPayload.into()),
        // A name that is a list would have reached the application by way of toString.
        (event("9191a7636f6e6e656374"), InvalidPayload.into()),
        (event("91aa646973636f6e6e656374"), ReservedEvent.into()),
        (event("91a7636f6e6e656374"), ReservedEvent.into()),
        (event("92ad646973636f6e6e656374696e67a161"), ReservedEvent.into()),
        (event("91ab6e65774c697374656e6572"), ReservedEvent.into()),
        (id("c0"), InvalidId.into()),
        (id("ff"), InvalidId.into()),
        (id("a130"), InvalidId.into()),
        (id("cb3fe0000000000000"), InvalidId.into()),
        (id("cf0020000000000000"), InvalidId.into()),
        // T-8.
        ([&event("91a161")[..], &hex("c0")].concat(), Error::TrailingBytes(1)),
        ([&event("91a161")[..], &event("91a161")].concat(), Error::TrailingBytes(21)),
        (event("92a161c1"), Error::UnknownFormat),
        (event("92a161d40100"), Error::UnknownFormat),
        (event("92a161d5000000"), Error::UnknownFormat),
        (event("92a161d600ffffffff"), Error::UnknownFormat),
        (event("92a161d6ffffffffff"), Error::UnknownFormat),
        (event("92a161d701ffffffffffffffff"), Error::UnknownFormat),
        (event("92a161d8000000000000000000000000000000000000"), Error::UnknownFormat),
        (event("92a161c7010161"), Error::UnknownFormat),
        (event("92a161a1ff"), Error::InvalidText),
        (event("92a161a3eda080"), Error::InvalidText),
        (event("92a16181c0c0"), Error::InvalidKey),
        (event("92a1618190c0"), Error::InvalidKey),
        (event("92a16181c40161c0"), Error::InvalidKey),
    ];
    for (message, expected) in table {
        assert_eq!(read(&message), Err(expected), "{message:02x?}");
    }
}

/// The bombs: each a few bytes that speak of many.
#[test]
fn t8_lengths_beyond_the_message() {
    for head in [
        "dd ffffffff",
        "df ffffffff",
        "dc ffff",
        "de ffff",
        "c6 ffffffff",
        "c9 ffffffff 00",
        "db ffffffff",
        "9f",
        "8f",
        "bf",
        "c4 ff",
        "da ffff",
        "dd 80000000",
        "df 7fffffff",
    ] {
        // As the message, as data, as a value, as an extra key and within one.
        let bomb = hex(head);
        assert!(read(&bomb).is_err(), "{head}");
        assert_eq!(read(&event(&bomb)), Err(Error::Truncated), "{head}");
        for key in ["data", "x", "type", "id", "nsp"] {
            let message = [&[0x81][..], &text_bytes(key), &bomb].concat();
            assert_eq!(read(&message), Err(Error::Truncated), "{head} {key}");
        }
    }
}

#[test]
fn t8_a_message_cut_at_any_byte() {
    let value = hex(
        "86 a1 61 93 01 cd 0100 cb 3ff199999999999a a1 62 c4 02 0102 a1 63 d7 00 0000000000000005
        a1 64 d40000 a1 65 d9 01 61 a1 66 81 ff c7 01 00 09",
    );
    let message = event(&value);
    assert_eq!(read(&message).map(|packet| packet.attachments.len()), Ok(2));
    for end in 0..message.len() {
        assert_eq!(read(&message[..end]), Err(Error::Truncated), "{end}");
    }
    // Any byte changed: an answer, whatever it is.
    for at in 0..message.len() {
        for byte in 0..=255 {
            let mut changed = message.clone();
            changed[at] = byte;
            if let Ok(packet) = read(&changed) {
                assert!(
                    packet.data.is_empty() || serde_json::from_str::<Value>(&packet.data).is_ok()
                );
            }
        }
    }
}

#[test]
fn w20_nesting() {
    let nested = |open: u8, key: &[u8], depth: usize| {
        let mut value = [&[open][..], key].concat().repeat(depth);
        value.push(0xc0);
        event(&value)
    };
    for (open, key) in [(0x91, &b""[..]), (0x81, &b"\xa1a"[..])] {
        // The data's own bracket is one of them.
        assert!(read(&nested(open, key, 127)).is_ok());
        assert_eq!(read(&nested(open, key, 128)), Err(packet::Error::TooDeep.into()));
        assert_eq!(read(&nested(open, key, 300_000)), Err(packet::Error::TooDeep.into()));
    }
    // What means nothing is passed over, however deep it is.
    let options = [&[0x81, 0xa1, b'x'][..], &vec![0x91; 500_000], &[0xc0]].concat();
    assert_eq!(read(&options), Err(Error::InvalidType));
}

#[test]
fn i9_an_object_that_looks_like_a_placeholder() {
    let fake = "82 ac 5f706c616365686f6c646572 c3 a3 6e756d 00";
    // Alone it is an object like any other, both ways.
    let packet = read(&event(&hex(fake))).expect("reads");
    assert_eq!(argument(&packet), r#"{"_placeholder":true,"num":0}"#);
    assert_eq!(written(argument(&packet), &[]), event(&hex(fake)));
    // Beside bytes it would pass for them.
    for value in [format!("92 c4 01 61 {fake}"), format!("92 {fake} c4 01 61")] {
        let expected = Err(packet::Error::IllegalAttachments.into());
        assert_eq!(read(&event(&hex(&value))), expected, "{value}");
    }
    let marked = "92 c4 01 61 81 ac 5f706c616365686f6c646572";
    assert!(read(&event(&hex(&format!("{marked} c3")))).is_err());
    assert!(read(&event(&hex(&format!("{marked} c2")))).is_ok());
    assert!(read(&event(&hex(&format!("{marked} 01")))).is_ok());
}

#[test]
fn t8_binary_values_are_bounded() {
    let many = |count: u16| {
        let [high, low] = count.to_be_bytes();
        event(&[&[0xdc, high, low][..], &[0xc4, 0].repeat(count.into())].concat())
    };
    assert_eq!(read(&many(1_024)).expect("reads").attachments.len(), BINARIES_MAX);
    assert_eq!(read(&many(1_025)), Err(packet::Error::TooManyAttachments.into()));
    let small = Limits { attachments_bytes_max: 2, ..limits() };
    assert!(decode(&event(&hex("92c40161c40161")), &small).is_ok());
    let expected = Err(packet::Error::AttachmentsTooLarge.into());
    assert_eq!(decode(&event(&hex("92c40161c4026161")), &small), expected);
}

/// A hundred thousand keys of one name cost what as many of different names cost.
#[test]
fn t8_equal_keys() {
    let mut value = vec![0xdf, 0, 1, 0x86, 0xa0];
    value.extend(b"\xa1a\x01".repeat(100_000));
    let packet = read(&event(&value)).expect("reads");
    assert_eq!(packet.data.len(), r#"["v",{}]"#.len() + 100_000 * r#""a":1,"#.len() - 1);
    let mut packets = vec![0xdf, 0, 1, 0x86, 0xa2];
    packets.extend([&text_bytes("data")[..], &hex("92a161c40161")].concat().repeat(100_000));
    packets.extend([&text_bytes("type")[..], &[2], &text_bytes("nsp"), &hex("a12f")].concat());
    assert_eq!(read(&packets).expect("reads").attachments.len(), 1);
}

/// An attachment that is named twice is written twice, up to a bound.
#[test]
fn i9_repeated_placeholders_are_bounded() {
    let placeholder = r#"{"num":0,"x":[{}],"_pl\u0061ceholder":true}"#;
    let attachment = [Bytes::from_static(b"a")];
    let expected = event(&hex("92 c40161 92 c40161 90"));
    let args = format!("[{placeholder},[{placeholder},[]]]");
    assert_eq!(written(&args, &attachment), expected);
    // One that names none is an object.
    let absent = r#"{"_placeholder":true,"num":1}"#;
    let packet = read(&written(absent, &attachment)).expect("reads");
    assert_eq!((argument(&packet), packet.attachments.len()), (absent, 0));

    let large = [Bytes::from(vec![0; 1 << 20])];
    let many = |count| format!("[{}]", vec![r#"{"_placeholder":true,"num":0}"#; count].join(","));
    assert_eq!(written(&many(17), &large).len(), 17 * ((1 << 20) + 5) + event(&[0; 3]).len());
    let args = many(18);
    let packet =
        Outgoing::Event { name: "v", id: None, args: args.as_bytes(), attachments: &large };
    assert!(encode("/", &packet).is_err());
}

/// Numbers of JSON that no JavaScript client writes.
#[test]
fn t4_numbers_of_other_writers() {
    for (json, expected) in [
        ("18446744073709551615", "cf ffffffffffffffff"),
        ("9007199254740993", "cf 0020000000000001"),
        ("-9223372036854775808", "d3 8000000000000000"),
        ("18446744073709551616", "cb 43f0000000000000"),
        ("-9223372036854775809", "d3 8000000000000000"),
        ("1e20", "cb 4415af1d78b58c40"),
        ("1e999", "cb 7ff0000000000000"),
        ("-1e999", "cb fff0000000000000"),
        ("1.0", "01"),
        ("-1.0", "ff"),
        ("1e3", "cd 03e8"),
        ("-0", "00"),
        ("-0.0", "00"),
        ("0e5", "00"),
        ("1.5e0", "cb 3ff8000000000000"),
    ] {
        assert_eq!(written(json, &[]), event(&hex(expected)), "{json}");
    }
    // All digits of 64-bit integers are kept both ways.
    for value in ["cf ffffffffffffffff", "cf 0020000000000001", "d3 8000000000000000"] {
        let packet = read(&event(&hex(value))).expect("reads");
        assert_eq!(written(argument(&packet), &[]), event(&hex(value)), "{value}");
    }
    let surrogate = written(r#""\ud800""#, &[]);
    assert_eq!(surrogate, event(&hex("a3 efbfbd")), "JSON can say it, UTF-8 cannot");
}

/// Another implementation reads the same, and writes the same.
#[test]
fn rmpv_agrees() {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..2_000 {
        let json = random_json(&mut random, 0);
        let text = json.to_string();
        let message = written(&text, &[]);
        let mut rest = &message[..];
        let value = rmpv::decode::read_value(&mut rest).expect("reads");
        assert!(rest.is_empty());
        let found = value["data"][1].to_owned();
        assert_eq!(found, as_rmpv(&json), "{text}");
        // Text of more formats than ours: rmpv's own writer.
        let mut theirs = Vec::new();
        rmpv::encode::write_value(&mut theirs, &value).expect("writes");
        let packet = read(&theirs).expect("reads");
        assert_eq!(serde_json::from_str::<Value>(argument(&packet)).expect("JSON"), json);
    }
}

fn random_json(random: &mut fastrand::Rng, depth: u32) -> Value {
    let text = |random: &mut fastrand::Rng| -> String {
        let len = random.usize(..40);
        (0..len).map(|_| random.char(..)).collect()
    };
    match random.u32(if depth > 4 { 0..6 } else { 0..8 }) {
        0 => Value::Null,
        1 => random.bool().into(),
        2 => (random.i64(..) >> random.u32(..64)).into(),
        3 => (random.u64(..) >> random.u32(..64)).into(),
        // Always with a fraction: JSON's 1.0 is an integer to JavaScript.
        4 => (f64::from(random.i32(-1_000_000..1_000_000)) + 0.25).into(),
        5 => text(random).into(),
        6 => (0..random.usize(..20)).map(|_| random_json(random, depth + 1)).collect(),
        _ => {
            let pair = |random: &mut fastrand::Rng| (text(random), random_json(random, depth + 1));
            let pairs = (0..random.usize(..20)).map(|_| pair(random));
            pairs.collect::<serde_json::Map<_, _>>().into()
        }
    }
}

fn as_rmpv(json: &Value) -> rmpv::Value {
    match json {
        Value::Null => rmpv::Value::Nil,
        Value::Bool(value) => (*value).into(),
        Value::Number(value) => match (value.as_u64(), value.as_i64(), value.as_f64()) {
            (Some(value), ..) => value.into(),
            (_, Some(value), _) => value.into(),
            (.., value) => value.expect("a float").into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(values) => values.iter().map(as_rmpv).collect::<Vec<_>>().into(),
        Value::Object(pairs) => {
            let pairs = pairs.iter().map(|(key, value)| (key.as_str().into(), as_rmpv(value)));
            rmpv::Value::Map(pairs.collect())
        }
    }
}
