//! B-6, B-18, B-19, K.1: the forms in which payloads and files travel.

use std::io::Read;
use std::rc::Rc;

use corecast::HttpCompression;
use corecast::hub::{Config, Flags, StaticFile};

use crate::wire::{Reply, Wire, config};

fn get(query: &str, fields: &str) -> String {
    format!("GET /socket.io/?EIO=4&transport=polling{query} HTTP/1.1\r\nHost: h\r\n{fields}\r\n")
}

fn form(sid: &str, query: &str, body: &str) -> String {
    format!(
        "POST /socket.io/?EIO=4&transport=polling&sid={sid}{query} HTTP/1.1\r\nHost: h\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Status line and fields, and the bytes of the body.
fn split(bytes: Vec<u8>) -> (String, Vec<u8>) {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    (String::from_utf8(bytes[..end].to_vec()).unwrap(), bytes[end..].to_vec())
}

fn is_script(reply: &Reply, body: &str) {
    assert!(reply.head.contains("Content-Type: text/javascript; charset=UTF-8\r\n"));
    assert_eq!((reply.status, reply.body.as_str()), (200, body));
}

#[test]
fn b19_jsonp_answers_are_scripts() {
    let mut wire = Wire::new();
    let conn = wire.with_bytes(get("&j=x7)1", ""));
    let reply = wire.reply(conn);
    let sid = reply.body[24..44].to_owned();
    let body = reply.body.replace(&sid, "S");
    let open = "{\\\"sid\\\":\\\"S\\\",\\\"upgrades\\\":[\\\"websocket\\\"],\
                \\\"pingInterval\\\":25000,\\\"pingTimeout\\\":20000,\\\"maxPayload\\\":1000000}";
    assert_eq!(body, format!("___eio[71](\"0{open}\");"));
    is_script(&reply, &reply.body);

    assert_eq!(wire.ask(&form(&sid, "&j=0", "d=40")), (200, "ok".into()));
    let conn = wire.with_bytes(get(&format!("&j=0&sid={sid}"), ""));
    let reply = wire.reply(conn);
    assert!(reply.body.starts_with("___eio[0](\"40{\\\"sid\\\":\\\""), "{}", reply.body);
    // Parked, then answered; two packets; what a script may not hold.
    let conn = wire.with_bytes(get(&format!("&j=0&sid={sid}"), ""));
    wire.hub.emit(wire.members[0], "42[\"\u{2028}</script>\"]".as_bytes(), &[], Flags::default());
    wire.hub.emit(wire.members[0], b"42[1]", &[], Flags::default());
    let body = "___eio[0](\"42[\\\"\\u2028</script>\\\"]\\u001e42[1]\");";
    is_script(&wire.reply(conn), body);
    let conn = wire.with_bytes(get(&format!("&j=0&sid={sid}"), ""));
    wire.hub.disconnect(wire.members[0], true);
    is_script(&wire.reply(conn), "___eio[0](\"41\");");
    let conn = wire.with_bytes(get(&format!("&j=0&sid={sid}"), ""));
    is_script(&wire.reply(conn), "___eio[0](\"6\\u001e1\");");
}

#[test]
fn b19_jsonp_posts_are_forms() {
    let mut wire = Wire::new();
    let sid = wire.joined_polling();
    // A line end that was escaped, and the text `\n`; a separator; a plus.
    let body = "d=42%5B%22a%22%2C%22x%5C%5Cny%2B%22%5D%1e42[%22b%22,%20%22%C3%A9+%22]";
    assert_eq!(wire.ask(&form(&sid, "&j=3", body)), (200, "ok".into()));
    assert_eq!(wire.heard(), ["a(\"x\\ny+\")", "b(\"é \")"]);
    // B-11 counts what is sent, B-15 is for what is no payload.
    let long = format!("d=42[\"{}\"]", "x".repeat(1_000_000));
    assert_eq!(wire.ask(&form(&sid, "&j=3", &long)).0, 413);
    assert_eq!(wire.ask(&form(&sid, "&j=3", "d=42[\"b\"]")), (200, "ok".into()));
    assert_eq!(wire.heard(), ["b()"]);
    assert_eq!(wire.ask(&form(&sid, "&j=3", "x=1")).0, 400);
    assert_eq!(wire.heard(), ["parse error"]);
}

/// Where cookies say who a client is, a script must not be an answer: any page may load one.
#[test]
fn b19_jsonp_can_be_switched_off() {
    let mut wire = Wire::with(Config { jsonp: false, ..config() });
    let (status, body) = wire.ask(&get("&j=0", ""));
    assert_eq!((status, body.as_str()), (400, r#"{"code":0,"message":"Transport unknown"}"#));
    let sid = wire.polling();
    assert_eq!(wire.ask(&get(&format!("&j=0&sid={sid}"), "")).0, 400);
    assert_eq!(wire.ask(&form(&sid, "&j=0", "d=40")).0, 400);
    assert_eq!(wire.heard(), [""; 0]);
    assert_eq!(wire.post(&sid, "40"), (200, "ok".into()), "polling goes on");
}

#[test]
fn b19_jsonp_in_revision_3() {
    let mut config = config();
    config.allow_eio3 = true;
    let mut wire = Wire::with(config);
    let old = |request: String| request.replace("EIO=4", "EIO=3");
    let conn = wire.with_bytes(old(get("&j=0", "")));
    let reply = wire.reply(conn);
    assert!(reply.body.starts_with("___eio[0](\"118:0{\\\"sid\\\":\\\""), "{}", reply.body);
    let sid = reply.body[27..47].to_owned();
    let (status, body) = wire.ask(&old(form(&sid, "&j=0", "d=9%3A42%5B%22%C3%A9%22%2C1%5D")));
    assert_eq!((status, body.as_str()), (200, "ok"));
    assert_eq!(wire.heard(), ["connect 0 ", "é(1)"]);
    let bytes = bytes::Bytes::from_static(&[1, 2]);
    wire.hub.emit(wire.members[0], b"451-[1]", &[bytes], Flags::default());
    let conn = wire.with_bytes(old(get(&format!("&j=0&sid={sid}"), "")));
    // Never the binary form: it is a string.
    is_script(&wire.reply(conn), "___eio[0](\"2:407:451-[1]6:b4AQI=\");");
}

#[test]
fn b6_a_browser_that_sees_attacks() {
    let mut wire = Wire::new();
    for (agent, is_told) in [
        ("Mozilla/4.0 (compatible;MSIE 8.0; Windows NT 6.1)", true),
        ("Mozilla/5.0 (Windows NT 6.1; Trident/7.0; rv:11.0) like Gecko", true),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", false),
    ] {
        for query in ["", "&j=0"] {
            let conn = wire.with_bytes(get(query, &format!("User-Agent: {agent}\r\n")));
            let head = wire.reply(conn).head;
            assert_eq!(head.contains("X-XSS-Protection: 0"), is_told, "{head}");
        }
    }
}

/// A polling session in `/` whose next GET gets this many bytes, with these fields.
fn answer(wire: &mut Wire, bytes: usize, flags: Flags, fields: &str) -> (String, Vec<u8>) {
    let sid = wire.joined_polling();
    let key = *wire.members.last().unwrap();
    let event = format!("42[\"{}\"]", "y".repeat(bytes - 6));
    assert!(wire.hub.emit(key, event.as_bytes(), &[], flags));
    let conn = wire.with_bytes(get(&format!("&sid={sid}"), fields));
    split(wire.got(conn))
}

fn gunzip(bytes: &[u8]) -> usize {
    let mut text = String::new();
    flate2::read::GzDecoder::new(bytes).read_to_string(&mut text).unwrap()
}

#[test]
fn b18_large_payloads_are_compressed() {
    let mut wire = Wire::new();
    let gzip = "Accept-Encoding: gzip, deflate\r\n";
    let (head, body) = answer(&mut wire, 1_024, Flags::default(), gzip);
    assert!(head.contains("Content-Encoding: gzip\r\n"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
    assert!(head.contains("Content-Type: text/plain; charset=UTF-8\r\n"), "{head}");
    assert!(body.len() < 100);
    assert_eq!(gunzip(&body), 1_024);
    // W-5, q-values; below the threshold; nobody asked; U-25.
    let plain = |head: &str| !head.contains("Content-Encoding");
    let fields = "Accept-Encoding: gzip;q=0.5\r\nAccept-Encoding: deflate\r\n";
    let (head, body) = answer(&mut wire, 2_000, Flags::default(), fields);
    assert!(head.contains("Content-Encoding: deflate\r\n"), "{head}");
    let mut text = String::new();
    let length = flate2::read::ZlibDecoder::new(&body[..]).read_to_string(&mut text).unwrap();
    assert_eq!(length, 2_000);
    for (bytes, fields) in [
        (1_023, gzip),
        (5_000, ""),
        (5_000, "Accept-Encoding: br\r\n"),
        (5_000, "Accept-Encoding: gzip;q=0\r\n"),
    ] {
        let (head, body) = answer(&mut wire, bytes, Flags::default(), fields);
        assert!(plain(&head) && body.len() == bytes, "{head}");
    }
    let conn = wire.with_bytes(get("", gzip));
    assert!(plain(&wire.reply(conn).head));
}

/// One packet that is worth it is enough (B-18).
#[test]
fn b18_packets_may_ask_not_to_be_compressed() {
    let mut wire = Wire::new();
    let gzip = "Accept-Encoding: gzip\r\n";
    let not = Flags { compress: false, ..Flags::default() };
    let (head, body) = answer(&mut wire, 5_000, not, gzip);
    assert!(!head.contains("Content-Encoding"), "{head}");
    assert_eq!(body.len(), 5_000);
    let sid = wire.joined_polling();
    let key = *wire.members.last().unwrap();
    let event = format!("42[\"{}\"]", "y".repeat(2_000));
    wire.hub.emit(key, event.as_bytes(), &[], not);
    wire.hub.emit(key, b"42[1]", &[], Flags::default());
    let conn = wire.with_bytes(get(&format!("&sid={sid}"), gzip));
    let (head, body) = split(wire.got(conn));
    assert!(head.contains("Content-Encoding: gzip\r\n"), "{head}");
    assert_eq!(gunzip(&body), event.len() + 6);
    // The next one is judged by itself.
    wire.hub.emit(key, event.as_bytes(), &[], not);
    let conn = wire.with_bytes(get(&format!("&sid={sid}"), gzip));
    assert!(!split(wire.got(conn)).0.contains("Content-Encoding"));
}

#[test]
fn b18_compression_has_options() {
    let gzip = "Accept-Encoding: gzip\r\n";
    let mut config = config();
    config.http_compression = None;
    let (head, _) = answer(&mut Wire::with(config), 5_000, Flags::default(), gzip);
    assert!(!head.contains("Content-Encoding"), "{head}");
    let mut config = crate::wire::config();
    config.http_compression = Some(HttpCompression { threshold: 50, level: 9 });
    let (head, body) = answer(&mut Wire::with(config), 50, Flags::default(), gzip);
    assert!(head.contains("Content-Encoding: gzip\r\n"), "{head}");
    assert_eq!(gunzip(&body), 50);
}

/// B-18, B-19: a script is compressed like any other payload.
#[test]
fn b18_b19_a_compressed_script() {
    let mut wire = Wire::new();
    let sid = wire.joined_polling();
    let event = format!("42[\"{}\"]", "y".repeat(2_000));
    wire.hub.emit(wire.members[0], event.as_bytes(), &[], Flags::default());
    let fields = "Accept-Encoding: gzip\r\n";
    let conn = wire.with_bytes(get(&format!("&j=1&sid={sid}"), fields));
    let (head, body) = split(wire.got(conn));
    assert!(head.contains("Content-Encoding: gzip\r\n"), "{head}");
    assert!(head.contains("Content-Type: text/javascript; charset=UTF-8\r\n"), "{head}");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap();
    assert_eq!(text, format!("___eio[1](\"42[\\\"{}\\\"]\");", "y".repeat(2_000)));
}

/// K.1: one file in each coding, the same for all, with the fields it has without.
#[test]
fn k1_files_in_codings() {
    let mut wire = Wire::new();
    let body = "function f() { return 1; }\n".repeat(500);
    let file = |coded| StaticFile {
        content_type: "application/javascript; charset=utf-8",
        etag: "\"4.8.4\"".into(),
        body: body.clone().into(),
        coded,
    };
    wire.hub.add_file("/c.js", Rc::new(file(Some(Default::default()))));
    wire.hub.add_file("/plain.js", Rc::new(file(None)));
    let mut ask = |method: &str, path: &str, fields: &str| {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        let conn = wire.with_bytes(request);
        split(wire.got(conn))
    };
    for (accept, coding) in
        [("gzip, deflate, br", "gzip"), ("br", "br"), ("deflate", "deflate"), ("*", "br")]
    {
        let fields = format!("Accept-Encoding: {accept}\r\n");
        let (head, coded) = ask("GET", "/c.js", &fields);
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(head.contains(&format!("Content-Encoding: {coding}\r\n")), "{head}");
        assert!(head.contains("ETag: \"4.8.4\"\r\n"), "{head}");
        assert!(head.contains("Vary: Accept-Encoding\r\n"), "{head}");
        assert!(head.contains(&format!("Content-Length: {}\r\n", coded.len())), "{head}");
        let mut text = String::new();
        match coding {
            "gzip" => flate2::read::GzDecoder::new(&coded[..]).read_to_string(&mut text),
            "br" => brotli::Decompressor::new(&coded[..], 4_096).read_to_string(&mut text),
            _ => flate2::read::ZlibDecoder::new(&coded[..]).read_to_string(&mut text),
        }
        .unwrap();
        assert_eq!(text, body);
        assert_eq!(ask("GET", "/c.js", &fields).1, coded);
        let (head, none) = ask("HEAD", "/c.js", &fields);
        assert!(head.contains(&format!("Content-Length: {}\r\n", coded.len())), "{head}");
        assert!(none.is_empty());
    }
    let known = "Accept-Encoding: gzip\r\nIf-None-Match: W/\"4.8.4\"\r\n";
    let (head, none) = ask("GET", "/c.js", known);
    assert!(head.starts_with("HTTP/1.1 304 ") && none.is_empty(), "{head}");
    assert!(head.contains("Vary: Accept-Encoding\r\n"), "{head}");
    for (path, fields) in [("/c.js", ""), ("/plain.js", "Accept-Encoding: gzip\r\n")] {
        let (head, plain) = ask("GET", path, fields);
        assert!(!head.contains("Content-Encoding"), "{head}");
        assert_eq!(plain, body.as_bytes());
    }
}

/// Requests are never decompressed: what says that it is, is read as it is.
#[test]
fn b18_requests_are_not_decompressed() {
    let mut wire = Wire::new();
    let sid = wire.joined_polling();
    let request =
        form(&sid, "", "42[\"a\"]").replace("\r\n\r\n", "\r\nContent-Encoding: gzip\r\n\r\n");
    assert_eq!(wire.ask(&request), (200, "ok".into()));
    assert_eq!(wire.heard(), ["a()"]);
}
