use super::*;
use proptest::prelude::*;

fn e164(text: &str) -> Result<String, NumberError> {
    PhoneNumber::parse(text).map(|n| n.expose().to_owned())
}

#[test]
fn what_is_no_number_without_its_zeros_is_none() {
    // The second is one of its plan's, and shorter than any number that is taken.
    for text in ["+2500006975807", "+9809602"] {
        assert_eq!(PhoneNumber::parse(text), Err(NumberError::Plan), "{text}");
    }
}

#[test]
fn every_form_of_one_number_is_one_number() {
    // F58
    for form in [
        "09812345678",
        "9812345678",
        "919812345678",
        "+919812345678",
        "+09812345678",
        "+91 98123 45678",
        " 919812345678",
        "098-123-456-78",
        "+91 (0) 98123-45678",
        "0919812345678",
        "00919812345678",
        "sip:+919812345678@voip.exotel.in;user=phone",
        "SIP:09812345678@10.0.0.1:5060",
        "\"A B\" <sip:09812345678@h>",
        "tel:+91-98123-45678",
        "\u{202a}+91 98123 45678\u{202c}",
    ] {
        assert_eq!(e164(form).as_deref(), Ok("+919812345678"), "{form}");
    }
}

#[test]
fn landlines_toll_free_and_series() {
    for (form, want) in [
        ("08040000155", "+918040000155"),
        ("8040000155", "+918040000155"),
        ("011-23456789", "+911123456789"),
        ("18001234567", "+9118001234567"),
        ("1800123456", "+911800123456"),
        ("+9118001234567", "+9118001234567"),
        ("9118001234567", "+9118001234567"),
        ("1401234567", "+911401234567"),
        ("1600123456", "+911600123456"),
        ("+14155552671", "+14155552671"),
        ("0065 6123 4567", "+6561234567"),
        ("+44 (0)20 7946 0958", "+442079460958"),
    ] {
        assert_eq!(e164(form).as_deref(), Ok(want), "{form}");
    }
}

#[test]
fn what_is_not_a_number_is_refused() {
    for (form, want) in [
        ("", NumberError::Empty),
        ("+", NumberError::Empty),
        ("anonymous", NumberError::Characters),
        ("sip:anonymous@anonymous.invalid", NumberError::Characters),
        ("98123x45678", NumberError::Characters),
        ("+91+9812345678", NumberError::Characters),
        ("112", NumberError::Length),
        ("981234567", NumberError::Length),
        ("98123456789", NumberError::Length),
        ("+91981234567", NumberError::Length),
        ("+99999999999", NumberError::Plan),
        ("+1234567890123456", NumberError::Length),
    ] {
        assert_eq!(e164(form), Err(want), "{form}");
    }
    assert_eq!(e164(&"9".repeat(10_000)), Err(NumberError::Length));
}

/// F58: what cannot be read is kept as it came.
#[test]
fn nobodys_number_is_kept_as_it_came() {
    for form in ["anonymous", "sip:anonymous@anonymous.invalid", "Restricted", "112", ""] {
        let caller = Caller::read(form);
        assert_eq!((caller.raw.as_str(), caller.number), (form, None));
    }
    let known = Caller::read("098-123-456-78");
    assert_eq!(
        known.number.map(|number| number.expose().to_owned()).as_deref(),
        Some("+919812345678")
    );
}

#[test]
fn the_national_form_is_exotels_classic_one() {
    let national = |text: &str| PhoneNumber::parse(text).unwrap().national();
    assert_eq!(national("+918040000155"), "08040000155");
    assert_eq!(national("18001234567"), "18001234567");
    assert_eq!(national("+14155552671"), "+14155552671");
}

#[test]
fn printing_hides_the_number() {
    let number = PhoneNumber::parse("09812343210").unwrap();
    assert_eq!(format!("{number} {number:?}"), "+91******3210 +91******3210");
    assert_eq!(format!("{:?}", Caller::read("09812343210")), "Caller(+91******3210)");
    assert_eq!(format!("{:?}", Caller::read("981234")), "Caller(unreadable)");
}

proptest! {
    #[test]
    fn parse_is_idempotent(text in "[+0]{0,3}[0-9 ()-]{0,18}") {
        if let Ok(number) = PhoneNumber::parse(&text) {
            prop_assert_eq!(PhoneNumber::parse(number.expose()), Ok(number.clone()));
            prop_assert_eq!(PhoneNumber::parse(&number.national()), Ok(number.clone()));
            let shown = format!("{number:?}");
            prop_assert!(!shown.contains(&number.expose()[3..]));
        }
    }

    #[test]
    fn parse_never_panics(text in "\\PC{0,200}") {
        let _ = Caller::read(&text);
    }

    #[test]
    fn world_numbers_are_idempotent(digits in "[1-9][0-9]{6,14}") {
        if let Ok(number) = PhoneNumber::parse(&format!("+{digits}")) {
            prop_assert_eq!(PhoneNumber::parse(number.expose()), Ok(number.clone()));
        }
    }
}
