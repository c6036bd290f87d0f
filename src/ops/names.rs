//! Names for apps whose owner didn't choose one: `adjective-noun`, as in Deis v1.

use crate::model::AppName;

const ADJECTIVES: &[&str] = &[
    "amber", "brave", "brisk", "calm", "clever", "cosmic", "crisp", "daring", "eager", "fabled",
    "gentle", "golden", "hidden", "humble", "jolly", "keen", "kindly", "lively", "lucky", "mellow",
    "nimble", "noble", "polite", "quiet", "rapid", "rustic", "silent", "sunny", "swift", "tidy",
    "valiant", "vivid", "warm", "wise", "witty", "zesty",
];

const NOUNS: &[&str] = &[
    "anchor", "badger", "beacon", "canyon", "cedar", "comet", "condor", "coral", "dolphin",
    "ember", "falcon", "fjord", "garden", "glacier", "harbor", "heron", "island", "jaguar",
    "lagoon", "lantern", "maple", "meadow", "nomad", "orchid", "otter", "panda", "pepper",
    "quartz", "raven", "saffron", "sparrow", "summit", "thicket", "tundra", "violet", "walnut",
    "willow", "zephyr",
];

/// The name that a random number stands for; a few digits make clashes rare.
pub(super) fn app_name(random: u64) -> AppName {
    let pick = |words: &[&'static str], n: u64| {
        words[usize::try_from(n % words.len() as u64).unwrap_or(0)]
    };
    let adjective = pick(ADJECTIVES, random);
    let noun = pick(NOUNS, random >> 16);
    format!("{adjective}-{noun}-{:04}", (random >> 32) % 10_000)
        .parse()
        .expect("invariant: the words are of a-z")
}
