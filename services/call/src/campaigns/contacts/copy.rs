//! Rows of PostgreSQL's `COPY … FROM STDIN` in text format: tabs between columns, a line end after each row, backslashes before
//! what would be either.

use std::fmt::Write as _;

use super::Contact;

/// Writes rows of one table.
#[derive(Debug, Default)]
pub struct Rows {
    text: String,
    begun: bool,
}

impl Rows {
    /// A column.
    pub fn text(&mut self, value: &str) -> &mut Self {
        self.next();
        let mut rest = value;
        while let Some(at) = rest.find(['\\', '\t', '\n', '\r']) {
            let (clean, special) = rest.split_at(at);
            self.text.push_str(clean);
            self.text.push_str(match special.as_bytes()[0] {
                b'\t' => "\\t",
                b'\n' => "\\n",
                b'\r' => "\\r",
                _ => "\\\\",
            });
            rest = &special[1..];
        }
        self.text.push_str(rest);
        self
    }

    /// A column whose text needs no backslashes: a number, an id, a time.
    pub fn plain(&mut self, value: impl std::fmt::Display) -> &mut Self {
        self.next();
        let _ = write!(self.text, "{value}");
        self
    }

    /// A column, or NULL.
    pub fn optional(&mut self, value: Option<&str>) -> &mut Self {
        match value {
            Some(value) => self.text(value),
            None => self.plain("\\N"),
        }
    }

    /// Ends the row.
    pub fn end(&mut self) {
        self.text.push('\n');
        self.begun = false;
    }

    /// The columns of a contact: line, number, zone, variables. More may be added before the row ends.
    pub fn contact(&mut self, contact: &Contact) -> &mut Self {
        self.plain(contact.line)
            .text(contact.number.expose())
            .optional(contact.zone.map(chrono_tz::Tz::name))
            .text(&contact.variables)
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// What to send, leaving nothing.
    pub fn take(&mut self) -> Vec<u8> {
        self.begun = false;
        std::mem::take(&mut self.text).into_bytes()
    }

    fn next(&mut self) {
        if self.begun {
            self.text.push('\t');
        }
        self.begun = true;
    }
}
