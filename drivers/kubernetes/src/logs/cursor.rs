//! A place in the logs of all containers of an object. It holds all that is needed to go on, also after a restart of
//! the agent, and only containers that still exist: its size is bounded by theirs.
//!
//! On the wire `1;<guid>;e<version>;<pod uid>/<container>=<instance>,<restarts>,<base>,<count>,<sum>,<part>,<latest>,<done>…`,
//! numbers in hex.

use std::collections::BTreeMap;
use std::fmt;

use agent_api_driver::model::{Error, Guid, Result};

use super::position::Position;

/// One container of one pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub uid: String,
    pub container: String,
}

/// A place in the logs of one container, over its restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// Which run of the container: the beginning of its id.
    pub instance: String,
    /// How many runs there were before.
    pub restarts: u32,
    pub position: Position,
    /// This run has ended and all of it was read.
    pub done: bool,
}

/// The length of an instance's name.
const INSTANCE: usize = 12;

/// The name of a run from its id, `containerd://987b3780e93f…`.
pub(crate) fn instance(container_id: &str) -> Option<String> {
    let id = container_id.rsplit('/').next()?;
    (!id.is_empty()).then(|| {
        id.chars()
            .filter(char::is_ascii_alphanumeric)
            .take(INSTANCE)
            .collect()
    })
}

/// A place in all logs of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    guid: Guid,
    /// The latest Kubernetes Event that was given: its version.
    pub events: Option<u64>,
    pub places: BTreeMap<Key, Place>,
}

impl Cursor {
    pub(crate) fn new(guid: Guid) -> Self {
        Self {
            guid,
            events: None,
            places: BTreeMap::new(),
        }
    }

    /// Reads a cursor of this object.
    pub(crate) fn parse(text: &str, guid: Guid) -> Result<Self> {
        Self::read(text)
            .filter(|cursor| cursor.guid == guid)
            .ok_or_else(|| {
                Error::invalid(
                    "cursor",
                    "this is not a cursor of this object's logs; give one from an earlier answer, or none",
                )
                .with_object(guid)
            })
    }

    fn read(text: &str) -> Option<Self> {
        let mut parts = text.split(';');
        parts.next().filter(|version| *version == "1")?;
        let mut cursor = Self::new(parts.next()?.parse().ok()?);
        for part in parts {
            match part.split_once('=') {
                None => cursor.events = Some(unsigned(part.strip_prefix('e')?)?),
                Some((key, place)) => {
                    let (uid, container) = key.split_once('/')?;
                    let key = Key {
                        uid: uid.to_owned(),
                        container: container.to_owned(),
                    };
                    cursor.places.insert(key, read_place(place)?);
                }
            }
        }
        Some(cursor)
    }

    /// Forgets containers that are not there any more: nothing of them can be read again.
    pub(crate) fn keep(&mut self, exists: impl Fn(&Key) -> bool) {
        self.places.retain(|key, _| exists(key));
    }
}

fn unsigned(digits: &str) -> Option<u64> {
    u64::from_str_radix(digits, 16)
        .ok()
        .filter(|_| !digits.starts_with('+'))
}

fn signed(digits: &str) -> Option<i64> {
    unsigned(digits).and_then(|number| i64::try_from(number).ok())
}

fn read_place(text: &str) -> Option<Place> {
    let parts: Vec<&str> = text.split(',').collect();
    let [name, restarts, base, count, sum, part, latest, done] = parts.as_slice() else {
        return None;
    };
    Some(Place {
        instance: (*name).to_owned(),
        restarts: u32::try_from(unsigned(restarts)?).ok()?,
        position: Position {
            base: signed(base)?,
            count: unsigned(count)?,
            sum: u32::try_from(unsigned(sum)?).ok()?,
            part: unsigned(part)?,
            latest: signed(latest)?,
        },
        done: match *done {
            "0" => false,
            "1" => true,
            _ => return None,
        },
    })
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1;{}", self.guid)?;
        if let Some(events) = self.events {
            write!(f, ";e{:x}", events)?;
        }
        for (key, place) in &self.places {
            let p = &place.position;
            write!(
                f,
                ";{}/{}={},{:x},{:x},{:x},{:x},{:x},{:x},{}",
                key.uid,
                key.container,
                place.instance,
                place.restarts,
                p.base.max(0),
                p.count,
                p.sum,
                p.part,
                p.latest.max(0),
                u8::from(place.done)
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_of_one_object() {
        let guid = Guid::generate();
        let mut cursor = Cursor::new(guid);
        assert_eq!(Cursor::parse(&cursor.to_string(), guid).unwrap(), cursor);
        cursor.events = Some(17);
        for (i, done) in [false, true].into_iter().enumerate() {
            let key = Key {
                uid: format!("2ddcd36c-248a-41c9-824f-13503f79c5a{i}"),
                container: "web".into(),
            };
            let place = Place {
                instance: instance("containerd://987b3780e93f5d4d13fac437d3245ca14a42917b").unwrap(),
                restarts: 3,
                position: Position {
                    base: 1_795_383_053,
                    count: 12,
                    sum: u32::MAX,
                    part: 5,
                    latest: 1_795_383_054_247_755_599,
                },
                done,
            };
            assert_eq!(place.instance, "987b3780e93f");
            cursor.places.insert(key, place);
        }
        let text = cursor.to_string();
        assert!(text.len() < 300, "{text}");
        assert_eq!(Cursor::parse(&text, guid).unwrap(), cursor);
        assert!(Cursor::parse(&text, Guid::generate()).is_err());
        for bad in [
            String::new(),
            "1".into(),
            "2;x".into(),
            format!("1;{guid};x"),
            format!("1;{guid};e+1"),
            format!("1;{guid};u/c=a,0,0,0,0,0,0,2"),
            format!("1;{guid};u=a,0,0,0,0,0,0,0"),
            format!("1;{guid};u/c=a,0,0,0"),
        ] {
            let error = Cursor::parse(&bad, guid).unwrap_err();
            assert_eq!(error.path(), Some("cursor"), "{bad:?}");
        }
        cursor.keep(|key| key.uid.ends_with('1'));
        assert_eq!(cursor.places.len(), 1);
    }
}
