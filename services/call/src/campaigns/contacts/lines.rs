//! Cuts a file that comes in pieces of any size into lines. They end with LF, CR LF or CR, and are kept only while they are
//! incomplete, and only up to a limit.

/// The longest line and the longest record, in bytes: 34 columns with all that a contact may carry fit twice.
pub const MOST_BYTES: usize = 64 * 1024;

/// A line of the file without its end; none of those that were too long.
pub(super) type Line<'a> = Option<&'a [u8]>;

#[derive(Debug, Default)]
pub(super) struct Lines {
    /// What there is of a line whose end has not come.
    begun: Vec<u8>,
    /// It is longer than the limit.
    overlong: bool,
    /// The last piece ended with a CR, to which an LF may belong.
    after_cr: bool,
    /// Lines that ended.
    count: u64,
}

impl Lines {
    /// Hands each line that ends in this piece to `each`, with its number from 1.
    pub(super) fn push<E>(
        &mut self,
        mut piece: &[u8],
        mut each: impl FnMut(u64, Line<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.after_cr && !piece.is_empty() {
            self.after_cr = false;
            piece = piece.strip_prefix(b"\n").unwrap_or(piece);
        }
        while let Some(end) = piece.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let (head, tail) = piece.split_at(end);
            self.count += 1;
            if self.begun.is_empty() && !self.overlong {
                each(self.count, Some(head).filter(|line| line.len() <= MOST_BYTES))?;
            } else {
                self.keep(head);
                each(self.count, Some(self.begun.as_slice()).filter(|_| !self.overlong))?;
                self.begun.clear();
                self.overlong = false;
            }
            piece = if let Some(rest) = tail.strip_prefix(b"\r\n") {
                rest
            } else {
                self.after_cr = tail == b"\r";
                &tail[1..]
            };
        }
        self.keep(piece);
        Ok(())
    }

    /// The last line, if it has no end.
    pub(super) fn finish<E>(&mut self, mut each: impl FnMut(u64, Line<'_>) -> Result<(), E>) -> Result<(), E> {
        if self.begun.is_empty() && !self.overlong {
            return Ok(());
        }
        self.count += 1;
        each(self.count, Some(self.begun.as_slice()).filter(|_| !self.overlong))
    }

    /// Lines that ended.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    fn keep(&mut self, part: &[u8]) {
        if self.overlong || self.begun.len() + part.len() > MOST_BYTES {
            self.overlong = true;
            self.begun.clear();
        } else {
            self.begun.extend_from_slice(part);
        }
    }
}
