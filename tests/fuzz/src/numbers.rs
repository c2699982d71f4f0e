//! Phone numbers and times as Exotel and people write them.

use exotel::{
    PhoneNumber,
    number::Caller,
    time::{ist, parse_ist, parse_naive},
};

/// The normaliser (F58): what it makes is E.164 and is left as it is by another turn; nothing shows the whole number.
pub fn numbers(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let caller = Caller::read(text);
    assert_eq!(caller.raw, text);
    let Some(number) = &caller.number else { return };
    let e164 = number.expose();
    assert!((8..=16).contains(&e164.len()) && e164.starts_with('+'), "{e164}");
    assert!(e164[1..].bytes().all(|b| b.is_ascii_digit()), "{e164}");
    assert_eq!(PhoneNumber::parse(e164).as_ref(), Ok(number));
    let national = number.national();
    // Elsewhere it is the same text, and libphonenumber is slow.
    if national != e164 {
        for form in [national, format!(" tel:{e164}"), format!("<sip:{e164}@host>")] {
            assert_eq!(PhoneNumber::parse(&form).as_ref(), Ok(number), "{form}");
        }
    }
    let shown = format!("{number} {number:?} {caller:?}");
    assert!(!shown.contains(&e164[1..]), "{shown}");
}

/// Times without a zone and with one (F56): seconds are kept, and what is printed in India's zone reads back.
pub fn times(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some(time) = parse_ist(text) else { return };
    assert!(time.timestamp() > 0, "a placeholder is taken for a time");
    assert_eq!(parse_ist(&format!("  {text}\n")), Some(time));
    let printed = time.with_timezone(&ist()).format("%Y-%m-%d %H:%M:%S%.f").to_string();
    // Chrono prints years of more than four digits with a sign, and leap seconds as such.
    if (1..=9999).contains(&time.with_timezone(&ist()).format("%Y").to_string().parse().unwrap_or(0)) {
        assert_eq!(parse_ist(&printed), Some(time), "{printed}");
    }
    if let Some(naive) = parse_naive(text) {
        assert_eq!(naive.and_utc().timestamp() - time.timestamp(), 5 * 3600 + 30 * 60);
    }
}
