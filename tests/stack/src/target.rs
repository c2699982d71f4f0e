//! Where cargo puts what it builds, which is where everything temporary of ours goes too.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The `target` folder: the one that the running program was built in, else the workspace's.
pub fn folder() -> PathBuf {
    let program = env::current_exe().unwrap_or_default();
    // Cargo marks its target folder with this file, whatever the folder is called.
    let marked = program.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap_or(Path::new(""));
    marked.map_or_else(|| workspace.join("target"), Path::to_owned)
}
