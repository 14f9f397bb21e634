//! What workers want done: the commands of the HTTP API, as events.
//!
//! `command` with one, `commands` with a list; the short forms have what is to be done as their
//! name: `emit`, `join`, `leave`, `set-data`, and `kick` for `disconnect`, which clients reserve.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Action;
use super::admission::Worker;
use crate::gateway::command::{self, Command, Problem, Verb};
use crate::gateway::state::State;
use crate::{Error, Event, Raw, Socket};

/// Commands in one list.
const LIST_MAX: usize = 1_000;

impl From<Verb> for Action {
    fn from(verb: Verb) -> Action {
        match verb {
            Verb::Emit => Action::Emit,
            Verb::Join => Action::Join,
            Verb::Leave => Action::Leave,
            Verb::Disconnect => Action::Disconnect,
            Verb::SetData => Action::SetData,
        }
    }
}

/// Carries out what a worker asks for; its ack says `{"result": …}` or `{"error": …}`, in a list
/// for a list.
pub(super) async fn obey(state: &Arc<State>, socket: &Socket, event: &Event) {
    let Some(worker) = socket.get::<Worker>() else { return };
    let raw = event.raw().take(1);
    let answer = match event.name() {
        "commands" => match list(&raw) {
            Err(problem) => told(Err(problem)),
            Ok(commands) => {
                let mut answers = Vec::with_capacity(commands.len());
                for text in commands {
                    answers.push(one(state, &worker, text.get(), &raw.attachments, None).await);
                }
                Value::Array(answers)
            }
        },
        "command" => one(state, &worker, raw.json(), &raw.attachments, None).await,
        name => match verb(name) {
            Some(verb) => one(state, &worker, raw.json(), &raw.attachments, Some(verb)).await,
            None => {
                let detail = format!("there is no command \"{name}\"");
                told(Err(Problem::new(404, "no such command", detail)))
            }
        },
    };
    let _ = event.ack(answer);
}

fn verb(name: &str) -> Option<Verb> {
    let name = if name == "kick" { "disconnect" } else { name };
    Verb::ALL.into_iter().find(|verb| verb.as_str() == name)
}

fn list(raw: &Raw) -> Result<Vec<Box<RawValue>>, Problem> {
    let commands: Vec<Box<RawValue>> = command::read(raw.json().as_bytes())?;
    match commands.len() {
        0..=LIST_MAX => Ok(commands),
        _ => Err(Problem::new(422, "not valid", format!("at most {LIST_MAX} commands in a list"))),
    }
}

async fn one(
    state: &Arc<State>,
    worker: &Worker,
    text: &str,
    attachments: &[Bytes],
    verb: Option<Verb>,
) -> Value {
    let read = || {
        let mut command = Command::read(text.as_bytes(), verb)?;
        worker.grant().may(command.verb().into(), command.target().namespace())?;
        if let Command::Emit { args, .. } = &mut command {
            attach(args, attachments)?;
        }
        Ok(command)
    };
    told(match read() {
        Ok(command) => command.execute(state).await,
        Err(problem) => Err(problem),
    })
}

fn told(outcome: Result<Value, Problem>) -> Value {
    match outcome {
        Ok(result) => json!({ "result": result }),
        Err(problem) => json!({ "error": problem }),
    }
}

/// Gives arguments the attachments that they name, and no others of the same packet.
fn attach(args: &mut Raw, attachments: &[Bytes]) -> Result<(), Problem> {
    if attachments.is_empty() {
        return Ok(());
    }
    let mut values: Vec<Value> = args.args()?;
    let mut named = Vec::new();
    values.iter_mut().for_each(|value| rename(value, attachments, &mut named));
    if !named.is_empty() {
        let json = serde_json::to_string(&values).map_err(Error::from)?;
        let json = Bytes::copy_from_slice(&json.as_bytes()[1..json.len() - 1]);
        *args = Raw { json, attachments: named };
    }
    Ok(())
}

/// Numbers placeholders in the order in which they are found.
fn rename(value: &mut Value, attachments: &[Bytes], named: &mut Vec<Bytes>) {
    match value {
        Value::Array(values) => {
            values.iter_mut().for_each(|value| rename(value, attachments, named));
        }
        Value::Object(members) => {
            let is_placeholder = members.get("_placeholder") == Some(&Value::Bool(true));
            let number = members.get("num").and_then(Value::as_u64).filter(|_| is_placeholder);
            let found = number.and_then(|number| attachments.get(number as usize));
            if let Some(bytes) = found {
                members.insert("num".into(), named.len().into());
                named.push(bytes.clone());
                return;
            }
            members.values_mut().for_each(|value| rename(value, attachments, named));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_get_the_attachments_that_they_name() {
        let attachments: Vec<Bytes> = (0..3).map(|byte| Bytes::from(vec![byte])).collect();
        let placeholder = |num: u8| format!("{{\"_placeholder\":true,\"num\":{num}}}");
        let raw = |json: String| Raw { json: json.into(), ..Raw::default() };
        let mut args = raw(format!("{{\"a\":[{}]}},{}", placeholder(2), placeholder(0)));
        attach(&mut args, &attachments).expect("attaches");
        assert_eq!(args.json(), format!("{{\"a\":[{}]}},{}", placeholder(0), placeholder(1)));
        assert_eq!(args.attachments(), [&[2][..], &[0][..]]);
        let mut plain = raw("1.50".into());
        attach(&mut plain, &attachments).expect("attaches");
        assert_eq!((plain.json(), plain.attachments().len()), ("1.50", 0));
    }

    #[test]
    fn short_forms() {
        assert_eq!(verb("kick"), Some(Verb::Disconnect));
        assert_eq!((verb("set-data"), verb("eval")), (Some(Verb::SetData), None));
    }
}
