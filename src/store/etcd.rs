//! The store on etcd: failover between members, a bound on every call, and streams that end when
//! they should. The etcd-client crate does none of that by itself.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use etcd_client::{
    Certificate, Client, Compare as EtcdCompare, CompareOp, ConnectOptions, DeleteOptions, Error,
    EventType, GetOptions, Identity, KeyValue, PutOptions, TlsOptions, Txn as EtcdTxn, TxnOp,
    WatchOptions, WatchStream,
};
use futures_util::future::BoxFuture;
use tokio::time;

use super::{
    Change, Compare, Entry, Op, StoreError, Txn,
    backend::{Backend, Event, Page, Span, Watch},
};
use crate::model::Revision;

/// Bound of one try of one call.
const TRY: Duration = Duration::from_secs(2);
/// The same for the renewal of a lease: a member that has died must not cost the lease its time.
const TRY_RENEWAL: Duration = Duration::from_secs(1);
/// Rounds over all endpoints before a call is given up.
const ROUNDS: usize = 2;
/// Largest answer that is read: pages stay far below.
const MAX_MESSAGE: usize = 64 << 20;

/// How to reach etcd.
#[derive(Debug, Clone, Default)]
pub struct EtcdOptions {
    /// URLs of the members, the preferred one first.
    pub endpoints: Vec<String>,
    /// Mutual TLS; none only for links that never leave the machine.
    pub tls: Option<EtcdTls>,
}

/// Certificates in PEM form.
#[derive(Clone)]
pub struct EtcdTls {
    /// Who signs the members' certificates.
    pub ca: Vec<u8>,
    /// Our certificate.
    pub cert: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EtcdTls")
    }
}

pub(super) struct Etcd {
    members: Vec<(String, Client)>,
    /// Index of the member that answered last.
    preferred: Arc<AtomicUsize>,
}

impl Etcd {
    pub async fn connect(options: EtcdOptions) -> Result<Self, StoreError> {
        if options.endpoints.is_empty() {
            return Err(StoreError::Refused("no etcd endpoint is configured".into()));
        }
        let mut members = Vec::new();
        for endpoint in options.endpoints {
            let mut connect = ConnectOptions::new()
                .with_connect_timeout(Duration::from_secs(1))
                .with_keep_alive(Duration::from_secs(2), Duration::from_secs(2))
                .with_keep_alive_while_idle(true)
                // A member without a quorum must end our watches instead of going silent.
                .with_require_leader(true);
            if let Some(tls) = &options.tls {
                connect = connect.with_tls(
                    TlsOptions::new()
                        .ca_certificate(Certificate::from_pem(&tls.ca))
                        .identity(Identity::from_pem(&tls.cert, &tls.key)),
                );
            }
            // Lazy: nothing is dialled before the first call.
            let client = Client::connect([&endpoint], Some(connect))
                .await
                .map_err(|error| StoreError::Refused(format!("endpoint {endpoint}: {error}")))?;
            members.push((endpoint, client));
        }
        Ok(Self {
            members,
            preferred: Arc::default(),
        })
    }

    /// Tries the call on one member after the other, the last good one first.
    ///
    /// A change may thereby be sent twice. That is safe: ours either compare what they were based
    /// on, or write the same value again.
    async fn call<T, F>(&self, call: impl Fn(Client) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.call_within(TRY, call).await
    }

    /// The same with a bound of its own for each try.
    async fn call_within<T, F>(
        &self,
        limit: Duration,
        call: impl Fn(Client) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let start = self.preferred.load(Ordering::Relaxed);
        let mut reason = String::new();
        for round in 0..ROUNDS {
            for offset in 0..self.members.len() {
                let index = (start + offset) % self.members.len();
                let (endpoint, client) = &self.members[index];
                match time::timeout(limit, call(client.clone())).await {
                    Ok(Ok(answer)) => {
                        self.preferred.store(index, Ordering::Relaxed);
                        return Ok(answer);
                    }
                    Ok(Err(error)) => match classify(&error) {
                        Class::Elsewhere => reason = format!("{endpoint}: {}", brief(&error)),
                        Class::Final(error) => return Err(error),
                    },
                    Err(_) => {
                        reason = format!("{endpoint}: no answer within {} s", limit.as_secs());
                    }
                }
            }
            if round + 1 < ROUNDS {
                time::sleep(Duration::from_millis(100)).await;
            }
        }
        let tried: Vec<&str> = self
            .members
            .iter()
            .map(|(endpoint, _)| endpoint.as_str())
            .collect();
        Err(StoreError::Unreachable {
            tried: tried.join(", "),
            reason,
        })
    }
}

enum Class {
    /// Another member, or the same one later, may do it.
    Elsewhere,
    Final(StoreError),
}

/// An error in few words: transports say theirs in layers of debug output.
fn brief(error: &Error) -> String {
    let mut cause: &dyn std::error::Error = match error {
        Error::GRpcStatus(status) => status,
        Error::TransportError(error) => error,
        other => return other.to_string(),
    };
    let mut innermost = match error {
        Error::GRpcStatus(status) => status.message().to_owned(),
        other => other.to_string(),
    };
    while let Some(deeper) = cause.source() {
        innermost = deeper.to_string();
        cause = deeper;
    }
    innermost
}

fn classify(error: &Error) -> Class {
    let Error::GRpcStatus(status) = error else {
        return Class::Elsewhere;
    };
    // gRPC's codes as etcd uses them (etcd's rpctypes/error.go).
    match i32::from(status.code()) {
        // InvalidArgument, PermissionDenied, Unauthenticated, Unimplemented
        3 | 7 | 12 | 16 => Class::Final(StoreError::Refused(status.message().to_owned())),
        // OutOfRange: compacted or future revision
        11 => Class::Final(StoreError::Compacted { oldest: 0 }),
        // ResourceExhausted: no space; another member is no better
        8 => Class::Final(StoreError::Refused(status.message().to_owned())),
        _ => Class::Elsewhere,
    }
}

fn entry(kv: &KeyValue) -> (String, Entry) {
    let entry = Entry {
        value: kv.value().to_vec(),
        mod_revision: kv.mod_revision(),
        create_revision: kv.create_revision(),
        lease: kv.lease(),
    };
    (String::from_utf8_lossy(kv.key()).into_owned(), entry)
}

fn etcd_txn(txn: &Txn) -> EtcdTxn {
    let when: Vec<EtcdCompare> = txn
        .compares
        .iter()
        .map(|compare| match compare {
            Compare::Absent(key) => EtcdCompare::create_revision(key.as_str(), CompareOp::Equal, 0),
            Compare::NoneBetween(first, last) => {
                EtcdCompare::create_revision(first.as_str(), CompareOp::Equal, 0)
                    .with_range(format!("{last}\0"))
            }
            Compare::Present(key) => {
                EtcdCompare::create_revision(key.as_str(), CompareOp::NotEqual, 0)
            }
            Compare::ModRevision(key, revision) => {
                EtcdCompare::mod_revision(key.as_str(), CompareOp::Equal, *revision)
            }
            Compare::CreateRevision(key, revision) => {
                EtcdCompare::create_revision(key.as_str(), CompareOp::Equal, *revision)
            }
            Compare::Value(key, value) => {
                EtcdCompare::value(key.as_str(), CompareOp::Equal, value.as_slice())
            }
        })
        .collect();
    let then: Vec<TxnOp> = txn
        .ops
        .iter()
        .map(|op| match op {
            Op::Put { key, value, lease } => {
                let options = (*lease != 0).then(|| PutOptions::new().with_lease(*lease));
                TxnOp::put(key.as_str(), value.as_slice(), options)
            }
            Op::Delete(key) => TxnOp::delete(key.as_str(), None),
            Op::DeletePrefix(prefix) => {
                TxnOp::delete(prefix.as_str(), Some(DeleteOptions::new().with_prefix()))
            }
        })
        .collect();
    EtcdTxn::new().when(when).and_then(then)
}

impl Backend for Etcd {
    fn range(
        &self,
        span: Span,
        limit: i64,
        revision: Revision,
        keys_only: bool,
    ) -> BoxFuture<'_, Result<Page, StoreError>> {
        Box::pin(async move {
            let mut options = GetOptions::new().with_limit(limit).with_revision(revision);
            if !span.to.is_empty() {
                options = options.with_range(span.to.clone());
            }
            if keys_only {
                // An audit: any member will do.
                options = options.with_keys_only().with_serializable();
            }
            let mut answer = self
                .call(|client| {
                    let mut kv = client.kv_client().max_decoding_message_size(MAX_MESSAGE);
                    let (from, options) = (span.from.clone(), options.clone());
                    async move { kv.get(from, Some(options)).await }
                })
                .await?;
            Ok(Page {
                more: answer.more(),
                revision: answer.header().map_or(0, |header| header.revision()),
                entries: answer.take_kvs().iter().map(entry).collect(),
            })
        })
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<(bool, Revision), StoreError>> {
        Box::pin(async move {
            let request = etcd_txn(&txn);
            let answer = self
                .call(|client| {
                    let mut kv = client.kv_client();
                    let request = request.clone();
                    async move { kv.txn(request).await }
                })
                .await?;
            Ok((
                answer.succeeded(),
                answer.header().map_or(0, |header| header.revision()),
            ))
        })
    }

    fn watch(
        &self,
        prefix: &str,
        from: Revision,
    ) -> BoxFuture<'_, Result<Box<dyn Watch>, StoreError>> {
        let prefix = prefix.to_owned();
        Box::pin(async move {
            let options = WatchOptions::new().with_prefix().with_start_revision(from);
            let stream = self
                .call(|client| {
                    let mut client = client.watch_client();
                    let (prefix, options) = (prefix.clone(), options.clone());
                    async move { client.watch(prefix, Some(options)).await }
                })
                .await;
            if stream.is_err() {
                // Whatever the failure, the next try begins with another member.
                self.preferred.fetch_add(1, Ordering::Relaxed);
            }
            Ok(Box::new(EtcdWatch {
                stream: stream?,
                preferred: self.preferred.clone(),
            }) as Box<dyn Watch>)
        })
    }

    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<i64, StoreError>> {
        Box::pin(async move {
            let seconds = i64::try_from(ttl.as_secs().max(1)).unwrap_or(i64::MAX);
            let answer = self
                .call(|client| {
                    let mut lease = client.lease_client();
                    async move { lease.grant(seconds, None).await }
                })
                .await?;
            Ok(answer.id())
        })
    }

    fn keep_alive(&self, lease: i64) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(async move {
            self.call_within(TRY_RENEWAL, |client| {
                let mut client = client.lease_client();
                async move {
                    // The crate answers a lost lease with this error, at once.
                    match client.keep_alive(lease).await {
                        Err(Error::LeaseKeepAliveError(_)) => Ok(false),
                        other => other.map(|_| true),
                    }
                }
            })
            .await
        })
    }

    fn revoke(&self, lease: i64) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.call(|client| {
                let mut client = client.lease_client();
                async move {
                    match client.revoke(lease).await {
                        // NotFound: it is gone already, which is what was asked for.
                        Err(Error::GRpcStatus(status)) if i32::from(status.code()) == 5 => Ok(()),
                        other => other.map(|_| ()),
                    }
                }
            })
            .await
        })
    }
}

struct EtcdWatch {
    stream: WatchStream,
    preferred: Arc<AtomicUsize>,
}

impl Watch for EtcdWatch {
    fn next(&mut self) -> BoxFuture<'_, Event> {
        Box::pin(async move {
            let ended = match self.stream.message().await {
                Ok(Some(answer)) => Ok(answer),
                Ok(None) => Err("the member closed the stream".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            let answer = match ended {
                Ok(answer) => answer,
                Err(reason) => {
                    // The next stream begins with another member.
                    self.preferred.fetch_add(1, Ordering::Relaxed);
                    return Event::Closed(reason);
                }
            };
            if answer.compact_revision() > 0 {
                return Event::Compacted;
            }
            if answer.canceled() {
                return Event::Closed(format!("cancelled: {}", answer.cancel_reason()));
            }
            if answer.events().is_empty() {
                return Event::Alive;
            }
            let changes = answer.events().iter().filter_map(|event| {
                let (key, entry) = entry(event.kv()?);
                let mod_revision = entry.mod_revision;
                let put = event.event_type() == EventType::Put;
                Some(Change {
                    key,
                    mod_revision,
                    entry: put.then_some(entry),
                })
            });
            Event::Changes(changes.collect())
        })
    }

    fn poke(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            // A failure shows as the end of the stream.
            let _ = self.stream.request_progress().await;
        })
    }
}
