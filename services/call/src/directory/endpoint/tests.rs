use proptest::prelude::*;

use super::*;

fn allow(text: &str) -> Allow {
    Allow::parse(text).unwrap()
}

#[test]
fn what_is_allowed_passes() {
    let rules = allow("agents.example.com, *.svc.cluster.local,10.1.0.0/16, fd12::/16 ,192.0.2.7, loopback");
    for (endpoint, dialled) in [
        ("http://agents.example.com:50051", "http://agents.example.com:50051"),
        (" HTTPS://Echo.Agents.Example.com/ ", "https://echo.agents.example.com"),
        ("https://agents.example.com.:443", "https://agents.example.com."),
        (
            "http://echo.voice.svc.cluster.local:50051",
            "http://echo.voice.svc.cluster.local:50051",
        ),
        ("http://10.1.255.3:1", "http://10.1.255.3:1"),
        ("http://192.0.2.7", "http://192.0.2.7"),
        ("http://[fd12:1::2]:50051", "http://[fd12:1::2]:50051"),
        ("http://127.0.0.1:50061", "http://127.0.0.1:50061"),
        ("http://[::1]:50061", "http://[::1]:50061"),
        ("ws://localhost:8765/bot?x=1", "ws://localhost:8765/bot?x=1"),
        ("wss://bots.agents.example.com/ws", "wss://bots.agents.example.com/ws"),
    ] {
        assert_eq!(rules.check(endpoint).as_deref(), Ok(dialled), "{endpoint}");
    }
}

#[test]
fn without_rules_nothing_passes() {
    for rules in ["", " , "] {
        for endpoint in [
            "http://agents.example.com",
            "http://10.0.0.1",
            "http://127.0.0.1",
            "http://localhost",
        ] {
            assert_eq!(
                allow(rules).check(endpoint),
                Err(EndpointError::NotAllowed),
                "{endpoint}"
            );
        }
    }
}

/// F124: everything that such checks have been got around with.
#[test]
fn ways_around() {
    use EndpointError::{Extra, NotAllowed, Scheme, Special, Url};
    let rules = allow("agents.example.com,10.0.0.0/8");
    let table: &[(&str, EndpointError)] = &[
        // Names that look alike.
        ("http://evilagents.example.com", NotAllowed),
        ("http://agents.example.com.evil.example", NotAllowed),
        ("http://agents.example.comx", NotAllowed),
        ("http://xagents.example.com", NotAllowed),
        ("http://example.com", NotAllowed),
        ("http://localhost", NotAllowed),
        ("http://LOCALHOST.:80", NotAllowed),
        ("http://a.localhost", NotAllowed),
        ("http://metadata.google.internal", NotAllowed),
        ("http://127.0.0.1.nip.io", NotAllowed),
        ("http://169.254.169.254.xip.io", NotAllowed),
        // Loopback in its forms.
        ("http://127.0.0.1", NotAllowed),
        ("http://127.1", NotAllowed),
        ("http://127.255.255.254", NotAllowed),
        ("http://2130706433", NotAllowed),
        ("http://0x7f000001", NotAllowed),
        ("http://0x7f.1", NotAllowed),
        ("http://0177.0.0.1", NotAllowed),
        ("http://017700000001", NotAllowed),
        ("http://[::1]", NotAllowed),
        ("http://[0:0:0:0:0:0:0:1]", NotAllowed),
        ("http://[::ffff:127.0.0.1]", NotAllowed),
        ("http://[::ffff:7f00:1]", NotAllowed),
        ("http://①②⑦.⓪.⓪.①", NotAllowed),
        ("http://127。0。0。1", NotAllowed),
        ("http://%31%32%37.0.0.1", NotAllowed),
        // Metadata, link-local, unspecified and others.
        ("http://169.254.169.254", Special),
        ("http://169.254.169.254:80", Special),
        ("http://2852039166", Special),
        ("http://0xa9fea9fe", Special),
        ("http://0xA9.0xFE.0xA9.0xFE", Special),
        ("http://0251.0376.0251.0376", Special),
        ("http://0251.254.169.254", Special),
        ("http://169.254.43518", Special),
        ("http://[::ffff:169.254.169.254]", Special),
        ("http://[::ffff:a9fe:a9fe]", Special),
        ("http://[::169.254.169.254]", Special),
        ("http://[64:ff9b::169.254.169.254]", Special),
        ("http://[2002:a9fe:a9fe::]", Special),
        ("http://[fe80::1]", Special),
        ("http://[fd00:ec2::254]", Special),
        ("http://[ff02::1]", Special),
        ("http://[::]", Special),
        ("http://0", Special),
        ("http://0.0.0.0:50051", Special),
        ("http://0.1.2.3", Special),
        ("http://255.255.255.255", Special),
        ("http://224.0.0.1", Special),
        // Other private ranges.
        ("http://192.168.0.1", NotAllowed),
        ("http://172.16.0.1", NotAllowed),
        ("http://100.100.100.200", NotAllowed),
        ("http://11.0.0.1", NotAllowed),
        ("http://[fd12::1]", NotAllowed),
        // Users, paths, fragments.
        ("http://agents.example.com@127.0.0.1", Extra),
        ("http://user:secret@agents.example.com", Extra),
        ("http://@agents.example.com", Extra),
        ("http://agents.example.com#@127.0.0.1", Extra),
        ("http://agents.example.com/path", Extra),
        ("http://agents.example.com/?q", Extra),
        ("ws://agents.example.com/#x", Extra),
        ("http://127.0.0.1#agents.example.com", Extra),
        ("http://127.0.0.1?agents.example.com", Extra),
        ("http://127.0.0.1/agents.example.com", Extra),
        // Other schemes.
        ("ftp://agents.example.com", Scheme),
        ("file:///etc/passwd", Scheme),
        ("gopher://agents.example.com", Scheme),
        ("unix:///run/x.sock", Scheme),
        ("grpc://agents.example.com", Scheme),
        ("jar:http://agents.example.com!/", Scheme),
        // Not URLs.
        ("", Url),
        ("agents.example.com", Url),
        ("agents.example.com:50051", Url),
        ("//agents.example.com", Url),
        ("http:agents.example.com", Url),
        ("javascript:alert(1)", Url),
        ("http://", Url),
        ("http://:80", Url),
        ("http://agents.example.com:0", Url),
        ("http://agents.example.com:65536", Url),
        ("http://agents.example.com:x", Url),
        ("http://256.1.1.1", Url),
        ("http://1.2.3.4.5", Url),
        ("http://[::1", Url),
        ("http://[fe80::1%25eth0]", Url),
        ("http://agents.example.com\\@127.0.0.1", Url),
        ("http:\\\\agents.example.com", Url),
        ("http://agents.exam\nple.com", Url),
        ("http://agents.exam\tple.com", Url),
        ("http://agents example.com", Url),
        ("http://agents.example.com\0", Url),
    ];
    for (endpoint, error) in table {
        assert_eq!(rules.check(endpoint), Err(*error), "{endpoint}");
    }
}

#[test]
fn a_wide_range_opens_neither_this_machine_nor_the_metadata() {
    let rules = allow("0.0.0.0/0,::/0");
    assert!(rules.check("http://192.0.2.1").is_ok() && rules.check("http://[2001:db8::1]").is_ok());
    assert_eq!(rules.check("http://127.0.0.1"), Err(EndpointError::NotAllowed));
    assert_eq!(rules.check("http://169.254.169.254"), Err(EndpointError::Special));
}

#[test]
fn wrong_rules_are_told_by_their_place() {
    for (text, at) in [
        ("a.example,10.0.0.0/33", 2),
        ("10.0.0.0/", 1),
        ("http://a.example", 1),
        ("a b", 1),
        (".", 1),
        ("::/129", 1),
    ] {
        assert_eq!(Allow::parse(text), Err(AllowError(at)), "{text}");
    }
}

proptest! {
    #[test]
    fn no_text_panics_and_what_passes_passes_again(text in "(https?|wss?)?(://)?[a-z0-9.:/@\\[\\]%#?\\\\-]{0,40}") {
        let rules = allow("example.com,10.0.0.0/8,loopback");
        if let Ok(dialled) = rules.check(&text) {
            prop_assert_eq!(rules.check(&dialled), Ok(dialled));
        }
    }

    #[test]
    fn ranges_hold_what_shares_their_prefix(base in any::<u32>(), bits in 0..=32u8, address in any::<u32>()) {
        let range = Range { address: IpAddr::V4(base.into()), bits };
        let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
        prop_assert_eq!(range.contains(IpAddr::V4(address.into())), base & mask == address & mask);
    }
}
