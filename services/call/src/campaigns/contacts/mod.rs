//! Reads a file of contacts as it comes, in pieces of any size and in bounded memory: CSV (RFC 4180) in UTF-8, whose first line
//! names the columns. `number` (or `phone`, or `to`) must be there, `zone` may be, every other column is a variable for the
//! agent. A row in error costs itself alone; a header in error costs the file.

mod contact;
pub mod copy;
mod header;
mod lines;
mod records;
pub mod report;

pub use self::{
    contact::{Contact, Fault, MOST_NAME_CHARS, MOST_VALUE_CHARS, MOST_VARIABLE_BYTES, MOST_VARIABLES, Problem},
    header::FileError,
    lines::MOST_BYTES,
};
use self::{
    header::Column,
    lines::Lines,
    records::{Cells, Record, Records},
};

/// A row of the file: a contact, or why it is none.
pub type Row = Result<Contact, Problem>;

/// Reads one file.
#[derive(Debug)]
pub struct Reader {
    lines: Lines,
    rows: Rows,
}

#[derive(Debug)]
struct Rows {
    records: Records,
    /// Known once the first line that is not blank was read.
    columns: Option<Vec<Column>>,
    /// Lines up to this one were read before.
    known: u64,
}

impl Reader {
    /// Reads the file from its beginning, and hands on rows of lines after `known` alone: what [`Reader::decided`] said when the
    /// file was read before, or 0.
    pub fn after(known: u64) -> Self {
        Self {
            lines: Lines::default(),
            rows: Rows {
                records: Records::new(),
                columns: None,
                known,
            },
        }
    }

    /// Reads a piece of the file, and adds the rows that end in it to `rows`: one at most for each of its bytes, and few that began
    /// before.
    ///
    /// # Errors
    /// The header is wrong: the file is of no use, and nothing of it was handed on.
    pub fn push(&mut self, piece: &[u8], rows: &mut Vec<Row>) -> Result<(), FileError> {
        let Self { lines, rows: reader } = self;
        lines.push(piece, |number, line| reader.line(number, line, rows))
    }

    /// The file is over: its last line needs no end.
    ///
    /// # Errors
    /// As [`Reader::push`], and when there was no header.
    pub fn finish(&mut self, rows: &mut Vec<Row>) -> Result<(), FileError> {
        let Self { lines, rows: reader } = self;
        lines.finish(|number, line| reader.line(number, line, rows))?;
        reader.finish(rows)
    }

    /// The names of the columns, once they were read; none of them has a control character.
    pub fn columns(&self) -> Option<Vec<&str>> {
        let columns = self.rows.columns.as_ref()?;
        Some(columns.iter().map(Column::name).collect())
    }

    /// The last line of which, and of all before, nothing is left to be said. Whoever keeps it with the rows so far reads on with
    /// [`Reader::after`].
    pub fn decided(&self) -> u64 {
        self.lines.count() - self.rows.records.waiting()
    }
}

impl Rows {
    fn line(&mut self, number: u64, line: lines::Line<'_>, rows: &mut Vec<Row>) -> Result<(), FileError> {
        if self.columns.is_some() && number <= self.known {
            return Ok(());
        }
        let Self {
            records,
            columns,
            known,
        } = self;
        records.line(number, line, &mut |line, record| {
            record_read(columns, *known, line, record, rows)
        })
    }

    fn finish(&mut self, rows: &mut Vec<Row>) -> Result<(), FileError> {
        let Self {
            records,
            columns,
            known,
        } = self;
        records.finish(&mut |line, record| record_read(columns, *known, line, record, rows))?;
        columns.as_ref().map(|_| ()).ok_or(FileError::Empty)
    }
}

fn record_read(
    columns: &mut Option<Vec<Column>>,
    known: u64,
    line: u64,
    record: Record<'_>,
    rows: &mut Vec<Row>,
) -> Result<(), FileError> {
    if matches!(&record, Record::Cells(cells) if cells.is_blank()) {
        return Ok(());
    }
    match columns {
        None => *columns = Some(header::read(record)?),
        // A header of several lines ends after it began.
        Some(_) if line <= known => {}
        Some(columns) => rows.push(read(columns, line, record)),
    }
    Ok(())
}

fn read(columns: &[Column], line: u64, record: Record<'_>) -> Row {
    let problem = |column: &str, fault| Problem {
        line,
        column: column.to_owned(),
        fault,
    };
    let cells = match record {
        Record::Cells(cells) if cells.len() == columns.len() => cells,
        Record::Cells(_) | Record::TooManyCells => return Err(problem("", Fault::CellCount)),
        Record::TooLong => return Err(problem("", Fault::LineTooLong)),
        Record::NotClosed => return Err(problem("", Fault::QuoteNotClosed)),
    };
    let texts = texts(columns, cells).map_err(|column| problem(column, Fault::Encoding))?;
    let of = |wanted: &Column| {
        columns
            .iter()
            .position(|column| column == wanted)
            .map_or("", |place| texts[place])
    };
    let variables = columns.iter().zip(&texts).filter_map(|(column, text)| match column {
        Column::Variable(name) => Some((name.as_str(), *text)),
        Column::Number | Column::Zone => None,
    });
    Contact::read(line, of(&Column::Number), of(&Column::Zone), variables)
}

/// The cells as texts, or the column that is none.
fn texts<'a, 'b>(columns: &'b [Column], cells: Cells<'a>) -> Result<Vec<&'a str>, &'b str> {
    columns
        .iter()
        .zip(cells.iter())
        .map(|(column, cell)| std::str::from_utf8(cell).map_err(|_| column.name()))
        .collect()
}

#[cfg(test)]
mod tests;
