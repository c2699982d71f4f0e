//! As whom PostgreSQL runs: it refuses to be root, which is who one is in many containers.

use std::{
    fs::{self, Permissions},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::Path,
    process::{Command, Stdio},
};

use super::Binaries;

/// The user `nobody` of Linux and of most containers: it needs no entry in `/etc/passwd`.
const NOBODY: u32 = 65_534;

/// As whom it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Identity {
    /// As we do.
    Ourselves,
    /// As `nobody`.
    Nobody,
    /// As we do, but called something else in a user namespace: reads all that we can.
    Namespace,
}

impl Identity {
    /// The first identity that can run the programs with data in this folder, which is ours and empty. It is given to it.
    pub(super) fn choose(binaries: &Binaries, folder: &Path) -> Option<Self> {
        let we = fs::metadata("/proc/self")
            .or_else(|_| fs::metadata(folder))
            .map_or(0, |metadata| metadata.uid());
        if we != 0 {
            return Some(Self::Ourselves);
        }
        let postgres = binaries.program("postgres");
        if chown(folder, Some(NOBODY), Some(NOBODY)).is_ok() && Self::Nobody.works(&postgres, folder) {
            return Some(Self::Nobody);
        }
        let ours = chown(folder, Some(0), Some(0)).is_ok()
            && fs::set_permissions(folder, Permissions::from_mode(0o700)).is_ok();
        (ours && Self::Namespace.works(&postgres, folder)).then_some(Self::Namespace)
    }

    /// A program to be run with this identity, away from the terminal's signals: an interrupt is for us alone.
    pub(super) fn command(self, program: &Path) -> Command {
        let mut command = match self {
            Self::Ourselves => Command::new(program),
            Self::Nobody => {
                let mut command = Command::new(program);
                command.uid(NOBODY).gid(NOBODY);
                command
            }
            Self::Namespace => {
                let mut command = Command::new("unshare");
                command
                    .args(["--user", "--map-user=1000", "--map-group=1000"])
                    .arg(program);
                command
            }
        };
        command.process_group(0).current_dir("/").env("LC_ALL", "C");
        // Settings for clients that would point it elsewhere.
        for variable in [
            "PGDATA",
            "PGHOST",
            "PGPORT",
            "PGUSER",
            "PGDATABASE",
            "PGOPTIONS",
            "PGSERVICE",
        ] {
            command.env_remove(variable);
        }
        command
    }

    /// Whether it can read the programs and write the folder.
    fn works(self, postgres: &Path, folder: &Path) -> bool {
        let mut probe = self.command(Path::new("/bin/sh"));
        probe
            .arg("-c")
            .arg(r#""$0" --version && : > "$1/probe" && rm "$1/probe""#)
            .arg(postgres)
            .arg(folder);
        let status = probe
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    }
}
