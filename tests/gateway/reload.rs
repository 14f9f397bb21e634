//! Reload: by signal and by request, while thousands of clients are there.

use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use serde_json::json;

use super::client::{Frame, Stream, WebSocket};
use super::rig::{Folder, Gateway, join_as, until};

/// Clients of the tests under load: `CORECAST_GATEWAY_CLIENTS`, or as many as are usual there.
pub fn crowd(usual: usize) -> usize {
    let files = rlimit::increase_nofile_limit(rlimit::INFINITY).unwrap_or(1_024) as usize;
    let wanted = std::env::var("CORECAST_GATEWAY_CLIENTS").ok().and_then(|it| it.parse().ok());
    wanted.unwrap_or(usual).min(files.saturating_sub(500))
}

/// Sessions that have joined `/`, opened by several threads at once.
pub fn many(address: SocketAddr, count: usize) -> Vec<WebSocket> {
    const THREADS: usize = 4;
    let threads = (0..THREADS).map(|thread| {
        let share = count / THREADS + usize::from(thread < count % THREADS);
        std::thread::spawn(move || (0..share).map(|_| WebSocket::connect(address)).collect())
    });
    let threads: Vec<_> = threads.collect();
    let joined = threads.into_iter().map(|thread| thread.join().expect("all connect"));
    joined.flat_map(|sockets: Vec<WebSocket>| sockets).collect()
}

/// How often a text was logged.
fn logged(gateway: &Gateway, text: &str) -> usize {
    gateway.log().matches(text).count()
}

/// Sends SIGHUP and waits for what is logged about it.
pub fn hang_up(gateway: &Gateway, text: &str) {
    let before = logged(gateway, text);
    gateway.signal("HUP");
    until(text, || logged(gateway, text) > before);
}

const QUIET: &str = "[server]\nping_interval = \"10m\"\n[[namespace]]\nname = \"/\"\n";

fn route(event: &str) -> String {
    format!("{QUIET}[[namespace.route]]\nevent = \"{event}\"\ndo = \"broadcast\"\n")
}

#[test]
fn no_client_notices_a_reload() {
    let gateway = Gateway::start(&route("say"));
    let mut clients = many(gateway.address, crowd(10_000));
    let mut speaker = WebSocket::connect(gateway.address);
    let rounds = 12;
    for round in 0..rounds {
        speaker.emit("say", &round.to_string());
        match round % 3 {
            // By signal, and with something new each time.
            0 => {
                let new = format!("{}[[namespace]]\nname = \"/r{round}\"\n", route("say"));
                gateway.configure(&new);
                hang_up(&gateway, "reloaded");
                WebSocket::connect(gateway.address).join(&format!("/r{round}"));
            }
            1 => {
                gateway.post("/reload", "").expect(200);
            }
            // What is wrong changes nothing, and is told.
            _ => {
                gateway.configure("[server]\nlissten = []\n");
                let said = ":2: server.lissten: there is no such key";
                let reply = gateway.post("/reload", "");
                assert!(reply.status == 422 && reply.body.contains(said), "{reply:?}");
                gateway.configure(&route("say"));
            }
        }
        assert_eq!(speaker.event(), ("say".into(), vec![round.into()]));
    }
    for client in &mut clients {
        for round in 0..rounds {
            assert_eq!(client.event(), ("say".into(), vec![round.into()]));
        }
    }
}

#[test]
fn a_reload_changes_what_is_done_from_then_on() {
    let gateway = Gateway::start(&route("old"));
    let mut client = WebSocket::connect(gateway.address);
    client.emit("old", "1");
    assert_eq!(client.event().0, "old");
    gateway.configure(&route("new"));
    gateway.post("/reload", "").expect(200);
    client.emit("old", "2");
    client.emit("new", "3");
    assert_eq!(client.event(), ("new".into(), vec![3.into()]));
}

#[test]
fn clients_of_a_namespace_that_is_removed_are_told_and_disconnected() {
    let one = route("say");
    let more = "[[namespace.route]]\nevent = \"say\"\ndo = \"broadcast\"\n";
    let two = format!("{one}[[namespace]]\nname = \"/two\"\n{more}");
    let gateway = Gateway::start(&two);
    // The second time it is one that a reload has brought.
    for round in 0..2 {
        let mut ada = gateway.client();
        ada.join("/two");
        ada.send("42/two,[\"say\",1]");
        assert_eq!(ada.text(), "42/two,[\"say\",1]");
        gateway.configure(&one);
        gateway.post("/reload", "").expect(200);
        let told = "42/two,[\"namespace:removed\",{\"namespace\":\"/two\"}]";
        assert_eq!(ada.text(), told, "{round}");
        assert_eq!(ada.text(), "41/two,");
        // Its other namespaces go on, and nobody comes back.
        ada.emit("say", "2");
        assert_eq!(ada.event(), ("say".into(), vec![2.into()]));
        let refusal = join_as(&mut ada, "/two", "").expect_err("gone");
        assert_eq!(refusal["message"], "Invalid namespace");
        let of_two = "/v1/sockets?namespace=/two";
        until("nobody is left", || gateway.get(of_two).expect(200)["sockets"] == json!([]));
        gateway.configure(&two);
        gateway.post("/reload", "").expect(200);
    }
}

#[test]
fn the_page_is_read_again() {
    let folder = Folder::new();
    let page = folder.write("page.html", "one");
    let with = |page: &Path| QUIET.replace("[server]", &format!("[server]\npage = {page:?}"));
    let gateway = Gateway::start_with(folder, &with(&page), |_| {});
    let get = || Stream::connect(gateway.address).request("GET", "/", "");
    assert_eq!(get(), (200, "one".into()));
    gateway.folder.write("page.html", "two");
    gateway.post("/reload", "").expect(200);
    assert_eq!(get(), (200, "two".into()));
    gateway.configure(&with(&page.with_file_name("none.html")));
    let named = "none.html: No such file";
    gateway.post("/reload", "").problem(422, named);
    assert_eq!(get(), (200, "two".into()));
    gateway.configure(QUIET);
    assert_eq!(gateway.post("/reload", "").expect(200)["restart_needed_for"], json!([]));
    assert_eq!(get().0, 404);
}

#[test]
fn limits_of_the_server_change_at_once() {
    let join = "[[namespace.route]]\nevent = \"join\"\ndo = \"join\"\nto = \"args[0]\"\n";
    let all = "[auth]\npermissions = [\"join:**\"]\n";
    let with = |keys: &str| {
        let server = QUIET.replace("[server]", &format!("[server]\n{keys}"));
        format!("{server}{join}{all}")
    };
    let gateway = Gateway::start(&with(""));
    let mut ada = gateway.client();
    assert_eq!(ada.ask("join", "\"a\""), "[{\"ok\":true}]");
    gateway.configure(&with("max_rooms = 1\nmax_namespaces = 1\nhead_timeout = \"200ms\""));
    assert_eq!(gateway.post("/reload", "").expect(200)["restart_needed_for"], json!([]));
    assert!(ada.ask("join", "\"b\"").contains("room_limit"));
    assert!(join_as(&mut ada, "/more", "").is_err());
    // What is not sent in time is not waited for.
    let mut slow = Stream::connect(gateway.address);
    slow.write(b"GET /");
    assert!(String::from_utf8_lossy(&slow.rest()).contains(" 408 "));
    // With what needs a restart it would be good, and without it is not: nothing changes.
    let recovery = "connection_state_recovery = { max_bytes = \"1KiB\" }\n";
    let gateway = Gateway::start(&with("connection_state_recovery = { max_bytes = \"8KiB\" }"));
    let mut ben = gateway.client();
    gateway.configure(&with(&format!("max_rooms = 1\nmax_queue_bytes = \"2KiB\"\n{recovery}")));
    gateway.post("/reload", "").problem(422, "server.connection_state_recovery: max_bytes");
    assert_eq!(["\"a\"", "\"b\""].map(|room| ben.ask("join", room)), ["[{\"ok\":true}]"; 2]);
}

#[test]
fn keys_that_need_a_restart_are_named_and_stay() {
    let gateway = Gateway::start(QUIET);
    let changed = QUIET.replace("10m", "11m").replace("[server]", "[server]\npath = \"/other\"");
    gateway.configure(&changed);
    let body = gateway.post("/reload", "").expect(200);
    let named = json!(["server.path", "server.ping_interval"]);
    assert_eq!(body["restart_needed_for"], named);
    hang_up(&gateway, "a restart is needed for server.path, server.ping_interval");
    // The old path is served still.
    let _ = WebSocket::connect(gateway.address);
}

#[test]
fn an_invalid_file_after_a_signal_is_logged_with_its_line() {
    let gateway = Gateway::start(QUIET);
    gateway.configure("[server]\n\nping_interval = 3\n");
    hang_up(&gateway, "nothing has changed");
    gateway.wait_for_log(":3: server.ping_interval: ");
    let mut client = WebSocket::connect(gateway.address);
    client.send("1");
    assert!(matches!(client.rest()[..], [] | [Frame::Close]));
}

#[test]
fn systemd_is_told() {
    let folder = Folder::new();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(super::client::PATIENCE)).expect("a timeout");
    let told = || {
        let mut bytes = [0; 256];
        let count = socket.recv(&mut bytes).expect("it is told");
        String::from_utf8_lossy(&bytes[..count]).trim().to_owned()
    };
    let mut gateway = Gateway::start_with(folder, QUIET, |command| {
        command.env("NOTIFY_SOCKET", &path);
    });
    assert_eq!(told(), "READY=1");
    gateway.signal("HUP");
    assert_eq!([told(), told()], ["RELOADING=1", "READY=1"]);
    gateway.signal("TERM");
    assert_eq!(told(), "STOPPING=1");
    assert!(gateway.wait().success());
}
