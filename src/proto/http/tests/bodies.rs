//! Bodies: length, chunks, extensions, trailers.

use super::super::*;
use super::show;

/// Decodes `wire` whole and cut at every offset; all ways must agree. Returns body and rest.
fn decode(framing: Framing, limit: usize, wire: &[u8]) -> Result<(String, String), Error> {
    let run = |pieces: &[&[u8]]| {
        let (mut body, mut out, mut used) = (Body::new(framing, limit), Vec::new(), 0);
        for piece in pieces {
            let taken = body.decode(piece, &mut out)?;
            used += taken;
            assert!(taken == piece.len() || body.is_done(), "{:?}", show(wire));
        }
        assert!(out.len() <= limit);
        assert!(body.is_done(), "incomplete: {:?}", show(wire));
        let text = |bytes: &[u8]| show(bytes).into_owned();
        Ok((text(&out), text(&wire[used..])))
    };
    let whole = run(&[wire]);
    for cut in 0..=wire.len() {
        assert_eq!(run(&[&wire[..cut], &wire[cut..]]), whole, "at {cut}: {:?}", show(wire));
    }
    let bytes: Vec<&[u8]> = wire.chunks(1).collect();
    assert_eq!(run(&bytes), whole, "byte by byte: {:?}", show(wire));
    whole
}

#[test]
fn bodies_accepted() {
    let rows: &[(Framing, &[u8], &str, &str)] = &[
        (Framing::None, b"GET", "", "GET"),
        (Framing::Length(0), b"GET", "", "GET"),
        (Framing::Length(5), b"helloGET", "hello", "GET"),
        (Framing::Chunked, b"0\r\n\r\nGET", "", "GET"),
        (Framing::Chunked, b"5\r\nhello\r\n0\r\n\r\n", "hello", ""),
        (Framing::Chunked, b"5\r\nhello\r\n6\r\n world\r\n000\r\n\r\n", "hello world", ""),
        (Framing::Chunked, b"a\r\n0123456789\r\n0\r\n\r\n", "0123456789", ""),
        (Framing::Chunked, b"A\r\n0123456789\r\n0\r\n\r\n", "0123456789", ""),
        (Framing::Chunked, b"0000000000000005\r\nhello\r\n0\r\n\r\n", "hello", ""),
        (Framing::Chunked, b"2\r\n\r\n\r\n0\r\n\r\n", "\r\n", ""),
        (Framing::Chunked, b"5;a\r\nhello\r\n0;b\r\n\r\n", "hello", ""),
        (Framing::Chunked, b"5;a=b;c=\"d\";e\r\nhello\r\n0\r\n\r\n", "hello", ""),
        (Framing::Chunked, b"5; a=\"q;\\\" \\\\\"\r\nhello\r\n0\r\n\r\n", "hello", ""),
        (Framing::Chunked, b"1\r\nx\r\n0\r\nVary: *\r\nX:\r\n\r\nGET", "x", "GET"),
        (Framing::Chunked, b"0\r\nContent-Length: 5\r\nHost: b\r\n\r\nhello", "", "hello"),
    ];
    for (framing, wire, body, rest) in rows {
        let expected = Ok(((*body).to_owned(), (*rest).to_owned()));
        assert_eq!(decode(*framing, 100, wire), expected, "{:?}", show(wire));
    }
}

#[test]
fn bodies_refused() {
    let rows: &[(&[u8], Error)] = &[
        (b"\r\n", Error::ChunkSize),
        (b"g\r\n", Error::ChunkSize),
        (b" 5\r\n", Error::ChunkSize),
        (b"5 \r\n", Error::ChunkSize),
        (b"5\t;a\r\n", Error::ChunkSize),
        (b"+5\r\n", Error::ChunkSize),
        (b"-5\r\n", Error::ChunkSize),
        (b"-1\r\n", Error::ChunkSize),
        (b"0x5\r\n", Error::ChunkSize),
        (b"0X5\r\n", Error::ChunkSize),
        (b"1_0\r\n", Error::ChunkSize),
        (b"5.0\r\n", Error::ChunkSize),
        (b"5,\r\n", Error::ChunkSize),
        (b"5 a\r\nhello\r\n", Error::ChunkSize),
        (b";a\r\n", Error::ChunkSize),
        (b"5\nhello\r\n", Error::ChunkSize),
        (b"5\rhello\r\n", Error::ChunkSize),
        (b"5\r\rhello\r\n", Error::ChunkSize),
        (b"\xff\r\n", Error::ChunkSize),
        (b"5\x00\r\n", Error::ChunkSize),
        (b"00000000000000005\r\nhello\r\n", Error::ChunkSize),
        (b"10000000000000000\r\n", Error::ChunkSize),
        (b"5;\r\nhello\r\n", Error::ChunkExtension),
        (b"5; \r\nhello\r\n", Error::ChunkExtension),
        (b"5;;a\r\nhello\r\n", Error::ChunkExtension),
        (b"5;a;\r\nhello\r\n", Error::ChunkExtension),
        (b"5;=b\r\nhello\r\n", Error::ChunkExtension),
        (b"5;a=\r\nhello\r\n", Error::ChunkExtension),
        (b"5;a=b c\r\nhello\r\n", Error::ChunkExtension),
        (b"5;a[=b\r\nhello\r\n", Error::ChunkExtension),
        (b"5;a\nhello\r\n", Error::ChunkExtension),
        (b"5;a\x00\r\nhello\r\n", Error::ChunkExtension),
        (b"5;a=\x01\r\nhello\r\n", Error::ChunkExtension),
        (b"5;a=\"b\r\nhello\r\n", Error::ChunkExtension),
        (b"5;a=\"b\"c\r\nhello\r\n", Error::ChunkExtension),
        (b"5;a\rb\r\nhello\r\n", Error::ChunkSize),
        (b"2;\nxx\r\n", Error::ChunkExtension),
        (b"5\r\nhello0\r\n\r\n", Error::ChunkEnd),
        (b"5\r\nhello\n0\r\n\r\n", Error::ChunkEnd),
        (b"5\r\nhello\r0\r\n\r\n", Error::ChunkEnd),
        (b"5\r\nhello!\r\n0\r\n\r\n", Error::ChunkEnd),
        (b"3\r\nhello\r\n0\r\n\r\n", Error::ChunkEnd),
        (b"0\r\n\n", Error::Trailer),
        (b"0\r\n\r\r", Error::Trailer),
        (b"0\r\n: x\r\n\r\n", Error::Trailer),
        (b"0\r\n x: y\r\n\r\n", Error::Trailer),
        (b"0\r\nX\r\n\r\n", Error::Trailer),
        (b"0\r\nX : y\r\n\r\n", Error::Trailer),
        (b"0\r\nX: y\n\r\n", Error::Trailer),
        (b"0\r\nX: \x00\r\n\r\n", Error::Trailer),
        (b"0\r\nX: y\r\n z\r\n\r\n", Error::Trailer),
        (b"0\r\nGET / HTTP/1.1\r\n\r\n", Error::Trailer),
        (b"65\r\n", Error::BodyTooLarge),
        (b"ffffffffffffffff\r\n", Error::BodyTooLarge),
        (b"1\r\nx\r\n64\r\n", Error::BodyTooLarge),
    ];
    for (wire, error) in rows {
        assert_eq!(decode(Framing::Chunked, 100, wire), Err(*error), "{:?}", show(wire));
    }
    assert_eq!(decode(Framing::Length(101), 100, b"x"), Err(Error::BodyTooLarge));
    assert_eq!(decode(Framing::Length(u64::MAX), 100, b"x"), Err(Error::BodyTooLarge));
}

#[test]
fn framing_of_a_body_is_bounded() {
    let long = |count: usize| format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(count));
    assert!(decode(Framing::Chunked, 9, long(4_095).as_bytes()).is_ok());
    assert_eq!(decode(Framing::Chunked, 9, long(4_096).as_bytes()), Err(Error::ChunkExtension));
    let mut body = Body::new(Framing::Chunked, 1_000_000);
    let many = "1;ext=1\r\nx\r\n".repeat(10_000);
    assert_eq!(body.decode(many.as_bytes(), &mut Vec::new()), Err(Error::ChunkExtension));
    let mut body = Body::new(Framing::Chunked, 9);
    let trailers = format!("0\r\n{}", "X: y\r\n".repeat(2_000));
    assert_eq!(body.decode(trailers.as_bytes(), &mut Vec::new()), Err(Error::Trailer));
    assert_eq!(body.decode(b"\r\n", &mut Vec::new()), Err(Error::Trailer));
    assert!(!body.is_done());
}
