//! The first record of a file: it names the columns.

use exotel::PhoneNumber;

use super::{
    contact::{MOST_NAME_CHARS, MOST_VARIABLES, is_name},
    records::{Cells, Record},
};

/// The number, the zone, and as many variables as a call may carry.
pub(super) const MOST_COLUMNS: usize = 2 + MOST_VARIABLES;

/// Why a file cannot be read at all: its header. `Display` says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// There is no line in it.
    #[error("the file is empty: its first line names the columns, one of which is number")]
    Empty,
    /// The header is not UTF-8, as in a file that a spreadsheet saved in another encoding.
    #[error("the first line is not UTF-8: save the file as CSV UTF-8")]
    Encoding,
    /// The header is longer than a line may be, or a quote in it is not closed.
    #[error("the first line is no header: it is longer than 64 KiB, or a quote in it is not closed")]
    Unreadable,
    /// There are more columns than a contact can have.
    #[error("the header names more than {MOST_COLUMNS} columns")]
    TooManyColumns,
    /// None of the columns is the number.
    #[error("no column is named number (or phone, or to): the first line names the columns, with commas between them")]
    NoNumber,
    /// The first line is a contact.
    #[error("the first line is a contact and no header: add a line that names the columns, such as number,name")]
    NoHeader,
    /// A column has no name, or one that a variable cannot have.
    #[error("column {0} has no usable name: 1 to {MOST_NAME_CHARS} characters, none of them a control character")]
    BadName(usize),
    /// A column has the name of another one.
    #[error("column {0} has the same name as an earlier column")]
    Duplicate(usize),
}

impl FileError {
    /// The stable word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Empty => "file_empty",
            Self::Encoding => "header_encoding",
            Self::Unreadable => "header_unreadable",
            Self::TooManyColumns => "header_too_many_columns",
            Self::NoNumber => "header_no_number",
            Self::NoHeader => "header_missing",
            Self::BadName(_) => "header_bad_column",
            Self::Duplicate(_) => "header_duplicate_column",
        }
    }
}

/// What a column holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Column {
    Number,
    Zone,
    Variable(String),
}

impl Column {
    /// As it is named in reports.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Number => "number",
            Self::Zone => "zone",
            Self::Variable(name) => name,
        }
    }
}

/// The columns of a header, in their order.
pub(super) fn read(record: Record<'_>) -> Result<Vec<Column>, FileError> {
    let cells = match record {
        Record::Cells(cells) => cells,
        Record::TooManyCells => return Err(FileError::TooManyColumns),
        Record::TooLong | Record::NotClosed => return Err(FileError::Unreadable),
    };
    let names = names(cells)?;
    let mut columns = Vec::with_capacity(names.len());
    for (place, name) in (1..).zip(&names) {
        let column = match name.to_ascii_lowercase().as_str() {
            "number" | "phone" | "to" => Column::Number,
            "zone" => Column::Zone,
            _ if is_name(name) => Column::Variable((*name).to_owned()),
            _ => return Err(FileError::BadName(place)),
        };
        if columns.contains(&column) {
            return Err(FileError::Duplicate(place));
        }
        columns.push(column);
    }
    if columns.contains(&Column::Number) {
        return Ok(columns);
    }
    let data = names.iter().any(|name| PhoneNumber::parse(name).is_ok());
    Err(if data { FileError::NoHeader } else { FileError::NoNumber })
}

fn names(cells: Cells<'_>) -> Result<Vec<&str>, FileError> {
    cells
        .iter()
        .map(|cell| std::str::from_utf8(cell).map(str::trim))
        .collect::<Result<_, _>>()
        .map_err(|_| FileError::Encoding)
}
