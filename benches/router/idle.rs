//! Websockets on which nothing is said: what each costs in memory, and whether it still works.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time::sleep;

use crate::{
    Bench,
    load::{Ask, Client, Kind},
    peers::{Which, files, host},
    support::{Target, setting},
};

/// Opened side by side.
const WAVE: usize = 200;
/// How long they are left alone.
const QUIET: Duration = Duration::from_secs(2);

/// Opens ten thousand through each proxy.
pub async fn compare(bench: &Bench) {
    // Two descriptors each, here as there, and some for all the rest.
    let room = (files().saturating_sub(400) / 2) as usize;
    let number = setting("BENCH_WEBSOCKETS", 10_000).min(room);
    for which in &bench.all {
        let proxy = bench.place.start(*which, 1).await;
        let ask = Ask {
            address: proxy.address(false),
            tls: false,
            kind: Kind::Message,
            hosts: Arc::new([host(0)]),
        };
        let before = proxy.memory();
        let mut clients: Vec<Client> = (0..number).map(|_| Client::new(&ask, 0)).collect();
        let opened = say_once(&mut clients).await;
        let cpu = proxy.cpu();
        sleep(QUIET).await;
        let (cpu, after) = (proxy.cpu().saturating_sub(cpu), proxy.memory());
        let still = say_once(&mut clients).await;
        let none = match which {
            Which::Router => Target::AtMost(0.0),
            _ => Target::None,
        };
        let name = format!("{number} idle websockets, {}", which.name());
        let lost = (number - opened) + (number - still);
        bench.row(format!("{name}: failed"), none, lost as f64, "messages");
        bench.row(
            format!("{name}: memory for each"),
            Target::None,
            after.saturating_sub(before) as f64 / number as f64 / 1024.0,
            "KiB",
        );
        let share = cpu.as_secs_f64() / QUIET.as_secs_f64() * 100.0;
        bench.row(format!("{name}: CPU"), Target::None, share, "% of a core");
    }
}

/// How many answer a message.
async fn say_once(clients: &mut [Client]) -> usize {
    let mut answered = 0;
    for wave in clients.chunks_mut(WAVE) {
        let all = join_all(wave.iter_mut().map(|client| async {
            let said = client.once().await;
            said.is_ok()
        }));
        answered += all.await.into_iter().filter(|said| *said).count();
    }
    answered
}
