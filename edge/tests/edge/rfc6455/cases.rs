//! 1.* to 5.*, 7.*, 9.* and 10.*.

use super::{
    peer::{frame, head},
    pieces,
};

/// First bytes of frames (RFC 6455 §5.2): the last one of a message, and what it is.
pub(super) const FIN: u8 = 0x80;
pub(super) const TEXT: u8 = 1;
pub(super) const BINARY: u8 = 2;
pub(super) const CLOSE: u8 = 8;
pub(super) const PING: u8 = 9;
pub(super) const PONG: u8 = 10;

/// The largest message.
const LIMIT: usize = 64 * 1024;
/// As they are.
const WHOLE: usize = usize::MAX;

/// How a case ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// We close with 1000, and so does the edge.
    Clean,
    /// The edge closes, or answers a close, with this.
    Code(u16),
}

/// One case of the suite.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) number: String,
    pub(super) send: Vec<u8>,
    /// Bytes of a write.
    pub(super) chop: usize,
    pub(super) echoed: Vec<(u8, Vec<u8>)>,
    pub(super) end: End,
}

fn case(number: impl Into<String>, frames: &[Vec<u8>], echoed: &[(u8, &[u8])], end: End) -> Case {
    Case {
        number: number.into(),
        send: frames.concat(),
        chop: WHOLE,
        echoed: echoed
            .iter()
            .map(|(opcode, payload)| (*opcode, payload.to_vec()))
            .collect(),
        end,
    }
}

/// The same in pieces of so many bytes.
fn chopped(chop: usize, case: Case) -> Case {
    Case { chop, ..case }
}

fn text(payload: &[u8]) -> Vec<u8> {
    frame(FIN | TEXT, payload)
}

fn ping(payload: &[u8]) -> Vec<u8> {
    frame(FIN | PING, payload)
}

/// 1.*, 9.1.1 and 9.2.1, 10.1.1: up to the limit.
pub(super) fn sizes() -> Vec<Case> {
    let mut cases = Vec::new();
    for (group, opcode, byte) in [(1, TEXT, b'*'), (2, BINARY, 0xfe)] {
        for (at, size) in (1..).zip([0, 125, 126, 127, 128, LIMIT - 1, LIMIT]) {
            let payload = vec![byte; size];
            let sent = [frame(FIN | opcode, &payload)];
            cases.push(case(
                format!("1.{group}.{at}"),
                &sent,
                &[(opcode, &payload)],
                End::Clean,
            ));
        }
        let payload = vec![byte; LIMIT];
        let whole = case(
            format!("1.{group}.8"),
            &[frame(FIN | opcode, &payload)],
            &[(opcode, &payload)],
            End::Clean,
        );
        cases.push(chopped(997, whole));
        let parts: Vec<_> = payload.chunks(1300).collect();
        cases.push(case(
            format!("10.1.1 ({group})"),
            &pieces(opcode, &parts),
            &[(opcode, &payload)],
            End::Clean,
        ));
    }
    cases
}

/// 9.7.* and 9.8.*: a thousand messages.
pub(super) fn many() -> Vec<Case> {
    let mut cases = Vec::new();
    for (group, opcode) in [(7, TEXT), (8, BINARY)] {
        for (at, size) in (1..).zip([0, 16, 64, 256, 1024, 4096]) {
            let payload = vec![b'*'; size];
            let sent = vec![frame(FIN | opcode, &payload); 1000];
            let echoed = vec![(opcode, &payload[..]); 1000];
            cases.push(case(format!("9.{group}.{at}"), &sent, &echoed, End::Clean));
        }
    }
    cases
}

/// 9.1.2 to 9.6.*, and 7.1.6: too large by the first head, or by what has come so far. What would follow is not sent.
pub(super) fn beyond_the_limit() -> Vec<Case> {
    let too_large = End::Code(1009);
    let mut cases = Vec::new();
    for (group, opcode) in [(1, TEXT), (2, BINARY)] {
        for (at, size) in (2..).zip([256_u64, 1024, 4096, 8192, 16_384]) {
            let sent = [head(FIN | opcode, size * 1024), vec![0; 1024]];
            cases.push(case(format!("9.{group}.{at}"), &sent, &[], too_large));
        }
        for (at, size) in (1..).zip([64, 256, 1024, 4096, 16_384, LIMIT]) {
            let payload = vec![b'*'; LIMIT + size];
            let parts: Vec<_> = payload.chunks(size).collect();
            cases.push(case(
                format!("9.{}.{at}", group + 2),
                &pieces(opcode, &parts),
                &[],
                too_large,
            ));
        }
        for (at, chop) in (1..).zip([64, 128, 256, 512, 1024, 2048]) {
            let sent = [head(FIN | opcode, 1024 * 1024), vec![0; 8192]];
            let whole = case(format!("9.{}.{at}", group + 4), &sent, &[], too_large);
            cases.push(chopped(chop, whole));
        }
    }
    cases.push(case(
        "one byte more",
        &[frame(FIN | TEXT, &vec![b'*'; LIMIT + 1])],
        &[],
        too_large,
    ));
    cases
}

/// 2.*.
pub(super) fn pings() -> Vec<Case> {
    let longest = vec![0xfe; 125];
    let ten: Vec<_> = (0..10).map(|at| format!("payload-{at}").into_bytes()).collect();
    let answers: Vec<_> = ten.iter().map(|payload| (PONG, &payload[..])).collect();
    let asked: Vec<_> = ten.iter().map(|payload| ping(payload)).collect();
    let pong = frame(FIN | PONG, b"unasked");
    vec![
        case("2.1", &[ping(b"")], &[(PONG, b"")], End::Clean),
        case(
            "2.2",
            &[ping(b"Hello, world!")],
            &[(PONG, b"Hello, world!")],
            End::Clean,
        ),
        case(
            "2.3",
            &[ping(b"\x00\xff\xfe\xfd")],
            &[(PONG, b"\x00\xff\xfe\xfd")],
            End::Clean,
        ),
        case("2.4", &[ping(&longest)], &[(PONG, &longest)], End::Clean),
        case("2.5", &[ping(&[0xfe; 126])], &[], End::Code(1002)),
        chopped(1, case("2.6", &[ping(&longest)], &[(PONG, &longest)], End::Clean)),
        case("2.7", &[frame(FIN | PONG, b"")], &[], End::Clean),
        case("2.8", std::slice::from_ref(&pong), &[], End::Clean),
        case("2.9", &[pong, ping(b"asked")], &[(PONG, b"asked")], End::Clean),
        case("2.10", &asked, &answers, End::Clean),
        chopped(1, case("2.11", &asked, &answers, End::Clean)),
    ]
}

/// 3.* and 4.*: reserved bits (F81) and opcodes.
pub(super) fn reserved() -> Vec<Case> {
    let broken = End::Code(1002);
    let hello: (u8, &[u8]) = (TEXT, b"Hello, world!");
    let first = text(hello.1);
    let after = |number: &str, wrong: Vec<u8>| case(number, &[first.clone(), wrong, ping(b"")], &[hello], broken);
    let mut cases = vec![
        case("3.1", &[frame(FIN | 0x10 | TEXT, hello.1)], &[], broken),
        after("3.2", frame(FIN | 0x20 | TEXT, hello.1)),
        chopped(19, after("3.3", frame(FIN | 0x30 | TEXT, hello.1))),
        chopped(1, after("3.4", frame(FIN | 0x40 | TEXT, hello.1))),
        case("3.5", &[frame(FIN | 0x50 | BINARY, &[0xff; 8])], &[], broken),
        case("3.6", &[frame(FIN | 0x60 | PING, hello.1)], &[], broken),
        case("3.7", &[frame(FIN | 0x70 | CLOSE, b"")], &[], broken),
    ];
    for (group, from) in [(1, 3), (2, 11)] {
        let one = |at: u8, payload: &[u8]| frame(FIN | (from + at), payload);
        let number = |at: u8| format!("4.{group}.{}", at + 1);
        cases.extend([
            case(number(0), &[one(0, b"")], &[], broken),
            case(number(1), &[one(1, b"reserved")], &[], broken),
            after(&number(2), one(2, b"")),
            after(&number(3), one(3, hello.1)),
            chopped(1, after(&number(4), one(4, hello.1))),
        ]);
    }
    cases
}

/// 5.*.
pub(super) fn fragments() -> Vec<Case> {
    let broken = End::Code(1002);
    let parts: [&[u8]; 2] = [b"fragment1", b"fragment2"];
    let whole: (u8, &[u8]) = (TEXT, b"fragment1fragment2");
    let [begin, end] = parts.map(<[u8]>::to_vec);
    let (begin, end) = (frame(TEXT, &begin), frame(FIN, &end));
    let both = [begin.clone(), end.clone()];
    let pinged = [begin.clone(), ping(b"ping payload"), end.clone()];
    let answered: [(u8, &[u8]); 2] = [(PONG, b"ping payload"), whole];
    let hello = text(b"Hello, world!");
    let stray = |fin: u8| vec![frame(fin, b"non-continuation payload"), hello.clone()];
    let five: Vec<_> = (1..=5).map(|at| format!("fragment{at}").into_bytes()).collect();
    let five: Vec<_> = five.iter().map(|part| &part[..]).collect();
    let mut long = pieces(TEXT, &five);
    long.insert(4, ping(b"pongme 2!"));
    long.insert(2, ping(b"pongme 1!"));
    let long_echo = five.concat();
    let long_echo: [(u8, &[u8]); 3] = [(PONG, b"pongme 1!"), (PONG, b"pongme 2!"), (TEXT, &long_echo)];
    let mut cases = vec![
        case("5.1", &[frame(PING, parts[0]), frame(FIN, parts[1])], &[], broken),
        case("5.2", &[frame(PONG, parts[0]), frame(FIN, parts[1])], &[], broken),
        case("5.3", &both, &[whole], End::Clean),
        chopped(15, case("5.4", &both, &[whole], End::Clean)),
        chopped(1, case("5.5", &both, &[whole], End::Clean)),
        case("5.6", &pinged, &answered, End::Clean),
        chopped(15, case("5.7", &pinged, &answered, End::Clean)),
        chopped(1, case("5.8", &pinged, &answered, End::Clean)),
        case("5.15", &[&both[..], &stray(0)].concat(), &[whole], broken),
        case(
            "5.16",
            &[[frame(0, parts[0]), begin.clone(), end.clone()].concat().repeat(2)],
            &[],
            broken,
        ),
        case(
            "5.17",
            &[[frame(FIN, parts[0]), begin.clone(), end].concat().repeat(2)],
            &[],
            broken,
        ),
        case("5.18", &[begin, frame(FIN | TEXT, parts[1])], &[], broken),
        case("5.19", &long, &long_echo, End::Clean),
        chopped(1, case("5.20", &long, &long_echo, End::Clean)),
    ];
    for (number, fin) in [(9, FIN), (12, 0)] {
        for (at, chop) in (number..).zip([WHOLE, 30, 1]) {
            cases.push(chopped(chop, case(format!("5.{at}"), &stray(fin), &[], broken)));
        }
    }
    cases
}

/// 7.*.
pub(super) fn closes() -> Vec<Case> {
    let close = |payload: &[u8]| frame(FIN | CLOSE, payload);
    let coded = |code: u16, reason: &[u8]| close(&[&code.to_be_bytes()[..], reason].concat());
    let hello = text(b"Hello World!");
    let normal = coded(1000, b"");
    let echoed: [(u8, &[u8]); 1] = [(TEXT, b"Hello World!")];
    let mut cases = vec![
        case("7.1.1", &[hello.clone(), normal.clone()], &echoed, End::Code(1000)),
        case("7.1.2", &[normal.clone(), normal.clone()], &[], End::Code(1000)),
        case("7.1.3", &[normal.clone(), ping(b"")], &[], End::Code(1000)),
        case("7.1.4", &[normal.clone(), hello], &[], End::Code(1000)),
        case(
            "7.1.5",
            &[frame(TEXT, b"fragment1"), normal, frame(FIN, b"fragment2")],
            &[],
            End::Code(1000),
        ),
        case("7.3.1", &[close(b"")], &[], End::Code(1005)),
        case("7.3.2", &[close(b"a")], &[], End::Code(1002)),
        case("7.3.3", &[coded(1000, b"")], &[], End::Code(1000)),
        case("7.3.4", &[coded(1000, b"Hello World!")], &[], End::Code(1000)),
        case("7.3.5", &[coded(1000, &[b'*'; 123])], &[], End::Code(1000)),
        case("7.3.6", &[coded(1000, &[b'*'; 124])], &[], End::Code(1002)),
        case("7.5.1", &[coded(1000, b"\xce\xba\xed\xa0\x80")], &[], End::Code(1007)),
    ];
    let sound = [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999,
    ];
    for (at, code) in (1..).zip(sound) {
        cases.push(case(format!("7.7.{at}"), &[coded(code, b"")], &[], End::Code(code)));
    }
    let unsound = [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65_535];
    for (at, code) in (1..).zip(unsound) {
        cases.push(case(format!("7.9.{at}"), &[coded(code, b"")], &[], End::Code(1002)));
    }
    cases
}

/// RFC 6455 §5.1: what is not masked.
pub(super) fn unmasked() -> Vec<Case> {
    let frames: [&[u8]; 4] = [&[0x81, 0], &[0x82, 2, 0, 0], &[0x89, 0], &[0x88, 2, 3, 232]];
    let unmasked = |bytes: &&[u8]| {
        case(
            format!("not masked: {bytes:?}"),
            &[bytes.to_vec()],
            &[],
            End::Code(1002),
        )
    };
    frames.iter().map(unmasked).collect()
}
