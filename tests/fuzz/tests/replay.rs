//! Every file of the corpora, and whatever broke a target once, goes through its target with the ordinary tests.
//!
//! Nothing is timed: inputs are small, and a target that does not end on one of them stops the whole run.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// What the fuzzer makes at most, too (`-max_len` of `tests/checks/fuzz.sh`).
const LARGEST: usize = 4096;
/// Files of one corpus: they are read by people.
const MOST_FILES: usize = 100;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn names(folder: &Path) -> BTreeSet<String> {
    let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    files(folder).into_iter().map(stem).collect()
}

/// F24, F52, F79, F84–F86, F88, F97, F127: the corpora keep every promise of their targets.
#[test]
fn every_corpus_and_every_crash_keeps_the_promises() {
    for (name, target) in fuzz::TARGETS {
        let corpus = files(&folder("corpus").join(name));
        assert!(
            (5..=MOST_FILES).contains(&corpus.len()),
            "{name}: {} files",
            corpus.len()
        );
        for file in corpus.into_iter().chain(files(&folder("crashes").join(name))) {
            let data = fs::read(&file).unwrap();
            assert!(data.len() <= LARGEST, "{}", file.display());
            // Shown where the target panics.
            eprintln!("{}", file.display());
            target(&data);
        }
    }
}

/// What is cut off anywhere, or has one byte exchanged, keeps them too.
#[test]
fn pieces_of_the_corpora_keep_the_promises() {
    for (name, target) in fuzz::TARGETS {
        for file in files(&folder("corpus").join(name)) {
            let data = fs::read(&file).unwrap();
            for end in (0..data.len()).step_by(data.len() / 16 + 1) {
                eprintln!("{} up to {end}", file.display());
                target(&data[..end]);
                let mut other = data.clone();
                other[end] ^= 0x15;
                target(&other);
            }
        }
    }
}

#[test]
fn every_target_has_a_way_in_and_a_corpus() {
    let targets: BTreeSet<_> = fuzz::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(targets.len(), fuzz::TARGETS.len());
    for other in ["fuzz_targets", "corpus"] {
        assert_eq!(names(&folder(other)), targets, "{other}");
    }
    for other in ["dictionaries", "crashes"] {
        assert!(names(&folder(other)).is_subset(&targets), "{other}");
    }
}
