//! Asks routers what they have counted of an app: at the end of a deploy, and while a release is watched.
//! Nothing is asked at other times, and nothing of it is in etcd but the receipt.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{net::TcpStream, task::JoinSet, time::timeout};
use tracing::debug;

use crate::{
    inner_http,
    model::AppName,
    plan::receipt::{AppCounts, Gathered},
    router::health,
};

/// How long a router may take to answer.
const LIMIT: Duration = Duration::from_secs(1);
/// Longest answer that is read.
const LONGEST: usize = 256 << 10;

/// What is known, and what is being asked.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    known: BTreeMap<AppName, Gathered>,
    asking: BTreeSet<AppName>,
    tasks: JoinSet<(AppName, Gathered)>,
}

impl Gathering {
    /// What routers have said.
    pub(super) const fn known(&self) -> &BTreeMap<AppName, Gathered> {
        &self.known
    }

    /// Forgets what was said of all other apps.
    pub(super) fn forget_all_but(&mut self, is_kept: impl Fn(&AppName) -> bool) {
        self.known.retain(|app, _| is_kept(app));
    }

    /// Asks all routers, unless they are being asked already.
    pub(super) fn ask<'r>(
        &mut self,
        apps: BTreeSet<AppName>,
        routers: impl Iterator<Item = &'r str>,
        now: Duration,
    ) {
        if apps.is_empty() {
            return;
        }
        let routers: Vec<String> = routers.map(str::to_owned).collect();
        for app in apps {
            if self.asking.insert(app.clone()) {
                self.tasks.spawn(gather(app, routers.clone(), now));
            }
        }
    }

    /// Waits until an answer is there. Cancel safe; never when nothing is being asked.
    pub(super) async fn answered(&mut self) {
        match self.tasks.join_next().await {
            Some(Ok((app, gathered))) => {
                self.asking.remove(&app);
                self.known.insert(app, gathered);
            }
            // A bug, and the plan's wait for it is bounded.
            Some(Err(error)) => {
                debug!(%error, "asking routers broke off");
                self.asking.clear();
            }
            None => std::future::pending().await,
        }
    }
}

async fn gather(app: AppName, routers: Vec<String>, at: Duration) -> (AppName, Gathered) {
    let mut asking = JoinSet::new();
    for router in routers {
        let app = app.clone();
        asking.spawn(async move {
            let answer = match timeout(LIMIT, ask(&router, &app)).await {
                Ok(answer) => answer,
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            };
            let counts = answer
                .inspect_err(|error| debug!(router, %app, %error, "a router didn't say its counts"))
                .ok();
            (router, counts)
        });
    }
    let answers = asking.join_all().await.into_iter().collect();
    (app, Gathered { at, answers })
}

async fn ask(router: &str, app: &AppName) -> io::Result<AppCounts> {
    let ip: IpAddr = router.parse().map_err(io::Error::other)?;
    let address = SocketAddr::new(ip, health::PORT);
    let stream = TcpStream::connect(address).await?;
    let path = format!("{}{app}", health::RECEIPTS);
    let body = inner_http::get(stream, address, &path, LONGEST).await?;
    Ok(serde_json::from_slice(&body)?)
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn all_are_asked_and_the_silent_are_named() {
        // An address of this process's own: the port is fixed.
        let [.., a, b] = std::process::id().to_be_bytes();
        let [well, refuses, strange] = [1, 2, 3].map(|n| format!("127.{a}.{b}.{n}"));
        for (ip, body) in [(&well, r#"{"since_ms":7}"#), (&strange, "what?")] {
            let address = format!("{ip}:{}", health::PORT);
            let listener = TcpListener::bind(address).await.expect("bind");
            tokio::spawn(inner_http::serve(listener, move |request| async move {
                let known = request.uri().path() == "/receipts/blog";
                let status = if known {
                    StatusCode::OK
                } else {
                    StatusCode::NOT_FOUND
                };
                inner_http::text(status, body)
            }));
        }
        let app: AppName = "blog".parse().expect("app");
        let routers = [&well, &refuses, &strange].map(String::as_str);
        let mut gathering = Gathering::default();
        let at = Duration::from_secs(5);
        gathering.ask([app.clone()].into(), routers.into_iter(), at);
        // Asked once, however often the plan says so.
        gathering.ask([app.clone()].into(), routers.into_iter(), at);
        assert_eq!(gathering.tasks.len(), 1);
        gathering.answered().await;
        let gathered = &gathering.known()[&app];
        assert_eq!(gathered.at, at);
        let said: Vec<_> = gathered.answers.values().map(Option::is_some).collect();
        assert_eq!(said, [true, false, false], "{gathered:?}");
        gathering.forget_all_but(|_| false);
        assert!(gathering.known().is_empty());
    }
}
