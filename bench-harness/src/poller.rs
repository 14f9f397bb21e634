//! The sockets of long-polling clients: responses in, the next GET and POST out.

use std::io::ErrorKind::WouldBlock;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Result, anyhow, bail};

use crate::client::{Client, Heard, Unsent, is_event};
use crate::codec::Error;
use crate::polling::{self, Response, Session};
use crate::sys;

/// A connection for POSTs that was idle for longer is replaced: servers close theirs after 5 s,
/// and a request that crosses this close would be lost. Nanoseconds.
const REUSE: u64 = 2_000_000_000;

/// What a client has beyond its first socket, which carries the GETs.
#[derive(Default)]
pub(crate) struct Polling {
    pub(crate) session: Session,
    /// Opened when there is something to post.
    post: Option<Box<Post>>,
    /// An event whose attachment comes with the next packet.
    announced: Vec<u8>,
}

struct Post {
    socket: OwnedFd,
    unsent: Unsent,
    /// The beginning of a response.
    partial: Vec<u8>,
    used: u64,
}

impl Client {
    /// Handles the response in `buffer[..length]`, if it is complete, and sends the next GET;
    /// returns how many bytes it was.
    pub(crate) fn take_response(
        &mut self,
        index: usize,
        length: usize,
        now: u64,
        tell: &mut impl FnMut(usize, Heard<'_>, u64) -> Result<()>,
    ) -> Result<usize> {
        let response = polling::response(&self.buffer[..length]).map_err(|e| wrong(index, e))?;
        let Some(Response { status, body, length, is_last }) = response else { return Ok(0) };
        let body = body.into_owned();
        if status != 200 || is_last {
            let text = String::from_utf8_lossy(&body[..body.len().min(200)]);
            let close = if is_last { ", and closed" } else { "" };
            let error = anyhow!("a GET was answered with status {status}{close}: {text}");
            return self.lose(index, error).map(|()| length);
        }
        for packet in polling::packets(&body) {
            if let Some(encoded) = packet.strip_prefix(b"b") {
                let mut event = std::mem::take(&mut self.polling(index)?.announced);
                if event.is_empty() {
                    return Err(wrong(index, Error::Attachment));
                }
                polling::attachment(encoded, &mut event).map_err(|e| wrong(index, e))?;
                tell(index, Heard::Packet(&event), now)?;
            } else if packet.starts_with(b"45") {
                self.polling(index)?.announced = packet.to_vec();
            } else if is_event(packet) {
                tell(index, Heard::Packet(packet), now)?;
            } else {
                self.control(index, packet, now, tell)?;
            }
        }
        if !self.is_deaf(index) && !self.is_closed(index) {
            self.get(index)?;
        }
        Ok(length)
    }

    /// Asks for more.
    pub(crate) fn get(&mut self, index: usize) -> Result<()> {
        let mut request = std::mem::take(&mut self.scratch);
        if let Some(polling) = &self.connections[index].polling {
            polling.session.get(&self.host, &mut request);
        }
        self.send(index, &request)?;
        self.scratch = request;
        Ok(())
    }

    /// Posts what is queued, unless a POST is under way.
    pub(crate) fn post(&mut self, index: usize) -> Result<()> {
        let mut request = std::mem::take(&mut self.scratch);
        let due = match &mut self.connections[index].polling {
            Some(polling) => polling.session.post(&self.host, &mut request),
            None => false,
        };
        if due {
            let now = sys::now();
            let post = self.polling(index)?.post.take();
            let mut post = match post.filter(|post| now - post.used < REUSE) {
                Some(post) => post,
                None => {
                    let socket = self.open(index, 1)?;
                    let (unsent, partial) = (Unsent::default(), Vec::new());
                    Box::new(Post { socket, unsent, partial, used: now })
                }
            };
            post.used = now;
            let sent = post.unsent.send(post.socket.as_raw_fd(), &request);
            self.polling(index)?.post = Some(post);
            sent.or_else(|error| self.lose(index, error.into()))?;
        }
        self.scratch = request;
        Ok(())
    }

    /// Something happened on the socket of a client's POSTs.
    pub(crate) fn turn_post(&mut self, index: usize) -> Result<()> {
        loop {
            let Some(mut post) = self.polling(index)?.post.take() else { return Ok(()) };
            let kept = post.partial.len();
            self.buffer[..kept].copy_from_slice(&post.partial);
            let socket = post.socket.as_raw_fd();
            let flushed = post.unsent.flush(socket);
            let received = flushed.and_then(|()| sys::recv(socket, &mut self.buffer[kept..]));
            let length = match received {
                Ok(0) if self.polling(index)?.session.is_posting() => {
                    return self.lose(index, anyhow!("end of stream instead of an answer"));
                }
                // Idle for too long, as the server sees it.
                Ok(0) => return Ok(()),
                Ok(length) => kept + length,
                Err(error) if error.kind() == WouldBlock => {
                    self.polling(index)?.post = Some(post);
                    return Ok(());
                }
                Err(error) => return self.lose(index, error.into()),
            };
            let response =
                polling::response(&self.buffer[..length]).map_err(|e| wrong(index, e))?;
            let Some(response) = response else {
                post.partial = self.buffer[..length].to_vec();
                self.polling(index)?.post = Some(post);
                continue;
            };
            if response.length != length {
                bail!("connection {index} received more than the answer to its POST");
            }
            let is_last = response.is_last;
            let Some(polling) = &mut self.connections[index].polling else { return Ok(()) };
            polling.session.posted(&response).map_err(|e| wrong(index, e))?;
            post.partial = Vec::new();
            let is_kept = !is_last && !polling.session.is_brief();
            polling.post = is_kept.then_some(post);
            self.post(index)?;
        }
    }

    fn polling(&mut self, index: usize) -> Result<&mut Polling> {
        let polling = self.connections[index].polling.as_deref_mut();
        polling.ok_or_else(|| anyhow!("connection {index} does not poll"))
    }
}

fn wrong(index: usize, error: Error) -> anyhow::Error {
    anyhow!("connection {index}: {error:?}")
}
