//! From records to objects.

use std::collections::HashMap;
use std::sync::Arc;

use agent_api_model::{
    Accepted, Cause, EvidenceSource, Generation, Guid, Kind, ObjectName, ObjectSpec, Phase, RequestId,
    Timestamp, Transition, Verb,
};

use crate::line::{Line, Tag, Task, Todo};
use crate::record::{Intent, Object, State, Undo, What, parse};

/// What the records say.
pub(crate) struct Replay {
    pub(crate) images: HashMap<Guid, Box<Image>>,
    pub(crate) keys: Vec<(RequestId, Accepted, Timestamp)>,
    keep_history: usize,
    /// The kinds that were seen, so that equal ones share their text.
    kinds: Vec<Kind>,
}

/// One object as the records tell it.
pub(crate) struct Image {
    name: ObjectName,
    kind: Kind,
    created: Timestamp,
    state: State,
    todo: Vec<Todo>,
}

/// Events that were published and not written down may have had numbers up to here beyond those that are known.
const SEQUENCE_LEAP: u64 = 1 << 16;

impl Replay {
    pub(crate) fn new(keep_history: usize) -> Self {
        Self {
            images: HashMap::new(),
            keys: Vec::new(),
            keep_history,
            kinds: Vec::new(),
        }
    }

    /// Takes one record; the error is a sentence for the quarantine.
    pub(crate) fn take(&mut self, line: Line<'_>) -> Result<(), String> {
        let at = Timestamp::from_micros(line.at);
        match line.t {
            Tag::Mark => Ok(()),
            Tag::Key => self.key(&line, at),
            Tag::Object => self.object(line, at),
            Tag::Gone => {
                self.images.remove(&line.g);
                Ok(())
            }
            Tag::Accepted => self.accepted(line, at),
            Tag::Observed | Tag::Settled => {
                let keep = self.keep_history;
                match self.images.get_mut(&line.g) {
                    Some(image) if image.state.record < line.q => {
                        if let Some(raw) = line.s {
                            let spec = read_spec(raw.get())?;
                            image.state.set_spec(raw.get().into(), &spec);
                            image.state.generation = line.n.max(1);
                        }
                        image.state.record = line.q;
                        image.apply(line, at, keep);
                        Ok(())
                    }
                    // It is gone by the snapshot's time, or the snapshot holds this record already.
                    _ => Ok(()),
                }
            }
        }
    }

    fn key(&mut self, line: &Line<'_>, at: Timestamp) -> Result<(), String> {
        match (&line.k, line.o, &line.nm) {
            (Some(key), Some(op_id), Some(name)) => {
                self.keys.push((
                    key.clone(),
                    Accepted {
                        guid: line.g,
                        name: name.clone(),
                        generation: line.n,
                        op_id,
                        repeated: false,
                    },
                    at,
                ));
                Ok(())
            }
            _ => Err("a key without what it was answered with".into()),
        }
    }

    fn accepted(&mut self, line: Line<'_>, at: Timestamp) -> Result<(), String> {
        let (Some(op_id), Some(task)) = (line.o, line.w) else {
            return Err("an acceptance without an operation".into());
        };
        let mut spec = match line.s {
            None => None,
            Some(raw) => Some((Arc::<str>::from(raw.get()), read_spec(raw.get())?)),
        };
        if task == Task::Create {
            let Some((text, spec)) = &mut spec else {
                return Err("a create without a spec".into());
            };
            self.share(&mut spec.kind);
            self.images
                .entry(line.g)
                .or_insert_with(|| Box::new(Image::new(text.clone(), spec, line.n.max(1), at)));
        }
        let keep = self.keep_history;
        let Some(image) = self.images.get_mut(&line.g) else {
            return Ok(());
        };
        if let Some(key) = line.k.clone().or_else(|| line.r.clone()) {
            self.keys.push((
                key,
                Accepted {
                    guid: line.g,
                    name: image.name.clone(),
                    generation: line.n.max(1),
                    op_id,
                    repeated: false,
                },
                at,
            ));
        }
        if image.state.record >= line.q {
            return Ok(());
        }
        image.state.record = line.q;
        if let Some((text, spec)) = spec {
            image.state.set_spec(text, &spec);
            image.state.generation = line.n.max(1);
        }
        if let Some(request_id) = line.r.clone() {
            let verb = match (task, &line.c) {
                (Task::Create, _) => Verb::Create,
                (Task::Update, _) => Verb::Update,
                (Task::Delete, _) => Verb::Delete,
                (_, Some(action)) => action.verb(),
                _ => Verb::Restart,
            };
            let to = match task {
                Task::Create => Some(Phase::Pending),
                Task::Delete => Some(Phase::Deleting),
                _ => None,
            };
            if let Some(to) = to {
                image.step(at, to, Cause::Request { verb, request_id }, keep);
            }
        } else if task == Task::Delete {
            let message = "deleted with what it depends on".into();
            let source = EvidenceSource::Inferred;
            image.step(at, Phase::Deleting, Cause::Observed { source, message }, keep);
        }
        image.todo.retain(|todo| Some(todo.o) != line.rp);
        image.todo.push(Todo {
            o: op_id,
            w: task,
            r: line.r,
            s: (task != Task::Create && line.s.is_some()).then(|| image.state.spec.clone()),
            n: line.n,
            a: line.a,
            c: line.c,
            d: line.d,
        });
        Ok(())
    }

    fn share(&mut self, kind: &mut Kind) {
        match self.kinds.iter().find(|known| *known == kind) {
            Some(known) => *kind = known.clone(),
            None => self.kinds.push(kind.clone()),
        }
    }

    fn object(&mut self, line: Line<'_>, at: Timestamp) -> Result<(), String> {
        let raw = line.s.ok_or("an object without a spec")?;
        let mut spec = read_spec(raw.get())?;
        self.share(&mut spec.kind);
        let mut image = Image::new(raw.get().into(), &spec, line.n.max(1), at);
        let state = &mut image.state;
        if let Some((created, since)) = line.ct {
            image.created = Timestamp::from_micros(created);
            state.since = Timestamp::from_micros(since);
        }
        state.observed_generation = line.b;
        state.phase = line.p.unwrap_or(Phase::Pending);
        state.handle = line.h;
        if line.x.is_some() {
            state.extra().exit = line.x;
        }
        (state.restarts, state.row) = line.rs.unwrap_or_default();
        state.maybe_made = line.u;
        state.sequence = line.sq;
        state.record = line.q;
        for step in line.hi {
            state.history.push(step, self.keep_history);
        }
        image.todo = line.pd;
        self.images.insert(line.g, Box::new(image));
        Ok(())
    }
}

fn read_spec(text: &str) -> Result<ObjectSpec, String> {
    serde_json::from_str(text).map_err(|error| format!("a spec that cannot be read: {error}"))
}

impl Image {
    fn new(text: Arc<str>, spec: &ObjectSpec, generation: Generation, at: Timestamp) -> Self {
        Self {
            name: spec.name.clone(),
            kind: spec.kind.clone(),
            created: at,
            state: State::new(text, spec, generation, at),
            todo: Vec::new(),
        }
    }

    fn step(&mut self, at: Timestamp, to: Phase, cause: Cause, keep: usize) {
        let state = &mut self.state;
        let from = (!matches!((to, state.sequence), (Phase::Pending, 0))).then_some(state.phase);
        state.sequence += 1;
        if from != Some(to) {
            let to = Some(to);
            state.history.push(Transition { at, from, to, cause }, keep);
            state.since = at;
        }
        state.phase = to;
    }

    fn apply(&mut self, line: Line<'_>, at: Timestamp, keep: usize) {
        let state = &mut self.state;
        if line.hg {
            state.handle = None;
        }
        if let Some(handle) = line.h {
            state.handle = Some(handle);
        }
        state.observed_generation = state.observed_generation.max(line.b);
        if let Some(restarts) = line.rs {
            (state.restarts, state.row) = restarts;
        }
        let verb = line
            .o
            .and_then(|op_id| self.todo.iter().find(|todo| todo.o == op_id))
            .map_or(Verb::Update, task_verb);
        if line.t == Tag::Settled {
            self.state.maybe_made = line.u;
            self.todo.retain(|todo| Some(todo.o) != line.o);
        }
        if let Some(to) = line.p {
            let cause = match (line.t, &line.x, line.o, line.e) {
                (Tag::Observed, Some(exit), ..) => Cause::Exited {
                    source: EvidenceSource::Event,
                    exit: exit.clone(),
                },
                (_, _, Some(op_id), Some(message)) => Cause::Error { verb, op_id, message },
                (_, _, Some(op_id), None) => Cause::Done { verb, op_id },
                _ => Cause::Observed {
                    source: EvidenceSource::Event,
                    message: String::new(),
                },
            };
            self.step(at, to, cause, keep);
        }
        if line.x.is_some() {
            self.state.extra().exit = line.x;
        }
        if line.t == Tag::Observed
            && let (Some(op_id), Some(task)) = (line.o, line.w)
        {
            self.todo.push(Todo {
                o: op_id,
                w: task,
                r: None,
                s: None,
                n: self.state.generation,
                a: None,
                c: None,
                d: None,
            });
        }
    }

    /// The object as it is before the drivers are asked; with what it has to do in its queue.
    pub(crate) fn into_object(self, guid: Guid) -> Object {
        let mut state = self.state;
        state.sequence = (state.sequence / SEQUENCE_LEAP + 1) * SEQUENCE_LEAP;
        let runs = matches!(state.phase, Phase::Running | Phase::Paused);
        // What never was begun has no chance to have been applied, but who knows which those are.
        for todo in self.todo {
            if runs && matches!(todo.w, Task::Create | Task::Start) {
                // It was started: the record of that was lost, and one after it was not.
                continue;
            }
            state.maybe_made |= matches!(todo.w, Task::Create | Task::Start | Task::Restart);
            let intent = intent(todo);
            let busy = state.busy();
            match intent.what {
                What::Delete(_) => busy.queue.push_front(intent),
                _ => busy.queue.push_back(intent),
            }
        }
        Object::new(guid, self.name, self.kind, self.created, state)
    }
}

fn task_verb(todo: &Todo) -> Verb {
    match (todo.w, &todo.c) {
        (Task::Create, _) => Verb::Create,
        (Task::Start | Task::Restart, _) => Verb::Restart,
        (Task::Update | Task::Repair, _) => Verb::Update,
        (Task::Delete, _) => Verb::Delete,
        (Task::Control, action) => action
            .as_ref()
            .map_or(Verb::Update, agent_api_model::ControlAction::verb),
    }
}

/// Resumed with the same `op_id`; whether it was begun is not known.
fn intent(todo: Todo) -> Intent {
    let what = match (todo.w, todo.c, todo.s) {
        (Task::Create, ..) => What::Start {
            first: true,
            delay: None,
        },
        (Task::Start, ..) => What::Start {
            first: false,
            delay: None,
        },
        (Task::Restart, Some(agent_api_model::ControlAction::Restart { grace }), _) => {
            What::Restart { grace }
        }
        (Task::Restart, ..) => What::Restart { grace: None },
        (Task::Repair, ..) => What::Repair {
            why: String::new(),
            number: None,
        },
        (Task::Delete, ..) => What::Delete(todo.d.unwrap_or_default()),
        (Task::Control, Some(action), text) => What::Control {
            action,
            next: text.map(|text| (text, todo.n)),
        },
        (Task::Update | Task::Control, _, Some(spec)) => What::Update {
            spec,
            generation: todo.n,
            action: todo.a.unwrap_or(agent_api_model::PlanAction::Restart),
        },
        (Task::Update | Task::Control, _, None) => What::Restart { grace: None },
    };
    Intent {
        op_id: todo.o,
        what,
        position: 0,
        recorded: true,
        maybe_applied: true,
        request: todo.r,
        key: None,
        undo: Undo::Nothing,
    }
}

/// What an object has to do, for a snapshot.
pub(crate) fn todo(intent: &Intent) -> Option<Todo> {
    let mut todo = Todo {
        o: intent.op_id,
        w: Task::Start,
        r: intent.request.clone(),
        s: None,
        n: 0,
        a: None,
        c: None,
        d: None,
    };
    match &intent.what {
        What::Commit => return None,
        _ if !intent.recorded => return None,
        What::Start { first, .. } => todo.w = if *first { Task::Create } else { Task::Start },
        What::Restart { grace } => {
            todo.w = Task::Restart;
            todo.c = Some(agent_api_model::ControlAction::Restart { grace: *grace });
        }
        What::Update {
            spec,
            generation,
            action,
        } => {
            todo.w = Task::Update;
            todo.s = Some(spec.clone());
            todo.n = *generation;
            todo.a = Some(*action);
        }
        What::Control { action, next } => {
            todo.w = Task::Control;
            todo.c = Some(action.clone());
            if let Some((spec, generation)) = next {
                todo.s = Some(spec.clone());
                todo.n = *generation;
            }
        }
        What::Repair { .. } => todo.w = Task::Repair,
        What::Delete(request) => {
            todo.w = Task::Delete;
            todo.d = Some(request.clone());
        }
    }
    Some(todo)
}

/// One object as a snapshot's record.
pub(crate) fn snapshot(object: &Object, state: &State) -> Option<Vec<u8>> {
    if state.gone {
        return None;
    }
    let mut line = Line::new(Tag::Object, object.guid, state.since);
    line.q = state.record;
    line.s = Some(crate::line::raw(&state.spec));
    line.n = state.generation;
    line.b = state.observed_generation;
    line.p = Some(state.phase);
    line.h = state.handle.clone();
    line.x = state.exit().cloned();
    line.rs = (state.restarts > 0).then_some((state.restarts, state.row));
    line.ct = Some((object.created.as_micros(), state.since.as_micros()));
    line.u = state.maybe_made;
    line.sq = state.sequence;
    line.hi = state.history.transitions();
    if let Some(busy) = &state.busy {
        let flight = busy.flight.iter().map(|flight| &flight.intent);
        line.pd = flight.chain(&busy.queue).filter_map(todo).collect();
    }
    Some(line.write())
}

/// Whether the driver's part of two specs is the same, so that a change is the manager's alone.
pub(crate) fn same_for_driver(one: &str, other: &str) -> bool {
    let (one, other) = (parse(one), parse(other));
    one.spec == other.spec && one.resources == other.resources && one.kind == other.kind
}
