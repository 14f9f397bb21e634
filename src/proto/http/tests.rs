//! Tables of bytes and what they mean. The cases follow llhttp's request vectors, h1spec and
//! Http11Probe (compliance, smuggling, malformed), written anew for the strict policy.

use super::*;
use crate::Options;

mod bodies;

fn limits() -> Limits {
    Options::default().limits().expect("defaults hold")
}

/// What a head comes to, as text: method, path, query, framing, then what is set.
fn summary(head: &Head<'_>) -> String {
    let flags = [
        (head.http11, "1.1"),
        (head.keep_alive, "keep"),
        (head.expect_continue, "continue"),
        (head.upgrade, "upgrade"),
        (head.upgrade_websocket, "websocket"),
    ];
    let set: Vec<&str> = flags.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
    let framing = match head.framing {
        Framing::None => "none".into(),
        Framing::Length(length) => length.to_string(),
        Framing::Chunked => "chunked".into(),
    };
    format!("{:?} {} {} {framing} {}", head.method, head.path, head.query, set.join(" "))
}

/// Parses `raw` whole, then at every offset: a prefix is incomplete or has the error of the whole;
/// bytes behind the head change nothing.
fn parse(raw: &[u8]) -> Result<String, Error> {
    let limits = limits();
    let whole = parse_head(raw, &limits).map(|found| {
        let (head, size) = found.unwrap_or_else(|| panic!("incomplete: {:?}", show(raw)));
        assert_eq!(size, raw.len(), "{:?}", show(raw));
        summary(&head)
    });
    for cut in 0..raw.len() {
        match parse_head(&raw[..cut], &limits) {
            Ok(None) => {}
            Ok(Some(_)) => panic!("complete at {cut}: {:?}", show(raw)),
            Err(error) => assert_eq!(Err(error), whole, "at {cut}: {:?}", show(raw)),
        }
    }
    let mut longer = raw.to_vec();
    longer.extend_from_slice(b"GET /next HTTP/1.1\r\n\0\n");
    let again = parse_head(&longer, &limits).map(|found| {
        let (head, size) = found.expect("still complete");
        assert_eq!(size, raw.len(), "{:?}", show(raw));
        summary(&head)
    });
    assert_eq!(again, whole, "{:?}", show(raw));
    whole
}

fn show(raw: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(raw)
}

fn with_line(line: &[u8]) -> Vec<u8> {
    [line, b"\r\nHost: a\r\n\r\n"].concat()
}

fn with_fields(fields: &[u8]) -> Vec<u8> {
    [b"POST /p HTTP/1.1\r\nHost: a\r\n", fields, b"\r\n"].concat()
}

#[test]
fn request_lines_accepted() {
    let rows = [
        ("GET / HTTP/1.1", "Get /  none 1.1 keep"),
        ("POST / HTTP/1.1", "Post /  none 1.1 keep"),
        ("OPTIONS /x HTTP/1.1", "Options /x  none 1.1 keep"),
        ("HEAD /x HTTP/1.1", "Head /x  none 1.1 keep"),
        ("PUT / HTTP/1.1", "Other /  none 1.1 keep"),
        ("DELETE / HTTP/1.1", "Other /  none 1.1 keep"),
        ("get / HTTP/1.1", "Other /  none 1.1 keep"),
        ("GETX / HTTP/1.1", "Other /  none 1.1 keep"),
        ("M-SEARCH / HTTP/1.1", "Other /  none 1.1 keep"),
        ("!#$%&'*+-.^_`|~09 / HTTP/1.1", "Other /  none 1.1 keep"),
        ("UPDATEREDIRECTREF / HTTP/1.1", "Other /  none 1.1 keep"),
        ("GET / HTTP/1.0", "Get /  none "),
        (
            "GET /socket.io/?EIO=4&transport=polling HTTP/1.1",
            "Get /socket.io/ EIO=4&transport=polling none 1.1 keep",
        ),
        ("GET /? HTTP/1.1", "Get /  none 1.1 keep"),
        ("GET /a?b?c HTTP/1.1", "Get /a b?c none 1.1 keep"),
        ("GET // HTTP/1.1", "Get //  none 1.1 keep"),
        ("GET /a//b/../c HTTP/1.1", "Get /a//b/../c  none 1.1 keep"),
        ("GET /%00%0d%0a HTTP/1.1", "Get /%00%0d%0a  none 1.1 keep"),
        ("GET /%zz?%C0%AF HTTP/1.1", "Get /%zz %C0%AF none 1.1 keep"),
        ("GET /{a}|\\^\"<>`?{b} HTTP/1.1", "Get /{a}|\\^\"<>` {b} none 1.1 keep"),
        ("GET /a@b:c;d=e,f HTTP/1.1", "Get /a@b:c;d=e,f  none 1.1 keep"),
        ("GET /http://other/ HTTP/1.1", "Get /http://other/  none 1.1 keep"),
        ("GET http://a/b?c HTTP/1.1", "Get /b c none 1.1 keep"),
        ("GET HTTP://a:80/b HTTP/1.1", "Get /b  none 1.1 keep"),
        ("GET https://[::1]:80/b HTTP/1.1", "Get /b  none 1.1 keep"),
        ("GET http://other HTTP/1.1", "Get /  none 1.1 keep"),
        ("GET http://other?x=/ HTTP/1.1", "Get / x=/ none 1.1 keep"),
        ("\r\nGET / HTTP/1.1", "Get /  none 1.1 keep"),
        ("\r\n\r\n\r\nGET / HTTP/1.1", "Get /  none 1.1 keep"),
    ];
    for (line, expected) in rows {
        assert_eq!(parse(&with_line(line.as_bytes())).as_deref(), Ok(expected), "{line:?}");
    }
}

const LINES_REFUSED: &[(&[u8], Error)] = &[
    (b" GET / HTTP/1.1", Error::Method),
    (b"\tGET / HTTP/1.1", Error::Method),
    (b"\x00GET / HTTP/1.1", Error::Method),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", Error::Method),
    (b"\x80\x81\xff", Error::Method),
    (b"\nGET / HTTP/1.1", Error::Method),
    (b"\rGET / HTTP/1.1", Error::Method),
    (b"\r\n\nGET / HTTP/1.1", Error::Method),
    (b"\r\n GET / HTTP/1.1", Error::Method),
    (b"GET\t/ HTTP/1.1", Error::Method),
    (b"G\x00T / HTTP/1.1", Error::Method),
    (b"G(T / HTTP/1.1", Error::Method),
    (b"G\xc3\x89T / HTTP/1.1", Error::Method),
    (b"GET", Error::Method),
    (b"{\"json\":1}", Error::Method),
    (b"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG / HTTP/1.1", Error::MethodTooLong),
    (b"GET ", Error::RequestLine),
    (b"GET /", Error::RequestLine),
    (b"GET  / HTTP/1.1", Error::RequestLine),
    (b"GET \t/ HTTP/1.1", Error::RequestLine),
    (b"GET  HTTP/1.1", Error::RequestLine),
    (b"GET HTTP/1.1", Error::RequestLine),
    (b"GET /\tHTTP/1.1", Error::RequestLine),
    (b"GET /\x0bHTTP/1.1", Error::RequestLine),
    (b"GET /\rHTTP/1.1", Error::RequestLine),
    (b"GET /\x00 HTTP/1.1", Error::RequestLine),
    (b"GET /  HTTP/1.1", Error::RequestLine),
    (b"GET /a b HTTP/1.1", Error::RequestLine),
    (b"GET / HTTP/1.1 ", Error::RequestLine),
    (b"GET / HTTP/1.1\t", Error::RequestLine),
    (b"GET / HTTP/1.1\r", Error::RequestLine),
    (b"GET / http/1.1", Error::RequestLine),
    (b"GET / HTTP/1", Error::RequestLine),
    (b"GET / HTTP/1.", Error::RequestLine),
    (b"GET / HTTP/.1", Error::RequestLine),
    (b"GET / HTTP/11.1", Error::RequestLine),
    (b"GET / HTTP/01.1", Error::RequestLine),
    (b"GET / HTTP/1.01", Error::RequestLine),
    (b"GET / HTTP/1.10", Error::RequestLine),
    (b"GET / HTTP/1,1", Error::RequestLine),
    (b"GET / HTTP /1.1", Error::RequestLine),
    (b"GET / HTTP/ 1.1", Error::RequestLine),
    (b"GET / HTTPS/1.1", Error::RequestLine),
    (b"GET / IHTTP/1.0", Error::RequestLine),
    (b"GET / ICE/1.0", Error::RequestLine),
    (b"GET / RTSP/1.0", Error::RequestLine),
    (b"GET / HTTP/x.y", Error::RequestLine),
    (b"GET / HTTP/0.9", Error::Version),
    (b"GET / HTTP/1.2", Error::Version),
    (b"GET / HTTP/2.0", Error::Version),
    (b"GET / HTTP/5.6", Error::Version),
    (b"GET / HTTP/9.9", Error::Version),
    (b"PRI * HTTP/2.0", Error::Version),
    (b"GET /\x7f HTTP/1.1", Error::Target),
    (b"GET /\xc3\xa9 HTTP/1.1", Error::Target),
    (b"GET /\xff HTTP/1.1", Error::Target),
    (b"GET /\xc0\xaf HTTP/1.1", Error::Target),
    (b"GET /#a HTTP/1.1", Error::Target),
    (b"GET /?a#b HTTP/1.1", Error::Target),
    (b"OPTIONS * HTTP/1.1", Error::Target),
    (b"GET * HTTP/1.1", Error::Target),
    (b"CONNECT a:80 HTTP/1.1", Error::Target),
    (b"CONNECT a: HTTP/1.1", Error::Target),
    (b"GET a HTTP/1.1", Error::Target),
    (b"GET ?a HTTP/1.1", Error::Target),
    (b"GET :// HTTP/1.1", Error::Target),
    (b"GET http:/a HTTP/1.1", Error::Target),
    (b"GET http:///a HTTP/1.1", Error::Target),
    (b"GET http://?a HTTP/1.1", Error::Target),
    (b"GET http://u:p@a/ HTTP/1.1", Error::Target),
    (b"GET http://a\\b/ HTTP/1.1", Error::Target),
    (b"GET ftp://a/ HTTP/1.1", Error::Target),
    (b"GET javascript://a/ HTTP/1.1", Error::Target),
    (b"GET / HTTP/1.1\nX: y", Error::BareLineFeed),
    (b"GET / HTTP/1.0\nX: y", Error::BareLineFeed),
    (b"GET / \n", Error::BareLineFeed),
    (b"GET / HT\n", Error::BareLineFeed),
    (b"GET /\n", Error::RequestLine),
];

#[test]
fn request_lines_refused() {
    for (line, error) in LINES_REFUSED {
        assert_eq!(parse(&with_line(line)), Err(*error), "{:?}", show(line));
    }
}

#[test]
fn fields_accepted() {
    let rows: &[(&[u8], &str)] = &[
        (b"", "none 1.1 keep"),
        (b"X:\r\n", "none 1.1 keep"),
        (b"X: \t \r\n", "none 1.1 keep"),
        (b"X:y\r\nX: z\r\n", "none 1.1 keep"),
        (b"X: a\tb\r\n", "none 1.1 keep"),
        (b"X: caf\xc3\xa9 \xe9\xff\r\n", "none 1.1 keep"),
        (b"!#$%&'*+-.^_`|~0aZ: y\r\n", "none 1.1 keep"),
        (b"X: a: b :c\r\n", "none 1.1 keep"),
        (b"Content-Length: 0\r\n", "0 1.1 keep"),
        (b"Content-Length:5\r\n", "5 1.1 keep"),
        (b"cOnTeNt-LeNgTh: \t 42 \t\r\n", "42 1.1 keep"),
        (b"Content-Length: 003\r\n", "3 1.1 keep"),
        (b"Content-Length: 18446744073709551615\r\n", "18446744073709551615 1.1 keep"),
        (b"Content_Length: x\r\n", "none 1.1 keep"),
        (b"Transfer-Encoding: chunked\r\n", "chunked 1.1 keep"),
        (b"transfer-encoding:ChUnKeD\r\n", "chunked 1.1 keep"),
        (b"Transfer-Encoding: \tchunked \t\r\n", "chunked 1.1 keep"),
        (b"Transfer_Encoding: chunked\r\nContent-Length: 1\r\n", "1 1.1 keep"),
        (b"TE: trailers\r\nTrailer: X\r\n", "none 1.1 keep"),
        (b"Connection: close\r\n", "none 1.1"),
        (b"Connection: CLOSE\r\n", "none 1.1"),
        (b"Connection: keep-alive\r\n", "none 1.1 keep"),
        (b"Connection: keep-alive, close\r\n", "none 1.1"),
        (b"Connection: x\r\nConnection: close\r\n", "none 1.1"),
        (b"Connection: closed\r\n", "none 1.1 keep"),
        (b"Connection: , ,\r\n", "none 1.1 keep"),
        (b"Expect: 100-continue\r\n", "none 1.1 keep continue"),
        (b"Expect: 100-Continue\r\n", "none 1.1 keep continue"),
        (b"Expect: 200-ok\r\n", "none 1.1 keep"),
        (b"Upgrade: websocket\r\n", "none 1.1 keep"),
        (b"Connection: upgrade\r\n", "none 1.1 keep"),
        (b"Upgrade:\r\nConnection: upgrade\r\n", "none 1.1 keep"),
        (b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n", "none 1.1 keep upgrade"),
        (
            b"Upgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n",
            "none 1.1 keep upgrade websocket",
        ),
        (b"Upgrade: h2c, websocket\r\nConnection: UPGRADE\r\n", "none 1.1 keep upgrade websocket"),
        (b"Upgrade: websockets\r\nConnection: upgrade\r\n", "none 1.1 keep upgrade"),
        (b"Upgrade: websocket\r\nConnection: upgrade, close\r\n", "none 1.1 upgrade websocket"),
    ];
    for (fields, expected) in rows {
        let expected = format!("Post /p  {expected}");
        assert_eq!(parse(&with_fields(fields)), Ok(expected), "{:?}", show(fields));
    }
}

#[test]
fn fields_refused() {
    let rows: &[(&[u8], Error)] = &[
        (b"X : y\r\n", Error::HeaderName),
        (b"X\t: y\r\n", Error::HeaderName),
        (b" X: y\r\n", Error::HeaderName),
        (b"\tX: y\r\n", Error::HeaderName),
        (b"X: y\r\n z\r\n", Error::HeaderName),
        (b"X: y\r\n\tz\r\n", Error::HeaderName),
        (b"X:\r\n z\r\n", Error::HeaderName),
        (b"Transfer-Encoding:\r\n chunked\r\n", Error::HeaderName),
        (b"Content-Length: 1\r\n 0\r\n", Error::HeaderName),
        (b"X: y\r\n \r\n", Error::HeaderName),
        (b": y\r\n", Error::HeaderName),
        (b":\r\n", Error::HeaderName),
        (b"X\r\n", Error::HeaderName),
        (b"X y\r\n", Error::HeaderName),
        (b"X y: z\r\n", Error::HeaderName),
        (b"X(y): z\r\n", Error::HeaderName),
        (b"Fo@: z\r\n", Error::HeaderName),
        (b"X\x00y: z\r\n", Error::HeaderName),
        (b"X\x01y: z\r\n", Error::HeaderName),
        (b"X\xc3\xa9: z\r\n", Error::HeaderName),
        (b"X\"y\": z\r\n", Error::HeaderName),
        (b"X\r\x1b\x41\xd5eep-Alive\r\n", Error::HeaderName),
        (b"Content\rLength: 3\r\n", Error::HeaderName),
        (b"\rX: y\r\n", Error::HeaderValue),
        (b"X: a\x00b\r\n", Error::HeaderValue),
        (b"X: a\x01b\r\n", Error::HeaderValue),
        (b"X: a\x0bb\r\n", Error::HeaderValue),
        (b"X: a\x1fb\r\n", Error::HeaderValue),
        (b"X: a\x7fb\r\n", Error::HeaderValue),
        (b"X: a\rb\r\n", Error::HeaderValue),
        (b"X: a\r\r\n", Error::HeaderValue),
        (b"X:\rTransfer-Encoding: chunked\r\n", Error::HeaderValue),
        (b"Origin: http://a\x01\r\n", Error::HeaderValue),
        (b"Origin: \x7f\r\n", Error::HeaderValue),
        (b"Cookie: a=\x00\r\n", Error::HeaderValue),
        (b"X: y\n", Error::BareLineFeed),
        (b"X: y\nZ: z\r\n", Error::BareLineFeed),
        (b"X:\nTransfer-Encoding: chunked\r\n", Error::BareLineFeed),
        (b"\n", Error::BareLineFeed),
        (b"X: y\r\n\n", Error::BareLineFeed),
        (b"X: y\n\r\n", Error::BareLineFeed),
    ];
    for (fields, error) in rows {
        assert_eq!(parse(&with_fields(fields)), Err(*error), "{:?}", show(fields));
    }
}

#[test]
fn framing_refused() {
    let rows: &[(&[u8], Error)] = &[
        (b"Content-Length:\r\n", Error::ContentLength),
        (b"Content-Length: +5\r\n", Error::ContentLength),
        (b"Content-Length: -5\r\n", Error::ContentLength),
        (b"Content-Length: -0\r\n", Error::ContentLength),
        (b"Content-Length: 0x5\r\n", Error::ContentLength),
        (b"Content-Length: 0o5\r\n", Error::ContentLength),
        (b"Content-Length: 5a\r\n", Error::ContentLength),
        (b"Content-Length: abc\r\n", Error::ContentLength),
        (b"Content-Length: 4 2\r\n", Error::ContentLength),
        (b"Content-Length: 1_0\r\n", Error::ContentLength),
        (b"Content-Length: 5.0\r\n", Error::ContentLength),
        (b"Content-Length: 1e3\r\n", Error::ContentLength),
        (b"Content-Length: \"5\"\r\n", Error::ContentLength),
        (b"Content-Length: 5;\r\n", Error::ContentLength),
        (b"Content-Length: 5, 5\r\n", Error::ContentLength),
        (b"Content-Length: 5, 6\r\n", Error::ContentLength),
        (b"Content-Length: ,5\r\n", Error::ContentLength),
        (b"Content-Length: 5\xc2\xa0\r\n", Error::ContentLength),
        (b"Content-Length: 18446744073709551616\r\n", Error::ContentLength),
        (b"Content-Length: 99999999999999999999999999\r\n", Error::ContentLength),
        (b"Content-Length: 5\r\nContent-Length: 5\r\n", Error::ContentLength),
        (b"Content-Length: 5\r\ncontent-length: 6\r\n", Error::ContentLength),
        (b"Content-Length: 0\r\nX: y\r\nContent-Length: 9\r\n", Error::ContentLength),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Error::LengthAndCoding),
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Error::LengthAndCoding),
        (b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", Error::LengthAndCoding),
        (b"Transfer-Encoding:\r\n", Error::TransferEncoding),
        (b"Transfer-Encoding:\r\nContent-Length: 5\r\n", Error::TransferEncoding),
        (b"Transfer-Encoding: ,\r\n", Error::TransferEncoding),
        (b"Transfer-Encoding: ,chunked\r\n", Error::TransferEncoding),
        (b"Transfer-Encoding: chunked,\r\n", Error::TransferEncoding),
        (b"Transfer-Encoding: chunked, chunked\r\n", Error::TransferEncoding),
        (b"Transfer-Encoding: chunked, gzip\r\n", Error::TransferEncoding),
        (b"Transfer-Encoding: chunked, identity\r\n", Error::TransferEncoding),
        (b"Transfer-Encoding: chunked;a=b\r\n", Error::TransferEncoding),
        (b"Transfer-Encoding: chunked ;\r\n", Error::TransferEncoding),
        (b"Transfer-Encoding: \"chunked\"\r\n", Error::TransferEncoding),
        (b"Transfer-Encoding: chunked foo\r\n", Error::TransferEncoding),
        (b"Transfer-Encoding: chunked\xff\r\n", Error::TransferEncoding),
        (b"Transfer-Encoding: chunked\xc2\xa0\r\n", Error::TransferEncoding),
        (b"Transfer-Encoding: chunked\x0b\r\n", Error::HeaderValue),
        (b"Transfer-Encoding: \x0bchunked\r\n", Error::HeaderValue),
        (b"Transfer-Encoding: \x0cchunked\r\n", Error::HeaderValue),
        (b"Transfer-Encoding: chunked\x00\r\n", Error::HeaderValue),
        (b"Transfer-Encoding : chunked\r\n", Error::HeaderName),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Error::TransferEncoding),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", Error::TransferEncoding),
        (b"Transfer-Encoding: gzip\r\n", Error::UnknownCoding),
        (b"Transfer-Encoding: gzip, chunked\r\n", Error::UnknownCoding),
        (b"Transfer-Encoding: identity\r\n", Error::UnknownCoding),
        (b"Transfer-Encoding: xchunked\r\n", Error::UnknownCoding),
        (b"Transfer-Encoding: chunke\r\n", Error::UnknownCoding),
        (b"Transfer-Encoding: 'chunked'\r\n", Error::UnknownCoding),
        (b"Transfer-Encoding: pigeons\r\n", Error::UnknownCoding),
    ];
    for (fields, error) in rows {
        assert_eq!(parse(&with_fields(fields)), Err(*error), "{:?}", show(fields));
    }
}

#[test]
fn hosts() {
    let good = [
        "a",
        "example.com",
        "example.com:80",
        "example.com:",
        "127.0.0.1:65535",
        "[::1]",
        "[2001:db8::1]:3000",
        "[::ffff:1.2.3.4]",
        "a_b-c.~!$&'()*+;=",
        "%41",
        "\t a \t",
    ];
    let bad: &[&[u8]] = &[
        b"",
        b" ",
        b":80",
        b"a b",
        b"a, b",
        b"a,b",
        b"a/b",
        b"a?b",
        b"a#b",
        b"u@a",
        b"u:p@a",
        b"http://a",
        b"a:b",
        b"a:80:80",
        b"a:8 0",
        b"a:-1",
        b"a:123456",
        b"%4",
        b"%zz",
        b"a\\b",
        b"a\"",
        b"<a>",
        b"caf\xc3\xa9",
        b"a\xff",
        b"[::1",
        b"[]",
        b"[::1]a",
        b"[g::]",
        b"::1]",
    ];
    for host in good {
        let raw = format!("GET / HTTP/1.1\r\nhost:{host}\r\n\r\n");
        assert_eq!(parse(raw.as_bytes()).as_deref(), Ok("Get /  none 1.1 keep"), "{host:?}");
    }
    for host in bad {
        for version in [b"1.0", b"1.1"] {
            let raw = [b"GET / HTTP/", version.as_slice(), b"\r\nHost:", host, b"\r\n\r\n"];
            assert_eq!(parse(&raw.concat()), Err(Error::Host), "{:?}", show(host));
        }
    }
    let whole: &[(&[u8], Error)] = &[
        (b"GET / HTTP/1.1\r\n\r\n", Error::Host),
        (b"GET / HTTP/1.1\r\nX: y\r\n\r\n", Error::Host),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Error::Host),
        (b"GET / HTTP/1.1\r\nHost: a\r\nhOST: b\r\n\r\n", Error::Host),
        (b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", Error::Host),
        (b"GET http://a/ HTTP/1.1\r\n\r\n", Error::Host),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", Error::HeaderName),
        (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", Error::HeaderName),
        (b"GET / HTTP/1.1\r\nHost: a\x00\r\n\r\n", Error::HeaderValue),
    ];
    for (raw, error) in whole {
        assert_eq!(parse(raw), Err(*error), "{:?}", show(raw));
    }
}

/// HTTP/1.0: no Host needed, no chunked body, no upgrade, no interim response, no keep-alive.
#[test]
fn http10() {
    let rows: &[(&[u8], Result<&str, Error>)] = &[
        (b"", Ok("none ")),
        (b"Host: a\r\n", Ok("none ")),
        (b"Connection: keep-alive\r\n", Ok("none ")),
        (b"Content-Length: 5\r\n", Ok("5 ")),
        (b"Expect: 100-continue\r\n", Ok("none ")),
        (b"Upgrade: websocket\r\nConnection: upgrade\r\n", Ok("none ")),
        (b"Transfer-Encoding: chunked\r\n", Err(Error::TransferEncoding)),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Err(Error::LengthAndCoding)),
    ];
    for (fields, expected) in rows {
        let raw = [b"GET / HTTP/1.0\r\n", *fields, b"\r\n"].concat();
        let expected = expected.map(|text| format!("Get /  {text}"));
        assert_eq!(parse(&raw), expected, "{:?}", show(fields));
    }
}

#[test]
fn limits_of_a_head() {
    let small = Limits { head_bytes_max: 256, headers_max: 3, ..limits() };
    let size_of = |raw: &str| parse_head(raw.as_bytes(), &small).map(|it| it.map(|(_, n)| n));
    let target = |length: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(length));
    assert_eq!(size_of(&target(127)), Ok(Some(128 + 15 + 11)));
    assert_eq!(size_of(&target(128)), Err(Error::TargetTooLong));
    assert_eq!(size_of(&format!("GET /{}", "x".repeat(127))), Ok(None));
    assert_eq!(size_of(&format!("GET /{}", "x".repeat(128))), Err(Error::TargetTooLong));

    let field =
        |length: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX:{}\r\n\r\n", "y".repeat(length));
    let fits = 256 - field(0).len();
    assert_eq!(size_of(&field(fits)), Ok(Some(256)));
    assert_eq!(size_of(&field(fits + 1)), Err(Error::HeadTooLarge));
    assert_eq!(size_of(&field(fits)[..255]), Ok(None));
    assert_eq!(size_of(&field(5_000)), Err(Error::HeadTooLarge));
    assert_eq!(size_of(&"\r\n".repeat(127)), Ok(None));
    assert_eq!(size_of(&"\r\n".repeat(128)), Err(Error::HeadTooLarge));
    assert_eq!(size_of(&"A".repeat(33)), Err(Error::MethodTooLong));

    let many =
        |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(count));
    assert_eq!(size_of(&many(2)), Ok(Some(many(2).len())));
    assert_eq!(size_of(&many(3)), Err(Error::TooManyHeaders));
    assert_eq!(parse(many(99).as_bytes()).as_deref(), Ok("Get /  none 1.1 keep"));
    assert_eq!(parse(many(100).as_bytes()), Err(Error::TooManyHeaders));
    let wide = Limits { headers_max: 1_000, ..limits() };
    assert!(matches!(parse_head(many(100).as_bytes(), &wide), Err(Error::TooManyHeaders)));
}

#[test]
fn statuses() {
    let rows = [
        (Error::BareLineFeed, 400),
        (Error::Host, 400),
        (Error::TransferEncoding, 400),
        (Error::BodyTooLarge, 413),
        (Error::TargetTooLong, 414),
        (Error::HeadTooLarge, 431),
        (Error::TooManyHeaders, 431),
        (Error::UnknownCoding, 501),
        (Error::MethodTooLong, 501),
        (Error::Version, 505),
    ];
    for (error, status) in rows {
        assert_eq!(error.status(), status);
        assert_ne!(reason_phrase(status), "");
    }
}

#[test]
fn headers_are_found() {
    let raw =
        b"GET /a?b HTTP/1.1\r\nHost: h\r\nX-One:  a:b \r\nx-one: c\r\nBad: \xff\r\nE:\r\n\r\n";
    let (head, _) = parse_head(raw, &limits()).expect("valid").expect("complete");
    assert_eq!(head.target, "/a?b");
    let rows = [
        ("host", Some("h")),
        ("X-ONE", Some("a:b")),
        ("bad", None),
        ("e", Some("")),
        ("", None),
        ("x", None),
    ];
    for (name, value) in rows {
        assert_eq!(head.header(name), value, "{name}");
    }
    let all: Vec<_> = head.headers().collect();
    assert_eq!(all, [("Host", "h"), ("X-One", "a:b"), ("x-one", "c"), ("E", "")]);
}

/// Serves every complete request of `buf` and returns what it saw, and what is left.
fn serve(buf: &mut Vec<u8>, seen: &mut Vec<String>, open: &mut Option<(String, Body, Vec<u8>)>) {
    loop {
        if let Some((line, body, data)) = open {
            let used = body.decode(buf, data).expect("valid body");
            buf.drain(..used);
            if !body.is_done() {
                return;
            }
            seen.push(format!("{line} {}", show(data)));
            *open = None;
        }
        let Some((head, used)) = parse_head(buf, &limits()).expect("valid head") else {
            return;
        };
        *open = Some((head.target.to_owned(), Body::new(head.framing, 100), Vec::new()));
        buf.drain(..used);
    }
}

#[test]
fn pipelined_requests_at_every_split() {
    let wire: &[u8] = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\
        POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\r\n\
        POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
        3\r\nabc\r\n2;x\r\nde\r\n0\r\nT: u\r\n\r\n\
        GET /4 HTTP/1.0\r\nContent-Length: 0\r\n\r\nHEAD /5 HTTP/1.1\r\nHost: a\r\n\r\n";
    let expected = ["/1 ", "/2 hello", "/3 abcde", "/4 ", "/5 "];
    for cut in 0..=wire.len() {
        let (mut buf, mut seen, mut open) = (Vec::new(), Vec::new(), None);
        for piece in [&wire[..cut], &wire[cut..]] {
            buf.extend_from_slice(piece);
            serve(&mut buf, &mut seen, &mut open);
        }
        assert_eq!(seen, expected, "at {cut}");
        assert!(buf.is_empty() && open.is_none());
    }
}

#[test]
fn queries() {
    let rows: &[(&str, &[(&str, &str)])] = &[
        ("", &[]),
        ("&&", &[]),
        ("a", &[("a", "")]),
        ("=", &[("", "")]),
        ("=b", &[("", "b")]),
        ("a=b&c=d", &[("a", "b"), ("c", "d")]),
        ("a=b=c", &[("a", "b=c")]),
        ("a=b&&c", &[("a", "b"), ("c", "")]),
        ("a+b=c+d", &[("a b", "c d")]),
        ("a=%2B%20%26%3d", &[("a", "+ &=")]),
        ("%61=%C3%A9", &[("a", "é")]),
        ("a=%", &[("a", "%")]),
        ("a=%4", &[("a", "%4")]),
        ("a=%zz%4g", &[("a", "%zz%4g")]),
        ("a=%%41", &[("a", "%A")]),
        ("a=%ff%C3", &[("a", "\u{fffd}\u{fffd}")]),
        ("a=%00", &[("a", "\0")]),
        ("a;b=c", &[("a;b", "c")]),
        ("a?b=c", &[("a?b", "c")]),
    ];
    for (query, expected) in rows {
        let pairs: Vec<_> = query_pairs(query).collect();
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(pairs, *expected, "{query:?}");
    }
    let rows = [
        ("EIO=4&transport=polling", "EIO", Some("4")),
        ("EIO=3&EIO=4", "EIO", Some("4")),
        ("sid=a&%73id=b", "sid", Some("b")),
        ("sid", "sid", Some("")),
        ("SID=a", "sid", None),
        ("sid=__proto__", "sid", Some("__proto__")),
        ("", "sid", None),
    ];
    for (query, name, expected) in rows {
        assert_eq!(query_value(query, name).as_deref(), expected, "{query:?}");
    }
    assert!(matches!(query_value("sid=abc", "sid"), Some(Cow::Borrowed("abc"))));
}

#[test]
fn responses() {
    let plain = Response {
        status: 200,
        content_type: Some("text/plain; charset=UTF-8"),
        headers: &[("cache-control", "no-store")],
        body: b"ok",
        keep_alive: true,
        head_only: false,
    };
    let write = |response: Response<'_>| {
        let mut out = b"before".to_vec();
        write_response(&response, &mut out);
        show(out.strip_prefix(b"before").expect("appended")).into_owned()
    };
    let fields = "Content-Type: text/plain; charset=UTF-8\r\ncache-control: no-store\r\n";
    let rows = [
        (plain, format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nok")),
        (
            Response { keep_alive: false, status: 413, body: b"", ..plain },
            format!(
                "HTTP/1.1 413 Content Too Large\r\n{fields}Content-Length: 0\r\n\
                 Connection: close\r\n\r\n"
            ),
        ),
        (
            Response { head_only: true, ..plain },
            format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\n"),
        ),
        (Response { status: 204, ..plain }, format!("HTTP/1.1 204 No Content\r\n{fields}\r\n")),
        (
            Response { status: 304, content_type: None, headers: &[], ..plain },
            "HTTP/1.1 304 Not Modified\r\n\r\n".into(),
        ),
        (
            Response { status: 299, content_type: None, headers: &[], ..plain },
            "HTTP/1.1 299 \r\nContent-Length: 2\r\n\r\nok".into(),
        ),
        (
            Response { content_type: None, headers: &[("X", "a\r\nSet-Cookie: b\0é")], ..plain },
            "HTTP/1.1 200 OK\r\nX: a  Set-Cookie: b é\r\nContent-Length: 2\r\n\r\nok".into(),
        ),
    ];
    for (response, expected) in rows {
        assert_eq!(write(response), expected);
    }
    let mut out = Vec::new();
    write_upgrade("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", Some("chat"), &[("X", "a\nb")], &mut out);
    assert_eq!(
        show(&out),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\
         X: a b\r\n\r\n"
    );
}

#[test]
fn numbers() {
    for number in [0, 9, 10, 99, 100, 1_000_000, usize::MAX] {
        let mut out = Vec::new();
        write_number(number, &mut out);
        assert_eq!(show(&out), number.to_string());
    }
}

/// Mutated requests and noise: nothing panics, a prefix never contradicts the whole, and a body
/// never grows beyond its limit.
#[test]
fn noise_does_no_harm() {
    let seeds: [&[u8]; 3] = [
        b"GET /socket.io/?EIO=4 HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\
          Connection: Upgrade\r\n\r\n",
        b"POST http://a/b HTTP/1.1\r\nHost: a:1\r\nContent-Length: 4\r\n\
          Expect: 100-continue\r\n\r\nabcd",
        b"5;a=\"b\"\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\nX: y\r\n\r\n",
    ];
    let pool = b"\r\n\r\n\0 \t:;,=\"\\/?#%+-0159afAFGHPT\x7f\x80\xff";
    let mut random = fastrand::Rng::with_seed(0x5eed_0001);
    let limits = limits();
    for round in 0..20_000 {
        let mut wire = seeds[round % seeds.len()].to_vec();
        for _ in 0..random.usize(0..4) {
            let at = random.usize(0..wire.len());
            let byte = pool[random.usize(0..pool.len())];
            match random.u8(0..3) {
                0 => wire[at] = byte,
                1 => wire.insert(at, byte),
                _ => drop(wire.remove(at)),
            }
        }
        let size = |raw| parse_head(raw, &limits).map(|found| found.map(|(_, size)| size));
        let whole = size(&wire);
        let cut = random.usize(0..=wire.len());
        match (size(&wire[..cut]), whole) {
            (Ok(None), _) => {}
            (prefix, whole) => assert_eq!(prefix, whole, "at {cut}: {:?}", show(&wire)),
        }
        let mut out = Vec::new();
        let mut body = Body::new(Framing::Chunked, 30);
        let first = body.decode(&wire[..cut], &mut out);
        let _ = first.and_then(|_| body.decode(&wire[cut..], &mut out));
        assert!(out.len() <= 30);
    }
}

/// The largest head, one byte at a time.
#[test]
fn slow_arrival() {
    let limits = limits();
    let value = "y".repeat(8_000);
    let raw = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {value}\r\nZ: {value}\r\n\r\n");
    for end in 0..raw.len() {
        assert!(matches!(parse_head(&raw.as_bytes()[..end], &limits), Ok(None)), "{end}");
    }
    assert!(matches!(parse_head(raw.as_bytes(), &limits), Ok(Some(_))));
}
