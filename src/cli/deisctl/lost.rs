//! `deisctl declare-lost`: a person says that hosts are gone, where the platform can't tell that from a
//! fault of the network.

use std::io::Write;

use super::{
    failure::{Failure, Kind},
    fleet::Fleet,
    subject,
};
use crate::{
    model::{HostRecord, MachineId},
    store::{CommitError, Store, Txn, keys},
};
use jiff::Timestamp;

/// Tries when the records change at the same time.
const TRIES: usize = 5;

/// Declares the hosts lost, or takes that back.
///
/// # Errors
/// When a word means no host, a host is present, nothing is known of it, or the store fails. All or none
/// of the records are changed.
pub async fn declare(
    store: &Store,
    words: &[String],
    undo: bool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    for _ in 0..TRIES {
        let fleet = Fleet::load(store).await?;
        let hosts = words
            .iter()
            .map(|word| subject::host(&fleet, word))
            .collect::<Result<Vec<MachineId>, _>>()
            .map_err(|error| Failure::new(Kind::NotFound, error))?;
        let (mut txn, mut done) = (Txn::new(), Vec::new());
        for id in &hosts {
            let label = fleet.host_label(id);
            if !undo && fleet.machines.contains_key(id) {
                let message = format!("{label} is present: it is not lost");
                return Err(Failure::new(Kind::Refused, message)
                    .hint("`deisctl cordon` keeps new processes from a host that you don't trust")
                    .into());
            }
            let key = keys::host(id);
            let Some(record) = store.get(&key).await? else {
                let message = format!("{label} has no record in etcd: nothing is known of it");
                return Err(Failure::new(Kind::NotFound, message).into());
            };
            // What the platform found lost can be declared so as well: then nothing runs there.
            let is_so = if undo {
                record.value.lost_since.is_none()
            } else {
                record.value.declared_lost
            };
            if is_so {
                done.push(format!("{label}: is {} already", state(undo)));
                continue;
            }
            done.push(format!("{label}: declared {}", state(undo)));
            let value = if undo {
                record.value.found()
            } else {
                HostRecord {
                    lost_since: record.value.lost_since.or_else(|| Some(Timestamp::now())),
                    declared_lost: true,
                    ..record.value
                }
            };
            txn = txn.unchanged(&key, record.mod_revision).put(&key, &value);
            if !undo {
                txn = txn.absent(&keys::machine(id));
            }
        }
        let committed = if txn.is_empty() {
            Ok(0)
        } else {
            store.commit(txn).await
        };
        match committed {
            Ok(_) => {
                for line in done {
                    writeln!(out, "{line}")?;
                }
                if !undo {
                    writeln!(
                        out,
                        "what ran there is moved now; processes of single types once they must have stopped"
                    )?;
                }
                return Ok(());
            }
            Err(CommitError::Conflict) => {}
            Err(CommitError::Store(error)) => return Err(error.into()),
        }
    }
    Err(
        Failure::new(Kind::Conflict, "the hosts' records keep changing")
            .hint("are they coming back? `deisctl machines` tells")
            .into(),
    )
}

const fn state(undo: bool) -> &'static str {
    if undo { "not lost" } else { "lost" }
}
