//! `deis-sidecar`: announcer and log sidecar of a process; see the library's `sidecar` module.

fn main() -> std::process::ExitCode {
    deis::sidecar::main(std::env::args().skip(1))
}
