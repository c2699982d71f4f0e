//! Values that must be told nowhere.

use std::{collections::HashMap, ops::Range};

/// Characters of a token.
const TOKEN: usize = 84;
/// By so many first bytes a value is found; none is shorter.
pub(super) const SHORTEST: usize = 8;

/// Values to look for, all at once.
#[derive(Debug, Default)]
pub(super) struct Canaries {
    /// What begins so, and what it is. Stories plant all the time, so there is nothing here that would be built again.
    planted: HashMap<[u8; SHORTEST], Vec<Canary>>,
    /// The first two bytes of all of them, since few texts have any.
    begins: Begins,
    count: usize,
}

#[derive(Debug)]
struct Canary {
    value: Vec<u8>,
    what: &'static str,
}

/// Pairs of bytes.
#[derive(Debug)]
struct Begins(Box<[bool]>);

impl Default for Begins {
    fn default() -> Self {
        Self(vec![false; 1 << 16].into())
    }
}

impl Begins {
    fn at(&mut self, first: u8, second: u8) -> &mut bool {
        &mut self.0[usize::from(u16::from_be_bytes([first, second]))]
    }
}

impl Canaries {
    /// One more. What is too short is not looked for.
    pub(super) fn plant(&mut self, what: &'static str, value: &[u8]) {
        let Some(begin) = value.first_chunk::<SHORTEST>() else {
            return;
        };
        let same = self.planted.entry(*begin).or_default();
        if same.iter().all(|canary| canary.value != value) {
            *self.begins.at(begin[0], begin[1]) = true;
            self.count += 1;
            same.push(Canary {
                value: value.to_vec(),
                what,
            });
        }
    }

    /// How many there are.
    pub(super) fn planted(&self) -> usize {
        self.count
    }

    /// What is in this text, if any is: tokens, whether they were planted or not, and what was planted.
    pub(super) fn within(&mut self, text: &[u8]) -> Option<&'static str> {
        if text.split(|byte| !is_of_token(*byte)).any(is_token) {
            return Some("a token");
        }
        (0..text.len().saturating_sub(SHORTEST - 1)).find_map(|at| {
            if !*self.begins.at(text[at], text[at + 1]) {
                return None;
            }
            let begin = text[at..].first_chunk::<SHORTEST>()?;
            let canaries = self.planted.get(begin)?.iter();
            let mut found = canaries
                .filter(|canary| text[at..].starts_with(&canary.value) && is_apart(text, at..at + canary.value.len()));
            found.next().map(|canary| canary.what)
        })
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
