//! The attachments of arguments that are put together from those of a larger packet.

use std::ops::Range;

use bytes::Bytes;

use crate::event::Raw;
use crate::proto::json::Validator;

/// Gives `args`, put together from those of a larger packet, the attachments that they name, each
/// once however often it is named, and none of the others. The text changes in their numbers alone.
/// False if one is named that there is not. O(length), nothing without any.
pub(crate) fn attach(args: &mut Raw, attachments: &[Bytes]) -> bool {
    if attachments.is_empty() {
        return true;
    }
    let source = args.json.clone();
    let Ok(text) = std::str::from_utf8(&source) else { return false };
    let mut places = Vec::new();
    let visit = |range: Range<usize>, number| places.push((range.start, range.end, number));
    if !Validator::new().visit_placeholders(text, attachments.len(), visit) {
        return false;
    }
    places.sort_unstable();
    let (mut numbers, mut named) = (vec![None; attachments.len()], Vec::new());
    let (mut json, mut done) = (String::with_capacity(text.len()), 0);
    for (start, end, old) in places {
        let new = *numbers[old].get_or_insert_with(|| {
            named.push(attachments[old].clone());
            named.len() - 1
        });
        json.push_str(&text[done..start]);
        json.push_str(&new.to_string());
        done = end;
    }
    json.push_str(&text[done..]);
    (args.json, args.attachments) = (json.into(), named);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_get_the_attachments_that_they_name() {
        let attachments: Vec<Bytes> = (0..12).map(|byte| Bytes::from(vec![byte])).collect();
        let of = |num: usize| format!("{{\"_placeholder\":true,\"num\":{num}}}");
        let raw =
            |json: &str| Raw { json: Bytes::copy_from_slice(json.as_bytes()), ..Raw::default() };
        for (before, after, bytes) in [
            // Nothing, all that there is in their order, and what is not all.
            ("1.50,\"\\ud83d\"".into(), "1.50,\"\\ud83d\"".into(), vec![]),
            (
                format!("{}, 1.50,{}", of(0), of(1)),
                format!("{}, 1.50,{}", of(0), of(1)),
                vec![0, 1],
            ),
            (
                format!("{{\"b\":[{}]}},{}", of(11), of(2)),
                format!("{{\"b\":[{}]}},{}", of(0), of(1)),
                vec![11, 2],
            ),
            // One that is named twice is there once.
            (
                format!("{},{},{}", of(5), of(7), of(5)),
                format!("{},{},{}", of(0), of(1), of(0)),
                vec![5, 7],
            ),
            // One within another, equal keys, and keys that are written otherwise.
            (
                r#"{"num":9,"x":{"num":3,"_placeholder":true},"_placeholder":true}"#.into(),
                r#"{"num":0,"x":{"num":1,"_placeholder":true},"_placeholder":true}"#.into(),
                vec![9, 3],
            ),
            (
                r#"{"_placeholder":false,"num":1,"\u005fplaceholder":true,"num": 4 }"#.into(),
                r#"{"_placeholder":false,"num":1,"\u005fplaceholder":true,"num": 0 }"#.into(),
                vec![4],
            ),
        ] {
            let mut args = raw(&before);
            assert!(attach(&mut args, &attachments), "{before}");
            let found: Vec<u8> = args.attachments().iter().map(|bytes| bytes[0]).collect();
            assert_eq!((args.json(), found), (&*after, bytes));
        }
        let many = vec![of(3); 30_000].join(",");
        let mut args = raw(&many);
        assert!(attach(&mut args, &attachments));
        assert_eq!((args.json(), args.attachments().len()), (&*vec![of(0); 30_000].join(","), 1));
        assert!(!attach(&mut raw(&of(12)), &attachments));
        assert!(attach(&mut raw(&of(12)), &[]), "nothing was to be given");
    }
}
