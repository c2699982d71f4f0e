//! Core dumps: a dead process's memory on a disk, with keys, credentials and what was said in it.

use std::fs;

use rustix::process::{Resource, Rlimit, setrlimit};

/// What of the memory Linux writes into a core dump (core(5)): no kind of it. Holds also for dumps that go to a program's standard
/// input, for which the limit does not count.
const FILTER: &str = "/proc/self/coredump_filter";

/// Lets this process leave none. Where the system refuses that, the process goes on: it is the second line, behind nodes that keep
/// no dumps.
pub fn forbid() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let _ = setrlimit(Resource::Core, none);
    let _ = fs::write(FILTER, "0");
}
