//! A router's own restart: its sockets stay, what it has begun it ends, and rollouts know of it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::support::*;

/// Clients that come anew for each request, all to one router.
struct Newcomers {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
    longest: Arc<Mutex<Duration>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Newcomers {
    fn start(address: &str, host: &str) -> Self {
        let mut all = Self {
            stop: Arc::default(),
            served: Arc::default(),
            failures: Arc::default(),
            longest: Arc::default(),
            threads: Vec::new(),
        };
        let thread = || {
            let (stop, served) = (all.stop.clone(), all.served.clone());
            let (failures, longest) = (all.failures.clone(), all.longest.clone());
            let (address, host) = (address.to_owned(), host.to_owned());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    match get(&address, &host, "/") {
                        Ok(answer) if answer.status == 200 => {
                            served.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(answer) => failures.lock().expect("lock").push(answer.head),
                        Err(error) => failures.lock().expect("lock").push(error),
                    }
                    let mut longest = longest.lock().expect("lock");
                    *longest = begun.elapsed().max(*longest);
                    drop(longest);
                    thread::sleep(Duration::from_millis(5));
                }
            })
        };
        let threads = (0..6).map(|_| thread()).collect();
        all.threads = threads;
        all
    }

    /// Waits until so many more have been served.
    fn served(&self, more: usize) {
        let enough = self.served.load(Ordering::Relaxed) + more;
        eventually("clients are served", MINUTE, || {
            let served = self.served.load(Ordering::Relaxed);
            let failures = self.failures.lock().expect("lock").len();
            if served >= enough {
                Ok(())
            } else {
                Err(format!("{served} of {enough}, {failures} failed"))
            }
        });
    }
}

impl Drop for Newcomers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

#[test]
fn a_router_restarts_and_no_connection_is_lost() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = App::pushed(&user, "door");
    let host = &cluster.hosts[0];
    let unit = cluster.sh(
        host,
        "systemctl list-units --plain --no-legend 'deis-router@*' | cut -d' ' -f1",
    );
    let unit = unit.ok().out.trim().to_owned();
    let (address, name) = (format!("{}:80", host.address), "door.localhost");
    // A tunnel, whose end is not the restart's business.
    let mut tunnel = Connection::open(&address).expect("connect");
    let upgrade = format!(
        "GET /echo HTTP/1.1\r\nHost: {name}\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
    );
    assert_eq!(tunnel.request(&upgrade).expect("answer").status, 101);
    let clients = Newcomers::start(&address, name);
    clients.served(100);
    let pid = || {
        cluster
            .sh(host, &format!("systemctl show -P MainPID {unit}"))
            .ok()
            .out
    };
    for _ in 0..3 {
        let before = pid();
        let begun = Instant::now();
        cluster.sh(host, &format!("systemctl restart {unit}")).ok();
        println!("restarted in {:.1?}", begun.elapsed());
        assert_ne!(pid(), before);
        clients.served(100);
        assert_eq!(tunnel.exchange("still there").expect("echo"), "still there");
    }
    let failures = std::mem::take(&mut *clients.failures.lock().expect("lock"));
    let longest = *clients.longest.lock().expect("lock");
    println!(
        "{} served, the slowest after {longest:.1?}",
        clients.served.load(Ordering::Relaxed)
    );
    assert_eq!(failures, Vec::<String>::new());
    assert!(longest < Duration::from_secs(10), "{longest:?}");
    // What is under way in an old one stands beside the new one, until it is over.
    let routers = cluster
        .etcdctl(host, "get --prefix --keys-only /deis/router/hosts/")
        .ok()
        .out;
    assert!(routers.contains("-draining-"), "{routers}");
    drop(tunnel);
    eventually("the old ones have gone", MINUTE, || {
        let routers = cluster.etcdctl(host, "get --prefix --keys-only /deis/router/hosts/");
        match routers.out.contains("-draining-") {
            true => Err(routers.out),
            false => Ok(()),
        }
    });
    // A crash refuses nobody either: whoever comes waits for the next one.
    cluster
        .sh(host, &format!("systemctl kill -s KILL {unit}"))
        .ok();
    clients.served(50);
    let failures = std::mem::take(&mut *clients.failures.lock().expect("lock"));
    let refused = failures.iter().filter(|why| why.starts_with("connect "));
    assert_eq!(refused.count(), 0, "{failures:?}");
    drop(clients);
    app.destroy();
}
