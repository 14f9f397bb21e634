//! Which pages may connect.

use crate::http::Request;
use crate::{Cors, Origin};

/// Origins that are allowed; all if none is named.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origins(Vec<Allowed>);

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
        let allowed = origins.iter().map(|origin| Allowed::parse(origin));
        Ok(Origins(allowed.collect::<Result<_, _>>()?))
    }

    /// What either allows.
    pub(crate) fn or(&self, other: &Origins) -> Origins {
        match self.0.is_empty() || other.0.is_empty() {
            true => Origins::default(),
            false => Origins(self.0.iter().chain(&other.0).cloned().collect()),
        }
    }

    /// Whether a request with this `Origin` may go on. One without is not from a page of another
    /// site, and no page can leave the header out, so it may.
    pub(crate) fn allow(&self, origin: Option<&str>) -> bool {
        let Some(origin) = origin else { return true };
        let origin = origin.to_ascii_lowercase();
        self.0.is_empty() || self.0.iter().any(|allowed| allowed.matches(&origin))
    }

    /// Whether any is named.
    pub(crate) fn is_restricted(&self) -> bool {
        !self.0.is_empty()
    }

    /// The text of the refusal of a handshake, if it has to be refused.
    pub(crate) fn check(&self, request: &Request) -> Result<(), String> {
        match self.allow(request.header("origin")) {
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

/// Lets browsers long-poll from the origins that `allows` is true for; cookies are sent along.
pub(crate) fn cors(allows: impl Fn(Option<&str>) -> bool + Send + Sync + 'static) -> Cors {
    Cors { origin: Origin::predicate(allows), credentials: true, ..Cors::default() }
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
        assert!(origins.allow(None) && origins.is_restricted());
        assert!(Origins::default().allow(Some("https://anywhere.example")));
        assert!(!origins.or(&Origins::default()).is_restricted());
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for text in ["a.example", "https://", "https://a/", "https://*", "https://a.*.b", "://a"] {
            assert!(Origins::new(&[text.to_owned()]).is_err(), "{text}");
        }
        assert!(Origins::new(&["*".to_owned()]).expect("any").allow(Some("null")));
    }
}
