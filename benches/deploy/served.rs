//! From the commit of a service key to the first answer by what it names, at each router.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use deis::{
    model::ProcessName,
    store::{Store, Txn, keys},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::client::Connection;

/// No app is called so: routers serve what has an address.
const APP: &str = "bench-switch";
/// Between two requests at a router: the figures are that coarse.
const BETWEEN: Duration = Duration::from_micros(500);
/// A change that isn't served by then fails the bench.
const LIMIT: Duration = Duration::from_secs(10);

/// How long a change took.
#[derive(Debug, Default)]
pub struct Served {
    /// Of each router and change, in milliseconds.
    pub each: Vec<f64>,
    /// Of each change until the last router had it.
    pub last: Vec<f64>,
}

/// Writes the key so often, alternating between two servers on `here`, while each router is asked on a
/// kept connection all the time.
pub async fn measure(store: &Store, here: IpAddr, routers: &[IpAddr], changes: usize) -> Served {
    let process: ProcessName = format!("{}_v1.web.1", APP).parse().expect("a process");
    let key = keys::service(&process.app, &process);
    let mut servers = Vec::new();
    for letter in ["a", "b"] {
        servers.push(server(here, letter).await);
    }
    store
        .commit(Txn::new().put(&key, &servers[0].to_string()))
        .await
        .expect("the first address");
    let mut pollers = JoinSet::new();
    let mut seen = Vec::new();
    for router in routers {
        let (tell, told) = watch::channel((b' ', Instant::now()));
        seen.push(told);
        pollers.spawn(poll(SocketAddr::new(*router, 80), tell));
    }
    let mut served = Served::default();
    for change in 0..=changes {
        let now = change % 2;
        let letter = b"ab"[now];
        let committed = if change == 0 {
            Instant::now()
        } else {
            let txn = Txn::new().put(&key, &servers[now].to_string());
            store.commit(txn).await.expect("another address");
            Instant::now()
        };
        let mut last = 0_f64;
        for told in &mut seen {
            let first = timeout(LIMIT, told.wait_for(|(seen, _)| *seen == letter)).await;
            let at = first.expect("served in time").expect("it is polled").1;
            // It may have been served before the answer to the write was here.
            let took = at.saturating_duration_since(committed).as_secs_f64() * 1e3;
            last = last.max(took);
            if change > 0 {
                served.each.push(took);
            }
        }
        if change > 0 {
            served.last.push(last);
        }
        if change > 0 && change % 50 == 0 {
            eprintln!("  {change} of {changes} addresses written and served");
        }
        // Not in step with anything: another pause each time.
        sleep(Duration::from_millis(20 + (change as u64 * 7) % 31)).await;
    }
    pollers.shutdown().await;
    store
        .commit(Txn::new().delete(&key))
        .await
        .expect("the address is gone");
    served
}

/// A server that answers with its letter.
async fn server(here: IpAddr, letter: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((here, 0)).await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        let answer = Arc::new(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{letter}"
        ));
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                let mut head = Vec::new();
                let mut chunk = [0; 1024];
                while let Ok(read @ 1..) = stream.read(&mut chunk).await {
                    head.extend_from_slice(&chunk[..read]);
                    if head.ends_with(b"\r\n\r\n") {
                        head.clear();
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            break;
                        }
                    }
                }
            });
        }
    });
    address
}

/// Asks one router all the time, and tells each change of the letter.
async fn poll(router: SocketAddr, tell: watch::Sender<(u8, Instant)>) {
    let host = format!("{APP}.localhost");
    let mut kept = None;
    loop {
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => match Connection::open(router, None).await {
                Ok(connection) => connection,
                Err(why) => panic!("{router}: {why}"),
            },
        };
        match connection.get(&host, "/").await {
            Ok(answer) => {
                let letter = answer.body.first().copied().unwrap_or(b'?');
                tell.send_if_modified(|last| {
                    let is_new = last.0 != letter;
                    if is_new {
                        *last = (letter, Instant::now());
                    }
                    is_new
                });
                kept = Some(connection);
            }
            // At first the router may not know of it; later the connection's end is told by the wait.
            Err(_) => sleep(Duration::from_millis(5)).await,
        }
        sleep(BETWEEN).await;
    }
}
