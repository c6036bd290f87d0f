//! Which images a host gives up when the disk that holds them fills:
//! `plan(images, disk, limits, was_collecting) -> Plan`.
//!
//! Pure. Nothing goes before the disk is fuller than `start`; then the ones used longest ago go, until
//! it is below `stop`. Rules:
//! - What runs or is assigned here is never removed, nor what is no app's (the stack).
//! - Of an app that has a process here, the active release's image and the one that a rollback would
//!   need go last, and only if nothing else is left.

use std::collections::BTreeMap;

/// Settings below `/deis/platform/` that change the limits.
pub const START: &str = "images-collect-above-percent";
/// The other one.
pub const STOP: &str = "images-collect-down-to-percent";

/// How full the disk may be, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Above this images are collected ...
    pub start: u32,
    /// ... until it is no fuller than this.
    pub stop: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            start: 85,
            stop: 75,
        }
    }
}

impl Limits {
    /// What an operator has set, by the settings' names; what makes no sense counts as not set.
    #[must_use]
    pub fn of(settings: &BTreeMap<String, String>) -> Self {
        let percent = |name: &str| -> Option<u32> {
            let percent = settings
                .get(name)?
                .trim()
                .trim_end_matches('%')
                .parse()
                .ok();
            percent.filter(|percent| (1..=100).contains(percent))
        };
        let usual = Self::default();
        let start = percent(START).unwrap_or(usual.start);
        // Ten less than the start, unless somebody says otherwise.
        let gap = usual.start - usual.stop;
        let stop = percent(STOP).unwrap_or_else(|| start.saturating_sub(gap));
        Self {
            start,
            stop: stop.min(start),
        }
    }
}

/// A file system, as df(1) counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Disk {
    /// Bytes that are used.
    pub used: u64,
    /// Bytes that are left for everybody.
    pub available: u64,
    /// Files that there are; 0 where they are not counted.
    pub files: u64,
    /// Files that there may be besides.
    pub files_free: u64,
}

fn percent(used: u64, free: u64) -> u32 {
    let (used, all) = (u128::from(used), u128::from(used) + u128::from(free));
    if all == 0 {
        return 0;
    }
    // Rounded up, as df does: a disk with a byte left is full for everybody.
    u32::try_from((used * 100).div_ceil(all)).unwrap_or(100)
}

impl Disk {
    /// How full it is: of bytes or of files, whichever is more.
    #[must_use]
    pub fn percent(&self) -> u32 {
        percent(self.used, self.available).max(percent(self.files, self.files_free))
    }

    /// Bytes that have to go until it is no fuller than `to` percent.
    fn excess(&self, to: u32) -> u64 {
        let all = u128::from(self.used) + u128::from(self.available);
        let most = all * u128::from(to) / 100;
        u64::try_from(u128::from(self.used).saturating_sub(most)).unwrap_or(u64::MAX)
    }
}

/// Who needs an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A process here has it or is about to, or it is no app's.
    Now,
    /// Its app has a process here, and it is the active release's or the one to roll back to.
    Soon,
    /// Nobody that is known of.
    Nobody,
}

/// An image on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its id.
    pub id: String,
    /// Its size; layers that it shares with others count in full.
    pub bytes: u64,
    /// Seconds since the epoch at which it was last seen in use; none: never.
    pub last_use: Option<u64>,
    /// Who needs it.
    pub need: Need,
}

/// Why an image goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Nobody needs it, and of those it was used longest ago.
    Oldest,
    /// Nothing else is left.
    LastResort,
}

/// What to remove.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Collecting goes on, or has begun.
    pub collecting: bool,
    /// Images in the order in which they go. Shared layers make it less than it seems: whoever removes
    /// looks at the disk in between, and plans anew.
    pub remove: Vec<(String, Why)>,
}

/// Decides what to remove.
#[must_use]
pub fn plan(images: &[Image], disk: Disk, limits: Limits, was_collecting: bool) -> Plan {
    let full = disk.percent();
    let collecting = full > limits.start || (was_collecting && full > limits.stop);
    if !collecting {
        return Plan::default();
    }
    let rank = |image: &Image| match image.need {
        Need::Now => None,
        Need::Nobody => Some(Why::Oldest),
        Need::Soon => Some(Why::LastResort),
    };
    let mut candidates: Vec<(&Image, Why)> = images
        .iter()
        .filter_map(|image| Some((image, rank(image)?)))
        .collect();
    candidates.sort_by_key(|(image, why)| (*why == Why::LastResort, image.last_use, &image.id));
    let excess = disk.excess(limits.stop);
    let (mut freed, mut remove) = (0_u64, Vec::new());
    for (image, why) in candidates {
        // Where files are what is short, nobody knows how many an image has: one at a time.
        if freed >= excess && !remove.is_empty() {
            break;
        }
        freed = freed.saturating_add(image.bytes);
        remove.push((image.id.clone(), why));
    }
    Plan { collecting, remove }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn image(id: &str, bytes: u64, last_use: Option<u64>, need: Need) -> Image {
        Image {
            id: id.into(),
            bytes,
            last_use,
            need,
        }
    }

    fn disk(used: u64) -> Disk {
        Disk {
            used,
            available: 100 - used,
            ..Disk::default()
        }
    }

    fn ids(plan: &Plan) -> Vec<&str> {
        plan.remove.iter().map(|(id, _)| id.as_str()).collect()
    }

    #[test]
    fn the_oldest_go_until_it_is_below_the_lower_limit() {
        let images = [
            image("running", 30, Some(1), Need::Now),
            image("rollback", 5, Some(2), Need::Soon),
            image("older", 8, Some(3), Need::Nobody),
            image("newer", 8, Some(9), Need::Nobody),
            image("newest", 8, Some(10), Need::Nobody),
            image("never", 1, None, Need::Nobody),
        ];
        let limits = Limits::default();
        let at = |used, collecting| plan(&images, disk(used), limits, collecting);
        assert_eq!(at(85, false), Plan::default());
        assert_eq!(ids(&at(86, false)), ["never", "older", "newer"]);
        // Begun, it goes on below the upper limit.
        assert_eq!(ids(&at(80, true)), ["never", "older"]);
        assert_eq!(at(75, true), Plan::default());
        let all = at(100, false);
        assert_eq!(ids(&all), ["never", "older", "newer", "newest"]);
        let last = plan(&images[..3], disk(100), limits, false);
        assert_eq!(
            last.remove,
            [
                ("older".to_owned(), Why::Oldest),
                ("rollback".to_owned(), Why::LastResort)
            ]
        );
    }

    #[test]
    fn a_disk_can_be_full_of_files() {
        let full = Disk {
            files: 99,
            files_free: 1,
            ..disk(10)
        };
        let images = [
            image("a", 1, Some(1), Need::Nobody),
            image("b", 1, Some(2), Need::Nobody),
        ];
        assert_eq!(ids(&plan(&images, full, Limits::default(), false)), ["a"]);
        // A file system that counts no files, or one that nothing is known of.
        assert_eq!(Disk::default().percent(), 0);
    }

    #[test]
    fn limits_are_settings() {
        let of = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
            let Limits { start, stop } = Limits::of(&pairs.collect());
            (start, stop)
        };
        assert_eq!(of(&[]), (85, 75));
        assert_eq!(of(&[(START, "60")]), (60, 50));
        assert_eq!(of(&[(START, "60%"), (STOP, "20")]), (60, 20));
        assert_eq!(of(&[(START, "5")]), (5, 0));
        assert_eq!(of(&[(START, "50"), (STOP, "70")]), (50, 50));
        assert_eq!(of(&[(START, "0"), (STOP, "much")]), (85, 75));
    }

    fn needs() -> impl Strategy<Value = Need> {
        prop_oneof![Just(Need::Now), Just(Need::Soon), Just(Need::Nobody)]
    }

    proptest! {
        #[test]
        fn whatever_there_is(
            found in prop::collection::vec((0_u64..50, prop::option::of(0_u64..9), needs()), 0..12),
            used in 0_u64..=100,
            files in 0_u64..=100,
            (start, stop) in (1_u32..=100, 1_u32..=100),
            was in any::<bool>(),
        ) {
            let images: Vec<Image> = found
                .iter()
                .enumerate()
                .map(|(n, (bytes, last, need))| image(&format!("{n:02}"), *bytes, *last, *need))
                .collect();
            let limits = Limits { start, stop: stop.min(start) };
            let disk = Disk { files, files_free: 100 - files, ..disk(used) };
            let plan = plan(&images, disk, limits, was);
            let of = |id: &str| images.iter().find(|image| image.id == id).expect("of them");
            let removed: Vec<&Image> = plan.remove.iter().map(|(id, _)| of(id)).collect();
            // Never what is needed, never twice, and nothing while there is room.
            prop_assert!(removed.iter().all(|image| image.need != Need::Now));
            let distinct: std::collections::BTreeSet<_> = ids(&plan).into_iter().collect();
            prop_assert_eq!(distinct.len(), removed.len());
            let full = disk.percent();
            prop_assert_eq!(plan.collecting, full > limits.start || (was && full > limits.stop));
            prop_assert!(plan.collecting || removed.is_empty());
            // Nothing stays that should have gone before what goes.
            for stays in images.iter().filter(|i| i.need != Need::Now && !ids(&plan).contains(&i.id.as_str())) {
                for goes in &removed {
                    let order = |i: &Image| (i.need == Need::Soon, i.last_use, i.id.clone());
                    prop_assert!(order(goes) < order(stays));
                }
            }
            if plan.collecting {
                // It ends: as long as something may go, something goes.
                let may_go = images.iter().any(|image| image.need != Need::Now);
                prop_assert_eq!(may_go, !removed.is_empty());
                // No more than needed: without the last one it would not be enough.
                if let Some((_, but_last)) = removed.split_last().filter(|(_, rest)| !rest.is_empty()) {
                    let freed: u64 = but_last.iter().map(|image| image.bytes).sum();
                    prop_assert!(freed < disk.excess(limits.stop));
                }
            }
        }
    }
}
