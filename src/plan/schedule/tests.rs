use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// What a test says of a host.
#[derive(Debug, Clone)]
struct Spec {
    id: MachineId,
    memory: (u64, u64),
    cpu: (u64, u64),
    closed: Option<Closed>,
    labels: BTreeMap<String, String>,
}

fn id(n: usize) -> MachineId {
    format!("{n:032x}").parse().expect("machine id")
}

fn host(n: usize, memory: u64, reserved: u64) -> Spec {
    Spec {
        id: id(n),
        memory: (memory, reserved),
        cpu: (2048, 0),
        closed: None,
        labels: BTreeMap::new(),
    }
}

impl Spec {
    fn with(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    fn cpu(mut self, offered: u64, reserved: u64) -> Self {
        self.cpu = (offered, reserved);
        self
    }

    fn closed(mut self, closed: Closed) -> Self {
        self.closed = Some(closed);
        self
    }

    fn room(&self) -> Room {
        Room {
            id: self.id.clone(),
            name: self.id.to_string(),
            offered: Resources {
                memory_bytes: self.memory.0,
                cpu_shares: self.cpu.0,
            },
            reserved: Resources {
                memory_bytes: self.memory.1,
                cpu_shares: self.cpu.1,
            },
            processes: 0,
            closed: self.closed,
            labels: self.labels.clone(),
        }
    }
}

fn pool(specs: &[Spec]) -> Pool {
    Pool::new(specs.iter().map(Spec::room).collect(), "zone")
}

fn needs(memory_bytes: u64, cpu_shares: u64) -> Resources {
    Resources {
        memory_bytes,
        cpu_shares,
    }
}

fn numbers(ids: &[MachineId]) -> Vec<usize> {
    ids.iter()
        .map(|id| usize::from_str_radix(id.as_str(), 16).expect("hex"))
        .collect()
}

/// Name, hosts, memory and CPU of each, tags, peers, how many, where they go.
type Case<'a> = (
    &'a str,
    Vec<Spec>,
    (u64, u64),
    &'a [(&'a str, &'a str)],
    &'a [(usize, u32)],
    usize,
    &'a [usize],
);

#[test]
fn table() {
    let zoned = |n, zone| host(n, 100, 0).with("zone", zone);
    let cases: [Case<'_>; 16] = [
        (
            "least loaded",
            vec![host(1, 100, 50), host(2, 100, 10)],
            (10, 0),
            &[],
            &[],
            1,
            &[2],
        ),
        (
            "by share of memory",
            vec![host(1, 100, 50), host(2, 1000, 90)],
            (10, 0),
            &[],
            &[],
            1,
            &[2],
        ),
        (
            "by what is shortest",
            vec![host(1, 100, 0).cpu(1024, 900), host(2, 100, 50)],
            (10, 0),
            &[],
            &[],
            1,
            &[2],
        ),
        (
            "spread before load",
            vec![host(1, 100, 50), host(2, 100, 0)],
            (10, 0),
            &[],
            &[(2, 1)],
            1,
            &[1],
        ),
        (
            "second round",
            vec![host(1, 100, 0), host(2, 100, 5)],
            (10, 0),
            &[],
            &[],
            4,
            &[1, 2, 1, 2],
        ),
        (
            "full hosts",
            vec![host(1, 100, 95), host(2, 100, 0)],
            (10, 0),
            &[],
            &[],
            3,
            &[2, 2, 2],
        ),
        (
            "no CPU left",
            vec![
                host(1, 100, 0).cpu(1024, 600),
                host(2, 100, 90).cpu(1024, 0),
            ],
            (1, 512),
            &[],
            &[],
            3,
            &[2, 2],
        ),
        (
            "no CPU asked for",
            vec![host(1, 100, 0).cpu(1024, 1024)],
            (1, 0),
            &[],
            &[],
            1,
            &[1],
        ),
        (
            "tags",
            vec![host(1, 100, 0), host(2, 100, 90).with("disk", "ssd")],
            (10, 0),
            &[("disk", "ssd")],
            &[],
            2,
            &[2],
        ),
        (
            "cordoned and drained",
            vec![
                host(1, 100, 0).closed(Closed::Cordoned),
                host(2, 100, 99),
                host(3, 100, 0).closed(Closed::Draining),
            ],
            (1, 0),
            &[],
            &[],
            2,
            &[2],
        ),
        ("nobody", vec![], (1, 0), &[], &[], 1, &[]),
        (
            "zones before hosts",
            vec![zoned(1, "a"), zoned(2, "a"), zoned(3, "a"), zoned(4, "b")],
            (10, 0),
            &[],
            &[],
            4,
            &[1, 4, 2, 4],
        ),
        (
            "the zone with the fewest, there the host with the fewest",
            vec![zoned(1, "a"), zoned(2, "a"), zoned(3, "b")],
            (10, 0),
            &[],
            &[(3, 2), (1, 1)],
            2,
            &[2, 1],
        ),
        (
            "a host without the label is a zone by itself",
            vec![
                zoned(1, "a"),
                zoned(2, "a"),
                host(3, 100, 60),
                host(4, 100, 70),
            ],
            (10, 0),
            &[],
            &[],
            4,
            &[1, 3, 4, 2],
        ),
        (
            "a full zone is passed over",
            vec![
                host(1, 100, 95).with("zone", "a"),
                host(2, 100, 95).with("zone", "a"),
                zoned(3, "b"),
            ],
            (10, 0),
            &[],
            &[],
            2,
            &[3, 3],
        ),
        (
            "tags within zones",
            vec![
                zoned(1, "a"),
                host(2, 100, 50).with("zone", "a").with("disk", "ssd"),
                zoned(3, "b").with("disk", "ssd"),
                zoned(4, "c"),
            ],
            (10, 0),
            &[("disk", "ssd")],
            &[],
            3,
            &[3, 2, 3],
        ),
    ];
    for (name, specs, (memory, cpu), tags, peers, count, want) in cases {
        let peers = peers.iter().map(|(n, count)| (id(*n), *count)).collect();
        let tags = tags.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        let wanted = Wanted {
            needs: needs(memory, cpu),
            tags: &tags.collect(),
            peers: &peers,
        };
        let mut pool = pool(&specs);
        assert_eq!(numbers(&pool.place(&wanted, count)), want, "{name}");
    }
}

#[test]
fn a_shortage_is_explained() {
    let tags = [("disk".to_owned(), "ssd".to_owned())].into();
    let peers = BTreeMap::new();
    let wanted = Wanted {
        needs: needs(512 << 20, 100),
        tags: &tags,
        peers: &peers,
    };
    let ssd = |n, memory| host(n, memory, 0).with("disk", "ssd");
    let specs = [
        ssd(1, 100 << 20),
        host(2, 1 << 30, 0).closed(Closed::Cordoned),
        host(3, 1 << 30, 0),
        host(4, 1 << 30, 0),
        ssd(5, 1 << 30).cpu(1000, 950),
        host(6, 1 << 30, 0).closed(Closed::Draining),
    ];
    assert_eq!(
        pool(&specs).shortage(&wanted).to_string(),
        "no host can take it: of 6, 1 lacks 512 MiB of free memory, 1 lacks 100 free CPU shares, \
         2 don't have the tags disk=ssd, 1 is cordoned, 1 is being drained"
    );
    let ranked = pool(&specs[2..5]).ranked(&wanted);
    let words: Vec<_> = ranked.iter().filter_map(|r| r.refusal.as_deref()).collect();
    assert_eq!(
        words,
        [
            "doesn't have the tags disk=ssd",
            "doesn't have the tags disk=ssd",
            "lacks 100 free CPU shares",
        ]
    );
}

#[test]
fn what_no_empty_host_could_take_has_no_chance() {
    let ssd: BTreeMap<String, String> = [("disk".to_owned(), "ssd".to_owned())].into();
    let (none, peers) = (BTreeMap::new(), BTreeMap::new());
    let tagged = host(1, 4, 4).with("disk", "ssd");
    let cordoned = tagged.clone().closed(Closed::Cordoned);
    let plain = |n, memory| host(n, memory, 0);
    let cases = [
        (
            "full, but it could get free",
            vec![tagged.clone()],
            false,
            4,
            &ssd,
            Chance::Room,
        ),
        (
            "cordoned, but not for ever",
            vec![cordoned],
            false,
            4,
            &ssd,
            Chance::Room,
        ),
        (
            "no such tag",
            vec![plain(2, 4)],
            false,
            1,
            &ssd,
            Chance::None,
        ),
        (
            "too big for the one with the tag",
            vec![tagged, plain(2, 8)],
            false,
            8,
            &ssd,
            Chance::None,
        ),
        (
            "too big for all",
            vec![plain(1, 4)],
            false,
            5,
            &none,
            Chance::None,
        ),
        (
            "the host that is away may have it",
            vec![plain(1, 4)],
            true,
            1,
            &ssd,
            Chance::Away,
        ),
        (
            "no host at all: one may come",
            vec![],
            false,
            1,
            &none,
            Chance::Room,
        ),
    ];
    for (name, specs, incomplete, memory, tags, want) in cases {
        let wanted = Wanted {
            needs: needs(memory, 0),
            tags,
            peers: &peers,
        };
        let pool = Pool {
            incomplete,
            ..pool(&specs)
        };
        assert_eq!(pool.chance(&wanted), want, "{name}");
    }
}

#[test]
fn overcommit_counts_memory_and_cpu() {
    let machine = Machine {
        schema: 1,
        id: id(1),
        hostname: "deis-01".into(),
        address: "10.0.0.1".into(),
        memory_bytes: 1000,
        cpus: 4,
        version: String::new(),
        boot_id: String::new(),
        metadata: BTreeMap::new(),
    };
    let offered = |memory_percent, cpu_percent| {
        let placing = Placing {
            memory_percent,
            cpu_percent,
            ..Placing::default()
        };
        Resources::offered(&machine, &placing)
    };
    assert_eq!(offered(100, 100), needs(1000, 4096));
    assert_eq!(offered(150, 50), needs(1500, 2048));
}

/// A random cluster: size, used memory, used CPU, zone (0: none), whether it is closed.
fn clusters() -> impl Strategy<Value = Vec<Spec>> {
    let one = (
        1u64..40,
        0u64..40,
        0u64..9,
        0u8..4,
        prop::bool::weighted(0.1),
    );
    prop::collection::vec(one, 0..14).prop_map(|all| {
        let spec = |(n, (memory, used, cpu, zone, closed)): (usize, (u64, u64, u64, u8, bool))| {
            let spec = host(n, memory, used).cpu(8, cpu);
            let spec = match zone {
                0 => spec,
                zone => spec.with("zone", &format!("z{zone}")),
            };
            if closed {
                spec.closed(Closed::Cordoned)
            } else {
                spec
            }
        };
        all.into_iter().enumerate().map(spec).collect()
    })
}

proptest! {
    /// The next one always goes where a plain look at all hosts would put it: the batch's walk is
    /// nothing but a faster way to the same answer. So memory, CPU, closed hosts and the spread are
    /// honoured, and fewer are placed only when no more fit.
    #[test]
    fn a_batch_is_placed_as_one_by_one(
        specs in clusters(),
        peers in prop::collection::btree_map(0usize..14, 1u32..4, 0..5),
        memory in 1u64..12, cpu in 0u64..4, count in 0usize..30,
    ) {
        let mut peers: BTreeMap<_, _> = peers.into_iter().map(|(n, count)| (id(n), count)).collect();
        let tags = BTreeMap::new();
        let needs = needs(memory, cpu);
        let placed = pool(&specs).place(&Wanted { needs, tags: &tags, peers: &peers }, count);
        let mut plain = pool(&specs);
        let mut expected = Vec::new();
        while expected.len() < count {
            let wanted = Wanted { needs, tags: &tags, peers: &peers };
            let ranked = plain.ranked(&wanted);
            let Some(best) = ranked.first().filter(|best| best.refusal.is_none()) else {
                break;
            };
            let at = plain.find(&best.id).expect("a host of the pool");
            plain.reserve(at, needs);
            *peers.entry(best.id.clone()).or_default() += 1;
            expected.push(best.id.clone());
        }
        prop_assert_eq!(placed, expected);
    }

    /// What is kept in order stays in order, and what is given back is as it was.
    #[test]
    fn the_order_is_kept(specs in clusters(), count in 0usize..30) {
        let (tags, peers) = (BTreeMap::new(), BTreeMap::new());
        let needs = needs(3, 1);
        let before = pool(&specs);
        let mut after = before.clone();
        let placed = after.place(&Wanted { needs, tags: &tags, peers: &peers }, count);
        for (domain, was) in after.domains.iter().zip(&before.domains) {
            prop_assert_eq!(domain.order.len(), was.order.len());
            let right = |(load, at): &(Load, u32)| after.hosts[*at as usize].room.load() == *load;
            prop_assert!(domain.order.iter().all(right));
        }
        let fronts: BTreeSet<_> = after.domains.iter().filter_map(|d| d.order.first().copied()).collect();
        prop_assert_eq!(&fronts, &after.fronts);
        for id in &placed {
            after.release(id, needs);
        }
        for (host, was) in after.hosts.iter().zip(&before.hosts) {
            prop_assert_eq!(host.room.reserved, was.room.reserved);
        }
    }

    /// The answer depends on the hosts, not on the order in which they are named.
    #[test]
    fn deterministic(specs in clusters(), count in 0usize..12) {
        let (tags, peers) = (BTreeMap::new(), BTreeMap::new());
        let wanted = Wanted { needs: needs(3, 0), tags: &tags, peers: &peers };
        let once = pool(&specs).place(&wanted, count);
        let backwards = Pool::new(specs.iter().rev().map(Spec::room).collect(), "zone").place(&wanted, count);
        prop_assert_eq!(once, backwards);
    }
}
