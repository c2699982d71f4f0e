//! `cargo load`: measures a running system against a baseline in the same run.

use std::process::ExitCode;

fn main() -> ExitCode {
    stack::load::main()
}
