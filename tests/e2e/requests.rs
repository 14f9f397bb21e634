//! Hooks on HTTP requests, CORS and the cookie, on servers that run (F, A.2).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use corecast::{ConnectionError, Cookie, Cors, ErrorContext, Headers, Options, Origin};
use corecast::{Request, Response, Server};

use super::client::{PATIENCE, Polling, Stream, WebSocket, request};
use super::{eventually, log, on_cpus, options, serve};

const HANDSHAKE: &str = "/socket.io/?EIO=4&transport=polling";

fn upgrade(query: &str) -> String {
    format!(
        "GET /socket.io/?EIO=4&transport=websocket{query} HTTP/1.1\r\nHost: h\r\n\
         Origin: http://a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// A fresh connection's answer: status, head in lower case, body.
fn ask(address: std::net::SocketAddr, bytes: &str) -> (u16, String, String) {
    let mut stream = Stream::connect(address);
    stream.write(bytes.as_bytes());
    let (status, head) = stream.head();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    let length = length.map_or(0, |digits| digits.parse().expect("digits"));
    (status, head, stream.body(length))
}

fn echo(session: &mut Polling) {
    session.post("421[\"echo\",1]");
    assert_eq!(session.packet(), "431[1]");
}

/// What an application that waits in a hook leaves behind when it is dropped there.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a2_4c_f10_allow_request_may_wait_and_say_no() {
    let (told, errors) = mpsc::channel();
    let site = serve(options(), |io| {
        io.allow_request(|request: Request| async move {
            corecast::sleep(Duration::from_millis(5)).await;
            match request.query("token").as_deref() {
                Some("good") => Ok(()),
                Some("panic") => panic!("in allow_request"),
                _ => Err(format!("{} says no", request.header("host").unwrap_or_default())),
            }
        });
        io.on_connection_error(move |error: ConnectionError| {
            let _ = told.send((error.code, error.message, error.context.name()));
        });
    });
    let (status, _, body) = ask(site.address, &request("GET", HANDSHAKE, ""));
    assert_eq!((status, body.as_str()), (403, "{\"code\":4,\"message\":\"test says no\"}"));
    let (status, head, body) = ask(site.address, &upgrade(""));
    assert_eq!((status, body.as_str()), (400, "h says no"));
    assert!(head.contains("content-type: text/html"), "{head}");
    for text in ["test says no", "h says no"] {
        let told = errors.recv_timeout(PATIENCE).expect("told");
        assert_eq!(told, (4, text.to_owned(), None));
    }
    let (status, ..) = ask(site.address, &request("GET", &format!("{HANDSHAKE}&token=panic"), ""));
    assert_eq!(status, 500);
    log::wait(&["ERROR", "allow_request panicked", "in allow_request"]);
    let mut good = WebSocket::shake(site.address, "&token=good").shaken();
    assert!(good.text().starts_with("0{"));
    good.join("/");
    assert_eq!(good.ask("echo", "1"), "[1]");
    site.stop();
}

/// A middleware that waits where it is asked to, and tells when it is entered and dropped.
fn waits(io: &Server, entered: &Arc<AtomicUsize>, dropped: &Arc<AtomicUsize>) {
    let (entered, dropped) = (entered.clone(), dropped.clone());
    io.use_http(move |request: Request, _: Response| {
        let (entered, dropped) = (entered.clone(), dropped.clone());
        async move {
            if request.query("wait").is_some() {
                let _dropped = Dropped(dropped);
                entered.fetch_add(1, Ordering::SeqCst);
                corecast::sleep(10 * PATIENCE).await;
            }
            Ok(())
        }
    });
}

/// Whoever goes while a hook waits takes the hook along.
#[test]
fn f8_hooks_end_with_their_requests() {
    let (entered, dropped) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let mut options = options();
    options.hook_timeout = 10 * PATIENCE;
    let site = serve(options, |io| waits(io, &entered, &dropped));
    let bytes = request("GET", &format!("{HANDSHAKE}&wait=1"), "");
    for (rounds, end) in [(1, Stream::reset as fn(Stream)), (2, drop)] {
        let mut streams: Vec<Stream> = (0..20).map(|_| Stream::connect(site.address)).collect();
        streams.iter_mut().for_each(|stream| stream.write(bytes.as_bytes()));
        eventually("the hooks to be asked", || entered.load(Ordering::SeqCst) == 20 * rounds);
        assert_eq!(dropped.load(Ordering::SeqCst), 20 * (rounds - 1));
        streams.into_iter().for_each(end);
        eventually("the hooks to be dropped", || dropped.load(Ordering::SeqCst) == 20 * rounds);
    }
    site.until("the connections to be gone", |stats| stats.gauges.connections == 0);
    Polling::connect(site.address);
    // One that waits does not hold up the end either.
    let mut stream = Stream::connect(site.address);
    stream.write(bytes.as_bytes());
    eventually("the last hook to be asked", || entered.load(Ordering::SeqCst) == 41);
    drop(stream);
    site.stop();
}

/// A hook that does not end is dropped when its time is over.
#[test]
fn f8_hooks_have_a_deadline() {
    let (entered, dropped) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let mut options = options();
    options.hook_timeout = Duration::from_millis(100);
    let site = serve(options, |io| waits(io, &entered, &dropped));
    let (status, ..) = ask(site.address, &request("GET", &format!("{HANDSHAKE}&wait=1"), ""));
    assert_eq!(status, 503);
    eventually("the hook to be dropped", || dropped.load(Ordering::SeqCst) == 1);
    Polling::connect(site.address);
    site.stop();
}

#[test]
fn f8_middleware_answers_sets_headers_fails_and_panics() {
    let (told, errors) = mpsc::channel();
    let site = serve(options(), |io| {
        io.use_http(|request: Request, response: Response| async move {
            response.set_header("X-First", request.address().ip().to_string());
            response.append_header("Set-Cookie", "a=1");
            response.append_header("Set-Cookie", "b=2");
            Ok(())
        });
        io.use_http(|request: Request, response: Response| async move {
            corecast::sleep(Duration::from_millis(1)).await;
            match request.query("do").as_deref() {
                Some("answer") => {
                    response.set_header("Content-Type", "text/plain");
                    response.send(202, "mine");
                }
                Some("fail") => return Err("database".into()),
                Some("panic") => panic!("in middleware of HTTP"),
                _ => {}
            }
            Ok(())
        });
        io.on_connection_error(move |error: ConnectionError| {
            let _ = told.send((error.code, error.context));
        });
    });
    let about = |what: &str| request("GET", &format!("{HANDSHAKE}&do={what}"), "");
    let (status, head, body) = ask(site.address, &about("answer"));
    assert_eq!((status, body.as_str()), (202, "mine"));
    assert!(head.contains("x-first: 127.0.0.1\r\nset-cookie: a=1\r\nset-cookie: b=2"), "{head}");
    assert!(head.contains("content-type: text/plain\r\n"), "{head}");
    let (status, head, body) = ask(site.address, &about("fail"));
    assert_eq!((status, body.as_str()), (400, "{\"code\":3,\"message\":\"Bad request\"}"));
    assert!(head.contains("x-first"), "{head}");
    let expected = (3, ErrorContext::Middleware("database".into()));
    assert_eq!(errors.recv_timeout(PATIENCE).expect("told"), expected);
    assert_eq!(ask(site.address, &about("panic")).0, 500);
    log::wait(&["ERROR", "HTTP middleware panicked", "in middleware of HTTP"]);
    let (status, head, _) = ask(site.address, &upgrade(""));
    assert!(status == 101 && head.contains("x-first: 127.0.0.1"), "{head}");
    echo(&mut Polling::connect(site.address));
    let (status, head, _) = ask(site.address, &request("GET", "/socket.io/socket.io.js.map", ""));
    assert!(status == 200 && !head.contains("x-first"), "files are no business of it: {head}");
    site.stop();
}

#[test]
fn f1_f2_headers_of_answers() {
    let site = serve(options(), |io| {
        io.on_initial_headers(|headers: &mut Headers, request: &Request| {
            headers.append("Set-Cookie", format!("q={}", request.query("t").unwrap_or_default()));
        });
        io.on_headers(|headers: &mut Headers, request: &Request| {
            assert!(request.query("panic").is_none(), "in headers");
            headers.set("X-Every", request.method());
        });
    });
    let (_, head, body) = ask(site.address, &request("GET", &format!("{HANDSHAKE}&t=7"), ""));
    assert!(head.contains("set-cookie: q=7\r\nx-every: get\r\n"), "{head}");
    let target = format!("{HANDSHAKE}&sid={}", &body[9..29]);
    let (status, head, _) = ask(site.address, &request("POST", &target, "40"));
    assert_eq!(status, 200);
    assert!(head.contains("x-every: post") && !head.contains("set-cookie"), "{head}");
    let (_, head, _) = ask(site.address, &upgrade("&t=8"));
    assert!(head.contains("set-cookie: q=8\r\nx-every: get\r\n"), "{head}");
    let (status, head, _) = ask(site.address, &request("GET", &format!("{HANDSHAKE}&sid=x"), ""));
    assert!(status == 400 && !head.contains("x-every"), "{head}");
    let (status, ..) = ask(site.address, &request("GET", &format!("{HANDSHAKE}&panic=1"), ""));
    assert_eq!(status, 500);
    site.stop();
}

#[test]
fn f4_f6_cors_by_function_and_f3_cookie() {
    let mut options = options();
    let mut cors = Cors::default();
    cors.origin = Origin::ask(|origin: Option<String>| async move {
        corecast::sleep(Duration::from_millis(1)).await;
        match origin.as_deref() {
            Some("http://bad") => Err("bad".into()),
            Some("http://panic") => panic!("in origin"),
            origin => Ok(Origin::from(origin == Some("http://a"))),
        }
    });
    options.cors = Some(cors);
    options.cookie = Some(Cookie::default());
    let site = serve(options, |_| {});
    let from = |origin: &str| {
        request("GET", HANDSHAKE, "").replace("Host: test", &format!("Host: h\r\nOrigin: {origin}"))
    };
    let (status, head, _) = ask(site.address, &from("http://a"));
    assert_eq!(status, 200);
    assert!(head.contains("access-control-allow-origin: http://a\r\nvary: origin\r\n"), "{head}");
    assert!(head.contains("set-cookie: io=") && head.contains("; httponly; samesite=lax"));
    let (status, head, _) = ask(site.address, &from("http://b"));
    assert!(status == 200 && !head.contains("access-control"), "{head}");
    assert_eq!(ask(site.address, &from("http://bad")).0, 400);
    assert_eq!(ask(site.address, &from("http://panic")).0, 500);
    let (status, head, _) = ask(site.address, &upgrade(""));
    assert!(status == 101 && head.contains("access-control-allow-origin: http://a"), "{head}");
    let preflight = from("http://a").replacen("GET", "OPTIONS", 1);
    let (status, head, _) = ask(site.address, &preflight);
    assert!(status == 204 && head.contains("access-control-allow-methods: get,head"), "{head}");
    site.stop();
}

/// A.2-6: every shard finds a session by the id that the application gave it.
#[test]
fn a2_6_ids_of_the_application_on_two_shards() {
    let number = AtomicUsize::new(0);
    let site = serve(on_cpus(2), |io| {
        io.generate_id(move |request: Request| {
            let number = number.fetch_add(1, Ordering::SeqCst);
            async move {
                match request.query("id") {
                    Some(id) if id == "error" => Err("database".into()),
                    Some(id) => Ok(id),
                    None => Ok(format!("node-7:{number}")),
                }
            }
        });
    });
    let mut sessions: Vec<Polling> = (0..16).map(|_| Polling::connect(site.address)).collect();
    for session in &mut sessions {
        assert!(session.target.contains("&sid=node-7:"), "{}", session.target);
        // Each request comes on a connection of its own, so about half of them on the other shard.
        for _ in 0..4 {
            echo(session);
        }
    }
    let named = |id: &str| request("GET", &format!("{HANDSHAKE}&id={id}"), "");
    assert_eq!(ask(site.address, &named("mine")).0, 200);
    for id in ["mine", "error", "a%20b", ""] {
        let (status, _, body) = ask(site.address, &named(id));
        let expected = "{\"code\":3,\"message\":\"Bad request\"}";
        assert_eq!((status, body.as_str()), (400, expected), "{id}");
    }
    let close = request("POST", &format!("{HANDSHAKE}&sid=mine"), "1");
    assert_eq!(ask(site.address, &close).0, 200);
    assert_eq!(ask(site.address, &close).0, 400, "gone");
    assert_eq!(ask(site.address, &named("mine")).0, 200, "free again");
    site.stop();
}

/// A.1: the path, and the warning about what no browser accepts.
#[test]
fn a1_path_without_a_slash_and_the_warning_of_cors() {
    let mut options: Options = options();
    options.add_trailing_slash = false;
    options.path = "/rt/".into();
    let mut cors = Cors::default();
    cors.credentials = true;
    options.cors = Some(cors);
    let site = serve(options, |_| {});
    log::wait(&["WARN", "cors", "credentials"]);
    for (path, status) in [("/rt", 200), ("/rt/", 200), ("/rtx", 200), ("/r", 404)] {
        let target = format!("{path}?EIO=4&transport=polling");
        assert_eq!(ask(site.address, &request("GET", &target, "")).0, status, "{path}");
    }
    assert_eq!(ask(site.address, &request("GET", "/rt/socket.io.js.map", "")).0, 200);
    site.stop();
}
