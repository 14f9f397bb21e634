//! Requests and answers as the application's hooks see them.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use crate::error::{ErrorContext, Refusal};
use crate::options::Limits;
use crate::proto::http;

/// An HTTP request of a client: its head, as it was sent. Cheap to clone; parsed again by each
/// call. Bodies are not part of it.
#[derive(Debug, Clone)]
pub struct Request {
    head: Rc<[u8]>,
    address: SocketAddr,
}

impl Request {
    /// A head that was accepted.
    pub(crate) fn new(head: &[u8], address: SocketAddr) -> Request {
        Request { head: head.into(), address }
    }

    /// Who has sent it: the peer of the TCP connection, or behind proxies of
    /// [`Options::trusted_proxies`](crate::Options::trusted_proxies) the client that they name.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The method as it was sent, such as `GET`.
    pub fn method(&self) -> &str {
        Request::method_of(&self.head)
    }

    /// The method of a head that was accepted.
    pub(crate) fn method_of(head: &[u8]) -> &str {
        // There may be empty lines before the request (RFC 9112 2.2).
        let line = head.trim_ascii_start();
        let method = line.split(|byte| *byte == b' ').next().unwrap_or_default();
        std::str::from_utf8(method).unwrap_or_default()
    }

    /// Request target as it was sent: path and query, or a whole URL.
    pub fn target(&self) -> &str {
        self.parsed().map_or("", |head| head.target)
    }

    /// Path of the target, not decoded.
    pub fn path(&self) -> &str {
        self.parsed().map_or("", |head| head.path)
    }

    /// A value of the query string, decoded; the last one if it is there more than once.
    pub fn query(&self, name: &str) -> Option<String> {
        http::query_value(self.parsed()?.query, name).map(|value| value.into_owned())
    }

    /// All values of the query string, decoded.
    pub fn queries(&self) -> Vec<(String, String)> {
        let query = self.parsed().map_or("", |head| head.query);
        let pairs = http::query_pairs(query);
        pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
    }

    /// The first header of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.parsed()?.header(name)
    }

    /// All headers in the order they were sent.
    pub fn headers(&self) -> Vec<(&str, &str)> {
        self.parsed().map_or_else(Vec::new, |head| head.headers().collect())
    }

    /// Whether the client asks for a websocket, or for another protocol.
    pub fn is_upgrade(&self) -> bool {
        self.parsed().is_some_and(|head| head.upgrade)
    }

    /// Whether the request asks for a new session, rather than naming one (`!req._query.sid`).
    pub fn is_handshake(&self) -> bool {
        self.query("sid").is_none()
    }

    fn parsed(&self) -> Option<http::Head<'_>> {
        http::parse_head(&self.head, &Limits::of_head(self.head.len())).ok()?.map(|(head, _)| head)
    }
}

/// Fields that belong to the server: they say where a message ends, or what was agreed on.
const RESERVED: [&str; 10] = [
    "connection",
    "content-encoding",
    "content-length",
    "keep-alive",
    "sec-websocket-accept",
    "sec-websocket-extensions",
    "sec-websocket-protocol",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Header fields that are added to an answer. One of the same name that the server writes itself,
/// such as `Cache-Control`, is replaced; `Set-Cookie` and `Vary` are added to.
///
/// Fields that say where the answer ends or what was agreed on (`Content-Length`, `Connection`,
/// `Upgrade`, `Sec-WebSocket-Accept` and the like) and names that are no names are ignored; a
/// control byte in a value becomes a space.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// Sets a field, in place of all of that name that were set or appended before.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.remove(name);
        self.append(name, value);
    }

    /// Adds a field, beside others of that name: several `Set-Cookie`, for example.
    pub fn append(&mut self, name: &str, value: impl Into<String>) {
        let is_name = !name.is_empty() && name.bytes().all(http::is_token);
        let is_reserved = RESERVED.iter().any(|reserved| name.eq_ignore_ascii_case(reserved));
        if is_name && !is_reserved {
            self.0.push((name.into(), value.into()));
        }
    }

    /// Takes back what was set or appended before.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(found, _)| !found.eq_ignore_ascii_case(name));
    }

    /// The fields in the order in which they will be written.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Adds those of another list, each in place of those of its name that were there, but for
    /// `Set-Cookie` and `Vary`.
    pub(crate) fn merge(&mut self, other: Headers) {
        for (name, _) in &other.0 {
            if !adds_up(name) {
                self.remove(name);
            }
        }
        self.0.extend(other.0);
    }

    /// Whether a field of the server's own gives way to one of these.
    pub(crate) fn replaces(&self, name: &str) -> bool {
        !adds_up(name) && self.0.iter().any(|(found, _)| found.eq_ignore_ascii_case(name))
    }
}

/// Fields of which an answer has several, each meant.
fn adds_up(name: &str) -> bool {
    name.eq_ignore_ascii_case("set-cookie") || name.eq_ignore_ascii_case("vary")
}

/// What a middleware answers instead of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Status, 200 to 599.
    pub status: u16,
    /// Body.
    pub body: Vec<u8>,
}

/// The answer in the making, for [`Server::use_http`](crate::Server::use_http). A handle that is
/// cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Response(Rc<RefCell<Draft>>);

#[derive(Debug, Default)]
struct Draft {
    headers: Headers,
    sent: Option<Sent>,
}

impl Response {
    /// Sets a header of the answer, whoever gives it, refusals (A.3) included, and of the 101 of a
    /// websocket (`res.setHeader`). See [`Headers`] for what is ignored.
    pub fn set_header(&self, name: &str, value: impl Into<String>) {
        self.0.borrow_mut().headers.set(name, value);
    }

    /// Adds a header beside others of that name (`res.appendHeader`).
    pub fn append_header(&self, name: &str, value: impl Into<String>) {
        self.0.borrow_mut().headers.append(name, value);
    }

    /// Answers the request here and now (`res.writeHead(status); res.end(body)`): neither the
    /// middleware behind this one nor the server sees it. Only the first call counts. `status` is
    /// 200 to 599; any other is taken for 500. Set `Content-Type` before. A websocket that is
    /// answered so is refused, and its connection closed.
    pub fn send(&self, status: u16, body: impl Into<Vec<u8>>) {
        let status = if (200..=599).contains(&status) { status } else { 500 };
        let draft = &mut self.0.borrow_mut();
        draft.sent.get_or_insert(Sent { status, body: body.into() });
    }

    /// Whether [`Response::send`] was called.
    pub fn is_sent(&self) -> bool {
        self.0.borrow().sent.is_some()
    }

    /// What came of it.
    pub(crate) fn take(&self) -> (Headers, Option<Sent>) {
        let draft = &mut *self.0.borrow_mut();
        (std::mem::take(&mut draft.headers), draft.sent.take())
    }
}

/// A request that was refused (`connection_error` of the engine, A.3): the argument of
/// [`Server::on_connection_error`](crate::Server::on_connection_error).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectionError {
    /// The request (`err.req`).
    pub request: Request,
    /// Code of table A.3 (`err.code`): 0 unknown transport, 1 unknown session, 2 bad method, 3 bad
    /// request, 4 forbidden, 5 unsupported protocol version.
    pub code: u8,
    /// What the client is told (`err.message`).
    pub message: String,
    /// More (`err.context`), which the client is not told.
    pub context: ErrorContext,
}

impl ConnectionError {
    pub(crate) fn new(request: Request, refusal: Refusal, context: ErrorContext) -> Self {
        let (code, message, _) = refusal.parts();
        let message = context.message().unwrap_or(message).to_owned();
        ConnectionError { request, code, message, context }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reads_back() {
        let head = b"\r\nPURGE /a/b?x=1&y=%20&x=2 HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nx-a: 2\r\n\r\n";
        let request = Request::new(head, SocketAddr::from(([127, 0, 0, 1], 9)));
        assert_eq!(request.method(), "PURGE");
        assert_eq!(request.target(), "/a/b?x=1&y=%20&x=2");
        assert_eq!(request.path(), "/a/b");
        assert_eq!(request.query("x").as_deref(), Some("2"));
        assert_eq!(request.queries().len(), 3);
        assert_eq!(request.header("x-A"), Some("1"));
        assert_eq!(request.headers(), [("Host", "h"), ("X-A", "1"), ("x-a", "2")]);
        assert!(!request.is_upgrade() && request.is_handshake());
        assert_eq!(request.address().port(), 9);
    }

    #[test]
    fn headers_replace_add_and_ignore() {
        let mut headers = Headers::default();
        headers.append("Set-Cookie", "a=1");
        headers.append("set-cookie", "b=2");
        headers.set("X-One", "1");
        headers.set("x-one", "2");
        for name in ["Content-Length", "connection", "Sec-WebSocket-Accept", "", "a b", "x:y"] {
            headers.set(name, "no");
        }
        let fields: Vec<_> = headers.iter().collect();
        assert_eq!(fields, [("Set-Cookie", "a=1"), ("set-cookie", "b=2"), ("x-one", "2")]);
        assert!(headers.replaces("X-ONE") && !headers.replaces("Set-Cookie"));
        let mut more = Headers::default();
        more.set("X-ONE", "3");
        more.set("Set-Cookie", "c=3");
        headers.merge(more);
        let values: Vec<_> = headers.iter().map(|(_, value)| value).collect();
        assert_eq!(values, ["a=1", "b=2", "3", "c=3"]);
    }

    #[test]
    fn a_response_is_sent_once() {
        let response = Response::default();
        response.set_header("X", "1");
        response.send(42, "a");
        response.send(200, "b");
        assert!(response.is_sent());
        let (headers, sent) = response.take();
        assert_eq!(headers.iter().count(), 1);
        assert_eq!(sent, Some(Sent { status: 500, body: b"a".to_vec() }));
    }
}
