//! Files of contacts, as an operator's spreadsheet makes them.

use call_service::campaigns::contacts::{FileError, MOST_VARIABLE_BYTES, Reader, Row, report::Report};
use exotel::PhoneNumber;

/// A file of contacts (F127): any cutting gives the same rows in the order of their lines, no more rows than bytes, and one that
/// broke off goes on at the line that was decided. The first byte chooses whether the file comes in small pieces, or where it is cut
/// in two.
pub fn contacts(data: &[u8]) {
    let Some((&cut, file)) = data.split_first() else { return };
    let whole = read(&[file], 0);
    let (head, tail) = file.split_at(file.len() * usize::from(cut) / 256);
    let in_two = cut % 2 == 0;
    let pieces = if in_two {
        vec![head, tail]
    } else {
        file.chunks(usize::from(cut % 7) + 1).collect()
    };
    assert_eq!(read(&pieces, 0).0, whole.0, "cut by {cut}");
    let Ok(rows) = whole.0 else { return };
    assert!(rows.len() <= file.len());
    let lines: Vec<u64> = rows.iter().map(line).collect();
    assert!(lines.is_sorted_by(|a, b| a < b), "{lines:?}");
    assert!(whole.1 <= file.len() as u64 + 1);
    let mut report = Report::default();
    for row in &rows {
        report.add(row);
        if let Ok(contact) = row {
            let parsed = PhoneNumber::parse(contact.number.expose());
            assert_eq!(parsed.as_ref(), Ok(&contact.number));
            let variables: serde_json::Value = serde_json::from_str(&contact.variables).expect("variables are JSON");
            assert!(variables.is_object() && contact.variables.len() <= 6 * MOST_VARIABLE_BYTES + 512);
        }
    }
    assert_eq!(report.contacts + report.rejected(), rows.len() as u64);
    if in_two {
        goes_on(head, file, &rows);
    }
}

/// What was decided of the head is not read again, and nothing is lost between the two.
fn goes_on(head: &[u8], file: &[u8], rows: &[Row]) {
    let mut reader = Reader::after(0);
    let mut first = Vec::new();
    if reader.push(head, &mut first).is_err() {
        return;
    }
    let known = reader.decided();
    let (again, _) = read(&[file], known);
    let Ok(again) = again else {
        unreachable!("a file that could be read cannot be read from line {known} on")
    };
    first.retain(|row| line(row) <= known);
    first.extend(again);
    assert_eq!(first, rows, "on from line {known}");
}

fn line(row: &Row) -> u64 {
    match row {
        Ok(contact) => contact.line,
        Err(problem) => problem.line,
    }
}

fn read(pieces: &[&[u8]], known: u64) -> (Result<Vec<Row>, FileError>, u64) {
    let (mut reader, mut rows) = (Reader::after(known), Vec::new());
    let pushed = pieces.iter().try_for_each(|piece| reader.push(piece, &mut rows));
    let end = pushed.and_then(|()| reader.finish(&mut rows));
    (end.map(|()| rows), reader.decided())
}
