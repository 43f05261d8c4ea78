//! Changes: from a body to what the agent is asked.

use agent_api_agent::Change;
use agent_api_model::{
    ControlAction, DeleteRequest, Error, ErrorKind, ObjectSpec, Result, Selector, Target, Verb,
};
use serde_json::Value;

use crate::body::{Call, Plain, Resize, Restart, Scale, SignalBody, Update};
use crate::decode::{Limits, decode};

/// The longest name of a method.
const LONGEST_METHOD: usize = 63;
/// The most that a method's arguments have as JSON, in bytes.
const MOST_ARGUMENTS: usize = 64 << 10;

/// What is to be changed.
#[derive(Debug)]
pub(crate) enum Wanted {
    /// One object.
    One(Change),
    /// All that are chosen.
    Many(Selector, Each),
}

/// A change without its object.
#[derive(Clone, Debug)]
pub(crate) enum Each {
    Delete(DeleteRequest),
    Control(ControlAction),
}

impl Each {
    pub(crate) fn of(&self, target: Target) -> Change {
        match self {
            Self::Delete(request) => Change::Delete(target, request.clone()),
            Self::Control(action) => Change::Control(target, action.clone()),
        }
    }
}

/// Reads the body of a verb that changes something; none for other verbs.
pub(crate) fn wanted(
    verb: Verb,
    object: Option<Target>,
    body: &[u8],
    limits: Limits,
) -> Result<Option<Wanted>> {
    let control = |action, selector| one_or_many(verb, object.clone(), selector, Each::Control(action));
    let wanted = match verb {
        Verb::Create => {
            if object.is_some() {
                return Err(Error::invalid("object", "create takes the name from its body"));
            }
            let spec: ObjectSpec = decode(body, limits)?;
            spec.check()?;
            Wanted::One(Change::Create(Box::new(spec)))
        }
        Verb::Update => {
            let request = decode::<Update>(body, limits)?.checked()?;
            Wanted::One(Change::Update(object.ok_or_else(|| no_object(verb))?, request))
        }
        Verb::Delete => {
            let mut request: DeleteRequest = decode(body, limits)?;
            let selector = request.selector.take();
            one_or_many(verb, object, selector, Each::Delete(request))?
        }
        Verb::Pause => control(ControlAction::Pause {}, decode::<Plain>(body, limits)?.selector)?,
        Verb::Resume => control(ControlAction::Resume {}, decode::<Plain>(body, limits)?.selector)?,
        Verb::Restart => {
            let Restart { grace, selector } = decode(body, limits)?;
            control(ControlAction::Restart { grace }, selector)?
        }
        Verb::Signal => {
            let SignalBody { signal, selector } = decode(body, limits)?;
            check_signal(&signal)?;
            control(ControlAction::Signal { signal }, selector)?
        }
        Verb::Scale => {
            let Scale { replicas, selector } = decode(body, limits)?;
            control(ControlAction::Scale { replicas }, selector)?
        }
        Verb::Resize => {
            let Resize { resources, selector } = decode(body, limits)?;
            if resources.is_empty() {
                return Err(Error::invalid("resources", "names no limit that is to change"));
            }
            control(ControlAction::Resize { resources }, selector)?
        }
        Verb::Call => {
            let Call {
                method,
                arguments,
                selector,
            } = decode(body, limits)?;
            check_method(&method)?;
            check_arguments(&arguments)?;
            control(ControlAction::Call { method, arguments }, selector)?
        }
        _ => return Ok(None),
    };
    Ok(Some(wanted))
}

fn one_or_many(verb: Verb, object: Option<Target>, selector: Option<Selector>, each: Each) -> Result<Wanted> {
    match (object, selector) {
        (Some(target), None) => Ok(Wanted::One(each.of(target))),
        (None, Some(selector)) => Ok(Wanted::Many(selector, each)),
        (Some(_), Some(_)) => Err(Error::invalid(
            "selector",
            "an object is addressed already; use one or the other",
        )),
        (None, None) => Err(no_object(verb)
            .with_hint("or choose objects with a `selector` in the body, for example \"app=web\"")),
    }
}

pub(crate) fn no_object(verb: Verb) -> Error {
    Error::new(ErrorKind::Invalid, format!("{verb} needs an object")).with_path("object")
}

fn check_signal(signal: &str) -> Result<()> {
    let fits = (1..=32).contains(&signal.len())
        && signal
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-_".contains(&b));
    if fits {
        return Ok(());
    }
    let cut = cut(signal);
    Err(Error::invalid(
        "signal",
        format!("{cut:?} is not a signal; write for example HUP, SIGHUP or 1"),
    ))
}

fn check_method(method: &str) -> Result<()> {
    let fits = (1..=LONGEST_METHOD).contains(&method.len())
        && method.starts_with(|first: char| first.is_ascii_lowercase())
        && method
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if fits {
        return Ok(());
    }
    let cut = cut(method);
    Err(Error::invalid(
        "method",
        format!(
            "{cut:?} is not the name of a method: use lower-case letters, digits and '_', a letter first"
        ),
    )
    .with_hint("`describe` and `drivers` list the methods"))
}

fn check_arguments(arguments: &Value) -> Result<()> {
    if !arguments.is_null() && !arguments.is_object() {
        return Err(Error::invalid("arguments", "must be a map: names and values"));
    }
    let bytes = arguments.to_string().len();
    if bytes > MOST_ARGUMENTS {
        return Err(Error::invalid(
            "arguments",
            format!("have {bytes} bytes; the limit is {MOST_ARGUMENTS}"),
        ));
    }
    Ok(())
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}
