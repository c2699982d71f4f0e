//! One contact, checked: whoever sends it, as a row of a file or as a message.

use chrono_tz::Tz;
use exotel::{PhoneNumber, number::NumberError};
use serde::Serializer as _;

/// Variables of a contact; as many as a call has entries of metadata.
pub const MOST_VARIABLES: usize = 32;
/// Characters of a variable's name.
pub const MOST_NAME_CHARS: usize = 64;
/// Characters of its value.
pub const MOST_VALUE_CHARS: usize = 1_024;
/// Bytes of all names and values of a contact.
pub const MOST_VARIABLE_BYTES: usize = 8 * 1_024;

/// Whom to call, and what the agent is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// Its line in the file, from 1; its place, where it came as a message.
    pub line: u64,
    /// Normalised.
    pub number: PhoneNumber,
    /// Where the person's wall clock is; the campaign's zone if none.
    pub zone: Option<Tz>,
    /// A JSON object of texts. Nothing of it is for logs.
    pub variables: String,
}

/// What is wrong with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// Longer than 64 KiB.
    LineTooLong,
    /// A quote is opened and not closed within 32 lines and 64 KiB.
    QuoteNotClosed,
    /// More or fewer cells than the header.
    CellCount,
    /// Not UTF-8.
    Encoding,
    /// No number.
    NumberMissing,
    /// The number has letters or signs.
    NumberCharacters,
    /// The number has too many or too few digits.
    NumberLength,
    /// No such number in its country's plan.
    NumberPlan,
    /// The number is none that may be called (F126).
    NumberNotAllowed,
    /// No IANA zone.
    ZoneUnknown,
    /// A name or a value is too long or has a NUL, or they are too many.
    Variable,
}

impl Fault {
    /// Every one.
    pub const ALL: [Self; 11] = [
        Self::LineTooLong,
        Self::QuoteNotClosed,
        Self::CellCount,
        Self::Encoding,
        Self::NumberMissing,
        Self::NumberCharacters,
        Self::NumberLength,
        Self::NumberPlan,
        Self::NumberNotAllowed,
        Self::ZoneUnknown,
        Self::Variable,
    ];

    /// The stable word in reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::LineTooLong => "line_too_long",
            Self::QuoteNotClosed => "quote_not_closed",
            Self::CellCount => "cell_count",
            Self::Encoding => "encoding",
            Self::NumberMissing => "number_missing",
            Self::NumberCharacters => "number_characters",
            Self::NumberLength => "number_length",
            Self::NumberPlan => "number_plan",
            Self::NumberNotAllowed => "number_not_allowed",
            Self::ZoneUnknown => "zone_unknown",
            Self::Variable => "variable",
        }
    }

    /// What was expected, for people.
    pub fn expected(self) -> &'static str {
        match self {
            Self::LineTooLong => "a line of at most 64 KiB",
            Self::QuoteNotClosed => "the second quote of a cell, at most 32 lines and 64 KiB after the first",
            Self::CellCount => "as many cells as the header has",
            Self::Encoding => "text in UTF-8",
            Self::NumberMissing => "a phone number, such as +919812345678 or 09812345678",
            Self::NumberCharacters => "a phone number of digits, such as +919812345678 or 09812345678",
            Self::NumberLength => "a phone number with the digits that its country's numbers have",
            Self::NumberPlan => "a phone number of its country's numbering plan",
            Self::NumberNotAllowed => {
                "a number that DIAL_ALLOWED_PREFIXES, and the dial_prefixes of the key that sends it, allow"
            }
            Self::ZoneUnknown => "an IANA name such as Asia/Kolkata",
            Self::Variable => {
                "at most 32 variables, with names of 1 to 64 and values of at most 1,024 characters, without NUL, 8 KiB in all"
            }
        }
    }
}

/// A row that cannot be used. Has nothing of what is in it but the column's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// As [`Contact::line`]; the first one of the row.
    pub line: u64,
    /// The column; empty where it is the row as a whole.
    pub column: String,
    /// What is wrong.
    pub fault: Fault,
}

impl Contact {
    /// Checks what a contact is made of. Variables without a value are left out.
    ///
    /// # Errors
    /// The first thing that is wrong, with its column.
    pub fn read<'a>(
        line: u64,
        number: &str,
        zone: &str,
        variables: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, Problem> {
        let problem = |column: &str, fault| Problem {
            line,
            column: column.to_owned(),
            fault,
        };
        let number = PhoneNumber::parse(number).map_err(|error| problem("number", error.into()))?;
        let zone = match zone.trim() {
            "" => None,
            name => Some(name.parse().map_err(|_| problem("zone", Fault::ZoneUnknown))?),
        };
        let variables: Vec<_> = variables.filter(|(_, value)| !value.is_empty()).collect();
        let mut bytes = 0;
        for (place, (name, value)) in variables.iter().enumerate() {
            bytes += name.len() + value.len();
            let fits = (1..=MOST_NAME_CHARS).contains(&name.chars().count())
                && (value.len() <= MOST_VALUE_CHARS || value.chars().count() <= MOST_VALUE_CHARS)
                && !name.contains('\0')
                && !value.contains('\0');
            if !fits || place >= MOST_VARIABLES || bytes > MOST_VARIABLE_BYTES {
                // What cannot be a name is no name of a column either: it may be long, or unfit for a report.
                let column = if is_name(name) { name } else { "variables" };
                return Err(problem(column, Fault::Variable));
            }
        }
        // Texts always have a JSON form.
        let variables = json(&variables).map_err(|_| problem("", Fault::Variable))?;
        Ok(Self {
            line,
            number,
            zone,
            variables,
        })
    }
}

/// Whether a column or a variable can have this name.
pub(super) fn is_name(name: &str) -> bool {
    (1..=MOST_NAME_CHARS).contains(&name.chars().count()) && !name.chars().any(char::is_control)
}

impl From<NumberError> for Fault {
    fn from(error: NumberError) -> Self {
        match error {
            NumberError::Empty => Self::NumberMissing,
            NumberError::Characters => Self::NumberCharacters,
            NumberError::Length => Self::NumberLength,
            NumberError::Plan => Self::NumberPlan,
        }
    }
}

fn json(variables: &[(&str, &str)]) -> serde_json::Result<String> {
    let mut object = Vec::new();
    serde_json::Serializer::new(&mut object).collect_map(variables.iter().copied())?;
    String::from_utf8(object).map_err(serde::ser::Error::custom)
}
