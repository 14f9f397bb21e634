//! The namespace of the admin UI, on whole servers. What its page does is in `tests/npm`.

use corecast::{AdminOptions, BasicAuth};

use super::client::WebSocket;
use super::{options, serve};

/// Reads until a packet is as wanted; figures and events come between.
fn until(page: &mut WebSocket, start: &str) -> String {
    loop {
        let text = page.text();
        if text.starts_with(start) {
            return text;
        }
    }
}

/// S-2: a namespace of another name; a page that may only look is told so, and is not obeyed.
#[test]
fn s2_read_only() {
    for read_only in [true, false] {
        let mut admin = AdminOptions::default();
        admin.namespace = "/ui".into();
        admin.read_only = read_only;
        let site = serve(options(), |io| {
            let mut bad = admin.clone();
            let (username, password) = ("admin".into(), "no hash".into());
            bad.auth = Some(BasicAuth { username, password });
            assert!(io.instrument(bad).is_err());
            io.instrument(admin.clone()).expect("good options");
            assert!(io.instrument(admin).is_err(), "twice");
        });
        let mut ada = WebSocket::connect(site.address);
        let mut page = WebSocket::shake(site.address, "").shaken();
        page.send("40/ui,");
        let config = until(&mut page, r#"42/ui,["config","#);
        assert!(config.contains(r#""AGGREGATED_EVENTS","ALL_EVENTS""#), "{config}");
        assert_eq!(config.contains("DISCONNECT"), !read_only, "{config}");
        page.send(r#"42/ui,["_disconnect","/",false]"#);
        page.send("40");
        page.send(r#"421["echo",1]"#);
        if read_only {
            until(&mut page, "431[1]");
            assert_eq!(ada.ask("echo", "2"), "[2]");
        } else {
            assert_eq!(ada.text(), "41");
        }
        site.stop();
    }
}
