//! The journal's records: one JSON object each, `{"v":1,"t":"accepted",…}` with short keys.
//!
//! | `t` | says |
//! | --- | --- |
//! | `accepted` | a request was let in: request id `r`, key `k`, object `g`, operation `o`, what `w`, and what that needs: spec `s`, generation `n`, plan `a`, control verb `c`, delete `d`; `rp` an operation that it replaces |
//! | `observed` | an object ended: exit `x`; with an operation `o` that starts it again by policy or repairs it, where there is one; `hg` where its handle leads to nothing any more |
//! | `settled` | an operation `o` ended: phase `p`, handle `h`, applied generation `b`, exit `x`, the spec `s` of generation `n` where the driver made a new one, `u` where it is not known whether it made something |
//! | `gone` | an object is no more |
//! | `key` | a request was answered with the answer of an earlier one |
//! | `object` | in snapshots: all of an object, with history `hi` and what it has to do, `pd` |
//! | `mark` | nothing |
//!
//! `q` numbers the records; a record whose number is not above the one that an object was read with is not applied
//! to it again: so a snapshot may already hold what follows it in the log.

use std::sync::Arc;

use agent_api_driver::Handle;
use agent_api_model::{
    ControlAction, DeleteRequest, ExitStatus, Generation, Guid, ObjectName, OpId, Phase, PlanAction,
    RequestId, Transition,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The version written. Older ones are read; newer ones are set aside.
pub(crate) const VERSION: u8 = 1;

/// The kind of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Tag {
    Accepted,
    Observed,
    Settled,
    Gone,
    Key,
    Object,
    Mark,
}

/// What an intent does, as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Task {
    Create,
    Start,
    Restart,
    Update,
    Control,
    Delete,
    Repair,
}

/// One record. Which fields are set depends on the tag.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Line<'a> {
    pub(crate) v: u8,
    pub(crate) t: Tag,
    #[serde(default)]
    pub(crate) q: u64,
    /// Microseconds of wall-clock time.
    #[serde(default)]
    pub(crate) at: i64,
    pub(crate) g: Guid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) r: Option<RequestId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) k: Option<RequestId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) o: Option<OpId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rp: Option<OpId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) w: Option<Task>,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    pub(crate) s: Option<&'a RawValue>,
    #[serde(default, skip_serializing_if = "zero")]
    pub(crate) n: Generation,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) a: Option<PlanAction>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) c: Option<ControlAction>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) d: Option<DeleteRequest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) p: Option<Phase>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) h: Option<Arc<Handle>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) x: Option<ExitStatus>,
    #[serde(default, skip_serializing_if = "zero")]
    pub(crate) b: Generation,
    /// Restarts in all, and in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rs: Option<(u32, u32)>,
    /// Why an operation failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) e: Option<String>,
    /// The object's name, for keys of objects that are gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) nm: Option<ObjectName>,
    /// When it was accepted, and since when it is in its phase, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ct: Option<(i64, i64)>,
    /// Whether a start is in doubt: something may be there that no handle leads to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) u: bool,
    /// Whether it has no handle any more: what the last one led to was taken away.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) hg: bool,
    #[serde(default, skip_serializing_if = "zero")]
    pub(crate) sq: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) hi: Vec<Transition>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) pd: Vec<Todo>,
}

/// Something accepted and not settled, in a snapshot and while replaying.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Todo {
    pub(crate) o: OpId,
    pub(crate) w: Task,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) r: Option<RequestId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) s: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "zero")]
    pub(crate) n: Generation,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) a: Option<PlanAction>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) c: Option<ControlAction>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) d: Option<DeleteRequest>,
}

fn zero(number: &u64) -> bool {
    *number == 0
}

impl<'a> Line<'a> {
    /// A record of this object with nothing else in it.
    pub(crate) fn new(t: Tag, g: Guid, at: agent_api_model::Timestamp) -> Self {
        Self {
            v: VERSION,
            t,
            q: 0,
            at: at.as_micros(),
            g,
            r: None,
            k: None,
            o: None,
            rp: None,
            w: None,
            s: None,
            n: 0,
            a: None,
            c: None,
            d: None,
            p: None,
            h: None,
            x: None,
            b: 0,
            rs: None,
            e: None,
            nm: None,
            ct: None,
            u: false,
            hg: false,
            sq: 0,
            hi: Vec::new(),
            pd: Vec::new(),
        }
    }

    /// Reads a record; the error is a sentence for the quarantine.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, String> {
        /// Read first: a newer version may have other fields.
        #[derive(Deserialize)]
        struct Version {
            v: u8,
        }
        match serde_json::from_slice::<Self>(bytes) {
            Ok(line) if line.v <= VERSION => Ok(line),
            result => {
                if let Ok(Version { v }) = serde_json::from_slice(bytes)
                    && v > VERSION
                {
                    return Err(format!("record of version {v}, this agent knows up to {VERSION}"));
                }
                Err(match result {
                    Err(error) => format!("not a record of the manager: {error}"),
                    Ok(_) => "not a record of the manager".into(),
                })
            }
        }
    }

    pub(crate) fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record has only text keys and finite numbers")
    }
}

/// A stored spec as it goes into a record.
pub(crate) fn raw(text: &str) -> &RawValue {
    serde_json::from_str(text).expect("a spec is stored as it was written by serde")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_refuses_the_rest() {
        let guid = Guid::generate();
        let mut line = Line::new(Tag::Accepted, guid, agent_api_model::Timestamp::from_micros(5));
        line.s = Some(raw(r#"{"kind":"fake","name":"a"}"#));
        line.w = Some(Task::Create);
        let bytes = line.write();
        let again = Line::read(&bytes).unwrap();
        assert_eq!(again.s.unwrap().get(), r#"{"kind":"fake","name":"a"}"#);
        assert_eq!(
            (again.t, again.g, again.w),
            (Tag::Accepted, guid, Some(Task::Create))
        );
        for (bad, why) in [
            (&b"garbage"[..], "not a record"),
            (br#"{"v":9,"t":"new","z":1}"#, "version 9"),
            (br#"{"v":1,"t":"accepted"}"#, "missing field `g`"),
            (b"\xff\x00", "not a record"),
        ] {
            let error = Line::read(bad).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
