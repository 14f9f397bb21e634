//! Placeholder.
use super::*;
#[test]
fn smoke() {
    let limits = crate::Options::default().limits().expect("defaults");
    let mut raw = *b"\x81\x85\x01\x02\x03\x04ifohn";
    let mut at = 0;
    let mut decoder = Decoder::new();
    let got = decoder.next(&mut raw, &mut at, &limits);
    assert_eq!(got, Ok(Some(Message::Text("hdllo"))));
}
