//! Layers: objects that one collection can cover.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use agent_api_driver::{DriverSet, Handle};
use agent_api_model::{DriverName, Guid, LeaseId, ObjectView};

use crate::plan::Held;

/// One object in a layer.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) guid: Guid,
    pub(crate) view: Arc<ObjectView>,
    pub(crate) handle: Arc<Handle>,
    /// Whether its logs begin at the oldest line kept, where there is no cursor.
    pub(crate) from_start: bool,
    /// The leases that cover it; empty where the layer has but one.
    leases: Vec<LeaseId>,
}

/// Objects of one driver, each once, so that one request can name them.
#[derive(Debug, Default)]
pub(crate) struct Layer {
    pub(crate) members: Vec<Member>,
    /// The one lease of all members, where it is so.
    pub(crate) sole: Option<LeaseId>,
    /// The driver's batch size; 0 where it has none.
    pub(crate) batch: usize,
    index: OnceLock<HashMap<Guid, usize>>,
}

impl Layer {
    /// The leases that cover a member.
    pub(crate) fn leases<'a>(&'a self, member: &'a Member) -> &'a [LeaseId] {
        match &self.sole {
            Some(lease) => std::slice::from_ref(lease),
            None => &member.leases,
        }
    }

    /// The member of this GUID.
    pub(crate) fn member(&self, guid: Guid) -> Option<&Member> {
        let index = self.index.get_or_init(|| {
            self.members
                .iter()
                .enumerate()
                .map(|(place, member)| (member.guid, place))
                .collect()
        });
        index.get(&guid).map(|place| &self.members[*place])
    }
}

/// Sorts pairs of lease and object into layers by driver.
pub(crate) struct Layering<'a> {
    drivers: &'a DriverSet,
    /// Whether one collection serves all leases over an object. Not with logs: each lease has a cursor of its own.
    share: bool,
    layers: BTreeMap<DriverName, Vec<Layer>>,
    /// In how many layers an object is; where it is in the shared one.
    places: HashMap<Guid, usize>,
}

impl<'a> Layering<'a> {
    pub(crate) fn new(drivers: &'a DriverSet, share: bool) -> Self {
        Self {
            drivers,
            share,
            layers: BTreeMap::new(),
            places: HashMap::new(),
        }
    }

    /// Adds an object that a lease covers. One whose driver is not there is passed over.
    pub(crate) fn add(&mut self, held: &Held, view: &Arc<ObjectView>, handle: &Arc<Handle>) {
        let lease = held.lease.id;
        let Some(driver) = self.drivers.for_kind(&view.kind) else {
            return;
        };
        let name = &driver.info().name;
        if !self.layers.contains_key(name) {
            self.layers.insert(name.clone(), Vec::new());
        }
        let layers = self.layers.get_mut(name).expect("it was inserted above");
        let member = || Member {
            guid: view.guid,
            view: view.clone(),
            handle: handle.clone(),
            from_start: held.from_start,
            leases: vec![lease],
        };
        let batch = driver.capabilities(&view.kind).map_or(0, |can| can.batch_size);
        if self.share {
            if layers.is_empty() {
                layers.push(Layer::default());
            }
            let layer = &mut layers[0];
            if let Some(place) = self.places.get(&view.guid) {
                layer.members[*place].leases.push(lease);
                return;
            }
            self.places.insert(view.guid, layer.members.len());
            layer.members.push(member());
            layer.narrow(batch);
        } else {
            let layer = self.places.entry(view.guid).or_default();
            if layers.len() <= *layer {
                layers.resize_with(*layer + 1, Layer::default);
            }
            layers[*layer].members.push(member());
            layers[*layer].narrow(batch);
            *layer += 1;
        }
    }

    /// The layers by driver.
    pub(crate) fn finish(self) -> BTreeMap<DriverName, Vec<Arc<Layer>>> {
        self.layers
            .into_iter()
            .map(|(driver, layers)| {
                (
                    driver,
                    layers.into_iter().map(|layer| Arc::new(layer.seal())).collect(),
                )
            })
            .collect()
    }
}

impl Layer {
    fn narrow(&mut self, batch: usize) {
        if batch > 0 && (self.batch == 0 || batch < self.batch) {
            self.batch = batch;
        }
    }

    fn seal(mut self) -> Self {
        let first = self
            .members
            .first()
            .and_then(|member| member.leases.first().copied());
        if self
            .members
            .iter()
            .all(|member| member.leases.len() == 1 && member.leases.first().copied() == first)
        {
            self.sole = first;
            for member in &mut self.members {
                member.leases = Vec::new();
            }
        }
        self.members.shrink_to_fit();
        self
    }
}
