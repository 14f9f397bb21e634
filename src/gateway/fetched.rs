//! What other servers answer over HTTP: bodies within bounds, and errors that tell no secret.

use bytes::Bytes;
use reqwest::Response;

/// An error and its causes, without the URL, which may have a secret in its query.
pub(super) fn cause(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(deeper) = source {
        text = format!("{text}: {deeper}");
        source = deeper.source();
    }
    text
}

/// All of the body; `None` if it is longer than `max` bytes.
pub(super) async fn body(mut response: Response, max: usize) -> reqwest::Result<Option<Bytes>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > max {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body.into()))
}
