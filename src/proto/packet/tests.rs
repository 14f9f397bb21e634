//! Tables of Socket.IO packets: every row of section I, and the inputs of the parser's CVEs.

use super::*;
use crate::options::Options;

fn limits() -> Limits {
    Options::default().limits().expect("defaults hold")
}

fn read(text: &str) -> Result<Packet<'_>, Error> {
    decode(text, &limits(), &mut Validator::new())
}

fn packet<'a>(
    kind: Kind,
    attachments: usize,
    namespace: &'a str,
    id: Option<u64>,
    data: &'a str,
) -> Result<Packet<'a>, Error> {
    Ok(Packet { kind, attachments, namespace, id, data })
}

#[test]
fn the_table_of_kinds() {
    use Kind::*;
    let table = [
        ("0", packet(Connect, 0, "/", None, "")),
        ("0{}", packet(Connect, 0, "/", None, "{}")),
        ("0/admin,{\"token\":\"x\"}", packet(Connect, 0, "/admin", None, "{\"token\":\"x\"}")),
        ("1", packet(Disconnect, 0, "/", None, "")),
        ("1/admin,", packet(Disconnect, 0, "/admin", None, "")),
        ("2[\"hello\",1]", packet(Event, 0, "/", None, "[\"hello\",1]")),
        ("2/admin,456[\"x\"]", packet(Event, 0, "/admin", Some(456), "[\"x\"]")),
        ("3456[]", packet(Ack, 0, "/", Some(456), "[]")),
        ("3/a,0[1,2]", packet(Ack, 0, "/a", Some(0), "[1,2]")),
        ("4{\"message\":\"no\"}", packet(ConnectError, 0, "/", None, "{\"message\":\"no\"}")),
        ("4/a,\"no\"", packet(ConnectError, 0, "/a", None, "\"no\"")),
        (
            "51-[\"hello\",{\"_placeholder\":true,\"num\":0}]",
            packet(BinaryEvent, 1, "/", None, "[\"hello\",{\"_placeholder\":true,\"num\":0}]"),
        ),
        (
            "61-/admin,456[{\"_placeholder\":true,\"num\":0}]",
            packet(BinaryAck, 1, "/admin", Some(456), "[{\"_placeholder\":true,\"num\":0}]"),
        ),
        ("510-[\"ten\"]", packet(BinaryEvent, 10, "/", None, "[\"ten\"]")),
        // White space around JSON is not part of the data.
        ("2 [\"a\"]\r\n", packet(Event, 0, "/", None, "[\"a\"]")),
    ];
    for (text, expected) in table {
        assert_eq!(read(text), expected, "{text}");
    }
}

#[test]
fn payload_shapes_by_kind() {
    let shapes = ["{}", "[\"a\"]", "[1]", "[]", "[{}]", "[null]", "\"a\"", "1", "null", "true"];
    let legal = ["{}", "", "[\"a\"] [1]", "[\"a\"] [1] [] [{}] [null]", "{} \"a\""];
    for (kind, legal) in [0, 1, 2, 3, 4, 5, 6].into_iter().zip(legal.iter().chain(&legal[2..4])) {
        let header = if kind > 4 { format!("{kind}1-") } else { kind.to_string() };
        for shape in shapes {
            let text = format!("{header}{shape}");
            // A number after the header is an ack id, so give each packet one.
            let text = if shape == "1" { format!("{header}/,0 {shape}") } else { text };
            let expected = legal.split(' ').any(|legal| legal == shape);
            match read(&text) {
                Ok(packet) => assert!(expected && packet.data == shape, "{text}"),
                Err(error) => assert!(!expected && error == Error::InvalidPayload, "{text}"),
            }
        }
        // Absent is legal for each (I-5).
        assert_eq!(read(&header).map(|packet| packet.data), Ok(""), "{header}");
        assert_eq!(read(&format!("{header}/a,7")).map(|packet| packet.id), Ok(Some(7)));
    }
}

#[test]
fn namespaces() {
    for (text, namespace, data) in [
        ("0/random", "/random", ""),
        ("0/", "/", ""),
        ("0/,", "/", ""),
        ("0/nsp?token=1,{}", "/nsp?token=1", "{}"),
        ("0/a/b,{}", "/a/b", "{}"),
        ("0/é,{}", "/é", "{}"),
        // Without a comma all is namespace, as in the reference.
        ("2/chat[]", "/chat[]", ""),
        ("2/a,[\"b\",\"c\"]", "/a", "[\"b\",\"c\"]"),
    ] {
        let packet = read(text).expect(text);
        assert_eq!((packet.namespace, packet.data), (namespace, data), "{text}");
    }
    assert_eq!(read("2chat,[\"a\"]"), Err(Error::InvalidPayload));
    assert_eq!(read("2,[\"a\"]"), Err(Error::InvalidPayload));
}

#[test]
fn ack_ids() {
    for (text, expected) in [
        ("20[\"a\"]", Ok(Some(0))),
        ("2007[\"a\"]", Ok(Some(7))),
        ("29007199254740991[\"a\"]", Ok(Some((1 << 53) - 1))),
        ("29007199254740992[\"a\"]", Err(Error::InvalidId)),
        ("218446744073709551616[\"a\"]", Err(Error::InvalidId)),
        ("21 2[\"a\"]", Err(Error::InvalidPayload)),
        ("21\t[\"a\"]", Ok(Some(1))),
        ("2-1[\"a\"]", Err(Error::InvalidPayload)),
        ("21.5[\"a\"]", Err(Error::InvalidPayload)),
        ("21e3[\"a\"]", Err(Error::InvalidPayload)),
        ("2٣[\"a\"]", Err(Error::InvalidPayload)),
    ] {
        assert_eq!(read(text).map(|packet| packet.id), expected, "{text}");
    }
    let huge = format!("2{}[\"a\"]", "9".repeat(100_000));
    assert_eq!(read(&huge), Err(Error::InvalidId));
}

#[test]
fn attachment_counts() {
    for (text, expected) in [
        ("51-[\"a\"]", Ok(1)),
        ("501-[\"a\"]", Ok(1)),
        ("510-[\"a\"]", Ok(10)),
        ("61-0[]", Ok(1)),
        // CVE-2026-69185: nothing would ever complete these.
        ("50-[\"a\"]", Err(Error::InvalidAttachmentCount)),
        ("50-", Err(Error::InvalidAttachmentCount)),
        ("60-1[]", Err(Error::InvalidAttachmentCount)),
        ("5", Err(Error::InvalidAttachmentCount)),
        ("5[\"a\"]", Err(Error::InvalidAttachmentCount)),
        ("5-[\"a\"]", Err(Error::InvalidAttachmentCount)),
        ("51[\"a\"]", Err(Error::InvalidAttachmentCount)),
        ("5/a,1-[\"a\"]", Err(Error::InvalidAttachmentCount)),
        ("5 5-[\"a\"]", Err(Error::InvalidAttachmentCount)),
        ("51e1-[\"a\"]", Err(Error::InvalidAttachmentCount)),
        ("50x5-[\"a\"]", Err(Error::InvalidAttachmentCount)),
        ("5-1-[\"a\"]", Err(Error::InvalidAttachmentCount)),
        ("51.5-[\"a\"]", Err(Error::InvalidAttachmentCount)),
        ("5Infinity-[\"a\"]", Err(Error::InvalidAttachmentCount)),
        // CVE-2026-33151.
        ("511-[\"a\"]", Err(Error::TooManyAttachments)),
        ("510000000000-[\"a\"]", Err(Error::TooManyAttachments)),
        ("599999999999999999999999-[\"a\"]", Err(Error::TooManyAttachments)),
    ] {
        assert_eq!(read(text).map(|packet| packet.attachments), expected, "{text}");
    }
    // Other kinds have none: what looks like a count is an ack id before bad JSON.
    assert_eq!(read("21-[\"a\"]"), Err(Error::InvalidPayload));
}

#[test]
fn attacks_and_malformed_packets() {
    for (text, expected) in [
        ("", Error::UnknownType),
        ("7", Error::UnknownType),
        ("-", Error::UnknownType),
        (" 2[\"a\"]", Error::UnknownType),
        ("é", Error::UnknownType),
        ("2[\"a\"", Error::InvalidPayload),
        ("2[\"a\",]", Error::InvalidPayload),
        ("2[\"a\"]x", Error::InvalidPayload),
        ("2 ", Error::InvalidPayload),
        ("2[\"a\",\"\u{1}\"]", Error::InvalidPayload),
        ("2undefined", Error::InvalidPayload),
        // CVE-2023-32695.
        ("2[{\"toString\":1}]", Error::InvalidPayload),
        ("2[{\"toString\":\"foo\"}]", Error::InvalidPayload),
        ("2[[\"a\"]]", Error::InvalidPayload),
        // U-8.
        ("0null", Error::InvalidPayload),
        ("0[]", Error::InvalidPayload),
        ("0\"auth\"", Error::InvalidPayload),
        // I-6.
        ("2[\"connect\"]", Error::ReservedEvent),
        ("2[\"connect_error\"]", Error::ReservedEvent),
        ("2[\"disconnect\"]", Error::ReservedEvent),
        ("2[\"disconnecting\",1]", Error::ReservedEvent),
        ("2[\"newListener\"]", Error::ReservedEvent),
        ("2[\"removeListener\"]", Error::ReservedEvent),
        ("2[ \"disconn\\u0065ct\" ]", Error::ReservedEvent),
        ("51-[\"disconnect\"]", Error::ReservedEvent),
        // CVE-2022-2421.
        ("51-[\"a\",{\"_placeholder\":true,\"num\":\"splice\"}]", Error::IllegalAttachments),
        ("51-[\"a\",{\"_placeholder\":true,\"num\":1}]", Error::IllegalAttachments),
        ("61-0[{\"_placeholder\":true,\"num\":-1}]", Error::IllegalAttachments),
        ("51-[\"a\",{\"_pl\\u0061ceholder\":true}]", Error::IllegalAttachments),
        ("51-[{\"_placeholder\":true,\"num\":0},\"a\"]", Error::InvalidPayload),
    ] {
        assert_eq!(read(text), Err(expected), "{text}");
    }
    let deep = format!("2[\"a\",{}", "[".repeat(100_000));
    assert_eq!(read(&deep), Err(Error::TooDeep));
    let nest =
        |depth: usize| format!("2[\"a\",{}{}]", "[".repeat(depth - 1), "]".repeat(depth - 1));
    assert!(read(&nest(128)).is_ok());
    assert_eq!(read(&nest(129)), Err(Error::TooDeep));
    // A thousand references to one attachment are legal and cost nothing here (I-9).
    let many = "{\"_placeholder\":true,\"num\":0},".repeat(1_000);
    assert!(read(&format!("51-[\"a\",{many}1]")).is_ok());
    // A plain event may say what it likes about placeholders.
    assert!(read("2[\"a\",{\"_placeholder\":true,\"num\":\"splice\"}]").is_ok());
    assert!(read("2[\"a\",1e999,\"\\ud800\",{\"__proto__\":{}}]").is_ok());
}

#[test]
fn event_names_and_arguments() {
    for (data, name, args) in [
        ("[\"a\"]", "a", ""),
        ("[\"error\"]", "error", ""),
        ("[\"\"]", "", ""),
        ("[\"a\",1]", "a", "1"),
        ("[ \"a\" , 1 , [2] ]", "a", "1 , [2]"),
        ("[\"a\",\"]\",{\"b\":\",\"}]", "a", "\"]\",{\"b\":\",\"}"),
        ("[7,8]", "7", "8"),
        ("[-1.50e3]", "-1.50e3", ""),
        ("[\"a\\n\\u0062\\\"\\ud83d\\ude00\",1]", "a\nb\"😀", "1"),
        ("[\"\\ud800\"]", "\u{fffd}", ""),
        ("[\"__proto__\",1]", "__proto__", "1"),
    ] {
        let (found, rest) = event_parts(data).expect(data);
        assert_eq!((found.as_ref(), rest), (name, args), "{data}");
        assert_eq!(read(&format!("2{data}")).map(|packet| packet.data), Ok(data));
    }
    assert!(matches!(event_parts("[\"a\",1]"), Ok((Cow::Borrowed("a"), "1"))));
    // I-5: an event without data is no error of the peer, and no listener's event.
    assert_eq!(event_parts(read("2").expect("legal").data), Err(Error::NoEventName));
    for data in ["[", "]", "[]", "{}", "[]]", "[\"", "[\"]", "[\"a]", "[\\", "x", "[,]", "[é]"] {
        assert_eq!(event_parts(data), Err(Error::InvalidPayload), "{data}");
    }
    assert!(!is_reserved("error") && !is_reserved("toString") && is_reserved("disconnect"));
}

#[test]
fn errors_speak_as_socket_io_does() {
    for (error, text) in [
        (Error::UnknownType, "unknown packet type"),
        (Error::InvalidPayload, "invalid payload"),
        (Error::ReservedEvent, "invalid payload"),
        (Error::InvalidAttachmentCount, "Illegal attachments"),
        (Error::TooManyAttachments, "too many attachments"),
        (Error::IllegalAttachments, "illegal attachments"),
        (Error::UnexpectedText, "got plaintext data when reconstructing a packet"),
        (Error::UnexpectedBinary, "got binary data when not reconstructing a packet"),
    ] {
        assert_eq!(error.to_string(), text);
    }
    assert_eq!(size_of::<Error>(), 1);
}

#[test]
fn attachments_are_counted_and_summed() {
    let limits = Limits { attachments_bytes_max: 10, ..limits() };
    let data = "[\"a\",{\"_placeholder\":true,\"num\":1}]";
    let text = format!("52-/x,7{data}");
    let packet = read(&text).expect("legal");
    let mut assembly = Assembly::new(&packet);
    assert_eq!(assembly.add(b"", &limits), Ok(false));
    assert_eq!(assembly.add(&[1; 11], &limits), Err(Error::AttachmentsTooLarge));
    let own = assembly.bytes();
    assert_eq!(assembly.add(&[1; 10], &limits), Ok(true));
    assert_eq!(assembly.bytes(), own + 10);
    assert_eq!(assembly.add(b"", &limits), Err(Error::UnexpectedBinary));
    let expected = (Kind::BinaryEvent, "/x".into(), Some(7), data.into());
    let (kind, namespace, id, found, attachments) = assembly.finish();
    assert_eq!((kind, namespace, id, found), expected);
    assert_eq!(attachments, [Bytes::new(), Bytes::from_static(&[1; 10])]);
    let mut assembly = Assembly::new(&packet);
    assert_eq!(assembly.add(&[0; 6], &limits), Ok(false));
    assert_eq!(assembly.add(&[0; 6], &limits), Err(Error::AttachmentsTooLarge));
}

/// What `write` appends, whose reservation must have been exact.
fn written(write: impl Fn(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    // A vector of bytes never holds fewer than 8.
    assert_eq!(out.len().max(8), out.capacity(), "{:?}", String::from_utf8_lossy(&out));
    let mut appended = b"4".to_vec();
    write(&mut appended);
    assert_eq!(appended[1..], out);
    String::from_utf8(out).expect("UTF-8")
}

#[test]
fn encoded_packets() {
    let event = |namespace: &str, id, attachments, args: &str| {
        written(|out| encode_event(namespace, id, attachments, "a\"\n", args.as_bytes(), out))
    };
    assert_eq!(event("/", None, 0, ""), r#"2["a\"\n"]"#);
    assert_eq!(event("/chat", Some(10), 0, "1,[2]"), r#"2/chat,10["a\"\n",1,[2]]"#);
    assert_eq!(event("/", Some(0), 12, "1"), r#"512-0["a\"\n",1]"#);
    let ack = |namespace: &str, id, attachments, args: &str| {
        written(|out| encode_ack(namespace, id, attachments, args.as_bytes(), out))
    };
    assert_eq!(ack("/", 0, 0, ""), "30[]");
    assert_eq!(ack("/a", ID_MAX, 2, "1,2"), "62-/a,9007199254740991[1,2]");
    assert_eq!(written(|out| encode_connect("/", "s1", None, out)), r#"0{"sid":"s1"}"#);
    let with_pid = written(|out| encode_connect("/a", "s1", Some("p"), out));
    assert_eq!(with_pid, r#"0/a,{"sid":"s1","pid":"p"}"#);
    let refused = |data| written(|out| encode_connect_error("/a", "no \"x\"", data, out));
    assert_eq!(refused(None), r#"4/a,{"message":"no \"x\""}"#);
    assert_eq!(refused(Some("[1]")), r#"4/a,{"message":"no \"x\"","data":[1]}"#);
    assert_eq!(written(|out| encode_disconnect("/", out)), "1");
    assert_eq!(written(|out| encode_disconnect("/a", out)), "1/a,");
}

/// A name, a namespace and arguments out of everything that needs care.
fn random(rng: &mut fastrand::Rng) -> (String, String, String, Option<u64>, usize) {
    let name: String = (0..rng.usize(..12)).map(|_| rng.char(..)).collect();
    let name = if is_reserved(&name) { String::new() } else { name };
    let namespace: String = (0..rng.usize(..9)).map(|_| rng.char('0'..)).collect();
    let args = ["1", "\"],[\"", "{\"a\":[null]}", "1e999", "[[]]", "\"\\\\\\\"\"", "\"é😀\""];
    let args: Vec<&str> = (0..rng.usize(..4)).filter_map(|_| rng.choice(args)).collect();
    let id = rng.bool().then(|| rng.u64(..=ID_MAX) >> rng.u8(..53));
    (name, format!("/{namespace}"), args.join(","), id, rng.usize(..4))
}

#[test]
fn what_is_encoded_decodes_to_the_same() {
    let seed = 5;
    let mut rng = fastrand::Rng::with_seed(seed);
    for round in 0..20_000 {
        let (name, namespace, args, id, attachments) = random(&mut rng);
        let event = written(|out| {
            encode_event(&namespace, id, attachments, &name, args.as_bytes(), out);
        });
        let packet = read(&event).unwrap_or_else(|error| panic!("{seed} {round} {error} {event}"));
        let kind = if attachments > 0 { Kind::BinaryEvent } else { Kind::Event };
        assert_eq!((packet.kind, packet.attachments), (kind, attachments));
        assert_eq!((packet.namespace, packet.id), (namespace.as_str(), id));
        let parts = event_parts(packet.data).expect("an event");
        assert_eq!((parts.0.as_ref(), parts.1), (name.as_str(), args.as_str()));

        let id = id.unwrap_or(0);
        let ack = written(|out| encode_ack(&namespace, id, attachments, args.as_bytes(), out));
        let packet = read(&ack).expect("an ack");
        assert_eq!((packet.namespace, packet.id), (namespace.as_str(), Some(id)));
        assert_eq!(packet.data, format!("[{args}]"));
        let refused = written(|out| encode_connect_error(&namespace, &name, Some("1"), out));
        assert_eq!(read(&refused).expect("a refusal").kind, Kind::ConnectError);
    }
}

#[test]
fn no_truncation_or_mutation_panics() {
    let texts = [
        "0/admin,{\"token\":\"x\"}",
        "2/é,456[\"näme\\u0041\\ud83d\\ude00\",{\"a\":[1.5e-3,true]}]",
        "512-/admin,456[\"a\",{\"_placeholder\":true,\"num\":0},{\"_pl\\u0061ceholder\":false}]",
        "4/a,{\"message\":\"no\",\"data\":null}",
    ];
    let mut rng = fastrand::Rng::with_seed(11);
    for text in texts {
        for end in (0..=text.len()).filter(|end| text.is_char_boundary(*end)) {
            let whole = read(&text[..end]).is_ok();
            let in_header = !text[..end].contains(['[', '{']);
            assert!(!whole || in_header || end == text.len(), "{}", &text[..end]);
            let _ = event_parts(&text[end..]);
            let _ = event_parts(&text[..end]);
        }
        for _ in 0..20_000 {
            let mut bytes = text.as_bytes().to_vec();
            for _ in 0..rng.usize(1..4) {
                let at = rng.usize(..bytes.len());
                bytes[at] = rng.u8(..128);
            }
            let text = String::from_utf8_lossy(&bytes);
            if let Ok(packet) = read(&text) {
                let event = matches!(packet.kind, Kind::Event | Kind::BinaryEvent);
                assert!(!event || packet.data.is_empty() || event_parts(packet.data).is_ok());
                assert!(packet.namespace.starts_with('/') && packet.attachments <= 10);
            }
        }
    }
}
