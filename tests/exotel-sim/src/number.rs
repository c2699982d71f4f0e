//! Phone numbers as the platform reads and prints them.

use std::fmt;

/// A number in one canonical form, so that every spelling of it is equal.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Number(String);

impl Number {
    /// Reads `0XXXXXXXXXX`, ten digits, `91…`, `+91…` and international numbers. `+0…` is not a number.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text: String = text.chars().filter(|c| !matches!(c, ' ' | '-' | '(' | ')')).collect();
        let (plus, digits) = match text.strip_prefix('+') {
            Some(rest) => (true, rest),
            None => (false, text.as_str()),
        };
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let full = if plus {
            if digits.starts_with('0') {
                return None;
            }
            digits.to_owned()
        } else if let Some(international) = digits.strip_prefix("00") {
            international.to_owned()
        } else if let Some(national) = digits.strip_prefix('0') {
            if national.len() != 10 {
                return None;
            }
            format!("91{national}")
        } else if digits.len() == 10 {
            format!("91{digits}")
        } else {
            digits.to_owned()
        };
        let right_length = if full.starts_with("91") {
            full.len() == 12
        } else {
            (8..=15).contains(&full.len())
        };
        (right_length && !full.starts_with('0')).then_some(Self(full))
    }

    /// `0` and ten digits for India, `+…` for the rest of the world: the form of applets, `start` and REST answers.
    pub(crate) fn national(&self) -> String {
        match self.0.strip_prefix("91") {
            Some(national) => format!("0{national}"),
            None => self.e164(),
        }
    }

    /// `+` and the digits.
    pub(crate) fn e164(&self) -> String {
        format!("+{}", self.0)
    }
}

impl fmt::Debug for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Number(..)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Number;

    #[test]
    fn spellings_of_one_number_are_equal() {
        for text in [
            "09812345678",
            "9812345678",
            "+919812345678",
            "919812345678",
            "+91 98123-45678",
            "00919812345678",
        ] {
            let number = Number::parse(text).expect(text);
            assert_eq!(number.national(), "09812345678", "{text}");
            assert_eq!(number.e164(), "+919812345678", "{text}");
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in [
            "",
            "+",
            "+09812345678",
            "12345",
            "098123456",
            "sip:x@y",
            "+9198123456789",
            "anonymous",
        ] {
            assert!(Number::parse(text).is_none(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn its_own_forms_parse_back(digits in "[1-9][0-9]{9}") {
            let number = Number::parse(&digits).expect("ten digits");
            prop_assert_eq!(Number::parse(&number.national()), Some(number.clone()));
            prop_assert_eq!(Number::parse(&number.e164()), Some(number.clone()));
        }

        #[test]
        fn never_panics(text in ".*") {
            let _ = Number::parse(&text);
        }
    }
}
