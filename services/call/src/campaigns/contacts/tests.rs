use std::fmt::Write as _;

use chrono_tz::{Asia::Kolkata, Europe::London};
use proptest::prelude::*;

use super::{copy, report::Report, *};

/// The rows of a file that comes in pieces of these lengths, and then in one.
fn read_in(file: &[u8], pieces: &[usize], known: u64) -> Result<(Vec<Row>, u64), FileError> {
    let (mut reader, mut rows, mut rest) = (Reader::after(known), Vec::new(), file);
    for piece in pieces {
        let (head, tail) = rest.split_at((*piece).min(rest.len()));
        reader.push(head, &mut rows)?;
        rest = tail;
    }
    reader.push(rest, &mut rows)?;
    reader.finish(&mut rows)?;
    Ok((rows, reader.decided()))
}

fn read_file(file: impl AsRef<[u8]>) -> Result<Vec<Row>, FileError> {
    read_in(file.as_ref(), &[], 0).map(|(rows, _)| rows)
}

/// Lines with what is wrong with them; empty for contacts.
fn faults(file: impl AsRef<[u8]>) -> Vec<(u64, String, &'static str)> {
    read_file(file)
        .unwrap()
        .into_iter()
        .map(|row| match row {
            Ok(contact) => (contact.line, String::new(), ""),
            Err(problem) => (problem.line, problem.column, problem.fault.word()),
        })
        .collect()
}

fn contacts(file: impl AsRef<[u8]>) -> Vec<Contact> {
    read_file(file).unwrap().into_iter().map(Result::unwrap).collect()
}

#[test]
fn columns_become_a_number_a_zone_and_variables() {
    let file = "\u{feff}Name, PHONE ,zone,plan\r\nAsha,098123 45678,Europe/London,\r\n\"D\u{e9}, \"\"J\"\"\",+14155552671,,gold\r\n";
    let found = contacts(file);
    assert_eq!(found[0].line, 2);
    assert_eq!(found[0].number.expose(), "+919812345678");
    assert_eq!(found[0].zone, Some(London));
    assert_eq!(found[0].variables, r#"{"Name":"Asha"}"#);
    assert_eq!(found[1].line, 3);
    assert_eq!(found[1].zone, None);
    assert_eq!(
        found[1].variables,
        "{\"Name\":\"D\u{e9}, \\\"J\\\"\",\"plan\":\"gold\"}"
    );
}

#[test]
fn a_file_whose_header_is_wrong_is_refused() {
    let wide = format!("number{}\n", ",a".repeat(34));
    let long = format!("number,{}\n", "a".repeat(MOST_BYTES));
    for (file, word) in [
        (b"".as_slice(), "file_empty"),
        (b"\n \r\n,,\n", "file_empty"),
        (b"\xff\xfen\0u\0m\0b\0e\0r\0\n\0", "header_encoding"),
        (b"number,\xe9\n", "header_encoding"),
        (b"name;number\n", "header_no_number"),
        (b"919812345678,Asha\n", "header_missing"),
        (b"number,,name\n", "header_bad_column"),
        (b"number,na\0me\n", "header_bad_column"),
        (b"number,name,name\n", "header_duplicate_column"),
        (b"number,phone\n", "header_duplicate_column"),
        (b"\"number\n", "header_unreadable"),
        (wide.as_bytes(), "header_too_many_columns"),
        (long.as_bytes(), "header_unreadable"),
    ] {
        assert_eq!(read_file(file).unwrap_err().word(), word, "{}", file.escape_ascii());
    }
}

#[test]
fn a_row_in_error_costs_itself_alone() {
    let mut file = b"number,zone,name\n919812345678,,a\n,,a\n12x,,a\n12,,a\n+1 000 000 0000,,a\n".to_vec();
    file.extend_from_slice(b"919812345678,Mars/Olympus,a\n919812345678,,\xff\n919812345678,a\n919812345678,,a,\n\n");
    file.extend_from_slice(format!("919812345678,,{}\n", "a".repeat(1_025)).as_bytes());
    file.extend_from_slice(format!("919812345678,,{}\n", "a".repeat(MOST_BYTES)).as_bytes());
    file.extend_from_slice(b"919812345678,,\"a\n919812345678,Asia/Kolkata,b");
    let row = |line, column: &str, word| (line, column.to_owned(), word);
    assert_eq!(
        faults(file),
        [
            row(2, "", ""),
            row(3, "number", "number_missing"),
            row(4, "number", "number_characters"),
            row(5, "number", "number_length"),
            row(6, "number", "number_plan"),
            row(7, "zone", "zone_unknown"),
            row(8, "name", "encoding"),
            row(9, "", "cell_count"),
            row(10, "", "cell_count"),
            row(12, "name", "variable"),
            row(13, "", "line_too_long"),
            row(14, "", "quote_not_closed"),
            row(15, "", ""),
        ]
    );
}

#[test]
fn a_cell_may_go_on_over_lines_and_a_forgotten_quote_costs_one() {
    let found = contacts("number,address\n919812345678,\"1 Road\r\nPune\"\n919812345679,x\n");
    assert_eq!(found[0].variables, r#"{"address":"1 Road\nPune"}"#);
    assert_eq!((found[0].line, found[1].line), (2, 4));

    let mut file = "number,address\n919812345678,\"1 Road\n".to_owned();
    for number in 0..100 {
        writeln!(file, "9198123{number:05},x").unwrap();
    }
    let found = faults(&file);
    assert_eq!(found.len(), 101);
    assert_eq!(found[0], (2, String::new(), "quote_not_closed"));
    assert!(found[1..].iter().all(|row| row.2.is_empty()));
}

#[test]
fn a_cell_has_at_most_32_lines() {
    let cell = |lines: usize| {
        format!(
            "number,address\n919812345678,\"{}\"\n919812345679,x\n",
            vec!["x"; lines].join("\n")
        )
    };
    assert_eq!(faults(cell(32)).len(), 2);
    let found = faults(cell(33));
    assert_eq!(found[0], (2, String::new(), "quote_not_closed"));
    assert_eq!(found.last(), Some(&(35, String::new(), "")));
}

/// Each line closes the quote of the one before and opens another: the worst there is.
#[test]
fn quotes_that_never_end_take_bounded_work() {
    let line = format!("x\",\"{}\n", "y".repeat(2_000));
    let file = format!("number,a\n{}", line.repeat(1_000));
    let found = faults(&file);
    assert_eq!(found.len(), 1_000);
}

#[test]
fn lines_end_as_they_do_anywhere() {
    for file in [
        "number\n919812345678\n919812345679",
        "number\r\n919812345678\r\n919812345679\r\n",
        "number\r919812345678\r919812345679\r",
    ] {
        let lines: Vec<_> = contacts(file).iter().map(|contact| contact.line).collect();
        assert_eq!(lines, [2, 3], "{file:?}");
    }
}

/// What cannot be a variable's name is in no report either, which is kept as JSON and is bounded.
#[test]
fn a_name_that_is_none_is_not_told() {
    let long = "n".repeat(256 * 1024);
    let control = "a\u{0}b";
    for (name, value, told) in [
        (long.as_str(), "1", "variables"),
        (control, "1", "variables"),
        ("", "1", "variables"),
        ("name", "1\u{0}2", "name"),
    ] {
        let problem = Contact::read(1, "919812345678", "", [(name, value)].into_iter()).unwrap_err();
        assert_eq!((problem.column.as_str(), problem.fault), (told, Fault::Variable));
    }
}

#[test]
fn variables_are_bounded_as_a_calls_metadata_is() {
    let many: Vec<String> = (0..40).map(|index| format!("v{index}")).collect();
    let read = |count: usize, value: &str| {
        let variables = many.iter().take(count).map(|name| (name.as_str(), value));
        Contact::read(1, "919812345678", "", variables).map_err(|problem| problem.fault)
    };
    assert!(read(32, "x").is_ok());
    assert_eq!(read(33, "x"), Err(Fault::Variable));
    assert_eq!(read(1, "a\0"), Err(Fault::Variable));
    assert_eq!(read(9, &"x".repeat(1_000)), Err(Fault::Variable));
    assert!(read(1, &"\u{e9}".repeat(1_024)).is_ok());
}

#[test]
fn rows_are_written_as_copy_reads_them() {
    let mut rows = copy::Rows::default();
    let contact = Contact::read(7, "919812345678", "Asia/Kolkata", [("a", "b\n\\c\t")].into_iter()).unwrap();
    assert_eq!(contact.zone, Some(Kolkata));
    rows.contact(&contact).optional(None).end();
    rows.text("\\\t\n\r").plain(3).end();
    let text = String::from_utf8(rows.take()).unwrap();
    assert_eq!(
        text,
        "7\t+919812345678\tAsia/Kolkata\t{\"a\":\"b\\\\n\\\\\\\\c\\\\t\"}\t\\N\n\\\\\\t\\n\\r\t3\n"
    );
    assert!(rows.is_empty());
}

#[test]
fn a_report_is_bounded_and_counts_all() {
    let mut report = Report::default();
    for row in read_file(format!("number\n919812345678\n{}", "x\n".repeat(2_000))).unwrap() {
        report.add(&row);
    }
    assert_eq!(
        (report.contacts, report.rejected(), report.problems.len()),
        (1, 2_000, 1_000)
    );
    assert_eq!(report.faults[&Fault::NumberCharacters], 2_000);
}

/// Bytes that matter to CSV, with numbers and words between them.
fn files() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        8 => prop::sample::select(vec!["\n", "\r\n", "\r", ",", "\"", "\"\"", " ", "x"]).prop_map(|part| part.as_bytes().to_vec()),
        4 => (0_u32..100).prop_map(|number| format!("91981234{number:04}").into_bytes()),
        1 => Just(vec![0xff]),
        1 => Just(vec![b'z'; MOST_BYTES + 1]),
        1 => Just("\u{e9}".as_bytes().to_vec()),
    ];
    prop::collection::vec(part, 0..120).prop_map(|parts| [b"number,name\n".to_vec(), parts.concat()].concat())
}

proptest! {
    /// However a file is cut into pieces, its rows are the same.
    #[test]
    fn pieces_do_not_matter(file in files(), pieces in prop::collection::vec(0_usize..40, 0..60)) {
        prop_assert_eq!(read_in(&file, &pieces, 0), read_in(&file, &[], 0));
    }

    #[test]
    fn anything_at_all_is_read_the_same(file in prop::collection::vec(any::<u8>(), 0..300), pieces in prop::collection::vec(0_usize..9, 0..60)) {
        prop_assert_eq!(read_in(&file, &pieces, 0), read_in(&file, &[], 0));
    }

    /// F117: whoever stops anywhere and begins again after the line that was decided has each row once.
    #[test]
    fn a_file_goes_on_where_it_stopped(file in files(), stop in 0_usize..2_000) {
        let whole = read_in(&file, &[], 0).map(|(rows, _)| rows);
        let (mut reader, mut rows) = (Reader::after(0), Vec::new());
        prop_assert!(reader.push(&file[..stop.min(file.len())], &mut rows).is_ok());
        if let Ok((rest, _)) = read_in(&file, &[], reader.decided()) {
            rows.extend(rest);
        }
        prop_assert_eq!(Ok(rows), whole);
    }

    /// Every line is a row, or part of one, or blank: nothing is lost, and rows come in the order of their lines.
    #[test]
    fn rows_come_in_order(file in files()) {
        let (rows, decided) = read_in(&file, &[], 0).unwrap();
        let lines: Vec<u64> = rows.iter().map(|row| row.as_ref().map_or_else(|problem| problem.line, |contact| contact.line)).collect();
        prop_assert!(lines.is_sorted_by(|a, b| a < b));
        prop_assert!(lines.last().is_none_or(|last| *last <= decided));
    }
}
