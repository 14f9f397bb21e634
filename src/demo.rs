//! The chat demo: rooms, who is here, who is typing, and a namespace that asks for a token.
//!
//! The page is `demo/chat.html`; events and their arguments are listed there in the comment of
//! `tests/npm/chat-reference.mjs`, the same server in Node. Sockets of one room live on several
//! shards, so the lists of who is here are kept behind a lock, with a version that lets pages
//! ignore a list that was overtaken.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use corecast::{ConnectError, Event, Namespace, Server, Socket};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const PAGE: &str = include_str!("../demo/chat.html");

/// Longest name of a person or a room, in characters.
const NAME_MAX: usize = 40;
/// Longest message, in characters.
const TEXT_MAX: usize = 2_000;

/// Adds the page and both namespaces.
pub(crate) fn register(server: &Server) {
    server.serve_file("/", "text/html; charset=utf-8", PAGE);
    let people: Arc<People> = Arc::default();
    chat(&server.of("/"), &people);
    let private = server.of("/private");
    private.middleware(|socket: Socket| async move {
        match socket.auth::<Value>() {
            Ok(auth) if auth["token"] == "letmein" => Ok(()),
            _ => Err(ConnectError::new("wrong token")
                .with_data(json!({ "code": 401, "hint": "try letmein" }))),
        }
    });
    chat(&private, &people);
}

/// One person, as the page shows it.
#[derive(Clone, Serialize)]
struct Person {
    id: String,
    name: String,
}

/// Who is in a room, sent whenever that changes.
#[derive(Clone, Serialize)]
struct Users {
    room: String,
    version: u64,
    users: Vec<Person>,
}

/// Who is where, in the order of joining.
#[derive(Default)]
struct People {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    version: u64,
    rooms: HashMap<String, Vec<Person>>,
}

impl People {
    /// Changes a room's list and returns what to tell it.
    fn change(&self, key: &str, room: &str, change: impl FnOnce(&mut Vec<Person>)) -> Users {
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let list = state.rooms.entry(key.into()).or_default();
        change(list);
        let users = list.clone();
        if users.is_empty() {
            state.rooms.remove(key);
        }
        state.version += 1;
        Users { room: room.into(), version: state.version, users }
    }
}

/// Where a socket is; kept with it once it has joined a room.
#[derive(Clone, Default)]
struct Place {
    name: String,
    room: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Join {
    room: Value,
    name: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Message {
    text: Value,
}

fn chat(namespace: &Namespace, people: &Arc<People>) {
    let on_join = people.clone();
    let on_leave = people.clone();
    let on_disconnect = people.clone();
    namespace
        .on("join", move |socket: Socket, event: Event| {
            let people = on_join.clone();
            async move { answer(&event, join(&socket, &event, &people)) }
        })
        .on("message", |socket: Socket, event: Event| async move {
            answer(&event, say(&socket, &event));
        })
        .on("typing", |socket: Socket, event: Event| async move { typing(&socket, &event) })
        .on("leave", move |socket: Socket, event: Event| {
            let people = on_leave.clone();
            async move {
                leave(&socket, &people);
                answer(&event, Ok(json!({ "ok": true })));
            }
        })
        .on_disconnect(move |socket, _| {
            let people = on_disconnect.clone();
            async move { leave(&socket, &people) }
        });
}

fn join(socket: &Socket, event: &Event, people: &People) -> Result<Value, &'static str> {
    let Join { room, name } = event.data().unwrap_or_default();
    let name = bounded(&name, NAME_MAX).ok_or("name: 1 to 40 characters")?;
    let room = bounded(&room, NAME_MAX).ok_or("room: 1 to 40 characters")?;
    if place(socket).is_some_and(|place| place.room != room) {
        leave(socket, people);
    }
    socket.set(Place { name: name.clone(), room: room.clone() });
    socket.join(room_name(&room));
    let person = Person { id: socket.id().into(), name: name.clone() };
    let users = people.change(&key(socket, &room), &room, |list| {
        match list.iter_mut().find(|other| other.id == person.id) {
            Some(known) => *known = person,
            None => list.push(person),
        }
    });
    let _ = socket.namespace().to(room_name(&room)).emit("users", &users);
    Ok(json!({
        "ok": true, "name": name, "room": room, "version": users.version, "users": users.users,
    }))
}

fn leave(socket: &Socket, people: &People) {
    let Some(Place { room, .. }) = place(socket) else { return };
    socket.set(Place::default());
    socket.leave(room_name(&room));
    let users = people.change(&key(socket, &room), &room, |list| {
        list.retain(|person| person.id != socket.id());
    });
    let _ = socket.namespace().to(room_name(&room)).emit("users", &users);
}

fn say(socket: &Socket, event: &Event) -> Result<Value, &'static str> {
    let Place { name, room } = place(socket).ok_or("join a room first")?;
    let Message { text } = event.data().unwrap_or_default();
    let text = bounded(&text, TEXT_MAX).ok_or("text: 1 to 2000 characters")?;
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let message = json!({ "id": socket.id(), "name": name, "text": text, "at": at });
    let _ = socket.namespace().to(room_name(&room)).emit("message", &message);
    Ok(json!({ "ok": true }))
}

fn typing(socket: &Socket, event: &Event) {
    if let (Some(Place { name, room }), Ok(typing)) = (place(socket), event.data::<bool>()) {
        let notice = json!({ "id": socket.id(), "name": name, "typing": typing });
        let _ = socket.to(room_name(&room)).emit("typing", &notice);
    }
}

fn answer(event: &Event, answer: Result<Value, &'static str>) {
    let answer = answer.unwrap_or_else(|error| json!({ "ok": false, "error": error }));
    let _ = event.ack(&answer);
}

/// Where the socket is, if it is in a room.
fn place(socket: &Socket) -> Option<Place> {
    socket.get::<Place>().filter(|place| !place.room.is_empty()).map(|place| (*place).clone())
}

/// The Socket.IO room of a chat room. Bare names are socket ids, so a visitor must not choose one.
fn room_name(room: &str) -> String {
    format!("room:{room}")
}

fn key(socket: &Socket, room: &str) -> String {
    format!("{} {room}", socket.namespace().name())
}

/// The text, trimmed, if it has 1 to `max` characters.
fn bounded(value: &Value, max: usize) -> Option<String> {
    let text = value.as_str()?.trim();
    let is_fitting = !text.is_empty() && text.chars().count() <= max;
    is_fitting.then(|| text.to_owned())
}
