//! What becomes of client events.

use std::collections::HashSet;

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::peer::{Peer, Told, Way, reload};
use crate::rig::{Folder, Gateway};
use crate::tokens::{Signer, claims};

const SECRET: &str = "a-secret-of-forty-bytes-for-these-tests!";

/// A namespace with routes, of clients that may be nobody; `sync` answers and does nothing else.
fn config(routes: &str) -> String {
    format!(
        "[auth]\nanonymous = true\npermissions = [\"join:room:*\", \"join:own:{{user}}\"]\n\
         [[auth.key]]\nsecret = \"{SECRET}\"\n[[namespace]]\nname = \"/\"\nunknown = \"refuse\"\n\
         [[namespace.route]]\nevent = \"sync\"\ndo = \"reply\"\n\
         [[namespace.route]]\nevent = \"join\"\ndo = \"join\"\nto = \"args[0]\"\n{routes}"
    )
}

fn route(lines: &str) -> String {
    format!("[[namespace.route]]\n{lines}\n")
}

fn user(name: &str, more: &Value) -> Value {
    let signer = Signer::secret(Algorithm::HS256, SECRET);
    json!({ "token": signer.sign(&claims(name, more)) })
}

fn peers<const N: usize>(gateway: &Gateway) -> [Peer; N] {
    [(); N].map(|()| Peer::joined(gateway, Value::Null))
}

/// That nothing was sent to a peer but what it has read.
fn assert_silent(peer: &mut Peer) {
    peer.emit("mark", "");
    assert_eq!(peer.event_raw(), r#"["mark"]"#);
}

const MARK: &str = "[[namespace.route]]\nevent = \"mark\"\ndo = \"reply\"\nrename = \"mark\"\n";

#[test]
fn broadcasts_reach_everyone_byte_for_byte() {
    let routes = [
        route("event = \"all\"\ndo = \"broadcast\""),
        route("event = \"others\"\ndo = \"broadcast\"\nsender = false\nrename = \"from others\""),
        MARK.into(),
    ];
    let gateway = Gateway::start(&config(&routes.concat()));
    let [mut ada, mut ben, mut cy] = peers(&gateway);
    let args = r#"{"b":1.0,"a":12345678901234567890,"a":"\u0041\ud83d\ude00"}, [ ] ,null,"ü""#;
    assert_eq!(ada.ask_raw("all", args), r#"[{"ok":true}]"#);
    for peer in [&mut ada, &mut ben, &mut cy] {
        assert_eq!(peer.event_raw(), format!("[\"all\",{args}]"));
    }
    ada.emit("others", "");
    for peer in [&mut ben, &mut cy] {
        assert_eq!(peer.event_raw(), "[\"from others\"]");
    }
    ada.emit_binary("all", r#"{"x":{"_placeholder":true,"num":0}}"#, b"\x00\xff");
    for peer in [&mut ada, &mut ben, &mut cy] {
        assert_eq!(peer.event_raw(), r#"["all",{"x":{"_placeholder":true,"num":0}}]"#);
        assert_eq!(peer.told(), Told::Attachment(vec![0, 255]));
        assert_silent(peer);
    }
}

/// `args` says what is passed on, attachments included.
#[test]
fn attachments_that_are_not_passed_on_stay_behind() {
    let routes = [
        route("event = \"caption\"\ndo = \"broadcast\"\nargs = [\"{args[0].text}\"]"),
        route("event = \"image\"\ndo = \"broadcast\"\nargs = [\"{args[0].image}\"]"),
        MARK.into(),
    ];
    let gateway = Gateway::start(&config(&routes.concat()));
    let [mut ada, mut ben, mut cy] = peers(&gateway);
    let args = r#"{"text":"a cat","image":{"_placeholder":true,"num":0}}"#;
    ada.emit_binary("caption", args, b"\x00\xff");
    ada.emit_binary("image", args, b"\x00\xff");
    for peer in [&mut ada, &mut ben, &mut cy] {
        assert_eq!(peer.event_raw(), r#"["caption","a cat"]"#);
        assert_eq!(peer.event_raw(), r#"["image",{"_placeholder":true,"num":0}]"#);
        assert_eq!(peer.told(), Told::Attachment(vec![0, 255]));
        assert_silent(peer);
    }
}

#[test]
fn rooms_are_for_those_who_are_in() {
    let routes = [
        route("event = \"say\"\ndo = \"room\"\nto = \"args[0].room\""),
        route("event = \"mine\"\ndo = \"room\"\nto = \"room:{args[0]}\"\nsender = false"),
        route(
            "event = \"tell\"\ndo = \"room\"\nto = \"user:{args[0]}\"\nmember = false\n\
             args = [\"{args[1]}\", \"{user}\"]",
        ),
        route("event = \"team\"\ndo = \"room\"\nto = \"claims.team\"\nmember = false"),
        route("event = \"leave\"\ndo = \"leave\"\nto = \"args[0]\""),
        MARK.into(),
    ];
    let gateway = Gateway::start(&config(&routes.concat()));
    let mut ada = Peer::joined(&gateway, user("ada", &json!({ "team": "red", "rooms": ["red"] })));
    let mut ben = Peer::joined(&gateway, user("ben", &json!({})));
    let mut cy = Peer::joined(&gateway, Value::Null);
    assert_eq!(ada.refusal("say", r#"{"room":"room:x"}"#), "not_in_room");
    for peer in [&mut ada, &mut ben] {
        assert_eq!(peer.ask_raw("join", "\"room:x\""), r#"[{"ok":true}]"#);
        assert_eq!(peer.refusal("join", "\"room:x\""), "", "twice does no harm");
    }
    assert_eq!(cy.refusal("join", "\"other:x\""), "not_allowed");
    assert_eq!(ada.refusal("say", r#"{"room":"room:x","text":"hi"}"#), "");
    for peer in [&mut ada, &mut ben] {
        assert_eq!(peer.event_raw(), r#"["say",{"room":"room:x","text":"hi"}]"#);
    }
    assert_eq!(ada.refusal("mine", "\"x\""), "");
    assert_eq!(ben.event_raw(), r#"["mine","x"]"#);
    assert_eq!(cy.refusal("tell", r#""ada",{"a":1}"#), "");
    assert_eq!(ada.event_raw(), r#"["tell",{"a":1},null]"#);
    assert_eq!(ben.refusal("team", ""), "missing_value");
    assert_eq!(ada.refusal("team", "1"), "");
    assert_eq!(ada.event_raw(), r#"["team",1]"#);
    // Who has left hears nothing, and says nothing.
    assert_eq!(ben.refusal("leave", "\"room:x\""), "");
    assert_eq!(ben.refusal("mine", "\"x\""), "not_in_room");
    assert_eq!(ada.refusal("mine", "\"x\""), "");
    // The rooms of users cannot be left.
    assert_eq!(ada.refusal("leave", "\"user:ada\""), "bad_room");
    let own = Value::from(ada.id.as_str()).to_string();
    assert_eq!(ada.refusal("leave", &own), "bad_room");
    assert_eq!(cy.refusal("tell", r#""ada",2"#), "");
    assert_eq!(ada.event_raw(), r#"["tell",2,null]"#);
    for peer in [&mut ada, &mut ben, &mut cy] {
        assert_silent(peer);
    }
}

#[test]
fn answers_are_templates() {
    let routes = [
        route(
            "event = \"who\"\ndo = \"reply\"\n\
             ack = { id = \"{socket}\", user = \"{user}\", in = \"{namespace}\", \
             at = \"{time}\", echo = \"{args[0]}\", \
             text = \"{event}: {args[0].n}!\" }",
        ),
        route("event = \"ping\"\ndo = \"reply\"\nrename = \"pong\"\nack = \"ok\""),
        route("event = \"list\"\ndo = \"drop\"\nack = [1, \"{args[1]}\"]"),
        route("event = \"quiet\"\ndo = \"drop\""),
        MARK.into(),
    ];
    let gateway = Gateway::start(&config(&routes.concat()));
    let mut ada = Peer::joined(&gateway, user("ada", &json!({})));
    let answer = ada.ask("who", r#"{"n":7,"big":12345678901234567890}"#);
    assert_eq!((&answer["id"], &answer["user"]), (&json!(ada.id), &json!("ada")));
    assert_eq!((&answer["in"], &answer["text"]), (&json!("/"), &json!("who: 7!")));
    assert_eq!(answer["echo"], json!({ "n": 7, "big": 12_345_678_901_234_567_890_u64 }));
    assert!(answer["at"].as_u64().is_some_and(|at| at / 1_000 <= crate::tokens::now()));
    assert_eq!(ada.ask_raw("ping", "1,2"), "[\"ok\"]");
    assert_eq!(ada.event_raw(), "[\"pong\",1,2]");
    assert_eq!(ada.ask_raw("list", "0,1.50"), "[[1,1.50]]");
    assert_eq!(ada.ask_raw("list", ""), "[[1,null]]");
    assert_eq!(ada.ask_raw("quiet", ""), r#"[{"ok":true}]"#);
    ada.emit("quiet", "");
    assert_silent(&mut ada);
}

#[test]
fn the_nearest_route_is_taken_and_all_of_one_name() {
    let routes = [
        route("event = \"*\"\ndo = \"drop\"\nack = \"any\""),
        route("event = \"a:*\"\ndo = \"drop\"\nack = \"a\""),
        route("event = \"a:b:*\"\ndo = \"drop\"\nack = \"ab\""),
        route("event = \"a:b:c\"\ndo = \"join\"\nto = \"room:{args[0]}\"\nack = \"joined\""),
        route(
            "event = \"a:b:c\"\ndo = \"room\"\nto = \"room:{args[0]}\"\n\
             rename = \"came\"\nargs = [{ id = \"{socket}\" }]",
        ),
        MARK.into(),
    ];
    let gateway = Gateway::start(&config(&routes.concat()));
    let [mut ada, mut ben] = peers(&gateway);
    for (event, answer) in [("x", "any"), ("a", "any"), ("a:", "a"), ("a:x", "a"), ("a:b:x", "ab")]
    {
        assert_eq!(ada.ask(event, "1"), answer, "{event}");
    }
    for peer in [&mut ada, &mut ben] {
        assert_eq!(peer.ask("a:b:c", "1"), "joined");
    }
    let ids = [&ada, &ben].map(|peer| json!({ "id": peer.id }));
    assert_eq!(ada.event(), [json!("came"), ids[0].clone()]);
    assert_eq!(ada.event(), [json!("came"), ids[1].clone()]);
    assert_eq!(ben.event(), [json!("came"), ids[1].clone()]);
    // The first that refuses is the last that is tried.
    assert_eq!(ada.refusal("a:b:c", "\"x:y\""), "bad_room");
    assert_silent(&mut ada);
}

#[test]
fn unknown_events_are_dropped_or_refused() {
    let refusing = config(MARK);
    let gateway = Gateway::start(&refusing);
    let [mut ada] = peers(&gateway);
    assert_eq!(ada.refusal("nothing", "1"), "no_route");
    for event in ["__proto__", "", "toString", "*", "si*", "sync "] {
        assert_eq!(ada.refusal(event, ""), "no_route", "{event}");
    }
    reload(&gateway, &refusing.replace("refuse", "drop"));
    ada.emit("nothing", "1");
    assert_silent(&mut ada);
}

#[test]
fn clients_cannot_speak_for_the_gateway() {
    let routes = [route("event = \"*\"\ndo = \"broadcast\""), MARK.into()];
    let limits = "[limits]\nevent = \"limit\"\n";
    let gateway = Gateway::start(&format!("{}{limits}", config(&routes.concat())));
    let [mut ada, mut ben] = peers(&gateway);
    for event in ["drain", "limit", "auth:expiring", "auth:expired", "namespace:removed"] {
        assert_eq!(ada.refusal(event, r#"{"retry_after_ms":1000000000}"#), "no_route", "{event}");
    }
    assert_eq!(ada.refusal("drained", ""), "");
    assert_eq!(ben.event_raw(), r#"["drained"]"#);
    assert_silent(&mut ben);
    for (lines, error) in [
        ("event = \"drain\"\ndo = \"broadcast\"", "route[2].event"),
        ("event = \"limit\"\ndo = \"room\"\nto = \"rooms\"", "route[2].event"),
        ("event = \"x\"\ndo = \"broadcast\"\nrename = \"auth:expired\"", "route[2].rename"),
        ("event = \"auth:refresh\"\ndo = \"drop\"", "route[2].event"),
    ] {
        let said = Gateway::refuses(&format!("{}{limits}", config(&route(lines))));
        assert!(said.contains(error), "{lines}: {said}");
    }
}

#[test]
fn rooms_with_names_of_20_letters_are_rooms() {
    let routes = [
        route("event = \"in\"\ndo = \"join\"\nto = \"notifications-global\""),
        route("event = \"say\"\ndo = \"room\"\nto = \"notifications-global\""),
    ];
    let config_of =
        |routes: &str| config(routes).replace("join:room:*", "join:notifications-global");
    let gateway = Gateway::start(&config_of(&routes.concat()));
    let mut ada = Peer::joined(&gateway, Value::Null);
    assert_eq!(ada.refusal("in", ""), "");
    assert_eq!(ada.refusal("say", ""), "");
    let rooms = json!({ "rooms": ["notifications-global"] });
    let mut ben = Peer::joined(&gateway, user("ben", &rooms));
    assert_eq!(ben.refusal("say", ""), "");
    // What could be a socket's is told where it stands.
    for room in ["A-name-of-20-letters", "user:{args[0]}"] {
        let said = Gateway::refuses(&config(&route(&format!(
            "event = \"x\"\ndo = \"join\"\nto = \"{room}\""
        ))));
        assert!(said.contains("route[2].to"), "{said}");
        let said =
            Gateway::refuses(&format!("[auth]\nrooms = [\"{room}\"]\n").replace("args[0]", "user"));
        assert!(said.contains("auth.rooms"), "{said}");
    }
}

#[test]
fn hostile_rooms_are_no_rooms() {
    let routes = [
        route("event = \"doc\"\ndo = \"join\"\nto = \"room:{args[0].id}\""),
        route("event = \"to\"\ndo = \"room\"\nto = \"args[0]\"\nmember = false"),
        MARK.into(),
    ];
    let gateway = Gateway::start(&config(&routes.concat()));
    let [mut ada, mut ben] = peers(&gateway);
    let ids = [
        (json!("ok"), ""),
        (json!(7), ""),
        (json!("ü🎉 \u{202e}"), ""),
        (json!("{user}"), ""),
        (json!("*"), ""),
        (json!("a:b"), "bad_room"),
        (json!(":"), "bad_room"),
        (json!(""), "bad_room"),
        (json!("a\u{0}"), "bad_room"),
        (json!("a\nb"), "bad_room"),
        (json!("x".repeat(250)), ""),
        (json!("x".repeat(251)), "bad_room"),
        (json!("x".repeat(100_000)), "bad_room"),
        (json!(null), "missing_value"),
        (json!(true), "missing_value"),
        (json!(1.5), "missing_value"),
        (json!({}), "missing_value"),
        (json!(["a"]), "missing_value"),
    ];
    for (id, code) in ids {
        let args = json!({ "id": id }).to_string();
        assert_eq!(ada.refusal("doc", &args), code, "{args:.60}");
    }
    for args in ["", "{}", "[]", "\"id\"", "null", r#"{"x":{"id":"a"}}"#] {
        assert_eq!(ada.refusal("doc", args), "missing_value", "{args}");
    }
    // Of two the last counts, for the room as for whoever reads the arguments.
    assert_eq!(ada.refusal("doc", r#"{"id":"a","id":"b:c"}"#), "bad_room");
    // Nobody joins the room of another socket or user, whatever the permissions say.
    for (room, code) in [
        (ben.id.as_str(), "bad_room"),
        ("user:ben", "bad_room"),
        ("own:", "not_allowed"),
        ("own:null", "not_allowed"),
        ("room:", "not_allowed"),
        ("room:a:b", "not_allowed"),
        ("ROOM:a", "not_allowed"),
        ("room:\u{200b}", ""),
    ] {
        assert_eq!(ada.refusal("join", &json!(room).to_string()), code, "{room}");
    }
    // Where the configuration lets clients name any room, that is a message to one client.
    assert_eq!(ada.refusal("to", &json!(ben.id).to_string()), "");
    assert_eq!(ben.event(), [json!("to"), json!(ben.id)]);
    assert_eq!(ada.refusal("to", "\"nobody\""), "");
    assert_eq!(ada.refusal("to", "\"\""), "bad_room");
    assert_silent(&mut ben);
}

#[test]
fn schemas_say_where_it_is_wrong() {
    let folder = Folder::new();
    let schema = json!({ "type": "array", "maxItems": 2, "items": { "pattern": "^(a+)+$" } });
    let file = folder.write("list.json", &schema.to_string());
    let routes = [
        "[[namespace.route]]\nevent = \"say\"\ndo = \"broadcast\"\n\
             [namespace.route.schema]\ntype = \"object\"\n\
             required = [\"text\"]\nadditionalProperties = false\n\
             properties.text = { type = \"string\", \
             minLength = 1, maxLength = 20 }\n"
            .to_owned(),
        route(&format!(
            "event = \"list\"\ndo = \"broadcast\"\n\
             schema_file = {file:?}\nschema_max_size = \"1KiB\""
        )),
        MARK.into(),
    ];
    let gateway = Gateway::start_with(folder, &config(&routes.concat()), |_| {});
    let [mut ada, mut ben] = peers(&gateway);
    assert_eq!(ada.refusal("say", r#"{"text":"hello"}"#), "");
    assert_eq!(ben.event_raw(), r#"["say",{"text":"hello"}]"#);
    for (args, place) in [
        (r#"{"text":""}"#, "/text: "),
        (r#"{"text":5}"#, "/text: "),
        (r#"{"text":"this is too long for it"}"#, "/text: "),
        (r#"{}"#, "the argument: "),
        (r#"{"text":"a","more":1}"#, "the argument: "),
        (r#"{"text":"a","text":1}"#, "/text: "),
        ("[]", "the argument: "),
        ("", "exactly one"),
        (r#"{"text":"a"},{"text":"b"}"#, "exactly one"),
    ] {
        let answer = ada.ask("say", args);
        assert_eq!(answer["error"]["code"], "bad_arguments", "{args}");
        let message = answer["error"]["message"].as_str().expect("a message");
        assert!(message.starts_with(place), "{args}: {message}");
        assert!(!message.contains("too long for it"), "the value is repeated: {message}");
    }
    assert_eq!(ada.refusal("list", r#"["a","aaa"]"#), "");
    assert_eq!(ben.event_raw(), r#"["list",["a","aaa"]]"#);
    // A pattern that takes others an eternity takes this one no time.
    let evil = format!("[\"{}b\"]", "a".repeat(900));
    assert_eq!(ada.refusal("list", &evil), "bad_arguments");
    assert_eq!(ada.refusal("list", &format!("[\"{}\"]", "a".repeat(2_000))), "too_large");
    assert_silent(&mut ben);
}

#[test]
fn routes_have_rates() {
    let routes = [
        route("event = \"each\"\ndo = \"drop\"\nrate = { per_second = 0.001, burst = 2 }"),
        route(
            "event = \"user\"\ndo = \"drop\"\n\
             rate = { per_second = 0.001, burst = 5 }\nper = \"user\"",
        ),
        MARK.into(),
    ];
    let gateway = Gateway::start(&config(&routes.concat()));
    let mut sockets: Vec<Peer> =
        (0..20).map(|_| Peer::joined(&gateway, user("ada", &json!({})))).collect();
    let mut passed = |event: &str| -> usize {
        let codes = sockets.iter_mut().flat_map(|peer| [(); 3].map(|()| peer.refusal(event, "")));
        let codes: Vec<String> = codes.collect();
        assert_eq!(codes.iter().collect::<HashSet<_>>().len(), 2, "{codes:?}");
        codes.iter().filter(|code| code.is_empty()).count()
    };
    assert_eq!(passed("each"), 40);
    assert_eq!(passed("user"), 5);
    let mut ben = Peer::joined(&gateway, user("ben", &json!({})));
    assert_eq!([(); 3].map(|()| ben.refusal("user", "")), ["", "", ""]);
    // Of those who are nobody, each is counted alone.
    let [mut cy, mut dan] = peers(&gateway);
    for peer in [&mut cy, &mut dan] {
        let codes = [(); 6].map(|()| peer.refusal("user", ""));
        assert_eq!(codes, ["", "", "", "", "", "rate_limited"]);
    }
}

#[test]
fn permissions_are_required() {
    let routes = [
        route("event = \"write\"\ndo = \"broadcast\"\nrequire = \"chat:write\""),
        route("event = \"doc\"\ndo = \"broadcast\"\nrequire = \"doc:{args[0]}:edit\""),
        MARK.into(),
    ];
    let gateway = Gateway::start(&config(&routes.concat()));
    let with = |list: Value| user("ada", &json!({ "permissions": list }));
    let mut writer = Peer::joined(&gateway, with(json!(["chat:*", "doc:7:edit"])));
    let mut reader = Peer::joined(&gateway, with(json!(["chat:read", "chat", "*"])));
    let mut all = Peer::joined(&gateway, with(json!("**")));
    let [mut nobody] = peers(&gateway);
    assert_eq!(writer.refusal("write", ""), "");
    assert_eq!(reader.refusal("write", ""), "not_allowed");
    assert_eq!(nobody.refusal("write", ""), "not_allowed");
    assert_eq!(all.refusal("write", ""), "");
    let tries = ["7", "\"7\"", "8", "\"7:edit\"", "\"*\"", "null"];
    let codes = tries.map(|id| writer.refusal("doc", id));
    assert_eq!(codes, ["", "", "not_allowed", "bad_room", "not_allowed", "missing_value"]);
    let mut heard = Vec::new();
    nobody.emit("mark", "");
    loop {
        let event = nobody.event_raw();
        if event == r#"["mark"]"# {
            break;
        }
        heard.push(event);
    }
    assert_eq!(heard, [r#"["write"]"#, r#"["write"]"#, r#"["doc",7]"#, r#"["doc","7"]"#]);
    let mut own = Peer::joined(&gateway, user("eve", &json!({})));
    assert_eq!(own.refusal("join", "\"own:eve\""), "");
    assert_eq!(own.refusal("join", "\"own:ada\""), "not_allowed");
}

#[test]
fn backends_that_are_not_there_are_told_of() {
    let routes = [
        route("event = \"work\"\ndo = \"worker\""),
        route("event = \"later\"\ndo = \"worker\"\nwait = false\nack = \"taken\""),
        MARK.into(),
    ];
    let key = "[[workers.key]]\nname = \"a\"\nkey = \"0123456789abcdef\"\n";
    let gateway = Gateway::start(&(config(&routes.concat()) + key));
    let [mut ada] = peers(&gateway);
    assert_eq!(ada.refusal("work", "1"), "backend_unavailable");
    assert_eq!(ada.ask("later", "1"), "taken");
    let error =
        Gateway::refuses(&config(&route("event = \"a\"\ndo = \"webhook\"\nwebhook = \"no\"")));
    assert!(error.contains("route[2].webhook") && error.contains("there is no \"no\""), "{error}");
}

#[test]
fn namespaces_are_apart() {
    let routes = route("event = \"all\"\ndo = \"broadcast\"") + MARK;
    let other = "[[namespace]]\nname = \"/other\"\n\
             [[namespace.route]]\nevent = \"*\"\ndo = \"reply\"\nack = \"{namespace}\"\n";
    let gateway = Gateway::start(&format!("{}{other}", config(&routes)));
    let [mut ada, mut ben] = peers(&gateway);
    let way = Way { namespace: "/other", auth: user("cy", &json!({})), ..Way::default() };
    let mut cy = Peer::by(gateway.address, &way).expect("a session").expect("let in");
    assert_eq!(cy.ask("all", "1"), "/other");
    assert_eq!(ada.ask_raw("all", "2"), r#"[{"ok":true}]"#);
    for peer in [&mut ada, &mut ben] {
        assert_eq!(peer.event_raw(), r#"["all",2]"#);
        assert_silent(peer);
    }
}

#[test]
fn a_reload_changes_routes_of_those_who_are_connected() {
    let first = config(&(route("event = \"x\"\ndo = \"drop\"\nack = 1") + MARK));
    let gateway = Gateway::start(&first);
    let [mut ada] = peers(&gateway);
    assert_eq!(ada.ask("x", ""), 1);
    reload(&gateway, &first.replace("ack = 1", "ack = 2"));
    assert_eq!(ada.ask("x", ""), 2);
}
