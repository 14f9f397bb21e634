//! Placeholder.
use super::*;
#[test]
fn smoke() {
    let limits = crate::Options::default().limits().expect("defaults");
    let raw = b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: a\r\nX: y \r\n\r\n";
    let (head, size) = parse_head(raw, &limits).expect("valid").expect("complete");
    assert_eq!(
        (size, head.query, head.header("x")),
        (raw.len(), "EIO=4&transport=polling", Some("y"))
    );
    for cut in 0..raw.len() {
        assert!(matches!(parse_head(&raw[..cut], &limits), Ok(None)), "{cut}");
    }
}
