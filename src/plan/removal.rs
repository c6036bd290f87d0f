//! The way out: drain, stop, forget; and the end of an app.

use super::{
    hosts::HostMemory,
    round::{Batch, Context, Plan, fenced},
    standing::{Hold, Proc},
    waiting::Reasons,
    world::{AppView, Said, World},
};
use crate::{
    model::*,
    store::{Txn, keys},
};

/// Domains removed in one transaction.
const DOMAINS: usize = 80;

/// Changes what is wanted of an assignment.
pub(super) fn put_desired(proc: &Proc<'_>, desired: Desired, batch: &mut Batch) {
    let key = keys::assignment(proc.machine, &proc.name.to_string());
    let next = Assignment {
        desired,
        ..proc.assignment.value.clone()
    };
    let txn = Txn::new()
        .unchanged(&key, proc.assignment.mod_revision)
        .put(&key, &next);
    let verb = match desired {
        Desired::Run => "run",
        Desired::Load => "load",
        Desired::Drain => "drain",
        Desired::Stop => "stop",
    };
    batch.add(format!("{verb} {}", proc.name), txn);
}

/// The next step out for a process; `hold` says why it can't be stopped yet.
pub(super) fn retire(
    proc: &Proc<'_>,
    hold: Option<Hold>,
    cx: &Context<'_>,
    batch: &mut Batch,
    waiting: &mut Reasons,
) {
    if proc.host.presence.is_absent() {
        let grace = cx.policy.host_grace.as_secs();
        waiting.push(format!(
            "{}: its host is away; lost {grace} s after its lease",
            proc.label()
        ));
        return;
    }
    match (proc.desired(), hold) {
        (Desired::Run, _) if proc.name.kind.is_routable() && !proc.is_one_off() => {
            put_desired(proc, Desired::Drain, batch);
        }
        (Desired::Run | Desired::Load, _) | (Desired::Drain, None) => {
            put_desired(proc, Desired::Stop, batch)
        }
        (Desired::Drain, Some(Hold::Published)) => {
            waiting.push(format!("{}: its address is being withdrawn", proc.label()));
        }
        (Desired::Drain, Some(Hold::Routers(ips))) => {
            let routers = ips.join(", ");
            waiting.push(format!(
                "{}: router {routers} still has requests with it",
                proc.label()
            ));
        }
        (Desired::Stop, _) => match proc.said {
            Said::Nothing => {
                let key = keys::assignment(proc.machine, &proc.name.to_string());
                let txn = Txn::new()
                    .unchanged(&key, proc.assignment.mod_revision)
                    .delete(&key);
                batch.add(format!("forget {}", proc.name), txn);
            }
            Said::State(_) | Said::Unknown => {
                waiting.push(format!("{}: stopping", proc.label()));
            }
        },
    }
}

/// Takes a lost host's assignment and address away, if the host is absent.
pub(super) fn forget(proc: &Proc<'_>, view: &AppView) -> Txn {
    let key = keys::assignment(proc.machine, &proc.name.to_string());
    let txn = Txn::new()
        .absent(&keys::machine(proc.machine))
        .unchanged(&key, proc.assignment.mod_revision)
        .delete(&key);
    let elsewhere = view.hosts_of(proc.name).any(|host| host != proc.machine);
    match view.services.get(proc.name) {
        Some(revision) if !elsewhere => {
            let service = keys::service(&proc.name.app, proc.name);
            txn.unchanged(&service, *revision).delete(&service)
        }
        Some(_) | None => txn,
    }
}

/// Takes a lost host's process away without a replacement.
pub(super) fn forget_lost(proc: &Proc<'_>, view: &AppView, batch: &mut Batch) {
    batch.add(format!("forget {}", proc.label()), forget(proc, view));
}

/// Takes all processes of an app away that is being destroyed or gone, then what is left of it.
pub(super) fn take_away(
    world: &World,
    app: &AppName,
    view: &AppView,
    procs: &[Proc<'_>],
    hosts: &HostMemory,
    cx: &Context<'_>,
    plan: &mut Plan,
) {
    let key = keys::app(app);
    let base = match &view.record {
        Some(record) => fenced(cx).unchanged(&key, record.mod_revision),
        None => fenced(cx).absent(&key),
    };
    if !procs.is_empty() {
        let (mut batch, mut waiting) = (Batch::default(), Reasons::default());
        for proc in procs {
            if proc.lost {
                forget_lost(proc, view, &mut batch);
            } else {
                let hold = proc.hold(world, view, hosts);
                retire(proc, hold, cx, &mut batch, &mut waiting);
            }
        }
        batch.pack(app.as_str(), world, &base, plan);
        for why in waiting.iter() {
            plan.wait(app.as_str(), format!("being destroyed: {why}"));
        }
        return;
    }
    if view.record.is_none() {
        return;
    }
    let mut domains = world
        .domains
        .iter()
        .filter(|(_, of)| *of == app)
        .map(|(domain, _)| domain);
    let mut txn = base;
    for domain in domains.by_ref().take(DOMAINS) {
        txn = txn.delete(&keys::domain(domain));
    }
    if domains.next().is_some() {
        plan.act(app.as_str(), "remove domains", txn);
        return;
    }
    let txn = txn
        .delete_prefix(&keys::app_tree(app))
        .delete_prefix(&keys::services_of(app))
        .delete(&keys::route(app))
        .delete(&key);
    plan.act(app.as_str(), "remove the app", txn);
}
