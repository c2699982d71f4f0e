//! Which processors who uses: a server has one to itself, so that what it costs is what one core carries.

#[cfg(target_os = "linux")]
use anyhow::Context as _;

/// Who runs where; anywhere when empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::load) struct Cores {
    /// The server that is measured.
    pub(super) server: Vec<usize>,
    /// The generator.
    pub(super) generator: Vec<usize>,
    /// All else.
    pub(in crate::load) others: Vec<usize>,
}

impl Cores {
    /// Shares out the processors that this process may use.
    pub(in crate::load) fn share(allowed: &[usize]) -> Self {
        match allowed {
            [] | [_] => Self::default(),
            [server, generator] => Self {
                server: vec![*server],
                generator: vec![*generator],
                others: vec![*generator],
            },
            [server, others @ .., generator] => Self {
                server: vec![*server],
                generator: vec![*generator],
                others: others.to_vec(),
            },
        }
    }
}

/// The processors that this process may use.
#[cfg(target_os = "linux")]
pub(in crate::load) fn allowed() -> Vec<usize> {
    let set = rustix::thread::sched_getaffinity(None).unwrap_or_default();
    (0..rustix::thread::CpuSet::MAX_CPU)
        .filter(|core| set.is_set(*core))
        .collect()
}

/// Keeps this thread, and those that it starts from now on, on these processors.
///
/// # Errors
/// When the system does not allow it.
#[cfg(target_os = "linux")]
pub(in crate::load) fn pin(cores: &[usize]) -> anyhow::Result<()> {
    if cores.is_empty() {
        return Ok(());
    }
    let mut set = rustix::thread::CpuSet::new();
    for core in cores {
        set.set(*core);
    }
    rustix::thread::sched_setaffinity(None, &set).with_context(|| format!("cannot run on the processors {cores:?}"))
}

#[cfg(not(target_os = "linux"))]
pub(in crate::load) fn allowed() -> Vec<usize> {
    Vec::new()
}

#[cfg(not(target_os = "linux"))]
pub(in crate::load) fn pin(_cores: &[usize]) -> anyhow::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_alone_on_its_processor() {
        assert_eq!(Cores::share(&[3]), Cores::default());
        for allowed in [&[0, 1][..], &[2, 5, 6], &[0, 1, 2, 3]] {
            let Cores {
                server,
                generator,
                others,
            } = Cores::share(allowed);
            assert!(!generator.contains(&server[0]) && !others.contains(&server[0]) && !others.is_empty());
        }
    }
}
