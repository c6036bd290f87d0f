//! Raw units: loaded, started, stopped, enabled, in systemd's words.

use super::*;
use crate::model::UnitWords;

const NAME: &str = "hello.service";
const INSTALL: &str = "[Service]\nExecStart=/bin/true\n\n[Install]\nWantedBy=other.service\n";

impl Host {
    async fn submit(&self, text: &str) {
        let key = keys::unit(&NAME.parse::<UnitFileName>().expect("name"));
        let file = UnitFile {
            schema: SCHEMA,
            text: text.to_owned(),
            target: UnitTarget::Launched,
        };
        let stored = self.store.commit(Txn::new().put(&key, &file)).await;
        stored.expect("stored");
    }

    async fn want(&self, uuid: u128, desired: Desired, text: &str) {
        let hash = steps::sha256(text);
        self.assign_work(NAME, uuid, desired, Work::Unit { hash })
            .await;
    }

    async fn until_words(&self, done: UnitTarget, active: &str, sub: &str) {
        let want = UnitWords {
            done,
            load: "loaded".into(),
            active: active.into(),
            sub: sub.into(),
        };
        let what = format!("{want:?}");
        self.until_process(NAME, &what, |p| p.unit.as_ref() == Some(&want))
            .await;
    }

    fn calls_of(&self, verb: &str) -> usize {
        let call = format!("{verb} {NAME}");
        self.units.calls().iter().filter(|c| **c == call).count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_is_loaded_started_stopped_and_started_again() {
    let mut host = Host::new().await;
    let text = unit_text(NAME);
    host.submit(&text).await;
    host.boot().await;
    host.want(1, Desired::Load, &text).await;
    host.until_words(UnitTarget::Loaded, "inactive", "dead")
        .await;
    assert_eq!(host.calls_of("start"), 0, "only loaded");
    assert!(host.paths().unit(NAME).exists());
    host.want(1, Desired::Run, &text).await;
    host.until_words(UnitTarget::Launched, "active", "running")
        .await;
    // The agent's restart changes nothing, neither of a unit that runs nor of one that is loaded.
    for (desired, done) in [
        (Desired::Run, UnitTarget::Launched),
        (Desired::Load, UnitTarget::Loaded),
    ] {
        host.want(1, desired, &text).await;
        host.until_process(NAME, "done", |p| {
            p.unit.as_ref().is_some_and(|words| words.done == done)
        })
        .await;
        host.end().await;
        let (starts, stops) = (host.calls_of("start"), host.calls_of("stop"));
        host.boot().await;
        host.until_process(NAME, "done", |p| {
            p.unit.as_ref().is_some_and(|words| words.done == done)
        })
        .await;
        assert_eq!(
            (host.calls_of("start"), host.calls_of("stop")),
            (starts, stops)
        );
    }
    assert!(host.paths().unit(NAME).exists(), "stopped, and known on");
    // Another unit may start it: that is not ours to stop.
    host.units.set(NAME, crate::systemd::Active::Active);
    host.until_words(UnitTarget::Loaded, "active", "running")
        .await;
    assert_eq!(host.calls_of("stop"), 1);
    host.want(1, Desired::Stop, &text).await;
    host.until("gone", |s| !s.processes.contains_key(NAME))
        .await;
    assert!(!host.paths().unit(NAME).exists());
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_install_section_is_done_and_taken_back() {
    let mut host = Host::new().await;
    host.submit(INSTALL).await;
    host.boot().await;
    host.want(1, Desired::Load, INSTALL).await;
    host.until_words(UnitTarget::Loaded, "inactive", "dead")
        .await;
    assert_eq!(host.calls_of("enable"), 1);
    host.unassign(NAME).await;
    host.until("gone", |s| !s.processes.contains_key(NAME))
        .await;
    assert_eq!(host.calls_of("disable"), 1);
    assert!(!host.paths().unit(NAME).exists());
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_fails_at_its_start_is_launched_and_shown_as_failed() {
    let mut host = Host::new().await;
    let text = unit_text(NAME);
    host.submit(&text).await;
    host.boot().await;
    host.units.break_unit(NAME);
    host.want(1, Desired::Run, &text).await;
    host.until_words(UnitTarget::Launched, "failed", "failed")
        .await;
    host.end().await;
    assert_eq!(host.calls_of("start"), 1, "once, as was wanted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_text_is_written_when_the_old_unit_has_stopped() {
    let mut host = Host::new().await;
    let (old, new) = (unit_text(NAME), unit_text("new"));
    host.submit(&old).await;
    host.boot().await;
    host.want(1, Desired::Run, &old).await;
    host.until_words(UnitTarget::Launched, "active", "running")
        .await;
    host.submit(&new).await;
    host.want(2, Desired::Run, &new).await;
    host.until_process(NAME, "the new one", |p| {
        p.uuid == Uuid::from_u128(2) && p.phase == Phase::Up
    })
    .await;
    let own = |call: &String| call.ends_with(NAME) && (call.starts_with("st"));
    let calls: Vec<String> = host.units.calls().into_iter().filter(own).collect();
    assert_eq!(
        calls,
        ["start", "stop", "start"].map(|verb| format!("{verb} {NAME}"))
    );
    let written = std::fs::read_to_string(host.paths().unit(NAME)).expect("file");
    assert_eq!(written, new);
    host.end().await;
}

#[test]
fn what_was_read_before_a_signal_is_old() {
    use super::super::world::World;
    use crate::systemd::{Active, UnitChange, UnitStatus};

    let now = std::time::Duration::from_secs(1);
    let of = |active| UnitStatus {
        active,
        ..UnitStatus::default()
    };
    // What systemd tells while the unit is read as `read`, and what it is then.
    for (told, read, want) in [
        (None, Active::Active, Active::Active),
        (Some(Active::Active), Active::Activating, Active::Active),
        (Some(Active::Failed), Active::Active, Active::Failed),
    ] {
        let mut world = World::new();
        let name = "a.service";
        world.adopt(
            name,
            Uuid::nil(),
            None,
            None,
            of(Active::Inactive),
            jiff::Timestamp::UNIX_EPOCH,
        );
        let before = world.entries()[name].told;
        if let Some(active) = told {
            let change = UnitChange {
                active: Some(active),
                ..UnitChange::default()
            };
            world.unit_changed(name, change, now);
        }
        world.unit_read(name, before, of(read), now);
        assert_eq!(
            world.entries()[name].status.active,
            want,
            "{told:?} {read:?}"
        );
    }
}
