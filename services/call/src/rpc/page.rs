//! Pages of lists. A token holds the last row's id and what the list was of, and nothing that a person could read.

use data_encoding::BASE64URL_NOPAD;
use ring::digest::{SHA256, digest};
use uuid::Uuid;

use crate::error::Error;

/// Rows in a page when the caller does not say.
const DEFAULT: i32 = 50;
/// Rows in a page at most.
const MOST: i32 = 200;
/// Bytes of the mark that tells lists apart.
const MARK: usize = 8;

/// How many rows a page has.
///
/// # Errors
/// [`Error::Invalid`] on `page_size`.
pub fn size(page_size: i32) -> Result<i64, Error> {
    match page_size {
        0 => Ok(DEFAULT.into()),
        1..=MOST => Ok(page_size.into()),
        _ => Err(Error::invalid(
            "page_size",
            format!("is from 1 to {MOST}, or 0 for {DEFAULT}"),
        )),
    }
}

/// The token for the page after `row` of the list `list` with these filters.
pub fn token(list: &str, filters: &[u8], row: Uuid) -> String {
    let mut bytes = mark(list, filters).to_vec();
    bytes.extend_from_slice(row.as_bytes());
    BASE64URL_NOPAD.encode(&bytes)
}

/// The row after which a page begins; none for the first page.
///
/// # Errors
/// [`Error::Invalid`] on `page_token` when it is not of the same list with the same filters.
pub fn after(list: &str, filters: &[u8], page_token: &str) -> Result<Option<Uuid>, Error> {
    if page_token.is_empty() {
        return Ok(None);
    }
    let bytes = BASE64URL_NOPAD.decode(page_token.as_bytes()).unwrap_or_default();
    match bytes
        .strip_prefix(&mark(list, filters))
        .and_then(|id| Uuid::from_slice(id).ok())
    {
        Some(row) => Ok(Some(row)),
        None => Err(Error::invalid(
            "page_token",
            "is not the next_page_token of this list with these filters",
        )),
    }
}

/// Cuts the row that was read beyond the page; the token is empty on the last page. Query for `size + 1` rows.
pub fn cut<T>(rows: &mut Vec<T>, size: i64, list: &str, filters: &[u8], id: impl Fn(&T) -> Uuid) -> String {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    if rows.len() <= size {
        return String::new();
    }
    rows.truncate(size);
    rows.last()
        .map(|last| token(list, filters, id(last)))
        .unwrap_or_default()
}

fn mark(list: &str, filters: &[u8]) -> [u8; MARK] {
    let mut text = list.as_bytes().to_vec();
    text.push(0);
    text.extend_from_slice(filters);
    let hash = digest(&SHA256, &text);
    let mut mark = [0; MARK];
    mark.copy_from_slice(&hash.as_ref()[..MARK]);
    mark
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_own_list_alone() {
        let last = Uuid::from_u128(7);
        let token = token("phones", b"acct", last);
        assert_eq!(after("phones", b"acct", &token).unwrap(), Some(last));
        assert_eq!(after("phones", b"acct", "").unwrap(), None);
        for (list, filters, token) in [
            ("phones", &b"other"[..], token.as_str()),
            ("agents", b"acct", &token),
            ("phones", b"acct", "x"),
            ("phones", b"acct", "é"),
        ] {
            assert!(matches!(after(list, filters, token), Err(Error::Invalid(v)) if v[0].field == "page_token"));
        }
    }

    #[test]
    fn sizes() {
        assert_eq!((size(0).unwrap(), size(1).unwrap(), size(200).unwrap()), (50, 1, 200));
        assert!(size(-1).is_err() && size(201).is_err());
        let id = |row: &u128| Uuid::from_u128(*row);
        let mut rows = vec![1, 2, 3];
        let token = cut(&mut rows, 2, "calls", b"", id);
        assert_eq!(
            (rows, after("calls", b"", &token).unwrap()),
            (vec![1, 2], Some(Uuid::from_u128(2)))
        );
        assert_eq!(cut(&mut vec![1, 2], 2, "calls", b"", id), "");
    }
}
