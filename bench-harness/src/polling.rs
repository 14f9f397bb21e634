//! Engine.IO on HTTP long-polling, as a client speaks it: requests, responses, payloads, and what
//! a session may send when. No I/O, no clock.
//!
//! A session has two connections. One carries its GETs, of which exactly one is parked at the
//! server at any time: the next leaves when the last was answered. The other carries POSTs, one
//! at a time; what is to be sent meanwhile waits and leaves in one payload with the next.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::codec::Error;

/// Between the packets of a payload.
const SEPARATOR: u8 = 0x1e;
/// Longest line that opens a chunk, extensions included.
const CHUNK_LINE_MAX: usize = 256;
const PATH: &str = "/socket.io/?EIO=4&transport=polling";

/// A response at the start of received bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Response<'a> {
    pub(crate) status: u16,
    pub(crate) body: Cow<'a, [u8]>,
    /// Bytes of head and body, as they came.
    pub(crate) length: usize,
    /// The server closes the connection behind it.
    pub(crate) is_last: bool,
}

/// How long a body is.
enum Framing {
    Length(usize),
    Chunked,
}

/// The response that starts at `bytes[0]`, `None` while it is incomplete.
pub(crate) fn response(bytes: &[u8]) -> Result<Option<Response<'_>>, Error> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = str::from_utf8(&bytes[..end]).map_err(|_| Error::NotHttp)?;
    let (version, rest) = head.split_once(' ').ok_or(Error::NotHttp)?;
    let status = rest.get(..3).and_then(|digits| digits.parse().ok()).ok_or(Error::NotHttp)?;
    let mut is_last = match version {
        "HTTP/1.1" => false,
        "HTTP/1.0" => true,
        _ => return Err(Error::NotHttp),
    };
    let mut framing = None;
    for line in head.lines().skip(1) {
        let (name, value) = line.split_once(':').ok_or(Error::NotHttp)?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            framing = Some(Framing::Length(value.parse().map_err(|_| Error::NotHttp)?));
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            framing = Some(Framing::Chunked);
        } else if name.eq_ignore_ascii_case("connection") {
            is_last = value.eq_ignore_ascii_case("close");
        }
    }
    let rest = &bytes[end + 4..];
    let body = match framing.ok_or(Error::NotHttp)? {
        Framing::Length(length) => rest.get(..length).map(|body| (Cow::Borrowed(body), length)),
        Framing::Chunked => chunked(rest)?.map(|(body, length)| (Cow::Owned(body), length)),
    };
    Ok(body.map(|(body, length)| Response { status, body, length: end + 4 + length, is_last }))
}

/// A body in chunks (RFC 9112, section 7.1) and the bytes it took; no trailers.
fn chunked(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, Error> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let rest = &bytes[at..];
        let Some(line) = rest.windows(2).position(|window| window == b"\r\n") else {
            return if rest.len() > CHUNK_LINE_MAX { Err(Error::NotHttp) } else { Ok(None) };
        };
        let text = str::from_utf8(&rest[..line]).map_err(|_| Error::NotHttp)?;
        let digits = text.split(';').next().unwrap_or_default().trim();
        // Nobody has a chunk of 4 GiB; the sum below cannot overflow then.
        let size = u32::from_str_radix(digits, 16).map_err(|_| Error::NotHttp)? as usize;
        let (start, end) = (line + 2, line + 2 + size);
        let Some(tail) = rest.get(end..end + 2) else { return Ok(None) };
        if tail != b"\r\n" {
            return Err(Error::NotHttp);
        }
        at += end + 2;
        if size == 0 {
            return Ok(Some((body, at)));
        }
        body.extend_from_slice(&rest[start..end]);
    }
}

/// The packets of a payload.
pub(crate) fn packets(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    payload.split(|byte| *byte == SEPARATOR)
}

/// The bytes of a binary packet, appended to `into`; `packet` is what stands behind its `b`.
pub(crate) fn attachment(packet: &[u8], into: &mut Vec<u8>) -> Result<(), Error> {
    STANDARD.decode_vec(packet, into).map_err(|_| Error::Base64)
}

/// Appends `bytes` as a binary packet, behind a separator.
pub(crate) fn push_attachment(bytes: &[u8], into: &mut Vec<u8>) {
    into.extend_from_slice(&[SEPARATOR, b'b']);
    let start = into.len();
    into.resize(start + bytes.len().div_ceil(3) * 4, 0);
    // The room is what the encoding takes, to the byte.
    let written = STANDARD.encode_slice(bytes, &mut into[start..]).unwrap_or(0);
    into.truncate(start + written);
}

/// The first GET, which opens a session.
pub(crate) fn open_request(host: &str) -> Vec<u8> {
    format!("GET {PATH} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

/// A session that was opened.
#[derive(Debug, Default)]
pub(crate) struct Session {
    id: Box<str>,
    /// The payload of the next POST.
    outbox: Vec<u8>,
    /// A POST has not been answered yet.
    is_posting: bool,
    /// What was posted last is a CONNECT or a pong: nothing is about to follow it.
    is_brief: bool,
}

impl Session {
    /// From the open packet, its type digit included.
    pub(crate) fn new(packet: &[u8]) -> Result<Self, Error> {
        #[derive(serde::Deserialize)]
        struct Open {
            sid: Box<str>,
        }
        let json = packet.strip_prefix(b"0").ok_or(Error::NotOpened)?;
        let open: Open = serde_json::from_slice(json).map_err(|_| Error::NotOpened)?;
        Ok(Self { id: open.sid, ..Self::default() })
    }

    /// Writes the next GET over `into`.
    pub(crate) fn get(&self, host: &str, into: &mut Vec<u8>) {
        let lines = ["GET ", PATH, "&sid=", &self.id, " HTTP/1.1\r\nHost: ", host, "\r\n\r\n"];
        into.clear();
        lines.iter().for_each(|line| into.extend_from_slice(line.as_bytes()));
    }

    /// Takes a packet, or a payload of several, for the next POST.
    pub(crate) fn queue(&mut self, packet: &[u8]) {
        if !self.outbox.is_empty() {
            self.outbox.push(SEPARATOR);
        }
        self.outbox.extend_from_slice(packet);
    }

    /// Writes the next POST over `into`; false if there is nothing to post, or one is under way.
    pub(crate) fn post(&mut self, host: &str, into: &mut Vec<u8>) -> bool {
        if self.is_posting || self.outbox.is_empty() {
            return false;
        }
        self.is_posting = true;
        self.is_brief = self.outbox.len() <= "40".len();
        let length = self.outbox.len().to_string();
        let lines = ["POST ", PATH, "&sid=", &self.id, " HTTP/1.1\r\nHost: ", host];
        let more =
            ["\r\nContent-Type: text/plain;charset=UTF-8\r\nContent-Length: ", &length, "\r\n\r\n"];
        into.clear();
        lines.iter().chain(&more).for_each(|line| into.extend_from_slice(line.as_bytes()));
        // Gives the memory back: most sessions post one byte in 25 seconds.
        into.append(&mut std::mem::take(&mut self.outbox));
        true
    }

    /// The POST was answered.
    pub(crate) fn posted(&mut self, response: &Response<'_>) -> Result<(), Error> {
        if !self.is_posting || response.status != 200 || !response.body.eq_ignore_ascii_case(b"ok")
        {
            return Err(Error::Refused(response.status));
        }
        self.is_posting = false;
        Ok(())
    }

    /// Whether a POST has not been answered yet.
    pub(crate) fn is_posting(&self) -> bool {
        self.is_posting
    }

    /// Whether the socket of the last POST is of no more use: idle clients have one file each, here
    /// and at the server, or 15,000 were more than a process may open.
    pub(crate) fn is_brief(&self) -> bool {
        self.is_brief
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\ncontent-LENGTH: 5\r\n\r\n";
    const CHUNKS: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                          3\r\n4\x1e2\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n";

    fn whole(bytes: &[u8]) -> Response<'_> {
        response(bytes).expect("valid").expect("whole")
    }

    #[test]
    fn responses_are_found_at_every_split() {
        let plain = [PLAIN.as_bytes(), b"hello"].concat();
        for (bytes, body) in
            [(&plain[..], &b"hello"[..]), (CHUNKS.as_bytes(), &b"4\x1e20123456789"[..])]
        {
            for cut in 0..bytes.len() {
                assert_eq!(response(&bytes[..cut]), Ok(None), "cut at {cut}");
            }
            let more = [bytes, b"HTTP/1.1 2"].concat();
            let found = whole(&more);
            assert_eq!((found.status, &*found.body), (200, body));
            assert_eq!((found.length, found.is_last), (bytes.len(), false));
        }
    }

    #[test]
    fn what_is_no_response_is_refused_and_nothing_panics() {
        for bytes in [
            "GET / HTTP/1.1\r\n\r\n",
            "HTTP/2 200\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 xyz\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffff\r\n",
        ] {
            assert_eq!(response(bytes.as_bytes()), Err(Error::NotHttp), "{bytes}");
        }
        for index in 0..CHUNKS.len() {
            for byte in [0, b'\r', b'\n', b':', b'f', 0xff] {
                let mut bytes = CHUNKS.as_bytes().to_vec();
                bytes[index] = byte;
                let _ = response(&bytes);
            }
        }
    }

    #[test]
    fn the_end_of_a_connection_is_announced() {
        let close = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        let old = "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n";
        let kept = "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n";
        let found = [close, old, kept].map(|text| whole(text.as_bytes()).is_last);
        assert_eq!(found, [true, true, false]);
    }

    #[test]
    fn one_post_at_a_time_and_the_rest_waits() {
        let mut session = Session::new(br#"0{"sid":"abc","upgrades":[]}"#).expect("open");
        let (mut request, ok) = (Vec::new(), [PLAIN, "ok"].concat().replace(": 5", ": 2"));
        assert!(!session.post("h", &mut request) && !session.is_posting());
        session.queue(b"40");
        assert!(session.post("h", &mut request));
        let text = String::from_utf8(request.clone()).expect("text");
        assert!(text.starts_with("POST /socket.io/?EIO=4&transport=polling&sid=abc HTTP/1.1\r\n"));
        assert!(text.ends_with("Content-Length: 2\r\n\r\n40"), "{text}");
        session.queue(b"3");
        session.queue(b"42[\"a\"]");
        assert!(!session.post("h", &mut request) && session.is_posting());
        assert_eq!(session.posted(&whole(ok.as_bytes())), Ok(()));
        assert!(session.post("h", &mut request) && request.ends_with(b"\r\n\r\n3\x1e42[\"a\"]"));
        let refused = ok.replace("200", "400");
        assert_eq!(session.posted(&whole(refused.as_bytes())), Err(Error::Refused(400)));
    }

    #[test]
    fn attachments_come_back_and_a_payload_falls_into_packets() {
        for length in 0..200usize {
            let bytes: Vec<u8> = (0..length).map(|index| (index * 7 % 256) as u8).collect();
            let mut payload = b"451-[\"a\"]".to_vec();
            push_attachment(&bytes, &mut payload);
            let found: Vec<&[u8]> = packets(&payload).collect();
            let mut back = Vec::new();
            attachment(found[1].strip_prefix(b"b").expect("binary"), &mut back).expect("base64");
            assert_eq!((found.len(), found[0], back), (2, &b"451-[\"a\"]"[..], bytes));
        }
        assert_eq!(attachment(b"a b=", &mut Vec::new()), Err(Error::Base64));
    }

    #[test]
    fn only_an_open_packet_opens() {
        for bad in [&b"4{\"sid\":\"a\"}"[..], b"0{}", b"0", b""] {
            assert_eq!(Session::new(bad).map(drop), Err(Error::NotOpened));
        }
    }
}
