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
use crate::attach::attach;
use crate::gateway::command::{self, Command, Problem, Verb};
use crate::gateway::state::State;
use crate::{Event, Raw, Socket};

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
        if let Command::Emit { args, .. } = &mut command
            && !attach(args, attachments)
        {
            let detail = "a placeholder names no attachment of the packet";
            return Err(Problem::new(422, "not valid", detail));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms() {
        assert_eq!(verb("kick"), Some(Verb::Disconnect));
        assert_eq!((verb("set-data"), verb("eval")), (Some(Verb::SetData), None));
    }
}
