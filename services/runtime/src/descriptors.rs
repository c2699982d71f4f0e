//! File descriptors: a connection, a file and a listener need one each, and without one nothing new is possible.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises this process's soft limit to its hard one, and tells how many it may have now. The soft limit of 1,024 that shells and
/// service managers hand on is for programs that use `select`.
pub fn raise() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    let soft = limit.current;
    limit.current = limit.maximum;
    if setrlimit(Resource::Nofile, limit).is_err() {
        limit.current = soft;
    }
    // None is no limit.
    limit
        .current
        .map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX))
}
