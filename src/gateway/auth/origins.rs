//! Which pages may connect.

use crate::http::Request;
use crate::{Cors, Origin};

/// Origins that are allowed.
#[derive(Debug, Clone)]
pub(crate) struct Origins {
    named: Vec<Allowed>,
    /// Whether others may come too, because somebody has named none.
    is_open: bool,
}

impl Default for Origins {
    /// All, and none by its name.
    fn default() -> Self {
        Origins { named: Vec::new(), is_open: true }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Allowed {
    Any,
    Exact(String),
    /// Scheme with `://`, and the end of the host with its first dot, port included.
    Below(String, String),
}

impl Origins {
    /// # Errors
    /// One of them is no origin.
    pub(crate) fn new(origins: &[String]) -> Result<Origins, String> {
        let named = origins.iter().map(|origin| Allowed::parse(origin));
        Ok(Origins { named: named.collect::<Result<_, _>>()?, is_open: origins.is_empty() })
    }

    /// Whether all are allowed.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open
    }

    /// What either allows.
    pub(crate) fn or(&self, other: &Origins) -> Origins {
        let named = self.named.iter().chain(&other.named).cloned().collect();
        Origins { named, is_open: self.is_open || other.is_open }
    }

    /// Whether a request with this `Origin` may go on. One without is from no page that could read
    /// the answer, since what browsers ask for without it is not for scripts (see
    /// [`Origins::check`]).
    pub(crate) fn allow(&self, origin: Option<&str>) -> bool {
        let Some(origin) = origin else { return true };
        let origin = origin.to_ascii_lowercase();
        self.is_open || self.named.iter().any(|allowed| allowed.matches(&origin))
    }

    /// Whose pages may read answers over long-polling: those that are named, with cookies; with `*`
    /// also all others, from which browsers send no cookies then. Nobody because none is named.
    pub(crate) fn readers(&self, origin: Option<&str>) -> Origin {
        let origin = origin.unwrap_or_default().to_ascii_lowercase();
        let mut named = self.named.iter().filter(|allowed| **allowed != Allowed::Any);
        match named.any(|allowed| allowed.matches(&origin)) {
            true => Origin::Reflect(true),
            false if self.named.contains(&Allowed::Any) => Origin::Any,
            false => Origin::Reflect(false),
        }
    }

    /// Whether a handshake may go on. Browsers leave `Origin` out of what a page has them fetch but
    /// cannot read, such as images, and say `Sec-Fetch-Site` then; such a session is nobody's.
    ///
    /// # Errors
    /// The text of the refusal.
    pub(crate) fn check(&self, request: &Request) -> Result<(), String> {
        let origin = request.header("origin");
        let site = request.header("sec-fetch-site").filter(|_| origin.is_none());
        let is_foreign = site.is_some_and(|site| !["none", "same-origin"].contains(&site));
        match self.allow(origin) && (self.is_open || !is_foreign) {
            true => Ok(()),
            false => Err("origin not allowed".into()),
        }
    }

    /// Whether any request may go on: one for a session that is there comes from where sessions may
    /// begin, or a page could post forms to it.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn check_each(&self, request: &Request) -> Result<(), String> {
        match request.is_handshake() || self.allow(request.header("origin")) {
            true => Ok(()),
            false => Err("origin not allowed".into()),
        }
    }
}

impl Allowed {
    fn parse(text: &str) -> Result<Allowed, String> {
        let wrong = || {
            format!(
                "origins: \"{text}\" is none of https://example.com, https://*.example.com, \
                 null, *"
            )
        };
        let origin = text.to_ascii_lowercase();
        if origin == "*" {
            return Ok(Allowed::Any);
        }
        if origin == "null" {
            return Ok(Allowed::Exact(origin));
        }
        let (scheme, host) = origin.split_once("://").ok_or_else(wrong)?;
        let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        let name = host.strip_prefix("*.").unwrap_or(host);
        let is_sound = !scheme.is_empty() && scheme.bytes().all(is_scheme);
        if !is_sound || name.is_empty() || !name.bytes().all(is_host) {
            return Err(wrong());
        }
        Ok(match host.strip_prefix('*') {
            Some(end) => Allowed::Below(format!("{scheme}://"), end.to_owned()),
            None => Allowed::Exact(origin),
        })
    }

    /// Of an origin in lower case.
    fn matches(&self, origin: &str) -> bool {
        match self {
            Allowed::Any => true,
            Allowed::Exact(exact) => exact == origin,
            Allowed::Below(scheme, end) => {
                let host = origin.strip_prefix(scheme.as_str());
                let labels = host.and_then(|host| host.strip_suffix(end.as_str()));
                let is_label = |byte: u8| is_host(byte) && !b":[]".contains(&byte);
                labels.is_some_and(|labels| {
                    labels.split('.').all(|label| !label.is_empty() && label.bytes().all(is_label))
                })
            }
        }
    }
}

/// A byte of a host, or of a port behind it.
fn is_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.:[]".contains(&byte)
}

/// Lets browsers long-poll as `readers` says when they ask, so that a reload changes it.
pub(crate) fn cors(
    readers: impl Fn(Option<&str>) -> Option<Origin> + Send + Sync + 'static,
) -> Cors {
    let origin = Origin::ask(move |origin| {
        let readers = readers(origin.as_deref());
        async move { Ok(readers.unwrap_or(Origin::Reflect(false))) }
    });
    Cors { origin, credentials: true, ..Cors::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_match_as_a_whole() {
        let list = ["https://a.example", "https://*.b.example", "http://localhost:3000"];
        let origins = Origins::new(&list.map(String::from)).expect("origins");
        for origin in [
            "https://a.example",
            "HTTPS://A.Example",
            "https://x.b.example",
            "https://x.y.b.example",
            "http://localhost:3000",
        ] {
            assert!(origins.allow(Some(origin)), "{origin}");
        }
        for origin in [
            "",
            "null",
            "http://a.example",
            "https://a.example:8443",
            "https://a.example.evil.example",
            "https://xa.example",
            "https://b.example",
            "https://.b.example",
            "https://x..b.example",
            "https://evil.example/.b.example",
            "https://evil.example#.b.example",
            "https://u:p@x.b.example",
            "https://x.b.example:1",
            "https://xb.example",
            "http://localhost:30000",
        ] {
            assert!(!origins.allow(Some(origin)), "{origin}");
        }
        assert!(origins.allow(None));
        assert!(Origins::default().allow(Some("https://anywhere.example")));
    }

    #[test]
    fn pages_read_answers_where_they_are_named() {
        let named = |list: &[&str]| -> Origins {
            let list: Vec<String> = list.iter().map(|it| it.to_string()).collect();
            Origins::new(&list).expect("origins")
        };
        let read = |origins: &Origins| {
            ["https://a.example", "https://b.example"].map(|origin| {
                match origins.readers(Some(origin)) {
                    Origin::Reflect(is_named) => {
                        if is_named {
                            "named"
                        } else {
                            ""
                        }
                    }
                    Origin::Any => "*",
                    other => panic!("{other:?}"),
                }
            })
        };
        assert_eq!(read(&named(&[])), ["", ""]);
        assert_eq!(read(&named(&["https://A.example"])), ["named", ""]);
        assert_eq!(read(&named(&["*"])), ["*", "*"]);
        assert_eq!(read(&named(&["*", "https://a.example"])), ["named", "*"]);
        // Another namespace that lets everybody in lets nobody read.
        let both = named(&["https://a.example"]).or(&Origins::default());
        assert_eq!(read(&both), ["named", ""]);
        assert!(both.allow(Some("https://b.example")));
        assert!(matches!(both.readers(None), Origin::Reflect(false)));
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for text in ["a.example", "https://", "https://a/", "https://*", "https://a.*.b", "://a"] {
            assert!(Origins::new(&[text.to_owned()]).is_err(), "{text}");
        }
        assert!(Origins::new(&["*".to_owned()]).expect("any").allow(Some("null")));
    }
}
