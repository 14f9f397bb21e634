//! The cookie that a polling handshake may set, for load balancers that keep a client on one
//! machine by it (F-3).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `SameSite` of a cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SameSite {
    /// `Strict`
    Strict,
    /// `Lax`
    Lax,
    /// `None`; browsers want `secure` with it.
    None,
}

/// A cookie that holds the session id (`cookie`); see
/// [`Options::cookie`](crate::Options::cookie). It is set by the handshake of a polling session
/// and not by one of a websocket (F-3). The server never reads it: it is there for load balancers.
///
/// ```
/// let mut options = corecast::Options::default();
/// let mut cookie = corecast::Cookie::default(); // io=<sid>; Path=/; HttpOnly; SameSite=Lax
/// cookie.name = "node".into();
/// cookie.secure = true;
/// options.cookie = Some(cookie);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cookie {
    /// Name. Default `io`.
    pub name: String,
    /// `Max-Age`, in whole seconds. Default none: the cookie lives as long as the browser.
    pub max_age: Option<Duration>,
    /// `Domain`. Default none.
    pub domain: Option<String>,
    /// `Path`. Default `/`.
    pub path: Option<String>,
    /// `Expires`. Default none.
    pub expires: Option<SystemTime>,
    /// `HttpOnly`. Default true.
    pub http_only: bool,
    /// `Secure`. Default false.
    pub secure: bool,
    /// `Partitioned`. Default false.
    pub partitioned: bool,
    /// `SameSite`. Default `Lax`.
    pub same_site: Option<SameSite>,
}

impl Default for Cookie {
    fn default() -> Self {
        Cookie {
            name: "io".into(),
            max_age: None,
            domain: None,
            path: Some("/".into()),
            expires: None,
            http_only: true,
            secure: false,
            partitioned: false,
            same_site: Some(SameSite::Lax),
        }
    }
}

impl Cookie {
    /// Whether name, domain and path can stand in a header.
    pub(crate) fn is_sound(&self) -> bool {
        let is_name = !self.name.is_empty() && self.name.bytes().all(crate::proto::http::is_token);
        let is_value = |value: &Option<String>| {
            let printable = |byte: u8| (b' '..0x7f).contains(&byte) && byte != b';';
            value.as_ref().is_none_or(|value| value.bytes().all(printable))
        };
        is_name && is_value(&self.domain) && is_value(&self.path)
    }

    /// The value of `Set-Cookie`, attributes in the order of npm's `cookie`.
    pub(crate) fn text(&self, sid: &str) -> String {
        let mut text = format!("{}={}", self.name, encode(sid));
        let mut add = |attribute: &str, value: &str| {
            text.push_str("; ");
            text.push_str(attribute);
            text.push_str(value);
        };
        if let Some(age) = self.max_age {
            add("Max-Age=", &age.as_secs().to_string());
        }
        if let Some(domain) = &self.domain {
            add("Domain=", domain);
        }
        if let Some(path) = &self.path {
            add("Path=", path);
        }
        if let Some(expires) = self.expires {
            add("Expires=", &http_date(expires));
        }
        for (is_set, attribute) in [
            (self.http_only, "HttpOnly"),
            (self.secure, "Secure"),
            (self.partitioned, "Partitioned"),
        ] {
            if is_set {
                add(attribute, "");
            }
        }
        match self.same_site {
            Some(SameSite::Strict) => add("SameSite=", "Strict"),
            Some(SameSite::Lax) => add("SameSite=", "Lax"),
            Some(SameSite::None) => add("SameSite=", "None"),
            None => {}
        }
        text
    }
}

/// As `encodeURIComponent`: what an id may hold besides these characters is escaped.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.!~*'()".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 5.6.7). Times before 1970 are 1970.
fn http_date(time: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March, so that the leap day is the last one; from 1 March of year 0.
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day + 2) / 153;
    let of_month = day - (153 * shifted + 2) / 5 + 1;
    let month = (shifted + 2) % 12;
    let year = era * 400 + year + u64::from(month < 2);
    format!(
        "{}, {of_month:02} {} {year} {:02}:{:02}:{:02} GMT",
        DAYS[(days % 7) as usize],
        MONTHS[month as usize],
        second / 3_600,
        second / 60 % 60,
        second % 60,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F-3: the bytes that npm's `cookie` writes for the same options.
    #[test]
    fn f3_attributes() {
        assert_eq!(Cookie::default().text("a-_1"), "io=a-_1; Path=/; HttpOnly; SameSite=Lax");
        let cookie = Cookie {
            name: "n".into(),
            max_age: Some(Duration::from_millis(86_400_900)),
            domain: Some("example.com".into()),
            path: Some("/a".into()),
            expires: Some(UNIX_EPOCH + Duration::from_secs(784_111_777)),
            http_only: true,
            secure: true,
            partitioned: true,
            same_site: Some(SameSite::None),
        };
        assert_eq!(
            cookie.text("a:b/c"),
            "n=a%3Ab%2Fc; Max-Age=86400; Domain=example.com; Path=/a; \
             Expires=Sun, 06 Nov 1994 08:49:37 GMT; HttpOnly; Secure; Partitioned; SameSite=None"
        );
    }

    #[test]
    fn dates() {
        for (seconds, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (951_782_399, "Mon, 28 Feb 2000 23:59:59 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"),
            (1_735_689_599, "Tue, 31 Dec 2024 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
        ] {
            assert_eq!(http_date(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn what_cannot_stand_in_a_header() {
        let bad = |change: fn(&mut Cookie)| {
            let mut cookie = Cookie::default();
            change(&mut cookie);
            !cookie.is_sound()
        };
        assert!(Cookie::default().is_sound());
        assert!(bad(|cookie| cookie.name = "a b".into()));
        assert!(bad(|cookie| cookie.name.clear()));
        assert!(bad(|cookie| cookie.path = Some("/;x".into())));
        assert!(bad(|cookie| cookie.domain = Some("a\r\nb".into())));
    }
}
