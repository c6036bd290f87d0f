//! A drain over real sockets.

use super::*;
use crate::store::Txn;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    net::TcpListener,
    time::Instant,
};

async fn set(store: &Store, value: Option<String>) {
    let key = keys::setting(crate::logger::PART, SETTING);
    let txn = match value {
        Some(value) => Txn::new().put(&key, &value),
        None => Txn::new().delete(&key),
    };
    store.commit(txn).await.expect("set");
}

async fn until(what: &str, mut look: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !look() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

struct Bench {
    store: Store,
    drain: Arc<Drain>,
    stop: CancellationToken,
}

impl Bench {
    fn new() -> Self {
        let (drain, outlet) = Drain::new();
        let (store, stop) = (Store::memory(), CancellationToken::new());
        tokio::spawn(run(
            store.clone(),
            drain.clone(),
            outlet,
            "10.0.0.1".into(),
            stop.clone(),
        ));
        Self { store, drain, stop }
    }

    fn say(&self, text: &str) {
        let (app, source) = (
            "blog".parse().expect("app"),
            "web.1".parse().expect("source"),
        );
        self.drain.offer(&app, &source, 0, text.as_bytes());
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(listener: &TcpListener) -> Lines<BufReader<TcpStream>> {
    let accepted = timeout(Duration::from_secs(20), listener.accept()).await;
    BufReader::new(accepted.expect("in time").expect("accept").0).lines()
}

async fn next(lines: &mut Lines<BufReader<TcpStream>>) -> String {
    let line = timeout(Duration::from_secs(20), lines.next_line()).await;
    let line = line.expect("in time").expect("read").expect("a line");
    let (_, text) = line.split_once(" 10.0.0.1 ").expect("a message");
    text.to_owned()
}

#[tokio::test]
async fn lines_reach_a_server_that_comes_back() {
    let bench = Bench::new();
    bench.say("nobody wants it\n");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    set(&bench.store, Some(format!("tcp://{address}"))).await;
    let mut lines = accept(&listener).await;
    until("the drain", || bench.drain.report().connected).await;
    bench.say("one\ntwo\n");
    assert_eq!(next(&mut lines).await, "blog web.1 - - one");
    assert_eq!(next(&mut lines).await, "blog web.1 - - two");

    // The server restarts: what is said meanwhile waits.
    drop((lines, listener));
    until("the loss to be seen", || !bench.drain.report().connected).await;
    bench.say("three\n");
    let listener = TcpListener::bind(address).await.expect("bind again");
    let mut lines = accept(&listener).await;
    assert_eq!(next(&mut lines).await, "blog web.1 - - three");
    assert_eq!(bench.drain.report().dropped, 0);

    // Another server from now on, and then none.
    let other = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = other.local_addr().expect("address");
    set(&bench.store, Some(format!("syslog+tcp://{address}"))).await;
    let mut lines = accept(&other).await;
    bench.say("four\n");
    assert_eq!(next(&mut lines).await, "blog web.1 - - four");
    set(&bench.store, None).await;
    until("no drain", || !bench.drain.report().set).await;
}

#[tokio::test]
async fn what_a_server_does_not_take_is_dropped_counted_and_told() {
    let bench = Bench::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    drop(listener);
    set(&bench.store, Some(format!("tcp://{address}"))).await;
    until("the setting", || bench.drain.report().set).await;
    let line = format!("{}\n", "x".repeat(1023));
    let begin = Instant::now();
    for _ in 0..32 * 1024 {
        bench.say(&line);
    }
    assert!(begin.elapsed() < Duration::from_secs(10), "nobody waits");
    let dropped = bench.drain.report().dropped;
    assert!(dropped >= 16 * 1024, "{dropped}");
    assert!(bench.drain.queued.load(Ordering::Relaxed) <= QUEUE_BYTES);

    let listener = TcpListener::bind(address).await.expect("bind");
    let mut lines = accept(&listener).await;
    let want = format!(
        "deis logger - - {dropped} lines were dropped: the drain did not take them in time"
    );
    assert_eq!(next(&mut lines).await, want);
    for _ in 0..32 * 1024 - dropped {
        assert!(next(&mut lines).await.starts_with("blog web.1 - - xxx"));
    }
    until("the count", || {
        bench.drain.report().sent == 32 * 1024 - dropped
    })
    .await;
    assert_eq!(bench.drain.queued.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn packets_and_bad_settings() {
    let bench = Bench::new();
    set(&bench.store, Some("what is this".into())).await;
    let server = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
    let address = server.local_addr().expect("address");
    let uri = format!("syslog://{address}?format=rfc3164");
    set(&bench.store, Some(uri)).await;
    until("the drain", || bench.drain.report().connected).await;
    bench.say("one\n");
    let mut packet = [0; 1024];
    let size = timeout(Duration::from_secs(20), server.recv(&mut packet)).await;
    let size = size.expect("in time").expect("packet");
    assert_eq!(
        &packet[..size],
        b"<14>Jan  1 00:00:00 10.0.0.1 blog[web.1]: one"
    );
}
