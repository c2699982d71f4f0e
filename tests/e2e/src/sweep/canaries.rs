//! Values that must be told nowhere.

use std::{collections::BTreeMap, sync::Arc};

use aho_corasick::AhoCorasick;

/// Characters of a token.
const TOKEN: usize = 84;

/// Values to look for, all at once.
#[derive(Debug)]
pub(super) struct Canaries {
    /// What each one is.
    planted: BTreeMap<Vec<u8>, &'static str>,
    /// Finds them, unless there are newer ones.
    search: Option<Arc<AhoCorasick>>,
}

impl Canaries {
    pub(super) const fn new() -> Self {
        Self {
            planted: BTreeMap::new(),
            search: None,
        }
    }

    /// One more.
    pub(super) fn plant(&mut self, what: &'static str, value: &[u8]) {
        if self.planted.insert(value.to_vec(), what).is_none() {
            self.search = None;
        }
    }

    /// How many there are.
    pub(super) fn planted(&self) -> usize {
        self.planted.len()
    }

    /// What is in this text, if any is: tokens, whether they were planted or not, and what was planted.
    pub(super) fn within(&mut self, text: &[u8]) -> Option<&'static str> {
        if text.split(|byte| !is_of_token(*byte)).any(is_token) {
            return Some("a token");
        }
        if self.search.is_none() {
            self.search = AhoCorasick::new(self.planted.keys()).ok().map(Arc::new);
        }
        let search = self.search.as_ref()?;
        let first = search.find(text)?;
        self.planted.get(&text[first.range()]).copied()
    }
}

/// Whether it looks like one of `exotel::token`: 63 bytes in base64url, the first of which is its version.
fn is_token(run: &[u8]) -> bool {
    run.len() == TOKEN && run.starts_with(b"AQ")
}

fn is_of_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}
