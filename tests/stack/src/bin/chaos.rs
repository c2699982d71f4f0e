//! `cargo chaos`: breaks a running system and checks its ledger.

use std::process::ExitCode;

fn main() -> ExitCode {
    stack::chaos::main()
}
