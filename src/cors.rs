//! Cross-origin requests, as npm's `cors` answers them (F-4 … F-7).

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use regex::Regex;

use crate::error::Error;
use crate::http::Headers;
use crate::namespace::LocalFuture;
use crate::proto::http::{Head, Method};

/// A function that decides about an origin.
pub(crate) type AskOrigin =
    dyn Fn(Option<String>) -> LocalFuture<Result<Origin, String>> + Send + Sync;

/// Which origins may read answers (`cors.origin`).
///
/// ```
/// use corecast::Origin;
/// # fn main() -> Result<(), corecast::Error> {
/// let any = Origin::Any;
/// let one = Origin::from("https://example.com");
/// let pattern = Origin::pattern(r"^https://[a-z]+\.b\.example$")?;
/// let several = Origin::List(vec!["https://a.example".into(), pattern]);
/// let chosen = Origin::predicate(|origin| origin.is_some_and(|it| it.ends_with(".example")));
/// let asked = Origin::ask(|origin: Option<String>| async move {
///     match origin.as_deref() {
///         Some("https://blocked.example") => Err("blocked".into()), // code 3, no session
///         origin => Ok(Origin::from(origin == Some("https://a.example"))),
///     }
/// });
/// # let _ = (any, one, several, chosen, asked);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub enum Origin {
    /// Every one: `*`. Default. Browsers refuse it together with credentials.
    Any,
    /// This one, whoever asks.
    Exact(String),
    /// Those that match; see [`Origin::pattern`]. It is searched for, so anchor it.
    Pattern(Regex),
    /// Those that one of the list allows.
    List(Vec<Origin>),
    /// True: whoever asks is named in the answer. False: as if `cors` were not set.
    Reflect(bool),
    /// Whatever the function says; see [`Origin::ask`].
    Function(OriginFunction),
}

/// The function of [`Origin::Function`].
#[derive(Clone)]
pub struct OriginFunction(pub(crate) Arc<AskOrigin>);

impl std::fmt::Debug for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Any => f.write_str("Any"),
            Origin::Exact(origin) => write!(f, "Exact({origin:?})"),
            Origin::Pattern(pattern) => write!(f, "Pattern({:?})", pattern.as_str()),
            Origin::List(list) => f.debug_tuple("List").field(list).finish(),
            Origin::Reflect(is_any) => write!(f, "Reflect({is_any})"),
            Origin::Function(_) => f.write_str("Function"),
        }
    }
}

impl From<&str> for Origin {
    /// `*` is [`Origin::Any`].
    fn from(origin: &str) -> Origin {
        if origin == "*" { Origin::Any } else { Origin::Exact(origin.into()) }
    }
}

impl From<bool> for Origin {
    fn from(is_allowed: bool) -> Origin {
        Origin::Reflect(is_allowed)
    }
}

impl From<Regex> for Origin {
    fn from(pattern: Regex) -> Origin {
        Origin::Pattern(pattern)
    }
}

impl<O: Into<Origin>> From<Vec<O>> for Origin {
    fn from(list: Vec<O>) -> Origin {
        Origin::List(list.into_iter().map(O::into).collect())
    }
}

impl Origin {
    /// Origins that a regular expression of the `regex` crate matches somewhere. Write `^` and `$`,
    /// and `\.` for a dot.
    ///
    /// # Errors
    /// [`Error::Options`]: it is no regular expression.
    pub fn pattern(pattern: &str) -> Result<Origin, Error> {
        let pattern = Regex::new(pattern);
        pattern.map(Origin::Pattern).map_err(|_| Error::Options("cors.origin: not a pattern"))
    }

    /// Origins for which `allows` is true; it is given what the request says, if it says anything.
    /// It runs on the shard of the connection, once per request, and must not block.
    pub fn predicate(allows: impl Fn(Option<&str>) -> bool + Send + Sync + 'static) -> Origin {
        let allows = Arc::new(allows);
        Origin::ask(move |origin| {
            let allows = allows.clone();
            async move { Ok(Origin::Reflect(allows(origin.as_deref()))) }
        })
    }

    /// Asks a function for each request below [`Options::path`](crate::Options::path). It answers
    /// with another `Origin`, `false` for no CORS headers at all, or with an error, which refuses
    /// the request with code 3 (A.2). The request waits for it, for
    /// [`Options::hook_timeout`](crate::Options::hook_timeout) at most. A function that answers
    /// with a function has said `false`.
    pub fn ask<F, R>(function: F) -> Origin
    where
        F: Fn(Option<String>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Origin, String>> + 'static,
    {
        let call = move |origin| -> LocalFuture<_> { Box::pin(function(origin)) };
        Origin::Function(OriginFunction(Arc::new(call)))
    }

    fn allows(&self, origin: &str) -> bool {
        match self {
            Origin::Any => true,
            Origin::Exact(exact) => exact == origin || exact == "*",
            Origin::Pattern(pattern) => pattern.is_match(origin),
            Origin::List(list) => list.iter().any(|it| it.allows(origin)),
            Origin::Reflect(is_allowed) => *is_allowed,
            Origin::Function(_) => false,
        }
    }
}

/// How requests from pages of other origins are answered (`cors`): the options of npm's `cors`.
/// Without [`Options::cors`](crate::Options::cors) no page of another origin can use long-polling
/// (F-7); websockets are not subject to it: see
/// [`Server::allow_request`](crate::Server::allow_request).
///
/// ```
/// let mut options = corecast::Options::default();
/// let mut cors = corecast::Cors::default();
/// cors.origin = "https://example.com".into();
/// cors.credentials = true;
/// options.cors = Some(cors);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Cors {
    /// Who may read answers. Default [`Origin::Any`].
    pub origin: Origin,
    /// `Access-Control-Allow-Methods` of a preflight.
    /// Default `GET,HEAD,PUT,PATCH,POST,DELETE`.
    pub methods: Vec<String>,
    /// `Access-Control-Allow-Headers` of a preflight. Default: those that are asked for.
    pub allowed_headers: Option<Vec<String>>,
    /// `Access-Control-Expose-Headers`. Default none.
    pub exposed_headers: Vec<String>,
    /// Whether cookies may be sent along (`withCredentials` of the client). Default false.
    pub credentials: bool,
    /// `Access-Control-Max-Age`, how long a browser may remember a preflight, in whole seconds.
    /// Default none, which browsers take for 5 s.
    pub max_age: Option<Duration>,
    /// Pass preflights on to middleware ([`Server::use_http`](crate::Server::use_http)) and the
    /// server, with the headers, instead of answering them. Default false.
    pub preflight_continue: bool,
    /// Status of the answer to a preflight, 200 to 299. Default 204.
    pub options_success_status: u16,
}

impl Default for Cors {
    fn default() -> Self {
        let methods = ["GET", "HEAD", "PUT", "PATCH", "POST", "DELETE"];
        Cors {
            origin: Origin::Any,
            methods: methods.map(String::from).into(),
            allowed_headers: None,
            exposed_headers: Vec::new(),
            credentials: false,
            max_age: None,
            preflight_continue: false,
            options_success_status: 204,
        }
    }
}

impl Cors {
    /// The function that has to be asked about each request, if there is one.
    pub(crate) fn function(&self) -> Option<&OriginFunction> {
        match &self.origin {
            Origin::Function(function) => Some(function),
            _ => None,
        }
    }

    /// Whether it says what no browser accepts.
    pub(crate) fn is_contradictory(&self) -> bool {
        self.credentials && matches!(&self.origin, Origin::Any)
    }

    /// The headers for a request, given the origin that holds for it; `None` where there are to be
    /// none.
    pub(crate) fn headers(&self, origin: &Origin, head: &Head<'_>) -> Option<Headers> {
        if matches!(origin, Origin::Reflect(false) | Origin::Function(_)) {
            return None;
        }
        let mut headers = Headers::default();
        self.name_origin(origin, head, &mut headers);
        if self.credentials {
            headers.append("Access-Control-Allow-Credentials", "true");
        }
        if head.method == Method::Options {
            self.preflight(head, &mut headers);
        }
        if !self.exposed_headers.is_empty() {
            headers.append("Access-Control-Expose-Headers", self.exposed_headers.join(","));
        }
        Some(headers)
    }

    fn name_origin(&self, origin: &Origin, head: &Head<'_>, headers: &mut Headers) {
        let named = match origin {
            Origin::Any => return headers.append("Access-Control-Allow-Origin", "*"),
            Origin::Exact(exact) if exact == "*" => {
                return headers.append("Access-Control-Allow-Origin", "*");
            }
            Origin::Exact(exact) => Some(exact.as_str()),
            other => head.header("origin").filter(|asked| other.allows(asked)),
        };
        if let Some(named) = named {
            headers.append("Access-Control-Allow-Origin", named);
        }
        headers.append("Vary", "Origin");
    }

    fn preflight(&self, head: &Head<'_>, headers: &mut Headers) {
        headers.append("Access-Control-Allow-Methods", self.methods.join(","));
        let allowed = match &self.allowed_headers {
            Some(allowed) => allowed.join(","),
            None => {
                headers.append("Vary", "Access-Control-Request-Headers");
                head.header("access-control-request-headers").unwrap_or_default().to_owned()
            }
        };
        if !allowed.is_empty() {
            headers.append("Access-Control-Allow-Headers", allowed);
        }
        if let Some(age) = self.max_age {
            headers.append("Access-Control-Max-Age", age.as_secs().to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Limits;
    use crate::proto::http::parse_head;

    fn fields(cors: &Cors, method: &str, more: &str) -> Vec<String> {
        let text = format!("{method} / HTTP/1.1\r\nHost: h\r\n{more}\r\n");
        let limits = Limits::of_head(text.len());
        let (head, _) = parse_head(text.as_bytes(), &limits).expect("sound").expect("whole");
        let headers = cors.headers(&cors.origin, &head).unwrap_or_default();
        headers.iter().map(|(name, value)| format!("{name}: {value}")).collect()
    }

    fn with(origin: impl Into<Origin>) -> Cors {
        Cors { origin: origin.into(), ..Cors::default() }
    }

    const ALLOW: &str = "Access-Control-Allow-Origin: ";
    const ASK_A: &str = "Origin: http://a\r\n";

    /// F-4: each form of origin, for an origin that it allows and one that it does not.
    #[test]
    fn f4_origins() {
        let pattern = Origin::pattern("^http://a$").expect("a pattern");
        let list = || Origin::List(vec!["http://b".into(), pattern.clone()]);
        for (cors, asked, named) in [
            (with("*"), ASK_A, Some("*")),
            (with("*"), "", Some("*")),
            (with("http://a"), "Origin: http://evil\r\n", Some("http://a")),
            (with(pattern.clone()), ASK_A, Some("http://a")),
            (with(pattern.clone()), "Origin: http://a.evil\r\n", None),
            (with(list()), ASK_A, Some("http://a")),
            (with(list()), "Origin: http://b\r\n", Some("http://b")),
            (with(list()), "Origin: http://c\r\n", None),
            (with(list()), "", None),
            (with(vec!["http://a", "http://b"]), "Origin: http://b\r\n", Some("http://b")),
            (with(true), ASK_A, Some("http://a")),
            (with(true), "", None),
        ] {
            let found = fields(&cors, "GET", asked);
            let expected: Vec<String> = match named {
                Some("*") => vec![format!("{ALLOW}*")],
                Some(named) => vec![format!("{ALLOW}{named}"), "Vary: Origin".into()],
                None => vec!["Vary: Origin".into()],
            };
            assert_eq!(found, expected, "{:?} asked with {asked:?}", cors.origin);
        }
        assert_eq!(fields(&with(false), "GET", ASK_A), [""; 0]);
        assert_eq!(fields(&with(false), "OPTIONS", ASK_A), [""; 0]);
    }

    /// F-5: what a preflight is answered.
    #[test]
    fn f5_preflight() {
        let cors = Cors {
            credentials: true,
            exposed_headers: vec!["X-A".into(), "X-B".into()],
            max_age: Some(Duration::from_secs(600)),
            ..with("http://a")
        };
        let request = "Origin: http://a\r\nAccess-Control-Request-Headers: x-one, x-two\r\n";
        let credentials = "Access-Control-Allow-Credentials: true";
        let exposed = "Access-Control-Expose-Headers: X-A,X-B";
        let expected = [
            "Access-Control-Allow-Origin: http://a",
            "Vary: Origin",
            credentials,
            "Access-Control-Allow-Methods: GET,HEAD,PUT,PATCH,POST,DELETE",
            "Vary: Access-Control-Request-Headers",
            "Access-Control-Allow-Headers: x-one, x-two",
            "Access-Control-Max-Age: 600",
            exposed,
        ];
        assert_eq!(fields(&cors, "OPTIONS", request), expected);
        let expected =
            ["Access-Control-Allow-Origin: http://a", "Vary: Origin", credentials, exposed];
        assert_eq!(fields(&cors, "GET", request), expected);
        let cors = Cors { allowed_headers: Some(vec!["X-C".into(), "X-D".into()]), ..with("*") };
        let found = fields(&cors, "OPTIONS", request);
        assert!(found.contains(&"Access-Control-Allow-Headers: X-C,X-D".into()), "{found:?}");
        assert!(!found.iter().any(|field| field.starts_with("Vary")), "{found:?}");
    }

    #[test]
    fn credentials_for_everybody_are_noticed() {
        assert!(Cors { credentials: true, ..with("*") }.is_contradictory());
        assert!(!Cors { credentials: true, ..with(true) }.is_contradictory());
        assert!(!with("*").is_contradictory());
    }
}
