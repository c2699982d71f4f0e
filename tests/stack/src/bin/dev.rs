//! `cargo dev`: the whole system on one machine.

use std::process::ExitCode;

fn main() -> ExitCode {
    stack::dev::main()
}
