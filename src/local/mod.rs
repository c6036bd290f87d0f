//! The local cluster: real systemd hosts on one machine, by systemd-nspawn.
//!
//! `deisctl cluster up` builds and caches the hosts' root file system and the stack image, boots
//! hosts that bootstrap themselves by the same user-data as any other host, and starts the
//! platform on them. Everything that it leaves on the machine is found again by its name, so that
//! `down` clears up after an `up` that was killed half-way.
//!
//! | module | what |
//! |---|---|
//! | [`cli`] | the subcommands |
//! | [`state`] | cluster.yaml and where things are |
//! | [`up`], [`down`], [`status`] | the commands |
//! | [`packages`], [`rootfs`], [`stack`], [`stage`] | what hosts are made of |
//! | [`net`], [`sysctl`], [`cgroup`], [`host`], [`seed`] | a host's surroundings and its boot |
//! | [`forward`] | the entry point on loopback |
//! | [`platform`] | platform start and the demo |

pub mod authority;
mod cgroup;
pub mod cli;
pub mod command;
pub mod down;
pub mod forward;
pub mod host;
pub mod http;
pub mod net;
pub mod packages;
pub mod platform;
pub mod ports;
pub mod procs;
pub mod report;
pub mod rootfs;
pub mod seed;
pub mod stack;
pub mod stage;
pub mod state;
pub mod status;
pub mod sysctl;
pub mod up;
