//! `call`: a method that only objects of one kind have.

use std::collections::BTreeMap;

use agent_api_bus_out::StartAt;
use agent_api_client::{ObjectEvent, ResultStream};
use agent_api_model::{
    BatchItem, Cause, ControlAction, Error, Guid, LifecycleKind, ObjectName, OpId, Target, format_duration,
};
use agent_bin_daemon::exit;
use futures_util::StreamExt;
use serde_json::{Map, Value};

use super::Context;
use super::control::{item, report};
use crate::args::{CallArgs, Global};
use crate::failure::{Failure, Outcome, printable};

/// What the words of the command line say.
#[derive(Debug, PartialEq)]
struct Call {
    /// None where a selector chooses.
    target: Option<Target>,
    method: String,
    arguments: Value,
}

pub(super) async fn call(global: &Global, args: &CallArgs) -> Outcome {
    let call = read(args)?;
    let context = Context::new(global)?;
    // Before anything is asked, so that nothing is missed.
    let events = match args.wait {
        true => Some(context.client.events(StartAt::Now).await?),
        false => None,
    };
    let action = ControlAction::Call {
        method: call.method.clone(),
        arguments: call.arguments,
    };
    let items = match (&args.selector, &call.target) {
        (Some(selector), _) => context.client.control_selected(selector, &action).await?,
        (None, Some(target)) => vec![item(target, context.client.control(target, &action).await)?],
        (None, None) => Vec::new(),
    };
    let code = report(&context, &items, &format!("{} accepted", call.method))?;
    let Some(events) = events else {
        return Ok(code);
    };
    let mut waiting = Waiting::new(&items, call.method);
    let retried = async |guid, op_id| is_tried_again(&context, guid, op_id).await;
    let wait = waiting.wait(events, retried, context.output.format.is_human());
    let waited = match tokio::time::timeout(args.timeout, wait).await {
        Ok(waited) => waited?,
        Err(_) => {
            for (name, _) in waiting.operations.values() {
                eprintln!("{name}: {} is not done", waiting.method);
            }
            return Err(Failure::new(
                exit::TIMEOUT,
                format!(
                    "not done after {}\n  try: `agent explain NAME`, or a longer --timeout",
                    format_duration(args.timeout)
                ),
            ));
        }
    };
    Ok(if code == exit::OK { waited } else { code })
}

fn read(args: &CallArgs) -> Outcome<Call> {
    let usage = |message: String| Failure::new(exit::USAGE, message);
    let mut words = args.words.iter();
    let target = match (&args.selector, words.next()) {
        (None, Some(name)) => Some(name.parse::<Target>().map_err(usage)?),
        (Some(_), _) => {
            words = args.words.iter();
            None
        }
        (None, None) => return Err(usage("NAME is missing".into())),
    };
    let method = words.next().ok_or_else(|| {
        usage("METHOD is missing\n  try: `agent describe NAME`, which lists the methods".into())
    })?;
    let mut arguments = match &args.arguments {
        None => Map::new(),
        Some(text) => match serde_json::from_str(text) {
            Ok(Value::Object(map)) => map,
            Ok(_) => {
                return Err(usage(
                    "--arguments: must be a map such as {\"revision\": 3}".into(),
                ));
            }
            Err(error) => return Err(usage(format!("--arguments: is not JSON: {error}"))),
        },
    };
    for word in words {
        let (key, text) = word
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| usage(format!("{word:?} is not an argument; write KEY=VALUE")))?;
        let value = serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
        if arguments.insert(key.into(), value).is_some() {
            return Err(usage(format!("the argument {key} is given twice")));
        }
    }
    Ok(Call {
        target,
        method: method.clone(),
        arguments: arguments.into(),
    })
}

/// Calls that were accepted and are not done.
struct Waiting {
    operations: BTreeMap<OpId, (ObjectName, Guid)>,
    method: String,
    failed: bool,
}

impl Waiting {
    fn new(items: &[BatchItem], method: String) -> Self {
        let operations = items
            .iter()
            .filter_map(|item| item.accepted.as_ref())
            .map(|accepted| (accepted.op_id, (accepted.name.clone(), accepted.guid)))
            .collect();
        Self {
            operations,
            method,
            failed: false,
        }
    }

    /// Waits for all of them. The exit code says whether all were done. `is_tried_again` tells of an operation that failed
    /// whether it goes on all the same; `told` says whether each that is done is told.
    async fn wait(
        &mut self,
        mut events: ResultStream<ObjectEvent>,
        is_tried_again: impl AsyncFn(Guid, OpId) -> Result<bool, Error>,
        told: bool,
    ) -> Outcome {
        while !self.operations.is_empty() {
            let event = match events.next().await {
                Some(Ok(event)) if event.missed == 0 => event.event,
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(_)) | None => {
                    let names: Vec<_> = self.operations.values().map(|(name, _)| name.as_str()).collect();
                    return Err(Failure::new(
                        exit::FAILED,
                        format!(
                            "what became of {} was missed\n  try: `agent explain NAME`",
                            names.join(", ")
                        ),
                    ));
                }
            };
            match event.transition.cause {
                Cause::Done { op_id, .. } => {
                    if let Some((name, _)) = self.operations.remove(&op_id)
                        && told
                    {
                        eprintln!("{name} {} done", self.method);
                    }
                }
                Cause::Error { op_id, message, .. } => {
                    if let Some((name, guid)) = self.operations.get(&op_id).cloned()
                        && !is_tried_again(guid, op_id).await?
                    {
                        self.give_up(op_id, &name, &message);
                    }
                }
                _ => {}
            }
            if event.kind == LifecycleKind::Deleted {
                let gone: Vec<_> = self
                    .operations
                    .iter()
                    .filter(|(_, (_, guid))| *guid == event.guid)
                    .map(|(op_id, _)| *op_id)
                    .collect();
                for op_id in gone {
                    self.give_up(op_id, &event.name, "it was deleted meanwhile");
                }
            }
        }
        Ok(if self.failed { exit::FAILED } else { exit::OK })
    }

    fn give_up(&mut self, op_id: OpId, name: &ObjectName, message: &str) {
        self.operations.remove(&op_id);
        self.failed = true;
        eprintln!(
            "error: {}",
            printable(&format!("{name}: {}: {message}", self.method))
        );
    }
}

/// Whether an operation that failed goes on all the same.
async fn is_tried_again(context: &Context, guid: Guid, op_id: OpId) -> Result<bool, Error> {
    let view = context.client.describe(&Target::Guid(guid)).await?.view;
    let under_way = view
        .operation
        .as_ref()
        .is_some_and(|operation| operation.op_id == op_id);
    let retrying = view
        .conditions
        .iter()
        .any(|condition| condition.kind == "Retrying" && condition.status);
    Ok(under_way || retrying)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;
    use crate::args::{Cli, Command};

    fn words(line: &[&str]) -> Outcome<Call> {
        let all = [&["agent", "call"], line].concat();
        match Cli::try_parse_from(all).unwrap().command {
            Command::Call(args) => read(&args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn words_are_name_method_and_arguments() {
        let call = words(&[
            "shop",
            "rollback",
            "revision=3",
            "reason=too slow",
            "dry=true",
            "text=\"3\"",
            "equation=a=b",
            "nothing=",
        ])
        .unwrap();
        assert_eq!(
            call,
            Call {
                target: Some("shop".parse().unwrap()),
                method: "rollback".into(),
                arguments: json!({
                    "revision": 3, "reason": "too slow", "dry": true, "text": "3", "equation": "a=b", "nothing": ""
                }),
            }
        );
        let call = words(&["-l", "app=shop", "drain", "--arguments", r#"{"a": [1]}"#, "b=2"]).unwrap();
        assert_eq!((call.target, call.method.as_str()), (None, "drain"));
        assert_eq!(call.arguments, json!({"a": [1], "b": 2}));
        assert_eq!(words(&["shop", "rollback"]).unwrap().arguments, json!({}));
    }

    fn accepted(name: &str, number: u128) -> BatchItem {
        let value = json!({
            "guid": uuid(number), "name": name, "generation": 1, "op_id": uuid(number + 100),
        });
        BatchItem {
            name: name.parse().unwrap(),
            accepted: Some(serde_json::from_value(value).unwrap()),
            error: None,
        }
    }

    fn uuid(number: u128) -> String {
        format!("00000000-0000-0000-0000-{number:012}")
    }

    fn event(kind: &str, number: u128, cause: &Value) -> agent_api_model::Result<ObjectEvent> {
        let event = json!({
            "kind": kind, "guid": uuid(number), "name": format!("o{number}"), "object_kind": "simulated", "generation": 1,
            "transition": {"at": "2026-01-01T00:00:00Z", "from": "Running", "to": "Running", "cause": cause},
            "sequence": 1,
        });
        Ok(ObjectEvent {
            sequence: 1,
            missed: 0,
            event: serde_json::from_value(event).unwrap(),
        })
    }

    fn done(number: u128) -> Value {
        json!({"type": "done", "verb": "call", "op_id": uuid(number + 100)})
    }

    fn error(number: u128) -> Value {
        json!({"type": "error", "verb": "call", "op_id": uuid(number + 100), "message": "no such revision"})
    }

    async fn waited(events: Vec<agent_api_model::Result<ObjectEvent>>, again: bool) -> Outcome {
        let items = [accepted("o1", 1), accepted("o2", 2)];
        let mut waiting = Waiting::new(&items, "rollback".into());
        let events = Box::pin(futures_util::stream::iter(events));
        waiting.wait(events, async |_, _| Ok(again), false).await
    }

    #[tokio::test]
    async fn each_call_is_waited_for() {
        let both = |last| vec![event("updated", 3, &done(3)), event("updated", 2, &done(2)), last];
        assert_eq!(
            waited(both(event("updated", 1, &done(1))), false).await.unwrap(),
            exit::OK
        );
        assert_eq!(
            waited(both(event("operation_failed", 1, &error(1))), false)
                .await
                .unwrap(),
            exit::FAILED
        );
        let mut retried = both(event("operation_failed", 1, &error(1)));
        retried.push(event("phase_changed", 1, &done(1)));
        assert_eq!(waited(retried, true).await.unwrap(), exit::OK);
        let gone = json!({"type": "done", "verb": "delete", "op_id": uuid(900)});
        assert_eq!(
            waited(both(event("deleted", 1, &gone)), false).await.unwrap(),
            exit::FAILED
        );
        let mut missed = event("updated", 1, &done(1)).unwrap();
        missed.missed = 7;
        let failure = waited(both(Ok(missed)), false).await.unwrap_err();
        assert!(failure.message.contains("o1 was missed"), "{failure}");
        let failure = waited(vec![event("updated", 2, &done(2))], false)
            .await
            .unwrap_err();
        assert!(
            failure.message.contains("o1 was missed"),
            "the stream ended: {failure}"
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, said) in [
            (&["shop"][..], "METHOD is missing"),
            (&["Shop!", "rollback"], "Shop!"),
            (&["shop", "rollback", "revision"], "write KEY=VALUE"),
            (&["shop", "rollback", "=3"], "write KEY=VALUE"),
            (&["shop", "rollback", "a=1", "a=2"], "twice"),
            (&["shop", "rollback", "--arguments", "[1]"], "must be a map"),
            (&["shop", "rollback", "--arguments", "{"], "is not JSON"),
        ] {
            let failure = words(line).unwrap_err();
            assert_eq!(failure.code, exit::USAGE);
            assert!(failure.message.contains(said), "{line:?}: {failure}");
        }
    }
}
