//! 6.*: what is text, whole, in fragments and byte by byte.

use super::{
    cases::{Case, End, FIN, TEXT},
    peer::{frame, head},
    pieces,
};

/// κόσμε.
const WORD: &[u8] = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5";
/// An end that is none: beyond U+10FFFF, and a surrogate.
const WRONG: &[u8] = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80\x65\x64\x69\x74\x65\x64";

/// All of them. Whether a sequence is text is asked of Rust's own decoder.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![
        text("6.1.1", &[b""]),
        text("6.1.2", &[b"", b"", b""]),
        text("6.1.3", &[b"", b"middle frame payload", b""]),
        text("6.2.1", &["Hello-µ@ßöäüàá-UTF-8!!".as_bytes()]),
        text("6.2.2", &["Hello-µ@ßöä".as_bytes(), "üàá-UTF-8!!".as_bytes()]),
        text("6.2.3", &bytewise("Hello-µ@ßöäüàá-UTF-8!!".as_bytes())),
        text("6.2.4", &bytewise(WORD)),
        text("6.3.1", &[WRONG]),
        text("6.3.2", &bytewise(WRONG)),
        // Refused as soon as it is known, whatever is still to come.
        unfinished("6.4.1", &[WORD, b"\xf4\x90\x80\x80"]),
        unfinished("6.4.2", &[WORD, b"\xf4\x90"]),
    ];
    // Within a frame it may be known at its end alone, as in the suite's own judgement ("non-strict").
    let mut whole = [WORD, b"\xf4\x90\x80\x80edited"].concat();
    let cut = Case {
        chop: 11,
        ..text("6.4.3", &[&whole])
    };
    whole.truncate(WORD.len() + 2);
    cases.extend([cut, text("6.4.4", &[&whole])]);
    for (number, sequences) in sequences() {
        for (at, sequence) in (1..).zip(&sequences) {
            cases.push(text(&format!("{number}.{at}"), &[sequence]));
            if !sequence.is_empty() {
                let in_bytes = text(&format!("{number}.{at}, in fragments of a byte"), &bytewise(sequence));
                cases.push(in_bytes);
            }
        }
    }
    cases
}

fn text(number: &str, payloads: &[&[u8]]) -> Case {
    let payload = payloads.concat();
    let is_text = std::str::from_utf8(&payload).is_ok();
    Case {
        number: number.to_owned(),
        send: pieces(TEXT, payloads).concat(),
        chop: usize::MAX,
        echoed: if is_text { vec![(TEXT, payload)] } else { Vec::new() },
        end: if is_text { End::Clean } else { End::Code(1007) },
    }
}

/// Without its last fragment.
fn unfinished(number: &str, payloads: &[&[u8]]) -> Case {
    let mut frames: Vec<_> = pieces(TEXT, &[payloads, &[b"more"]].concat());
    frames.pop();
    Case {
        send: frames.concat(),
        ..text(number, &[WRONG])
    }
}

fn bytewise(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.chunks(1).collect()
}

/// The sections of the suite, after Markus Kuhn's "UTF-8 decoder capability and stress test".
fn sequences() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let own = |list: &[&[u8]]| list.iter().map(|bytes| bytes.to_vec()).collect::<Vec<_>>();
    let lonely = |from: u8, to: u8| (from..to).flat_map(|byte| [byte, b' ']).collect::<Vec<_>>();
    let cut = [
        b"\xc0" as &[u8],
        b"\xe0\x80",
        b"\xf0\x80\x80",
        b"\xf8\x80\x80\x80",
        b"\xfc\x80\x80\x80\x80",
        b"\xdf",
        b"\xef\xbf",
        b"\xf7\xbf\xbf",
        b"\xfb\xbf\xbf\xbf",
        b"\xfd\xbf\xbf\xbf\xbf",
    ];
    let surrogates = [
        b"\xed\xa0\x80" as &[u8],
        b"\xed\xad\xbf",
        b"\xed\xae\x80",
        b"\xed\xaf\xbf",
        b"\xed\xb0\x80",
        b"\xed\xbe\x80",
        b"\xed\xbf\xbf",
    ];
    let pairs = [0, 1, 2, 3].map(|high| [4, 6].map(|low: usize| [surrogates[high], surrogates[low]].concat()));
    let alone: Vec<Vec<u8>> = (1..8)
        .map(|count| b"\x80\xbf".iter().copied().cycle().take(count).collect())
        .collect();
    let mut unexpected = vec![vec![0xbf]];
    unexpected.extend(alone);
    unexpected.push((0x80..0xbf).collect());
    // U+FFFE and U+FFFF, and the last two of every other plane: no characters, and yet text.
    let nothings = (0..=16_u32).flat_map(|plane| [plane << 16 | 0xfffe, plane << 16 | 0xffff]);
    let encoded = |code: u32| char::from_u32(code).unwrap().to_string().into_bytes();
    let words = ["hello$world", "hello¢world", "hello€world", "hello\u{24b62}world"];
    let mut valid: Vec<Vec<u8>> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
    valid.push(WORD.to_vec());
    vec![
        ("6.5", valid),
        ("6.6", (1..=WORD.len()).map(|length| WORD[..length].to_vec()).collect()),
        (
            "6.7",
            own(&[b"\x00", b"\xc2\x80", b"\xe0\xa0\x80", b"\xf0\x90\x80\x80"]),
        ),
        ("6.8", own(&[b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80"])),
        (
            "6.9",
            own(&[b"\x7f", b"\xdf\xbf", b"\xef\xbf\xbf", b"\xf4\x8f\xbf\xbf"]),
        ),
        (
            "6.10",
            own(&[
                b"\xf7\xbf\xbf\xbf",
                b"\xfb\xbf\xbf\xbf\xbf",
                b"\xfd\xbf\xbf\xbf\xbf\xbf",
            ]),
        ),
        (
            "6.11",
            own(&[
                b"\xed\x9f\xbf",
                b"\xee\x80\x80",
                b"\xef\xbf\xbd",
                b"\xf4\x8f\xbf\xbf",
                b"\xf4\x90\x80\x80",
            ]),
        ),
        ("6.12", unexpected),
        (
            "6.13",
            vec![
                lonely(0xc0, 0xdf),
                lonely(0xe0, 0xef),
                lonely(0xf0, 0xf7),
                lonely(0xf8, 0xfb),
                lonely(0xfc, 0xfd),
            ],
        ),
        ("6.14", own(&cut)),
        ("6.15", vec![cut.concat()]),
        ("6.16", own(&[b"\xfe", b"\xff", b"\xfe\xfe\xff\xff"])),
        (
            "6.17",
            own(&[
                b"\xc0\xaf",
                b"\xe0\x80\xaf",
                b"\xf0\x80\x80\xaf",
                b"\xf8\x80\x80\x80\xaf",
                b"\xfc\x80\x80\x80\x80\xaf",
            ]),
        ),
        (
            "6.18",
            own(&[
                b"\xc1\xbf",
                b"\xe0\x9f\xbf",
                b"\xf0\x8f\xbf\xbf",
                b"\xf8\x87\xbf\xbf\xbf",
                b"\xfc\x83\xbf\xbf\xbf\xbf",
            ]),
        ),
        (
            "6.19",
            own(&[
                b"\xc0\x80",
                b"\xe0\x80\x80",
                b"\xf0\x80\x80\x80",
                b"\xf8\x80\x80\x80\x80",
                b"\xfc\x80\x80\x80\x80\x80",
            ]),
        ),
        ("6.20", own(&surrogates)),
        ("6.21", pairs.concat()),
        ("6.22", nothings.map(encoded).collect()),
        ("6.23", (0xfff9..=0xffff).map(encoded).collect()),
    ]
}

/// A text that begins well and whose end never comes is no message.
#[test]
fn an_unfinished_text_has_no_last_frame() {
    assert!(!unfinished("", &[b"a", b"b"]).send.ends_with(&frame(FIN, b"more")));
    assert_eq!(head(FIN | TEXT, 0).len(), 6);
}
