//! `deis`: the developers' command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    deis::cli::deis::main()
}
