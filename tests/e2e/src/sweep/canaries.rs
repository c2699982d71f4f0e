//! Values that must be told nowhere.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

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
        let found = search
            .find_overlapping_iter(text)
            .find(|found| is_apart(text, found.range()))?;
        self.planted.get(&text[found.range()]).copied()
    }
}

/// Whether digits that were found are a number of their own, with a country's code or a trunk zero before them at most, and not some of
/// the digits of a figure such as 0.25929799812000008. Anything else that is found is what it is.
fn is_apart(text: &[u8], at: Range<usize>) -> bool {
    if !text[at.clone()].iter().all(u8::is_ascii_digit) {
        return true;
    }
    if text.get(at.end).is_some_and(u8::is_ascii_digit) {
        return false;
    }
    let before = &text[..at.start];
    let digits = before.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (before, code) = before.split_at(before.len() - digits);
    let is_fraction = matches!(before, [.., whole, b'.'] if whole.is_ascii_digit());
    !is_fraction && matches!(code, b"" | b"0" | b"91" | b"091" | b"0091")
}

/// Whether it looks like one of `exotel::token`: 63 bytes in base64url, the first of which is its version.
fn is_token(run: &[u8]) -> bool {
    run.len() == TOKEN && run.starts_with(b"AQ")
}

fn is_of_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}
