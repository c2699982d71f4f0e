//! Records of a CSV file (RFC 4180), made of its lines: a quoted cell may go on over a few of them. A quote that is never closed
//! costs its own line, not those that follow.

use csv_core::{ReadRecordResult, Reader};

use super::{
    header::MOST_COLUMNS,
    lines::{Line, MOST_BYTES},
};

/// Lines of one record: an address has a few, a quote that was forgotten would take all there are.
const MOST_LINES: usize = 32;

/// What one line is, or a few.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record<'a> {
    Cells(Cells<'a>),
    TooLong,
    TooManyCells,
    /// The quote that is opened on the line has no end.
    NotClosed,
}

/// The cells of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cells<'a> {
    bytes: &'a [u8],
    ends: &'a [usize],
}

impl<'a> Cells<'a> {
    pub(super) fn len(self) -> usize {
        self.ends.len()
    }

    pub(super) fn iter(self) -> impl Iterator<Item = &'a [u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(self.ends).map(move |(start, end)| &self.bytes[start..*end])
    }

    /// Nothing but spaces and commas: spreadsheets leave such lines behind.
    pub(super) fn is_blank(self) -> bool {
        self.bytes.iter().all(u8::is_ascii_whitespace)
    }
}

#[derive(Debug)]
pub(super) struct Records {
    csv: Reader,
    /// Lines of a record whose last quote is open, each with an LF; where each ends; and how many `csv` was given.
    open: Vec<u8>,
    ends_of_lines: Vec<usize>,
    fed: usize,
    /// The line on which they begin.
    first: u64,
    /// The record so far, as `csv` writes it. Cells beyond what there is room for are counted alone.
    bytes: Vec<u8>,
    written: usize,
    ends: Vec<usize>,
    cells: usize,
}

/// How far a record has come with a line.
enum Parsed {
    /// It has so many cells and bytes.
    Whole { cells: usize, bytes: usize },
    /// A quote is open.
    Open,
    /// It is longer than the limit.
    Full,
    /// There was nothing on the line.
    Empty,
}

impl Records {
    pub(super) fn new() -> Self {
        Self {
            csv: Reader::new(),
            open: Vec::new(),
            ends_of_lines: Vec::new(),
            fed: 0,
            first: 0,
            bytes: vec![0; MOST_BYTES + 1],
            written: 0,
            ends: vec![0; MOST_COLUMNS + 1],
            cells: 0,
        }
    }

    /// Takes the next line, and hands on the records that it decides.
    pub(super) fn line<E>(
        &mut self,
        number: u64,
        line: Line<'_>,
        each: &mut impl FnMut(u64, Record<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(line) = line else {
            self.finish(each)?;
            return each(number, Record::TooLong);
        };
        if self.ends_of_lines.is_empty() {
            match self.feed(line) {
                Parsed::Open => {
                    self.first = number;
                    self.fed = 1;
                }
                parsed => return self.hand_on(number, &parsed, each),
            }
        }
        self.open.extend_from_slice(line);
        self.open.push(b'\n');
        self.ends_of_lines.push(self.open.len());
        self.settle(false, each)
    }

    /// No more lines come: what is open stays so.
    pub(super) fn finish<E>(&mut self, each: &mut impl FnMut(u64, Record<'_>) -> Result<(), E>) -> Result<(), E> {
        self.settle(true, each)
    }

    /// Lines that wait for the end of a quote.
    pub(super) fn waiting(&self) -> u64 {
        self.ends_of_lines.len() as u64
    }

    /// Decides what can be decided of the open lines; all of them, if no more come.
    fn settle<E>(&mut self, no_more: bool, each: &mut impl FnMut(u64, Record<'_>) -> Result<(), E>) -> Result<(), E> {
        while !self.ends_of_lines.is_empty() {
            let mut parsed = Parsed::Open;
            while matches!(parsed, Parsed::Open) && self.fed < self.ends_of_lines.len() {
                let start = self.fed.checked_sub(1).map_or(0, |before| self.ends_of_lines[before]);
                let open = std::mem::take(&mut self.open);
                parsed = self.feed(&open[start..self.ends_of_lines[self.fed] - 1]);
                self.open = open;
                self.fed += 1;
            }
            let first = self.first;
            match parsed {
                Parsed::Open if !no_more && self.ends_of_lines.len() < MOST_LINES => return Ok(()),
                // Whatever follows the line with the quote may be sound.
                Parsed::Open | Parsed::Full => {
                    self.drop_lines(1);
                    self.restart();
                    each(first, Record::NotClosed)?;
                }
                Parsed::Whole { .. } | Parsed::Empty => {
                    self.drop_lines(self.fed);
                    self.hand_on(first, &parsed, each)?;
                }
            }
        }
        Ok(())
    }

    fn drop_lines(&mut self, lines: usize) {
        let bytes = self.ends_of_lines[lines - 1];
        self.open.drain(..bytes);
        self.ends_of_lines.drain(..lines);
        self.ends_of_lines.iter_mut().for_each(|end| *end -= bytes);
        self.first += lines as u64;
        self.fed = 0;
    }

    fn restart(&mut self) {
        self.csv.reset();
        (self.written, self.cells) = (0, 0);
    }

    fn hand_on<E>(
        &self,
        first: u64,
        parsed: &Parsed,
        each: &mut impl FnMut(u64, Record<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        match *parsed {
            Parsed::Whole { cells, .. } if cells > MOST_COLUMNS => each(first, Record::TooManyCells),
            Parsed::Whole { cells, bytes } => {
                let (bytes, ends) = (&self.bytes[..bytes], &self.ends[..cells]);
                each(first, Record::Cells(Cells { bytes, ends }))
            }
            Parsed::Open | Parsed::Full => each(first, Record::NotClosed),
            Parsed::Empty => Ok(()),
        }
    }

    /// Gives `csv` a line, and its end.
    fn feed(&mut self, line: &[u8]) -> Parsed {
        for mut input in [line, b"\n"] {
            loop {
                let room = self.cells.min(MOST_COLUMNS);
                let (result, read, written, ended) =
                    self.csv
                        .read_record(input, &mut self.bytes[self.written..], &mut self.ends[room..]);
                input = &input[read..];
                self.written += written;
                self.cells += ended;
                match result {
                    ReadRecordResult::Record => {
                        let (cells, bytes) = (self.cells, self.written);
                        (self.written, self.cells) = (0, 0);
                        return Parsed::Whole { cells, bytes };
                    }
                    ReadRecordResult::InputEmpty => break,
                    ReadRecordResult::OutputEndsFull => {}
                    ReadRecordResult::OutputFull => return Parsed::Full,
                    ReadRecordResult::End => return Parsed::Empty,
                }
            }
        }
        if line.is_empty() && self.written == 0 && self.cells == 0 && self.open.is_empty() {
            Parsed::Empty
        } else {
            Parsed::Open
        }
    }
}
