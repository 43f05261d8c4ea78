//! The file that lets simulated objects outlive the agent.
//!
//! One JSON record in a line, appended before a call returns and never synced: it survives the death of the agent,
//! not that of the host, and costs one small write to the page cache for each change. A later record of an object
//! replaces an earlier one; lines that cannot be read are counted and passed over. At each start, and when most of it
//! is out of date, the file is written anew.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent_api_driver::model::{AgentId, ExitStatus, Guid, OpId, Resources};
use serde::{Deserialize, Serialize};

use crate::behavior::Behavior;
use crate::spec::SimulatedSpec;
use crate::thing::{Owner, State, Thing};

const FILE: &str = "simulated.jsonl";
/// Behaviours remembered as written already; beyond it they are written once more.
const MAX_BEHAVIORS: usize = 4_096;
/// Below this size the file is not written anew.
const SMALL: u64 = 16 << 20;

#[derive(Serialize, Deserialize)]
enum Record {
    #[serde(rename = "behavior")]
    Behavior {
        id: u32,
        spec: Box<SimulatedSpec>,
        resources: Resources,
    },
    #[serde(rename = "object")]
    Object(Box<ObjectRecord>),
    #[serde(rename = "gone")]
    Gone { guid: Guid, revision: u64 },
}

#[derive(Serialize, Deserialize)]
struct ObjectRecord {
    guid: Guid,
    /// None: an orphan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    agent: Option<AgentId>,
    op: OpId,
    key: u64,
    behavior: u32,
    state: State,
    revision: u64,
    since: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    ran: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    earlier: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    lines: u64,
    starts: u32,
    draws: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exit: Option<Box<ExitStatus>>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a file held.
#[derive(Default)]
pub(crate) struct Loaded {
    pub(crate) things: HashMap<Guid, Thing>,
    /// The agents whose marks the objects bear; [`Owner`] is an index.
    pub(crate) agents: Vec<AgentId>,
    pub(crate) revision: u64,
    /// Lines that could not be read.
    pub(crate) damaged: usize,
}

#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    file: File,
    buffer: Vec<u8>,
    behaviors: HashMap<String, u32>,
    next_behavior: u32,
    bytes: u64,
    /// The size after it was last written anew.
    compact_bytes: u64,
}

impl Store {
    /// Reads the directory's file and writes it anew, without what is out of date. Makes the directory when needed.
    pub(crate) fn open(dir: &Path) -> io::Result<(Self, Loaded)> {
        fs::create_dir_all(dir)?;
        let path = dir.join(FILE);
        let loaded = match fs::read(&path) {
            Ok(bytes) => load(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Loaded::default(),
            Err(error) => return Err(error),
        };
        let mut store = Self {
            file: OpenOptions::new().create(true).append(true).open(&path)?,
            path,
            buffer: Vec::new(),
            behaviors: HashMap::new(),
            next_behavior: 0,
            bytes: 0,
            compact_bytes: 0,
        };
        store.rewrite(&loaded.things, &loaded.agents, loaded.revision)?;
        Ok((store, loaded))
    }

    /// Notes an object as it is now. In the file after [`flush`](Self::flush).
    pub(crate) fn put(&mut self, guid: Guid, thing: &Thing, agents: &[AgentId]) {
        let behavior = self.behavior(&thing.behavior);
        self.write(&Record::Object(Box::new(ObjectRecord {
            guid,
            agent: agents.get(usize::from(thing.owner.0)).cloned(),
            op: thing.op_id,
            key: thing.key,
            behavior,
            state: thing.state,
            revision: thing.revision,
            since: thing.since,
            ran: thing.ran,
            earlier: thing.earlier,
            lines: thing.lines,
            starts: thing.starts,
            draws: thing.draws,
            exit: thing.exit.clone(),
        })));
    }

    /// Notes that an object is gone.
    pub(crate) fn gone(&mut self, guid: Guid, revision: u64) {
        self.write(&Record::Gone { guid, revision });
    }

    /// Writes what was noted to the file.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.file.write_all(&self.buffer)?;
        self.bytes += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Whether most of the file is out of date.
    pub(crate) fn is_bloated(&self) -> bool {
        self.bytes > SMALL.max(4 * self.compact_bytes)
    }

    /// Writes the file anew, aside, and puts it in the place of the old one.
    pub(crate) fn rewrite(
        &mut self,
        things: &HashMap<Guid, Thing>,
        agents: &[AgentId],
        revision: u64,
    ) -> io::Result<()> {
        self.buffer.clear();
        self.behaviors.clear();
        // Keeps the revision where the newest one is of an object that is gone.
        self.gone(Guid::generate(), revision);
        for (guid, thing) in things {
            self.put(*guid, thing, agents);
        }
        let aside = self.path.with_extension("new");
        fs::write(&aside, &self.buffer)?;
        fs::rename(&aside, &self.path)?;
        self.file = OpenOptions::new().append(true).open(&self.path)?;
        self.bytes = self.buffer.len() as u64;
        self.compact_bytes = self.bytes;
        self.buffer = Vec::new();
        Ok(())
    }

    fn behavior(&mut self, behavior: &Arc<Behavior>) -> u32 {
        if let Some(id) = self.behaviors.get(&behavior.text) {
            return *id;
        }
        if self.behaviors.len() >= MAX_BEHAVIORS {
            self.behaviors.clear();
        }
        let id = self.next_behavior;
        self.next_behavior += 1;
        let (spec, resources) = (Box::new(behavior.spec.clone()), behavior.resources.clone());
        self.write(&Record::Behavior { id, spec, resources });
        self.behaviors.insert(behavior.text.clone(), id);
        id
    }

    fn write(&mut self, record: &Record) {
        serde_json::to_writer(&mut self.buffer, record).expect("a vector takes all, and records are plain");
        self.buffer.push(b'\n');
    }
}

fn load(bytes: &[u8]) -> Loaded {
    let mut loaded = Loaded::default();
    let mut behaviors = HashMap::new();
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(Record::Behavior { id, spec, resources }) => {
                behaviors.insert(id, Arc::new(Behavior::new(*spec, resources)));
            }
            Ok(Record::Gone { guid, revision }) => {
                loaded.things.remove(&guid);
                loaded.revision = loaded.revision.max(revision);
            }
            Ok(Record::Object(record)) => match behaviors.get(&record.behavior) {
                Some(behavior) => {
                    loaded.revision = loaded.revision.max(record.revision);
                    let owner = owner(&mut loaded.agents, record.agent.as_ref());
                    loaded
                        .things
                        .insert(record.guid, thing(*record, owner, behavior.clone()));
                }
                None => loaded.damaged += 1,
            },
            Err(_) => loaded.damaged += 1,
        }
    }
    loaded
}

fn owner(agents: &mut Vec<AgentId>, agent: Option<&AgentId>) -> Owner {
    let Some(agent) = agent else { return Owner::NOBODY };
    let index = agents.iter().position(|known| known == agent).unwrap_or_else(|| {
        agents.push(agent.clone());
        agents.len() - 1
    });
    u16::try_from(index).map_or(Owner::NOBODY, Owner)
}

fn thing(record: ObjectRecord, owner: Owner, behavior: Arc<Behavior>) -> Thing {
    Thing {
        op_id: record.op,
        key: record.key,
        behavior,
        revision: record.revision,
        since: record.since,
        ran: record.ran,
        earlier: record.earlier,
        lines: record.lines,
        exit: record.exit,
        starts: record.starts,
        draws: record.draws,
        timer: 0,
        owner,
        state: record.state,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(behavior: &Arc<Behavior>, revision: u64) -> Thing {
        Thing {
            op_id: OpId::generate(),
            key: 7,
            behavior: behavior.clone(),
            revision,
            since: 1_000,
            ran: 5,
            earlier: 0,
            lines: 0,
            exit: Some(Box::new(ExitStatus {
                code: Some(3),
                ..ExitStatus::default()
            })),
            starts: 2,
            draws: 4,
            timer: 9,
            owner: Owner(0),
            state: State::Exited,
        }
    }

    fn behavior() -> Arc<Behavior> {
        Arc::new(Behavior::new(
            SimulatedSpec {
                metrics: Some(5),
                ..SimulatedSpec::default()
            },
            Resources::default(),
        ))
    }

    #[test]
    fn what_was_flushed_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let agents = [AgentId::new("a1").unwrap()];
        let (kept, gone) = (Guid::generate(), Guid::generate());
        {
            let (mut store, loaded) = Store::open(dir.path()).unwrap();
            assert!(loaded.things.is_empty());
            let behavior = behavior();
            store.put(kept, &example(&behavior, 1), &agents);
            store.put(gone, &example(&behavior, 2), &agents);
            store.put(kept, &example(&behavior, 3), &agents);
            store.gone(gone, 4);
            store.flush().unwrap();
        }
        // Twice: from what was appended, and from what was written anew.
        for _ in 0..2 {
            let (_, loaded) = Store::open(dir.path()).unwrap();
            assert_eq!((loaded.things.len(), loaded.revision, loaded.damaged), (1, 4, 0));
            let thing = &loaded.things[&kept];
            assert_eq!((thing.revision, thing.starts, thing.state), (3, 2, State::Exited));
            assert_eq!(thing.exit.as_ref().unwrap().code, Some(3));
            assert_eq!(thing.behavior.spec.metrics, Some(5));
            assert_eq!(loaded.agents, agents);
        }
    }

    #[test]
    fn a_torn_tail_and_nonsense_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let agents = [AgentId::new("a1").unwrap()];
        let guid = Guid::generate();
        {
            let (mut store, _) = Store::open(dir.path()).unwrap();
            store.put(guid, &example(&behavior(), 1), &agents);
            store.flush().unwrap();
        }
        let path = dir.path().join(FILE);
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend_from_slice(b"\xff\xfe nonsense\n{\"object\":{\"guid\":");
        fs::write(&path, bytes).unwrap();
        let (_, loaded) = Store::open(dir.path()).unwrap();
        assert_eq!((loaded.things.len(), loaded.damaged), (1, 2));
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a-file");
        fs::write(&file, "").unwrap();
        assert!(Store::open(&file.join("below")).is_err());
    }
}
