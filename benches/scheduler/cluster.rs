//! A cluster that is nothing but the leader's picture of it.

use std::{collections::BTreeMap, time::Duration};

use deis::{
    model::*,
    plan::{
        World,
        round::{Context, Memory, Plan, Policy, round},
    },
    store::{Change, Entry, Key, Op, Update, keys},
};
use jiff::Timestamp;
use uuid::Uuid;

/// What each process reserves.
pub const MIB512: u64 = 512 << 20;

pub struct Cluster {
    pub world: World,
    memory: Memory,
    revision: Revision,
    changes: Vec<Change>,
}

impl Cluster {
    /// Hosts of 16 GiB and 16 CPUs; every second one has the label `disk=ssd`, and all have one of three
    /// zones if there are any.
    pub fn new(hosts: usize, zones: bool) -> Self {
        let mut cluster = Self {
            world: World::default(),
            memory: Memory::default(),
            revision: 1,
            changes: Vec::new(),
        };
        for n in 0..hosts {
            let id: MachineId = format!("{n:032x}").parse().expect("a machine id");
            let (hostname, address) =
                (format!("deis-{n}"), format!("10.0.{}.{}", n / 250, n % 250));
            let mut metadata = BTreeMap::new();
            if n % 2 == 0 {
                metadata.insert("disk".into(), "ssd".into());
            }
            if zones {
                metadata.insert("zone".into(), format!("z{}", n % 3));
            }
            let record = HostRecord {
                schema: 1,
                hostname: hostname.clone(),
                address: address.clone(),
                labels: BTreeMap::new(),
                cordoned: false,
                drain: None,
                lost_since: None,
                declared_lost: false,
            };
            let machine = Machine {
                schema: 1,
                id: id.clone(),
                hostname,
                address,
                memory_bytes: 16 << 30,
                cpus: 16,
                version: "2".into(),
                boot_id: "b".into(),
                metadata,
            };
            cluster.put(&keys::host(&id), &record);
            cluster.put(&keys::machine(&id), &machine);
        }
        cluster.apply();
        cluster
    }

    fn put<T: Record>(&mut self, key: &Key<T>, value: &T) {
        self.write(key.as_str().to_owned(), Some(value.encode()));
    }

    fn write(&mut self, key: String, value: Option<Vec<u8>>) {
        self.revision += 1;
        let entry = value.map(|value| Entry {
            value,
            mod_revision: self.revision,
            create_revision: self.revision,
            lease: 0,
        });
        self.changes.push(Change {
            key,
            mod_revision: self.revision,
            entry,
        });
    }

    fn apply(&mut self) {
        self.world.apply(&Update {
            revision: self.revision,
            changes: std::mem::take(&mut self.changes),
            first: false,
        });
    }

    /// An app, or the same with another number of processes.
    pub fn add_app(&mut self, n: usize, processes: usize, tags: BTreeMap<String, String>) {
        let name: AppName = format!("app-{n}").parse().expect("a name");
        let owner: Username = "ada".parse().expect("a name");
        let id = Uuid::from_u128(n as u128 + 1);
        let web: ProcessType = "web".parse().expect("a type");
        let created = Timestamp::UNIX_EPOCH;
        let config = Config {
            schema: 1,
            uuid: id,
            app: name.clone(),
            owner: owner.clone(),
            values: BTreeMap::new(),
            memory: [(web.clone(), "512M".to_owned())].into(),
            cpu: [(web.clone(), 64)].into(),
            tags,
            whitelist: Whitelist::default(),
            created,
        };
        let version = ReleaseNumber(2);
        let release = Release {
            schema: 1,
            uuid: id,
            app: name.clone(),
            owner: owner.clone(),
            version,
            summary: String::new(),
            config: id,
            build: Some(id),
            created,
        };
        let count = u32::try_from(processes).expect("fewer than 2^32");
        let app = App {
            schema: 1,
            uuid: id,
            owner,
            created,
            updated: created,
            latest: version,
            active: version,
            structure: [(web, count)].into(),
            single: Default::default(),
            collaborators: Default::default(),
            last_rollout: None,
            policy: None,
            destroying: false,
        };
        self.put(&keys::config(&name, id), &config);
        self.put(&keys::release(&name, version), &release);
        self.put(&keys::app(&name), &app);
        self.apply();
    }

    /// One round of the leader, on all that has changed since the last.
    pub fn round(&mut self) -> Plan {
        let policy = Policy::of(&self.world);
        let ids = std::cell::Cell::new(self.revision.unsigned_abs() as u128);
        let new_id = || {
            ids.set(ids.get() + 1);
            Uuid::from_u128(ids.get())
        };
        let context = Context {
            now: Duration::from_secs(100),
            wall: Timestamp::UNIX_EPOCH,
            view_since: Duration::ZERO,
            fence: 1,
            policy: &policy,
            counts: None,
            new_id: &new_id,
        };
        let changed = self.world.take_changed();
        round(&self.world, &changed, &mut self.memory, &context)
    }

    /// Makes a plan's changes in the picture; how many keys were written.
    pub fn commit(&mut self, plan: &Plan) -> usize {
        let ops = plan.acts.iter().flat_map(|act| act.txn.ops());
        let puts: Vec<(String, Vec<u8>)> = ops
            .filter_map(|op| match op {
                Op::Put { key, value, .. } => Some((key.clone(), value.clone())),
                Op::Delete(_) | Op::DeletePrefix(_) => None,
            })
            .collect();
        let number = puts.len();
        for (key, value) in puts {
            self.write(key, Some(value));
        }
        self.apply();
        number
    }
}
