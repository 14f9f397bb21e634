//! The official browser client, served below the Socket.IO path (`serveClient`, K.1).

use bytes::Bytes;

use crate::hub::StaticFile;

/// Version of the bundle in `vendor/`, which is its ETag (U-5).
pub const CLIENT_VERSION: &str = "4.8.4";

const SCRIPT: &str = "application/javascript; charset=utf-8";
const MAP: &str = "application/json; charset=utf-8";

macro_rules! client_files {
    ($($name:literal $type:ident),* $(,)?) => {
        [$((
            $name,
            $type,
            include_bytes!(concat!("../vendor/socket.io-client/", $name)).as_slice(),
        )),*]
    };
}

/// The files of the bundle with the paths they are served at.
pub(crate) fn client(path: &str) -> impl Iterator<Item = (String, StaticFile)> {
    let path = path.trim_end_matches('/').to_owned();
    let files = client_files!(
        "socket.io.js" SCRIPT,
        "socket.io.js.map" MAP,
        "socket.io.min.js" SCRIPT,
        "socket.io.min.js.map" MAP,
        "socket.io.esm.min.js" SCRIPT,
        "socket.io.esm.min.js.map" MAP,
        "socket.io.msgpack.min.js" SCRIPT,
        "socket.io.msgpack.min.js.map" MAP,
    );
    files.into_iter().map(move |(name, content_type, body)| {
        let etag = format!("\"{CLIENT_VERSION}\"");
        let (body, coded) = (Bytes::from_static(body), Some(Default::default()));
        let file = StaticFile { content_type, etag, body, coded };
        (format!("{path}/{name}"), file)
    })
}

/// An ETag that changes with the content.
pub(crate) fn content_tag(body: &[u8]) -> String {
    use std::hash::{Hash, Hasher};
    let mut hasher = rustc_hash::FxHasher::default();
    body.hash(&mut hasher);
    format!("\"{:x}-{:x}\"", body.len(), hasher.finish())
}
