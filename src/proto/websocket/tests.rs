//! Tables of bytes and messages, after the cases of Autobahn's groups 1 to 7.

use super::*;
use crate::Options;
use crate::proto::http::parse_head;

const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
const FIN: u8 = 0x80;
const MORE: u8 = 0x00;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

fn limits() -> Limits {
    Limits { message_bytes_max: 100_000, ..Options::default().limits().expect("defaults hold") }
}

/// A client's header: `first` is FIN, reserved bits and opcode.
fn header(first: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![first];
    match length {
        0..=125 => bytes.push(0x80 | length as u8),
        126..=65_535 => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&length.to_be_bytes());
        }
    }
    bytes.extend_from_slice(&MASK);
    bytes
}

fn masked(payload: &[u8]) -> impl Iterator<Item = u8> + '_ {
    payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key)
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, payload.len() as u64);
    bytes.extend(masked(payload));
    bytes
}

fn frames(list: &[(u8, &[u8])]) -> Vec<u8> {
    list.iter().flat_map(|(first, payload)| frame(*first, payload)).collect()
}

/// What arrived, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Got {
    Text(String),
    Binary(Vec<u8>),
    Deflated(bool, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>),
    Error(Error),
}

impl Got {
    fn of(result: Result<Message<'_>, Error>) -> Got {
        match result {
            Ok(Message::Text(text)) => Got::Text(text.into()),
            Ok(Message::Binary(bytes)) => Got::Binary(bytes.into()),
            Ok(Message::Deflated { is_text, payload }) => Got::Deflated(is_text, payload.into()),
            Ok(Message::Ping(bytes)) => Got::Ping(bytes.into()),
            Ok(Message::Pong(bytes)) => Got::Pong(bytes.into()),
            Ok(Message::Close(code, _)) => Got::Close(code),
            Err(error) => Got::Error(error),
        }
    }
}

fn text(text: &str) -> Got {
    Got::Text(text.into())
}

fn feed(decoder: &mut Decoder, piece: &[u8], got: &mut Vec<Got>) {
    let mut input = piece.to_vec();
    let mut at = 0;
    while let Some(result) = decoder.next(&mut input, &mut at, &limits()).transpose() {
        let failed = result.is_err();
        got.push(Got::of(result));
        if failed {
            return;
        }
    }
    assert_eq!(at, input.len(), "all input is consumed");
}

fn decode_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Got>, Decoder) {
    let (mut decoder, mut got) = (Decoder::new(), Vec::new());
    for piece in pieces {
        if !matches!(got.last(), Some(Got::Error(_))) {
            feed(&mut decoder, piece, &mut got);
        }
    }
    (got, decoder)
}

/// Decodes whole, cut at every offset (for long streams: near the ends) and byte by byte.
fn decode(wire: &[u8]) -> Vec<Got> {
    let (whole, _) = decode_pieces([wire]);
    let near = |cut: &usize| *cut < 200 || *cut + 50 > wire.len();
    for cut in (0..=wire.len()).filter(near) {
        let (split, _) = decode_pieces([&wire[..cut], &wire[cut..]]);
        assert_eq!(split, whole, "at {cut}");
    }
    let (bytes, _) = decode_pieces(wire.chunks(1));
    assert_eq!(bytes, whole, "byte by byte");
    whole
}

#[test]
fn lengths() {
    for length in [0, 1, 7, 8, 9, 124, 125, 126, 127, 128, 1_000, 65_535, 65_536, 100_000] {
        let payload: String = ('a'..='z').cycle().take(length).collect();
        assert_eq!(decode(&frame(FIN | TEXT, payload.as_bytes())), [text(&payload)], "{length}");
        let bytes: Vec<u8> = (0..length).map(|at| at as u8).collect();
        assert_eq!(decode(&frame(FIN | BINARY, &bytes)), [Got::Binary(bytes)], "{length}");
    }
    // Longer forms than needed are unambiguous and accepted, as by `ws`.
    let longer: [&[u8]; 2] = [b"\x81\xfe\x00\x02", b"\x81\xff\x00\x00\x00\x00\x00\x00\x00\x02"];
    for form in longer {
        let wire: Vec<u8> = form.iter().chain(&MASK).copied().chain(masked(b"hi")).collect();
        assert_eq!(decode(&wire), [text("hi")]);
    }
}

#[test]
fn control_frames() {
    for length in [0, 1, 124, 125] {
        let payload = vec![0xFE; length];
        assert_eq!(decode(&frame(FIN | PING, &payload)), [Got::Ping(payload.clone())]);
        assert_eq!(decode(&frame(FIN | PONG, &payload)), [Got::Pong(payload.clone())]);
    }
    let mixed =
        frames(&[(FIN | PING, b"1"), (FIN | TEXT, b"2"), (FIN | PONG, b""), (FIN | PING, b"3")]);
    let expected = [Got::Ping(b"1".into()), text("2"), Got::Pong(vec![]), Got::Ping(b"3".into())];
    assert_eq!(decode(&mixed), expected);
}

/// Frames, and what comes of them.
type Row<'a> = (&'a [(u8, &'a [u8])], &'a [Got]);

#[test]
fn fragments() {
    let rows: &[Row<'_>] = &[
        (&[(MORE | TEXT, b"a"), (FIN | CONTINUATION, b"b")], &[text("ab")]),
        (&[(MORE | TEXT, b""), (FIN | CONTINUATION, b"")], &[text("")]),
        (
            &[(MORE | TEXT, b""), (MORE | CONTINUATION, b"m"), (FIN | CONTINUATION, b"")],
            &[text("m")],
        ),
        (
            &[(MORE | BINARY, b"\xff"), (MORE | CONTINUATION, b""), (FIN | CONTINUATION, b"\0")],
            &[Got::Binary(vec![0xFF, 0])],
        ),
        (
            &[
                (MORE | TEXT, b"a"),
                (FIN | PING, b"p"),
                (MORE | CONTINUATION, b"b"),
                (FIN | PONG, b""),
                (FIN | PING, b"q"),
                (FIN | CONTINUATION, b"c"),
                (FIN | TEXT, b"next"),
            ],
            &[
                Got::Ping(b"p".to_vec()),
                Got::Pong(vec![]),
                Got::Ping(b"q".to_vec()),
                text("abc"),
                text("next"),
            ],
        ),
        (
            &[(MORE | TEXT, b"a"), (FIN | CLOSE, b"\x03\xe8"), (FIN | CONTINUATION, b"b")],
            &[Got::Close(Some(1000)), text("ab")],
        ),
        (
            &[(MORE | TEXT, b"\xce\xba\xe1"), (FIN | CONTINUATION, b"\xbd\xb9")],
            &[text("\u{3ba}\u{1f79}")],
        ),
        (
            &[
                (MORE | TEXT, b"\xf0"),
                (MORE | CONTINUATION, b"\x9f"),
                (FIN | PING, b"\xf0"),
                (MORE | CONTINUATION, b"\x98"),
                (FIN | CONTINUATION, b"\x80"),
            ],
            &[Got::Ping(vec![0xF0]), text("\u{1f600}")],
        ),
    ];
    for (list, expected) in rows {
        assert_eq!(decode(&frames(list)), *expected, "{list:?}");
    }
}

#[test]
fn fragments_out_of_order() {
    let rows: &[Row<'_>] = &[
        (&[(FIN | CONTINUATION, b"a")], &[Got::Error(Error::UnexpectedContinuation)]),
        (&[(MORE | CONTINUATION, b"a")], &[Got::Error(Error::UnexpectedContinuation)]),
        (
            &[(FIN | TEXT, b"a"), (FIN | CONTINUATION, b"b")],
            &[text("a"), Got::Error(Error::UnexpectedContinuation)],
        ),
        (
            &[(MORE | TEXT, b"a"), (FIN | CONTINUATION, b"b"), (FIN | CONTINUATION, b"c")],
            &[text("ab"), Got::Error(Error::UnexpectedContinuation)],
        ),
        (&[(MORE | TEXT, b"a"), (FIN | TEXT, b"b")], &[Got::Error(Error::ExpectedContinuation)]),
        (
            &[(MORE | BINARY, b"a"), (MORE | BINARY, b"b")],
            &[Got::Error(Error::ExpectedContinuation)],
        ),
        (
            &[(MORE | TEXT, b"a"), (FIN | PING, b""), (FIN | BINARY, b"")],
            &[Got::Ping(vec![]), Got::Error(Error::ExpectedContinuation)],
        ),
    ];
    for (list, expected) in rows {
        assert_eq!(decode(&frames(list)), *expected, "{list:?}");
    }
}

#[test]
fn headers_refused() {
    let mut rows: Vec<(Vec<u8>, Error)> = vec![
        (b"\x81\x00".to_vec(), Error::UnmaskedFrame),
        (b"\x81\x05hello".to_vec(), Error::UnmaskedFrame),
        (b"\x82\x7e\x01\x00".to_vec(), Error::UnmaskedFrame),
        (b"\x88\x00".to_vec(), Error::UnmaskedFrame),
        (frame(PING, b""), Error::FragmentedControl),
        (frame(PONG, b"x"), Error::FragmentedControl),
        (frame(CLOSE, b""), Error::FragmentedControl),
        (header(FIN | PING, 126), Error::ControlTooLong),
        (header(FIN | PONG, 65_536), Error::ControlTooLong),
        (header(FIN | CLOSE, 126), Error::ControlTooLong),
        (header(FIN | TEXT, 1 << 63), Error::LengthTopBit),
        (header(FIN | TEXT, u64::MAX), Error::LengthTopBit),
        (header(FIN | TEXT, (1 << 63) - 1), Error::TooBig),
        (header(FIN | TEXT, 100_001), Error::TooBig),
        (header(MORE | BINARY, 100_001), Error::TooBig),
    ];
    for bits in 1..8u8 {
        rows.push((frame(FIN | bits << 4 | TEXT, b"x"), Error::ReservedBits));
        rows.push((frame(bits << 4 | PING, b""), Error::ReservedBits));
    }
    for opcode in (3..8).chain(11..16) {
        rows.push((frame(FIN | opcode, b""), Error::ReservedOpcode));
        rows.push((frame(MORE | opcode, b"x"), Error::ReservedOpcode));
    }
    for (wire, error) in rows {
        assert_eq!(decode(&wire), [Got::Error(error)], "{wire:x?}");
        let after = [frame(FIN | TEXT, b"ok"), wire].concat();
        assert_eq!(decode(&after), [text("ok"), Got::Error(error)], "{after:x?}");
    }
}

/// Decided by the first byte, or the first two, without waiting for the rest of the header.
#[test]
fn headers_fail_fast() {
    let rows: [(&[u8], Error); 6] = [
        (b"\xc1", Error::ReservedBits),
        (b"\x83", Error::ReservedOpcode),
        (b"\x09", Error::FragmentedControl),
        (b"\x81\x7f", Error::UnmaskedFrame),
        (b"\x89\xfe", Error::ControlTooLong),
        (b"\x81\xff\x80\x00\x00\x00\x00\x00\x00\x00", Error::LengthTopBit),
    ];
    for (wire, error) in rows {
        assert_eq!(decode_pieces([wire]).0, [Got::Error(error)]);
        assert_eq!(decode_pieces(wire.chunks(1)).0, [Got::Error(error)]);
    }
}

#[test]
fn utf8() {
    let good: [&[u8]; 8] = [
        b"",
        b"\0",
        "Hello-µ@ßöäüàá-UTF-8!!".as_bytes(),
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5",
        b"\xed\x9f\xbf\xee\x80\x80",
        b"\xef\xbf\xbd\xef\xbf\xbe\xef\xbf\xbf",
        b"\xf0\x90\x80\x80",
        b"\xf4\x8f\xbf\xbf",
    ];
    for bytes in good {
        let expected = [text(std::str::from_utf8(bytes).expect("valid"))];
        assert_eq!(decode(&frame(FIN | TEXT, bytes)), expected, "{bytes:x?}");
        for cut in 0..=bytes.len() {
            let (front, back) = bytes.split_at(cut);
            let wire = frames(&[(MORE | TEXT, front), (FIN | CONTINUATION, back)]);
            assert_eq!(decode(&wire), expected, "{bytes:x?} {cut}");
        }
    }
    let bad: [&[u8]; 16] = [
        b"\x80",
        b"\xbf",
        b"\xc0\xaf",
        b"\xc1\x81",
        b"\xc3",
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
        b"\xe0\x80\xaf",
        b"\xe1\xbd",
        b"\xed\xa0\x80",
        b"\xed\xaf\xbf\xed\xbf\xbf",
        b"\xf0\x80\x80\xaf",
        b"\xf4\x90\x80\x80",
        b"\xf5\x80\x80\x80",
        b"\xf8\x88\x80\x80\x80",
        b"\xfe",
        b"ok\xff",
    ];
    for bytes in bad {
        let expected = [Got::Error(Error::InvalidUtf8)];
        assert_eq!(decode(&frame(FIN | TEXT, bytes)), expected, "{bytes:x?}");
        for cut in 0..=bytes.len() {
            let (front, back) = bytes.split_at(cut);
            let wire = frames(&[(MORE | TEXT, front), (FIN | CONTINUATION, back)]);
            assert_eq!(decode(&wire), expected, "{bytes:x?} {cut}");
        }
        let decoded = decode(&frame(FIN | BINARY, bytes));
        assert_eq!(decoded, [Got::Binary(bytes.to_vec())], "binary is not text");
    }
}

/// Autobahn 6.4.1 to 6.4.4: bytes that nothing can repair fail while the frame is incomplete.
#[test]
fn utf8_fails_fast() {
    let start = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5";
    let wire = frames(&[(MORE | TEXT, start), (MORE | CONTINUATION, b"\xf4\x90")]);
    assert_eq!(decode_pieces([&wire[..]]).0, [Got::Error(Error::InvalidUtf8)], "6.4.1");
    let mut one = header(FIN | TEXT, 1_000);
    one.extend(masked(&[start.as_slice(), b"\xf4"].concat()));
    let (got, decoder) = decode_pieces([&one[..]]);
    assert!(got.is_empty() && !decoder.is_idle(), "6.4.3: may still become a character");
    let bad: Vec<u8> = header(FIN | TEXT, 1_000)
        .into_iter()
        .chain(masked(&[start.as_slice(), b"\xf4\x90"].concat()))
        .collect();
    for pieces in [vec![&bad[..]], bad.chunks(1).collect()] {
        assert_eq!(decode_pieces(pieces).0, [Got::Error(Error::InvalidUtf8)], "6.4.4");
    }
}

#[test]
fn closes() {
    let valid = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013];
    for code in valid.into_iter().chain([3000, 3999, 4000, 4999]) {
        let bytes = u16::to_be_bytes(code);
        assert_eq!(decode(&frame(FIN | CLOSE, &bytes)), [Got::Close(Some(code))], "{code}");
    }
    let invalid = [0, 1, 999, 1004, 1005, 1006, 1014, 1015, 1016, 1100, 2000, 2999, 5000, 65_535];
    for code in invalid {
        let bytes = u16::to_be_bytes(code);
        let expected = [Got::Error(Error::InvalidCloseCode)];
        assert_eq!(decode(&frame(FIN | CLOSE, &bytes)), expected, "{code}");
    }
    let longest = [b"\x03\xe8".as_slice(), &[b'x'; 123]].concat();
    let rows: [(&[u8], Got); 7] = [
        (b"", Got::Close(None)),
        (b"\x03", Got::Error(Error::CloseTooShort)),
        (b"\x03\xe8bye", Got::Close(Some(1000))),
        (b"\x03\xe8\xc3\xa9", Got::Close(Some(1000))),
        (&longest, Got::Close(Some(1000))),
        (b"\x03\xe8\xc3", Got::Error(Error::InvalidUtf8)),
        (b"\x03\xe8\xce\xba\xed\xa0\x80", Got::Error(Error::InvalidUtf8)),
    ];
    for (payload, expected) in rows {
        assert_eq!(decode(&frame(FIN | CLOSE, payload)), [expected], "{payload:x?}");
    }
}

#[test]
fn close_codes_of_errors() {
    let rows = [
        (Error::UnmaskedFrame, 1002),
        (Error::LengthTopBit, 1002),
        (Error::InvalidCloseCode, 1002),
        (Error::CloseTooShort, 1002),
        (Error::InvalidUtf8, 1007),
        (Error::TooManyFragments, 1008),
        (Error::TooBig, 1009),
    ];
    for (error, code) in rows {
        assert_eq!(error.close_code(), code);
    }
}

#[test]
fn size_limit_counts_the_message() {
    let half = vec![b'a'; 50_000];
    let fits = frames(&[(MORE | TEXT, &half), (FIN | CONTINUATION, &half)]);
    let got = decode_pieces(fits.chunks(1_400)).0;
    assert!(matches!(&got[..], [Got::Text(text)] if text.len() == 100_000));
    let mut over = frame(MORE | TEXT, &half);
    over.extend(header(FIN | CONTINUATION, 50_001));
    assert_eq!(decode_pieces([&over[..]]).0, [Got::Error(Error::TooBig)]);
    assert_eq!(decode_pieces(over.chunks(1_400)).0, [Got::Error(Error::TooBig)]);
}

#[test]
fn fragment_limit() {
    let count = Limits::FRAGMENTS as usize;
    let mut wire = frame(MORE | TEXT, b"a");
    wire.extend(frame(MORE | CONTINUATION, b"a").repeat(count - 2));
    let last = [wire.clone(), frame(FIN | CONTINUATION, b"a")].concat();
    assert_eq!(decode_pieces([&last[..]]).0, [text(&"a".repeat(count))]);
    wire.extend(frame(MORE | CONTINUATION, b""));
    wire.extend(frame(FIN | CONTINUATION, b""));
    assert_eq!(decode_pieces([&wire[..]]).0, [Got::Error(Error::TooManyFragments)]);
}

/// What is held follows what arrived, whatever was announced, and goes when it is delivered.
#[test]
fn memory_is_bounded_and_released() {
    let fixed = size_of::<Partial>();
    let mut wire = header(FIN | BINARY, 100_000);
    wire.extend(masked(&[7; 100_000]));
    let (mut decoder, mut got) = (Decoder::new(), Vec::new());
    for (arrived, byte) in wire.chunks(1).enumerate() {
        feed(&mut decoder, byte, &mut got);
        assert!(decoder.buffered() <= fixed + 2 * (arrived + 1), "after {arrived}");
        assert!(decoder.buffered() <= fixed + 100_000, "not beyond what is announced");
    }
    assert!(decoder.is_idle() && decoder.buffered() == 0);
    assert_eq!(got, [Got::Binary(vec![7; 100_000])]);

    let mut decoder = Decoder::new();
    for (at, byte) in frames(&[(MORE | TEXT, b"ab"), (FIN | PING, b"p")]).chunks(1).enumerate() {
        assert_eq!(decoder.is_idle(), at == 0);
        feed(&mut decoder, byte, &mut got);
    }
    assert!(!decoder.is_idle(), "the text is still open");
    feed(&mut decoder, &frame(FIN | CONTINUATION, b""), &mut got);
    assert!(decoder.is_idle());
    // A header that crossed the border, with the whole payload behind it.
    let whole = frame(FIN | TEXT, b"hello");
    feed(&mut decoder, &whole[..3], &mut got);
    assert!(!decoder.is_idle());
    feed(&mut decoder, &whole[3..], &mut got);
    assert!(decoder.is_idle());
}

/// A whole frame is handed out from the input itself.
#[test]
fn whole_frames_are_borrowed() {
    let mut wire = frames(&[(FIN | TEXT, b"hello"), (FIN | BINARY, b"\x01\x02")]);
    let range = wire.as_ptr_range();
    let (mut decoder, mut at) = (Decoder::new(), 0);
    while let Some(message) = decoder.next(&mut wire, &mut at, &limits()).expect("valid") {
        let start = match message {
            Message::Text(text) => text.as_ptr(),
            Message::Binary(bytes) => bytes.as_ptr(),
            other => panic!("{other:?}"),
        };
        assert!(range.contains(&start));
    }
    assert!(decoder.is_idle());
}

#[test]
fn unmask_at_every_alignment() {
    let payload: Vec<u8> = (0..100).collect();
    for start in 0..16 {
        for length in 0..40 {
            let mut bytes = vec![0; start];
            bytes.extend(masked(&payload[..length]));
            unmask(&mut bytes[start..], MASK);
            assert_eq!(&bytes[start..], &payload[..length], "{start} {length}");
        }
    }
}

/// After an error the caller closes; if it does not, nothing panics.
#[test]
fn calls_after_an_error() {
    let mut decoder = Decoder::new();
    for _ in 0..100 {
        let (mut input, mut at) = (*b"\xc1", 0);
        assert_eq!(decoder.next(&mut input, &mut at, &limits()), Err(Error::ReservedBits));
        assert!(decoder.is_idle());
    }
    let mut random = fastrand::Rng::with_seed(0x5eed_0002);
    for _ in 0..20_000 {
        let mut noise: Vec<u8> = (0..random.usize(0..40)).map(|_| random.u8(..)).collect();
        if let [first, second, ..] = &mut noise[..] {
            *first &= 0x8F;
            *second |= 0x80;
        }
        let mut at = 0;
        while at < noise.len() && !matches!(decoder.next(&mut noise, &mut at, &limits()), Ok(None))
        {
        }
    }
}

#[test]
fn server_frames() {
    let rows: [(usize, &[u8]); 6] = [
        (0, b"\x81\x00"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (127, b"\x81\x7e\x00\x7f"),
        (65_535, b"\x81\x7e\xff\xff"),
        (65_536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ];
    for (length, expected) in rows {
        let mut out = Vec::new();
        write_header(Opcode::Text, length, &mut out);
        assert_eq!(out, expected, "{length}");
        let mut out = b"x".to_vec();
        write_frame(Opcode::Text, &vec![b'a'; length], &mut out);
        assert_eq!(out[1..1 + expected.len()], *expected);
        assert_eq!(out.len(), 1 + expected.len() + length);
    }
    let mut out = Vec::new();
    write_frame(Opcode::Binary, b"b", &mut out);
    write_frame(Opcode::Ping, b"", &mut out);
    write_frame(Opcode::Pong, b"p", &mut out);
    write_close(Some(1009), &mut out);
    write_close(None, &mut out);
    assert_eq!(out, b"\x82\x01b\x89\x00\x8a\x01p\x88\x02\x03\xf1\x88\x00");
}

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const VERSION: &str = "Sec-WebSocket-Version: 13\r\n";
const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\n";

fn handshake(line: &str, fields: &str) -> Result<(String, Option<String>), HandshakeError> {
    let raw = format!("{line}\r\nHost: a\r\n{fields}\r\n");
    let found = parse_head(raw.as_bytes(), &limits()).expect("valid").expect("complete");
    check_handshake(&found.0).map(|it| (it.accept_key, it.subprotocol.map(str::to_owned)))
}

#[test]
fn handshakes_accepted() {
    let rows = [
        (format!("{UPGRADE}{KEY}{VERSION}"), None),
        (format!("{UPGRADE}{KEY}Sec-WebSocket-Version: 8\r\n"), None),
        (format!("{UPGRADE}{KEY}{VERSION}Content-Length: 0\r\n"), None),
        (format!("{UPGRADE}{KEY}{VERSION}Sec-WebSocket-Extensions: ;;\r\n"), None),
        (format!("{UPGRADE}{KEY}{VERSION}Sec-WebSocket-Protocol: a\r\n"), Some("a")),
        (format!("{UPGRADE}{KEY}{VERSION}Sec-WebSocket-Protocol: b ,\ta\r\n"), Some("b")),
        (
            format!(
                "{UPGRADE}{KEY}{VERSION}Sec-WebSocket-Protocol: a\r\nsec-websocket-protocol: b\r\n"
            ),
            Some("a"),
        ),
    ];
    for (fields, subprotocol) in rows {
        let accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned();
        let expected = Ok((accept, subprotocol.map(str::to_owned)));
        assert_eq!(handshake("GET /x HTTP/1.1", &fields), expected, "{fields}");
    }
}

#[test]
fn handshakes_refused() {
    let all = format!("{UPGRADE}{KEY}{VERSION}");
    let key = |key: &str| format!("{UPGRADE}{VERSION}Sec-WebSocket-Key:{key}\r\n");
    let version = |version: &str| format!("{UPGRADE}{KEY}Sec-WebSocket-Version:{version}\r\n");
    let protocol = |list: &str| format!("{all}Sec-WebSocket-Protocol:{list}\r\n");
    let many: Vec<String> = (0..33).map(|it| it.to_string()).collect();
    let spaces = " ".repeat(8_000);
    let rows = [
        ("POST /x HTTP/1.1", all.clone(), HandshakeError::Method),
        ("get /x HTTP/1.1", all.clone(), HandshakeError::Method),
        ("GET /x HTTP/1.0", all.clone(), HandshakeError::Upgrade),
        ("GET /x HTTP/1.1", format!("{KEY}{VERSION}"), HandshakeError::Upgrade),
        (
            "GET /x HTTP/1.1",
            format!("Upgrade: websocket\r\n{KEY}{VERSION}"),
            HandshakeError::Upgrade,
        ),
        (
            "GET /x HTTP/1.1",
            format!("Connection: upgrade\r\n{KEY}{VERSION}"),
            HandshakeError::Upgrade,
        ),
        ("GET /x HTTP/1.1", format!("{all}Content-Length: 1\r\n"), HandshakeError::Body),
        ("GET /x HTTP/1.1", format!("{all}Transfer-Encoding: chunked\r\n"), HandshakeError::Body),
        ("GET /x HTTP/1.1", format!("{UPGRADE}{VERSION}"), HandshakeError::Key),
        ("GET /x HTTP/1.1", key(""), HandshakeError::Key),
        ("GET /x HTTP/1.1", key("dGhlIHNhbXBsZSBub25jZQ="), HandshakeError::Key),
        ("GET /x HTTP/1.1", key("dGhlIHNhbXBsZSBub25jZQQ="), HandshakeError::Key),
        ("GET /x HTTP/1.1", key("dGhlIHNhbXBsZSBub25jZ_=="), HandshakeError::Key),
        ("GET /x HTTP/1.1", key("dGhlIHNhbXBsZSBub25jZQ== x"), HandshakeError::Key),
        ("GET /x HTTP/1.1", format!("{all}{KEY}"), HandshakeError::Key),
        ("GET /x HTTP/1.1", format!("{UPGRADE}{KEY}"), HandshakeError::Version),
        ("GET /x HTTP/1.1", version(""), HandshakeError::Version),
        ("GET /x HTTP/1.1", version("12"), HandshakeError::Version),
        ("GET /x HTTP/1.1", version("13, 8"), HandshakeError::Version),
        ("GET /x HTTP/1.1", version("013"), HandshakeError::Version),
        ("GET /x HTTP/1.1", format!("{all}{VERSION}"), HandshakeError::Version),
        ("GET /x HTTP/1.1", protocol(""), HandshakeError::Subprotocol),
        ("GET /x HTTP/1.1", protocol(","), HandshakeError::Subprotocol),
        ("GET /x HTTP/1.1", protocol("a,"), HandshakeError::Subprotocol),
        ("GET /x HTTP/1.1", protocol("a b"), HandshakeError::Subprotocol),
        ("GET /x HTTP/1.1", protocol("a/b"), HandshakeError::Subprotocol),
        ("GET /x HTTP/1.1", protocol("a, a"), HandshakeError::Subprotocol),
        ("GET /x HTTP/1.1", protocol(&many.join(",")), HandshakeError::Subprotocol),
        ("GET /x HTTP/1.1", protocol(&format!("a{spaces}b")), HandshakeError::Subprotocol),
    ];
    for (line, fields, error) in rows {
        assert_eq!(handshake(line, &fields), Err(error), "{line} {fields}");
    }
    assert_eq!(HandshakeError::Method.status(), 405);
    assert_eq!(HandshakeError::Version.status(), 400);
    assert!(HandshakeError::Version.names_versions() && !HandshakeError::Key.names_versions());
}

/// What a decoder with permessage-deflate makes of frames: whole, cut anywhere, byte by byte.
fn decode_extended(wire: &[u8]) -> Vec<Got> {
    let run = |pieces: &[&[u8]]| {
        let (mut decoder, mut got) = (Decoder::new(), Vec::new());
        for piece in pieces {
            let (mut input, mut at) = (piece.to_vec(), 0);
            while let Some(result) =
                decoder.next_extended(&mut input, &mut at, &limits(), true).transpose()
            {
                let failed = result.is_err();
                got.push(Got::of(result));
                if failed {
                    return got;
                }
            }
        }
        got
    };
    let whole = run(&[wire]);
    for cut in 0..=wire.len() {
        assert_eq!(run(&[&wire[..cut], &wire[cut..]]), whole, "cut at {cut}");
    }
    assert_eq!(run(&wire.chunks(1).collect::<Vec<_>>()), whole, "byte by byte");
    whole
}

#[test]
fn c9_rsv1_is_for_the_first_frame_of_a_message() {
    let deflated = |is_text, payload: &[u8]| Got::Deflated(is_text, payload.into());
    // Not UTF-8, and no matter: it is not the text.
    let wire = frames(&[
        (0xc1, b"\xf2\x48"),
        (0x42, b"\xff"),
        (0x8a, b"pong"),
        (0x00, b""),
        (0x80, b"\xfe"),
        (0x81, b"plain"),
        (0x41, b"\xc3"),
        (0x80, b"\x28"),
    ]);
    let expected = [
        deflated(true, b"\xf2\x48"),
        Got::Pong(b"pong".into()),
        deflated(false, b"\xff\xfe"),
        text("plain"),
        deflated(true, b"\xc3\x28"),
    ];
    assert_eq!(decode_extended(&wire), expected);
    let bad = [Got::Error(Error::ReservedBits)];
    for first in [0xc8, 0xc9, 0xca, 0xa1, 0x91, 0xe1, 0xf1, 0xc0] {
        assert_eq!(decode_extended(&frame(first, b"")), bad, "{first:x}");
    }
    for then in [0x40, 0xc0] {
        let wire = frames(&[(0x41, b"a"), (then, b"b")]);
        assert_eq!(decode_extended(&wire), bad, "a later fragment {then:x}");
    }
    let wire = frames(&[(0x01, b"\xc3"), (0x80, b"\x28")]);
    let error = Got::Error(Error::InvalidUtf8);
    assert_eq!(decode_extended(&wire), [error], "what is not compressed is checked at once");
    assert_eq!(decode(&frame(0xc1, b"a")), bad, "not agreed on");
}

#[test]
fn c5_a_compressed_message_meets_the_limit_too() {
    let max = limits().message_bytes_max;
    let slack = max + max / 64 + 64;
    let fits = frame(0xc2, &vec![1; slack]);
    assert_eq!(decode_extended(&fits), [Got::Deflated(false, vec![1; slack])]);
    let error = [Got::Error(Error::TooBig)];
    assert_eq!(decode_extended(&header(0xc2, slack as u64 + 1)), error);
    let pieces = frames(&[(0x42, &vec![1; slack]), (0x80, b"1")]);
    assert_eq!(decode_extended(&pieces), error);
}

#[test]
fn frames_and_close_reasons_of_the_server() {
    let mut out = Vec::new();
    write_deflated_frame(Opcode::Text, &[0xf2, 0x48], &mut out);
    assert_eq!(out, [0xc1, 2, 0xf2, 0x48]);
    out.clear();
    write_close_reason(4001, "gone", &mut out);
    assert_eq!(out, b"\x88\x06\x0f\xa1gone");
    out.clear();
    write_close_reason(1000, &"é".repeat(100), &mut out);
    assert_eq!(out.len(), 2 + 124, "whole characters only, and no more than fit");
    assert!(std::str::from_utf8(&out[4..]).is_ok());
}
