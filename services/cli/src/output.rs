//! Results, as tables for people or as JSON for scripts.

use std::io::{self, Write};

use crate::{
    arguments::Display,
    json::{self, Named},
    words::masked,
};
use comfy_table::{ContentArrangement, Table, presets};

/// Where results go.
pub(crate) struct Out<'a> {
    writer: &'a mut (dyn Write + Send),
    /// JSON rather than tables.
    pub(crate) json: bool,
    full_numbers: bool,
}

impl<'a> Out<'a> {
    pub(crate) fn new(writer: &'a mut (dyn Write + Send), display: Display) -> Self {
        Self {
            writer,
            json: display.json,
            full_numbers: display.full_numbers,
        }
    }

    /// A message as one line of JSON.
    pub(crate) fn message(&mut self, message: &impl Named) -> io::Result<()> {
        let value = json::shown(message, self.full_numbers);
        writeln!(self.writer, "{value}")?;
        self.writer.flush()
    }

    /// A line of text. Flushed, since watches are read as they grow.
    pub(crate) fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.writer, "{}", harmless(text))?;
        self.writer.flush()
    }

    /// Bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes)?;
        self.writer.flush()
    }

    /// A table; its head alone tells that there is nothing.
    pub(crate) fn table<const N: usize>(&mut self, head: [&str; N], rows: Vec<[String; N]>) -> io::Result<()> {
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(head.map(str::to_uppercase));
        for row in rows {
            table.add_row(row.map(|cell| harmless(&cell)));
        }
        for line in table.lines() {
            writeln!(self.writer, "{}", line.trim())?;
        }
        self.writer.flush()
    }

    /// Names and values below each other; those without a value are left out.
    pub(crate) fn facts(&mut self, facts: &[(&str, String)]) -> io::Result<()> {
        let there = facts.iter().filter(|(_, value)| !value.is_empty());
        let width = there.clone().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in there {
            writeln!(self.writer, "{name:width$}  {}", harmless(value))?;
        }
        self.writer.flush()
    }

    /// A person's number as it may be shown.
    pub(crate) fn number(&self, number: &str) -> String {
        if self.full_numbers {
            number.to_owned()
        } else {
            masked(number)
        }
    }
}

/// Text without what steers a terminal: some of it was written by callers, agents and flows.
fn harmless(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(json: bool, show: impl FnOnce(&mut Out<'_>) -> io::Result<()>) -> String {
        let mut bytes = Vec::new();
        let display = Display {
            json,
            full_numbers: false,
        };
        show(&mut Out::new(&mut bytes, display)).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn tables_are_lines_without_borders() {
        let rows = vec![
            ["call_1".to_owned(), "busy".to_owned()],
            ["call_22".to_owned(), String::new()],
        ];
        assert_eq!(
            shown(false, |out| out.table(["id", "state"], rows)),
            "ID       STATE\ncall_1   busy\ncall_22\n"
        );
        assert_eq!(shown(false, |out| out.table(["id"], vec![])), "ID\n");
    }

    #[test]
    fn nothing_that_was_written_by_others_steers_the_terminal() {
        let evil = "a\u{1b}[2Jb\nc";
        for text in [
            shown(false, |out| out.line(evil)),
            shown(false, |out| out.facts(&[("x", evil.to_owned())])),
            shown(false, |out| out.table(["x"], vec![[evil.to_owned()]])),
        ] {
            assert!(text.contains("a\u{fffd}[2Jb\u{fffd}c"), "{text:?}");
        }
    }

    #[test]
    fn facts_that_are_not_there_take_no_line() {
        let facts = [("id", "call_1".to_owned()), ("price", String::new())];
        assert_eq!(shown(false, |out| out.facts(&facts)), "id  call_1\n");
    }
}
