//! What the API tells of sockets, users, rooms and namespaces.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Query, Request, State as Extracted};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::answer::Answer;
use super::callers::Grant;
use super::{Api, Permission, carry_out, idempotency_key, json_body, once};
use crate::gateway::command::{Command, Outcome, Problem, Target, find};
use crate::gateway::state::User;
use crate::visit::{self, Visited};
use crate::{Broadcast, NamespaceSize};

/// Sockets of one user that are told at once.
const USER_SOCKETS_MAX: usize = 1_000;

/// Reads the query of a request.
///
/// # Errors
/// 422; the text names the key.
pub(super) fn read_query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    let read = Query::<T>::try_from_uri(uri);
    read.map(|Query(query)| query)
        .map_err(|error| Problem::new(422, "not valid", format!("query: {}", error.body_text())))
}

type Named = Result<Path<String>, PathRejection>;

fn named(path: Named) -> Result<String, Problem> {
    let read = path.map(|Path(name)| name);
    read.map_err(|error| Problem::new(400, "wrong path", error.body_text()))
}

fn hundred() -> usize {
    100
}

/// Which sockets, and how many of them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Selection {
    namespace: Option<String>,
    room: Option<String>,
    user: Option<String>,
    except: Option<String>,
    #[serde(default = "hundred")]
    limit: usize,
    cursor: Option<String>,
}

impl Selection {
    fn target(&self) -> Target {
        Target {
            namespace: self.namespace.clone(),
            rooms: self.room.iter().cloned().collect(),
            users: self.user.iter().cloned().collect(),
            except: self.except.iter().cloned().collect(),
            ..Target::default()
        }
    }
}

/// The namespace alone.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    namespace: Option<String>,
}

/// A socket as the API tells of it.
#[derive(Debug, Serialize)]
struct Row {
    id: String,
    user: Option<String>,
    /// Without the one that every socket has for itself.
    rooms: Vec<String>,
    data: Box<RawValue>,
    address: Option<String>,
    connected_at: Option<String>,
    /// Seconds since 1970.
    expires_at: Option<u64>,
}

fn limited(limit: usize) -> Result<usize, Problem> {
    match limit {
        1..=1_000 => Ok(limit),
        _ => Err(Problem::new(422, "not valid", "query: limit has to be from 1 to 1000")),
    }
}

fn read_cursor(cursor: Option<&str>) -> Result<visit::Place, Problem> {
    let Some(cursor) = cursor else { return Ok((0, 0)) };
    let read = cursor
        .split_once('-')
        .and_then(|(shard, place)| Some((shard.parse().ok()?, place.parse().ok()?)));
    read.ok_or_else(|| Problem::new(422, "not valid", "query: cursor is none of ours"))
}

fn describe(it: &Visited<'_>) -> Option<Row> {
    let (handshake, user) = (it.handshake(), it.get::<User>());
    let user = user.map(|user| User::clone(&user)).unwrap_or_default();
    Some(Row {
        id: it.id()?,
        user: user.id.as_deref().map(str::to_owned),
        rooms: it.rooms(),
        // Empty is what nobody has set.
        data: RawValue::from_string(it.data().into())
            .or_else(|_| RawValue::from_string("{}".into()))
            .ok()?,
        address: handshake.as_ref().map(|it| it.address().ip().to_string()),
        connected_at: handshake.map(|it| humantime::format_rfc3339_millis(it.issued()).to_string()),
        expires_at: user.expires_at(),
    })
}

/// The sockets of a target that this caller may ask for.
fn select(api: &Api, grant: &Grant, target: &Target) -> Result<Broadcast, Problem> {
    grant.may_in(target.namespace())?;
    target.select(&api.state)
}

/// `GET /v1/sockets`
pub(super) async fn sockets(
    Extracted(api): Extracted<Arc<Api>>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Answer, Problem> {
    #[derive(Serialize)]
    struct Sockets {
        sockets: Vec<Row>,
        next: Option<String>,
        complete: bool,
    }
    let grant = api.admit_to(&headers, Permission::Read)?;
    let asked: Selection = read_query(&uri)?;
    let target = asked.target();
    grant.may_in(target.namespace())?;
    let (limit, from) = (limited(asked.limit)?, read_cursor(asked.cursor.as_deref())?);
    let (sockets, next, complete) = target.select(&api.state)?.page(from, limit, describe).await?;
    let next = next.map(|(shard, place)| format!("{shard}-{place}"));
    Ok(Answer::ok(&Sockets { sockets, next, complete }))
}

/// `GET /v1/sockets/{id}`
pub(super) async fn socket(
    Extracted(api): Extracted<Arc<Api>>,
    path: Named,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Answer, Problem> {
    let grant = api.admit_to(&headers, Permission::Read)?;
    let (id, Place { namespace }) = (named(path)?, read_query(&uri)?);
    let target = Target { namespace, sockets: vec![id.clone()], ..Target::default() };
    let (rows, ..) = select(&api, &grant, &target)?.page((0, 0), 1, describe).await?;
    // A room may have that name.
    let row = rows.into_iter().find(|row| row.id == id);
    row.map(|row| Answer::ok(&row)).ok_or_else(|| no_socket(&id))
}

fn no_socket(id: &str) -> Problem {
    Problem::new(404, "no such socket", format!("no socket \"{id}\" is connected"))
}

fn no_user(user: &str) -> Problem {
    Problem::new(404, "no such user", format!("no socket of user \"{user}\" is connected"))
}

/// `GET /v1/users/{user}`
pub(super) async fn user(
    Extracted(api): Extracted<Arc<Api>>,
    path: Named,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Answer, Problem> {
    #[derive(Serialize)]
    struct OneUser {
        user: String,
        sockets: Vec<Row>,
        complete: bool,
    }
    let grant = api.admit_to(&headers, Permission::Read)?;
    let (user, Place { namespace }) = (named(path)?, read_query(&uri)?);
    let target = Target { namespace, users: vec![user.clone()], ..Target::default() };
    let selected = select(&api, &grant, &target)?;
    let (sockets, next, is_complete) = selected.page((0, 0), USER_SOCKETS_MAX, describe).await?;
    if sockets.is_empty() && is_complete {
        return Err(no_user(&user));
    }
    Ok(Answer::ok(&OneUser { user, sockets, complete: is_complete && next.is_none() }))
}

/// `PUT /v1/sockets/{id}/data`
pub(super) async fn set_socket_data(
    Extracted(api): Extracted<Arc<Api>>,
    path: Named,
    request: Request,
) -> Result<Response, Problem> {
    let id = named(path)?;
    let none = no_socket(&id);
    let target = Target { sockets: vec![id], ..Target::default() };
    set_data(api, target, none, request).await
}

/// `PUT /v1/users/{user}/data`
pub(super) async fn set_user_data(
    Extracted(api): Extracted<Arc<Api>>,
    path: Named,
    request: Request,
) -> Result<Response, Problem> {
    let user = named(path)?;
    let none = no_user(&user);
    let target = Target { users: vec![user], ..Target::default() };
    set_data(api, target, none, request).await
}

/// Replaces the data of the sockets of a target; `none` is the answer if there is none.
async fn set_data(
    api: Arc<Api>,
    target: Target,
    none: Problem,
    request: Request,
) -> Result<Response, Problem> {
    let grant = api.admit_to(request.headers(), Permission::SetData)?;
    let Place { namespace } = read_query(request.uri())?;
    let (parts, body) = request.into_parts();
    let data = json_body(&api, &parts.headers, body).await?;
    let key = idempotency_key(&parts.headers)?;
    let asked = (parts.uri.to_string(), data.clone());
    let job = {
        let (api, grant) = (api.clone(), grant.clone());
        let command = Command::SetData { target: Target { namespace, ..target }, data };
        async move {
            match carry_out(&api, &grant, command).await? {
                Outcome::Done { sockets: 0, complete: true, .. } => Err(none),
                outcome => Ok(Answer::ok(&outcome)),
            }
        }
    };
    once(&api, &grant, key, [asked.0.as_bytes(), asked.1.as_bytes()], job).await
}

/// `GET /v1/rooms`
pub(super) async fn rooms(
    Extracted(api): Extracted<Arc<Api>>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Answer, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        namespace: Option<String>,
        #[serde(default = "hundred")]
        limit: usize,
        cursor: Option<String>,
    }
    #[derive(Serialize)]
    struct Room {
        name: Box<str>,
        sockets: usize,
    }
    #[derive(Serialize)]
    struct Rooms {
        rooms: Vec<Room>,
        next: Option<Box<str>>,
        complete: bool,
    }
    let grant = api.admit_to(&headers, Permission::Read)?;
    let asked: Asked = read_query(&uri)?;
    let name = asked.namespace.as_deref().unwrap_or("/");
    grant.may_in(name)?;
    let limit = limited(asked.limit)?;
    let namespace = find(&api.state, name)?;
    let page = namespace.fetch_rooms(asked.cursor.as_deref(), limit).await?;
    let complete = page.is_complete;
    let rooms: Vec<Room> =
        page.into_iter().map(|room| Room { name: room.name, sockets: room.sockets }).collect();
    // Pages may be shorter than asked for before the end.
    let next = rooms.last().map(|room| room.name.clone());
    Ok(Answer::ok(&Rooms { rooms, next, complete }))
}

/// `GET /v1/count`
pub(super) async fn count(
    Extracted(api): Extracted<Arc<Api>>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Answer, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        namespace: Option<String>,
        room: Option<String>,
        user: Option<String>,
        except: Option<String>,
    }
    let grant = api.admit_to(&headers, Permission::Read)?;
    let Asked { namespace, room, user, except } = read_query(&uri)?;
    let asked = Selection { namespace, room, user, except, limit: 1, cursor: None };
    let target = asked.target();
    let count = select(&api, &grant, &target)?.count_sockets().await?;
    let (sockets, complete) = (count.value, count.is_complete);
    Ok(Answer::ok(&Outcome::Done { sockets, complete, refused: None }))
}

/// A namespace as the API tells of it.
#[derive(Debug, Serialize)]
pub(super) struct Size {
    pub(super) name: Box<str>,
    pub(super) sockets: usize,
    pub(super) rooms: usize,
}

impl From<NamespaceSize> for Size {
    fn from(it: NamespaceSize) -> Size {
        Size { name: it.name, sockets: it.sockets, rooms: it.rooms }
    }
}

/// `GET /v1/namespaces`
pub(super) async fn namespaces(
    Extracted(api): Extracted<Arc<Api>>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Answer, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    #[derive(Serialize)]
    struct Namespaces {
        namespaces: Vec<Size>,
        complete: bool,
    }
    let grant = api.admit_to(&headers, Permission::Read)?;
    let Nothing {} = read_query(&uri)?;
    let (namespaces, complete) = seen(&api, &grant).await?;
    Ok(Answer::ok(&Namespaces { namespaces, complete }))
}

/// The namespaces that a caller may use, and whether that is what all shards say. That of workers
/// is none of them while there can be no workers.
pub(super) async fn seen(api: &Api, grant: &Grant) -> Result<(Vec<Size>, bool), Problem> {
    let sizes = api.state.server.fetch_namespaces().await?;
    let complete = sizes.is_complete;
    let rules = api.state.rules();
    let workers = &rules.config.workers;
    let is_off = |name: &str| workers.keys.is_empty() && name == workers.namespace;
    let seen = sizes.into_iter().filter(|it| grant.may_in(&it.name).is_ok() && !is_off(&it.name));
    Ok((seen.map(Size::from).collect(), complete))
}
