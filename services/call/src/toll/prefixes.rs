//! Which numbers may be dialled, by how they begin. Decides and does no IO.

use std::fmt;

use exotel::{
    PhoneNumber,
    number::{names_range, opens_extra},
};

/// Prefixes of one list.
const MOST: usize = 64;
/// Digits of one prefix (ITU-T E.164 §6: a number has 15).
const LONGEST: usize = 15;

/// Why a list cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Not a plus and digits.
    #[error("entry {0} is not a plus and up to 15 digits, such as +91 or +911860")]
    Form(usize),
    /// Too many.
    #[error("has more than 64 prefixes")]
    TooMany,
    /// None at all.
    #[error("has no prefix: nothing could be dialled")]
    Empty,
}

/// Why a number may not be dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// No prefix of the list is its beginning.
    NotListed,
    /// It is one that costs extra, and no prefix names its range.
    CostsExtra,
}

/// A list of prefixes in E.164. `+` alone is every country.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefixes(Vec<String>);

impl Prefixes {
    /// Reads `+91,+971`.
    ///
    /// # Errors
    /// [`PrefixError`].
    pub fn parse(text: &str) -> Result<Self, PrefixError> {
        Self::of(text.split(',').map(str::trim).filter(|entry| !entry.is_empty()))
    }

    /// Nothing may be dialled.
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// The same, one by one.
    ///
    /// # Errors
    /// [`PrefixError`].
    pub fn of<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, PrefixError> {
        let mut list = Vec::new();
        for (at, entry) in entries.into_iter().enumerate() {
            if at == MOST {
                return Err(PrefixError::TooMany);
            }
            let digits = entry.strip_prefix('+').ok_or(PrefixError::Form(at + 1))?;
            if digits.len() > LONGEST || digits.starts_with('0') || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(PrefixError::Form(at + 1));
            }
            list.push(entry.to_owned());
        }
        if list.is_empty() {
            return Err(PrefixError::Empty);
        }
        Ok(Self(list))
    }

    /// Whether the number may be dialled. One that costs extra needs a prefix that names its range: `+911860` rather than `+91`.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn allow(&self, number: &PhoneNumber) -> Result<(), Refused> {
        let mut listed = self
            .0
            .iter()
            .filter(|prefix| number.expose().starts_with(prefix.as_str()))
            .peekable();
        if listed.peek().is_none() {
            return Err(Refused::NotListed);
        }
        if number.costs_extra() && !listed.any(|prefix| names_range(prefix)) {
            return Err(Refused::CostsExtra);
        }
        Ok(())
    }

    /// Whether everything that this list allows `other` allows too: a country does not open its numbers that cost extra, so it does not
    /// cover a range of these.
    pub fn is_within(&self, other: &Self) -> bool {
        let covers =
            |wider: &str, prefix: &str| prefix.starts_with(wider) && (names_range(wider) || !opens_extra(prefix));
        self.0
            .iter()
            .all(|prefix| other.0.iter().any(|wider| covers(wider, prefix)))
    }

    /// The prefixes.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl fmt::Display for Prefixes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn allowed(list: &str, number: &str) -> Result<(), Refused> {
        Prefixes::parse(list)
            .unwrap()
            .allow(&PhoneNumber::parse(number).unwrap())
    }

    /// F126: India and nothing else, and of India nothing that costs extra.
    #[test]
    fn the_default_is_india_without_what_costs_extra() {
        for fine in [
            "09812345678",
            "+91 22 2345 6789",
            "08060000522",
            "18001234567",
            "1401234567",
            "1600123456",
        ] {
            assert_eq!(allowed("+91", fine), Ok(()), "{fine}");
        }
        assert_eq!(allowed("+91", "18601234567"), Err(Refused::CostsExtra));
        for foreign in [
            "+12125550123",
            "+442079460123",
            "+97143123456",
            "+881612345678",
            "+8801712345678",
            "+9607712345",
            "+92 301 2345678",
        ] {
            assert_eq!(allowed("+91", foreign), Err(Refused::NotListed), "{foreign}");
        }
    }

    #[test]
    fn what_costs_extra_is_named() {
        assert_eq!(allowed("+91,+911860", "18601234567"), Ok(()));
        assert_eq!(allowed("+911860", "09812345678"), Err(Refused::NotListed));
        // Premium rate and personal numbers of Britain; a satellite's.
        for extra in ["+449098790123", "+447012345678", "+881612345678"] {
            assert_eq!(allowed("+", extra), Err(Refused::CostsExtra), "{extra}");
        }
        assert_eq!(allowed("+,+44909", "+449098790123"), Ok(()));
        assert_eq!(allowed("+,+44", "+449098790123"), Err(Refused::CostsExtra));
        assert_eq!(allowed("+881", "+881612345678"), Ok(()));
        assert_eq!(allowed("+", "+442079460123"), Ok(()));
    }

    #[test]
    fn a_list_is_prefixes() {
        assert_eq!(Prefixes::parse("").unwrap_err(), PrefixError::Empty);
        assert_eq!(Prefixes::parse("+91,91").unwrap_err(), PrefixError::Form(2));
        for wrong in ["91", "+9 1", "+0", "+९१", "++91", "+9112345678901234", "all", "*"] {
            assert_eq!(Prefixes::parse(wrong).unwrap_err(), PrefixError::Form(1), "{wrong}");
        }
        let many = vec!["+91"; MOST + 1].join(",");
        assert_eq!(Prefixes::parse(&many).unwrap_err(), PrefixError::TooMany);
        assert_eq!(Prefixes::parse(" +91, +971 ").unwrap().to_string(), "+91,+971");
    }

    /// F126: a key for a country makes no key for the country's numbers that cost extra.
    #[test]
    fn a_country_does_not_cover_what_must_be_named() {
        let within = |narrow: &str, wide: &str| {
            Prefixes::parse(narrow)
                .unwrap()
                .is_within(&Prefixes::parse(wide).unwrap())
        };
        assert!(within("+91,+9198", "+91,+911860") == within("+9198", "+91"));
        for (narrow, wide) in [
            ("+911860", "+91"),
            ("+44909", "+"),
            ("+881", "+"),
            ("+91,+911860", "+91"),
        ] {
            assert!(!within(narrow, wide), "{narrow} in {wide}");
        }
        for (narrow, wide) in [
            ("+91", "+"),
            ("+91", "+91"),
            ("+9118601", "+911860"),
            ("+8816", "+881"),
            ("+919812", "+91"),
            ("+971501", "+971"),
        ] {
            assert!(within(narrow, wide), "{narrow} in {wide}");
        }
    }

    proptest! {
        /// A list within another one never allows more.
        #[test]
        fn within_is_never_more(
            narrow in prop::collection::vec("\\+91?(1860?)?[0-9]{0,4}", 1..4),
            wide in prop::collection::vec("\\+(91(1(86?)?)?)?[0-9]{0,2}", 1..4),
            number in "[6-9][0-9]{9}|1860[0-9]{7}",
        ) {
            let list = |list: &[String]| Prefixes::of(list.iter().map(String::as_str));
            let (Ok(narrow), Ok(wide)) = (list(&narrow), list(&wide)) else { return Ok(()) };
            let number = PhoneNumber::parse(&number).unwrap();
            if narrow.is_within(&wide) && narrow.allow(&number).is_ok() {
                prop_assert_eq!(wide.allow(&number), Ok(()));
            }
        }
    }
}
