//! Reading the journals of connects after the fact: for a checker that has only the files.
//!
//! `ledger.jsonl` has one line per dial, on the disk before the connect is answered; `arrivals.jsonl` one per connect that
//! came, whatever became of it, on the disk before anything is dialled. A line that a crash tore is one that nobody was
//! told of; it is left out.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead as _, BufReader},
    path::Path,
};

use serde::de::DeserializeOwned;

use crate::{Arrival, LedgerEntry, journal::Error};

/// All entries of a ledger: dials, inbound calls and the calls of strangers.
pub fn read(path: impl AsRef<Path>) -> Result<Vec<LedgerEntry>, Error> {
    lines(path.as_ref())
}

/// All connects that came.
pub fn read_arrivals(path: impl AsRef<Path>) -> Result<Vec<Arrival>, Error> {
    lines(path.as_ref())
}

/// How often the phone of each `CustomField` was dialled by a connect; those without one are left out.
pub fn dials(entries: &[LedgerEntry]) -> BTreeMap<&str, usize> {
    let ours = entries.iter().filter(|entry| entry.mode.is_connect());
    count(ours.filter_map(|entry| entry.custom_field.as_deref()))
}

/// How often a connect came with each `CustomField`; those without one are left out.
pub fn arrivals(entries: &[Arrival]) -> BTreeMap<&str, usize> {
    count(entries.iter().filter_map(|arrival| arrival.custom_field.as_deref()))
}

fn count<'a>(fields: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::new();
    for field in fields {
        *counts.entry(field).or_default() += 1;
    }
    counts
}

fn lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, Error> {
    let failed = |doing| {
        move |source| Error::Io {
            path: path.to_owned(),
            doing,
            source,
        }
    };
    let mut file = BufReader::new(File::open(path).map_err(failed("opening it"))?);
    let (mut entries, mut line) = (Vec::new(), Vec::new());
    for number in 1.. {
        line.clear();
        file.read_until(b'\n', &mut line).map_err(failed("reading"))?;
        // Without its end the last line is torn, and no line at all is the end.
        if line.pop() != Some(b'\n') {
            break;
        }
        if line.is_empty() {
            continue;
        }
        entries.push(serde_json::from_slice(&line).map_err(|source| Error::Line {
            path: path.to_owned(),
            line: number,
            source,
        })?);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::{arrivals, dials, read, read_arrivals};
    use crate::journal::Error;

    fn entry(mode: &str, field: &str) -> String {
        format!(
            r#"{{"time":"2026-08-25T06:37:09Z","call_sid":"a1","account_sid":"x","mode":"{mode}","from":"1","to":null,"caller_id":null,"custom_field":"{field}","outcome":{{}}}}"#
        )
    }

    #[test]
    fn a_torn_last_line_is_left_out_and_dials_are_counted() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("ledger.jsonl");
        let whole = [("flow", "a"), ("stranger", "s"), ("two_numbers", "b"), ("flow", "a")]
            .map(|(mode, field)| entry(mode, field) + "\n")
            .concat();
        for torn in ["", &entry("flow", "a"), "{\"time\":\"20", "\u{fffd}"] {
            std::fs::write(&path, format!("{whole}{torn}")).expect("writes");
            let entries = read(&path).expect("readable");
            assert_eq!(entries.len(), 4, "{torn}");
            assert_eq!(dials(&entries).into_iter().collect::<Vec<_>>(), [("a", 2), ("b", 1)]);
        }
        std::fs::write(&path, format!("{{\n{whole}")).expect("writes");
        assert!(matches!(read(&path), Err(Error::Line { line: 1, .. })));
        assert!(matches!(read(dir.path().join("none")), Err(Error::Io { .. })));
    }

    #[test]
    fn arrivals_are_counted_whatever_became_of_them() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("arrivals.jsonl");
        let line = |fate: &str| {
            format!(
                r#"{{"time":"2026-08-25T06:37:09Z","account_sid":"x","custom_field":"a","from":null,"caller_id":null,"fate":"{fate}","fault":null}}"#
            ) + "\n"
        };
        std::fs::write(&path, line("dialled") + &line("refused") + "{").expect("writes");
        let entries = read_arrivals(&path).expect("readable");
        assert_eq!(arrivals(&entries).get("a"), Some(&2));
    }
}
