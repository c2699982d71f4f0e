use proptest::prelude::*;

use super::*;

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    put(&mut out, tag, &[body]);
    out.to_vec()
}

/// The start of a session, which has no tag: version 3.0, no parameters.
const BEGIN: [u8; 9] = [0, 0, 0, 9, 0, 3, 0, 0, 0];

/// The tags and bodies of messages.
fn split(mut bytes: &[u8]) -> Vec<(char, Vec<u8>)> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let end = 1 + usize::try_from((&bytes[1..]).get_u32()).unwrap();
        messages.push((char::from(bytes[0]), bytes[HEADER..end].to_vec()));
        bytes = &bytes[end..];
    }
    messages
}

/// A pooled connection that has begun.
fn begun() -> Messages {
    let mut messages = Messages::new(true);
    let mut out = BytesMut::new();
    messages.sent(&BEGIN, &mut out).unwrap();
    assert_eq!(&out[..], BEGIN);
    messages
}

fn to_server(messages: &mut Messages, sent: &[Vec<u8>]) -> Vec<(char, Vec<u8>)> {
    let mut out = BytesMut::new();
    messages.sent(&sent.concat(), &mut out).unwrap();
    split(&out)
}

fn to_client(messages: &mut Messages, sent: &[Vec<u8>]) -> Vec<char> {
    let mut out = BytesMut::new();
    messages.received(&sent.concat(), &mut out).unwrap();
    split(&out).into_iter().map(|(tag, _)| tag).collect()
}

fn tags(messages: &[(char, Vec<u8>)]) -> String {
    messages.iter().map(|(tag, _)| tag).collect()
}

fn prepare(name: &str) -> [Vec<u8>; 3] {
    [
        message(b'P', format!("{name}\0SELECT $1\0\0\0").as_bytes()),
        message(b'D', format!("S{name}\0").as_bytes()),
        message(b'S', b""),
    ]
}

fn execute(name: &str) -> [Vec<u8>; 3] {
    [
        message(b'B', format!("\0{name}\0rest").as_bytes()),
        message(b'E', b"\0\0\0\0\0"),
        message(b'S', b""),
    ]
}

/// F36: a statement is parsed again with each use, without a name, and the client does not notice.
#[test]
fn a_statement_is_sent_again_with_each_use() {
    let mut messages = begun();
    let sent = to_server(&mut messages, &prepare("s1"));
    assert_eq!(tags(&sent), "PDS");
    assert_eq!(sent[0].1, b"\0SELECT $1\0\0\0");
    assert_eq!(sent[1].1, b"S\0");
    let answers = ["1", "t", "T", "Z"].map(|tag| message(tag.as_bytes()[0], b""));
    assert_eq!(to_client(&mut messages, &answers), ['1', 't', 'T', 'Z']);
    for _ in 0..2 {
        let sent = to_server(&mut messages, &execute("s1"));
        assert_eq!(tags(&sent), "PBES");
        assert_eq!(sent[0].1, b"\0SELECT $1\0\0\0");
        assert_eq!(sent[1].1, b"\0\0rest");
        let answers = ["1", "2", "D", "C", "Z"].map(|tag| message(tag.as_bytes()[0], b""));
        assert_eq!(to_client(&mut messages, &answers), ['2', 'D', 'C', 'Z']);
    }
    // Gone at the client is gone here.
    let close = [message(b'C', b"Ss1\0"), message(b'S', b"")];
    assert_eq!(to_server(&mut messages, &close)[0], ('C', b"S\0".to_vec()));
    assert_eq!(messages.statements.as_ref().unwrap().parsed.len(), 0);
}

/// F36: in one batch two statements do not take each other's place.
#[test]
fn statements_of_one_batch_are_told_apart() {
    let mut messages = begun();
    for name in ["s1", "s2"] {
        to_server(&mut messages, &prepare(name));
    }
    let batch = ["s1", "s2", "s2"].map(|name| execute(name)[..2].to_vec()).concat();
    assert_eq!(tags(&to_server(&mut messages, &batch)), "PBEPBEBE");
}

/// F36: after an error the rest of a batch has no answers, and those of the next one are not taken for them.
#[test]
fn an_error_ends_its_batch_alone() {
    let mut messages = begun();
    to_server(&mut messages, &prepare("s1"));
    to_client(&mut messages, &[message(b'1', b""), message(b'Z', b"I")]);
    to_server(&mut messages, &execute("s1"));
    to_server(&mut messages, &prepare("s2"));
    let seen = to_client(&mut messages, &[message(b'E', b""), message(b'Z', b"I")]);
    assert_eq!(seen, ['E', 'Z']);
    assert_eq!(
        to_client(&mut messages, &[message(b'1', b""), message(b'Z', b"I")]),
        ['1', 'Z']
    );
    // What could not be parsed is forgotten.
    to_server(&mut messages, &prepare("s3"));
    to_client(&mut messages, &[message(b'E', b""), message(b'Z', b"I")]);
    let statements = messages.statements.as_ref().unwrap();
    assert_eq!((statements.parsed.len(), statements.awaited.len()), (2, 0));
}

/// F27: the server's warning, which has the same last field in every language, ends the connection. Other notices pass.
#[test]
fn a_commit_that_may_not_be_on_the_standby_is_not_told() {
    let warning = "SWARNING\0VWARNING\0C01000\0Mcanceling wait for synchronous replication due to user request\0\
                   Fsyncrep.c\0L287\0RSyncRepWaitForLSN\0\0";
    for pooled in [false, true] {
        let mut messages = Messages::new(pooled);
        let mut out = BytesMut::new();
        let notice = message(b'N', b"SNOTICE\0VNOTICE\0C00000\0Mhello\0Rexec_stmt_raise\0\0");
        messages.received(&notice, &mut out).unwrap();
        assert_eq!(out[..], notice[..]);
        let warning = message(b'N', warning.as_bytes());
        messages.received(&warning[..20], &mut out).unwrap();
        assert!(messages.received(&warning[20..], &mut out).is_err());
    }
}

#[test]
fn a_length_that_is_none_ends_the_connection() {
    let mut out = BytesMut::new();
    assert!(Messages::new(false).received(&[b'Z', 0, 0, 0, 3], &mut out).is_err());
}

proptest! {
    /// However the network cuts a stream, what comes out is the same.
    #[test]
    fn pieces_do_not_matter(cuts in prop::collection::vec(1_usize..40, 1..60), pooled: bool) {
        let sent = [prepare("s1"), execute("s1"), prepare("s2"), execute("s1")].concat().concat();
        let answers: Vec<u8> = "1tTZ12DCZ1tTZ12DCZ".bytes().flat_map(|tag| message(tag, b"some bytes")).collect();
        let whole = |cuts: &[usize]| {
            let mut messages = Messages::new(pooled);
            let (mut there, mut back) = (BytesMut::new(), BytesMut::new());
            let pieces = |mut bytes: &[u8], take: &mut dyn FnMut(&[u8])| {
                for cut in cuts.iter().cycle() {
                    let (piece, rest) = bytes.split_at((*cut).min(bytes.len()));
                    take(piece);
                    bytes = rest;
                    if bytes.is_empty() { break; }
                }
            };
            pieces(&[&BEGIN[..], &sent].concat(), &mut |piece| messages.sent(piece, &mut there).unwrap());
            pieces(&answers, &mut |piece| messages.received(piece, &mut back).unwrap());
            (there, back)
        };
        prop_assert_eq!(whole(&cuts), whole(&[usize::MAX]));
    }
}
