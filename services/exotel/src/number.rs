//! Phone numbers: E.164 inside, whatever Exotel and people write outside.
//!
//! Exotel prints the same number as `0XXXXXXXXXX`, `+91…`, `91…`, ten digits and even `+0…`, so numbers are compared
//! only after [`PhoneNumber::parse`]. A number without a country code is Indian.

use std::{fmt, ops::RangeInclusive};

/// Longest text looked at: a SIP URI with a display name fits, a pasted page does not.
const MAX_TEXT: usize = 128;

/// ITU-T E.164 §6: at most 15 digits; no plan has numbers shorter than seven with the country code that anybody could be called at.
const DIGITS: RangeInclusive<usize> = 7..=15;

/// Why a text is not a phone number. Never contains the text itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NumberError {
    /// No digits at all: empty, or a word such as `anonymous`.
    #[error("no phone number given: write it as +919812345678 or 09812345678")]
    Empty,
    /// Something other than digits, a leading plus and separators.
    #[error("phone number has characters that do not belong: write it as +919812345678 or 09812345678")]
    Characters,
    /// Too many or too few digits for an Indian number, or longer than E.164 allows.
    #[error("phone number has a wrong number of digits: write it as +919812345678 or 09812345678")]
    Length,
    /// No such number in its country's plan.
    #[error("phone number does not exist in its country's numbering plan: check the country code")]
    Plan,
}

/// A phone number in E.164. `Debug` and `Display` are redacted; [`PhoneNumber::expose`] is the full form.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PhoneNumber {
    e164: String,
    country_code: u16,
}

impl PhoneNumber {
    /// Reads a number in any form Exotel or a person writes.
    ///
    /// Takes `0XXXXXXXXXX`, `+91…`, `91…`, ten digits, `+0…`, `00…`, separators, landlines with their STD code,
    /// toll-free and 140/160 series, `tel:` and `sip:…@…`. Parsing [`PhoneNumber::expose`] gives the same number.
    pub fn parse(text: &str) -> Result<Self, NumberError> {
        if text.len() > MAX_TEXT {
            return Err(NumberError::Length);
        }
        let (plus, digits) = compact(user_part(text))?;
        let digits = digits.as_str();
        match (plus, digits.strip_prefix('0')) {
            (_, Some(rest)) if rest.starts_with('0') => Self::international(rest.trim_start_matches('0')),
            // "+0…" is a known mistake: a national number that was given a plus.
            (_, Some(rest)) if is_indian(rest) => Ok(Self::indian(rest)),
            (_, Some(rest)) => match rest.strip_prefix("91") {
                Some(nsn) if is_indian(nsn) => Ok(Self::indian(nsn)),
                _ => Err(NumberError::Length),
            },
            (true, None) => Self::international(digits),
            (false, None) if is_indian(digits) => Ok(Self::indian(digits)),
            (false, None) => match digits.strip_prefix("91") {
                Some(nsn) if is_indian(nsn) => Ok(Self::indian(nsn)),
                _ => Err(NumberError::Length),
            },
        }
    }

    fn indian(nsn: &str) -> Self {
        Self {
            e164: format!("+91{nsn}"),
            country_code: 91,
        }
    }

    fn international(digits: &str) -> Result<Self, NumberError> {
        if let Some(rest) = digits.strip_prefix("91") {
            // "+91 0 98…": the trunk zero kept by mistake.
            let nsn = rest.strip_prefix('0').unwrap_or(rest);
            return if is_indian(nsn) {
                Ok(Self::indian(nsn))
            } else {
                Err(NumberError::Length)
            };
        }
        if !DIGITS.contains(&digits.len()) {
            return Err(NumberError::Length);
        }
        let plan = |text: &str| -> Option<(String, u16)> {
            let number = phonenumber::parse(None, text).ok().filter(phonenumber::is_valid)?;
            let e164 = number.format().mode(phonenumber::Mode::E164).to_string();
            Some((e164, number.country().code()))
        };
        let (e164, country_code) = plan(&format!("+{digits}")).ok_or(NumberError::Plan)?;
        let well_formed = e164
            .strip_prefix('+')
            .is_some_and(|rest| DIGITS.contains(&rest.len()) && rest.bytes().all(|b| b.is_ascii_digit()));
        // Zeros that a plan drops can leave what is no number of it: only what is read again as itself is one.
        let is_itself = || plan(&e164).is_some_and(|(again, _)| again == e164);
        if !well_formed || !is_itself() {
            return Err(NumberError::Plan);
        }
        Ok(Self { e164, country_code })
    }

    /// The full number in E.164, such as `+919812345678`. Never for logs.
    pub fn expose(&self) -> &str {
        &self.e164
    }

    /// The form Exotel's classic India API uses: `09812345678`, toll-free numbers without the zero; E.164 elsewhere.
    pub fn national(&self) -> String {
        match self.e164.strip_prefix("+91") {
            Some(nsn) if is_toll_free(nsn) => nsn.to_owned(),
            Some(nsn) if self.country_code == 91 => format!("0{nsn}"),
            _ => self.e164.clone(),
        }
    }

    /// Whether a call to it can cost much more than one to a person: premium-rate, shared-cost (1860) and personal numbers by
    /// libphonenumber's plan, and networks that are in no country, such as those of satellites (ITU-T E.164, annex A).
    pub fn costs_extra(&self) -> bool {
        if self.is_global_network() {
            return true;
        }
        let kind =
            phonenumber::parse(None, &self.e164).map(|number| number.number_type(&phonenumber::metadata::DATABASE));
        matches!(
            kind,
            Ok(phonenumber::Type::PremiumRate | phonenumber::Type::SharedCost | phonenumber::Type::PersonalNumber)
        )
    }

    /// Inmarsat, personal numbering, satellite and international networks, and international premium rate.
    pub fn is_global_network(&self) -> bool {
        is_global_network(self.country_code)
    }

    /// The country calling code, such as 91.
    pub fn country_code(&self) -> u16 {
        self.country_code
    }

    /// The last four digits, which people may see.
    pub fn last4(&self) -> &str {
        &self.e164[self.e164.len() - 4..]
    }
}

fn is_global_network(country_code: u16) -> bool {
    matches!(country_code, 870 | 878 | 881 | 882 | 883 | 979)
}

/// Whether a prefix in E.164, such as `+911860`, names a range of numbers: three digits after the country's code, or the code of a
/// network that is in no country. `+91` is a whole country, and names none.
pub fn names_range(prefix: &str) -> bool {
    const NAMED: usize = 3;
    let digits = prefix.trim_start_matches('+');
    // No code is the beginning of another one (ITU-T E.164 §6).
    let code = (1..=3)
        .filter_map(|length| digits.get(..length)?.parse::<u16>().ok())
        .find(|code| phonenumber::metadata::DATABASE.by_code(code).is_some());
    code.is_some_and(|code| is_global_network(code) || digits.len() >= code.to_string().len() + NAMED)
}

/// Whether a prefix that [`names_range`] opens numbers that cost extra, by trying numbers that begin with it.
pub fn opens_extra(prefix: &str) -> bool {
    let tried = |length: usize, first: u32| {
        let rest = (first..).map(|digit| char::from_digit(digit % 10, 10).unwrap_or('0'));
        let number: String = prefix.chars().chain(rest).take(1 + length).collect();
        PhoneNumber::parse(&number).is_ok_and(|number| number.expose().starts_with(prefix) && number.costs_extra())
    };
    names_range(prefix) && (7..=15).any(|length| (0..10).any(|first| tried(length, first)))
}

impl fmt::Display for PhoneNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "+{}******{}", self.country_code, self.last4())
    }
}

impl fmt::Debug for PhoneNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whoever Exotel says is at one end of a call: callers may be anonymous, and text may be unreadable.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Caller {
    /// The number, where the text is one.
    pub number: Option<PhoneNumber>,
    /// The text as it came. Never for logs.
    pub raw: String,
}

impl Caller {
    /// Keeps the text and reads the number in it, if there is one.
    pub fn read(raw: &str) -> Self {
        Self {
            number: PhoneNumber::parse(raw).ok(),
            raw: raw.to_owned(),
        }
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.number {
            Some(number) => write!(f, "Caller({number})"),
            None if self.raw.is_empty() => f.write_str("Caller(none)"),
            None => f.write_str("Caller(unreadable)"),
        }
    }
}

impl From<PhoneNumber> for Caller {
    fn from(number: PhoneNumber) -> Self {
        Self {
            raw: number.e164.clone(),
            number: Some(number),
        }
    }
}

/// Cuts `"Name" <sip:user@host;params>` and `tel:` down to the part that holds the number.
fn user_part(text: &str) -> &str {
    let mut part = text.trim();
    if let Some((_, rest)) = part.split_once('<') {
        part = rest.split('>').next().unwrap_or(rest).trim();
    }
    for scheme in ["sips:", "sip:", "tel:"] {
        if part
            .get(..scheme.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(scheme))
        {
            let user = &part[scheme.len()..];
            return user.split(['@', ';']).next().unwrap_or(user);
        }
    }
    part
}

/// Drops separators; the flag tells whether a plus came first.
fn compact(text: &str) -> Result<(bool, String), NumberError> {
    let mut plus = false;
    let mut digits = String::with_capacity(16);
    for c in text.chars() {
        match c {
            '0'..='9' => digits.push(c),
            '+' if !plus && digits.is_empty() => plus = true,
            c if is_separator(c) => {}
            _ => return Err(NumberError::Characters),
        }
    }
    if digits.is_empty() {
        Err(NumberError::Empty)
    } else {
        Ok((plus, digits))
    }
}

fn is_separator(c: char) -> bool {
    let dash = matches!(c, '-' | '.' | '(' | ')' | '/' | '\u{2010}'..='\u{2015}');
    // Direction marks come along when a number is copied from a contact list.
    let mark = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    dash || mark || c.is_whitespace()
}

/// Whether these digits can be an Indian national number: ten digits (mobile, landline with STD code, 140 and 160
/// series), or eleven for toll-free ones. Ranges are not checked further: new series open faster than plans are published.
fn is_indian(nsn: &str) -> bool {
    match nsn.len() {
        10 => !nsn.starts_with('0'),
        11 => is_toll_free(nsn),
        _ => false,
    }
}

fn is_toll_free(nsn: &str) -> bool {
    nsn.starts_with("1800") || nsn.starts_with("1860")
}

#[cfg(test)]
mod tests;
