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

/// An IPv4 address in the forms that parsers of URLs and resolvers take (WHATWG URL §3.5, `inet_aton`).
fn forms(address: Ipv4Addr) -> Vec<String> {
    let [a, b, c, d] = address.octets();
    let whole = u32::from(address);
    let wide = |text: String| -> String {
        let fullwidth = |c: char| char::from_u32(u32::from(c) - u32::from('0') + 0xff10).unwrap();
        text.chars()
            .map(|c| if c.is_ascii_digit() { fullwidth(c) } else { '\u{3002}' })
            .collect()
    };
    let percent = |text: String| -> String {
        text.bytes()
            .map(|byte| format!("%{byte:02x}"))
            .collect::<Vec<_>>()
            .concat()
    };
    let v6 = |prefix: &str| format!("[{prefix}{:x}:{:x}]", whole >> 16, whole & 0xffff);
    let mut forms = vec![
        address.to_string(),
        format!("{address}."),
        whole.to_string(),
        format!("{whole:#x}"),
        format!("{whole:#X}").replace("0X", "0x"),
        format!("0{whole:o}"),
        format!("{a:#x}.{b:#x}.{c:#x}.{d:#x}"),
        format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
        format!("{a}.{}", whole & 0x00ff_ffff),
        format!("{a}.{b}.{}", whole & 0xffff),
        format!("{a:#x}.{b}.0{:o}", whole & 0xffff),
        wide(address.to_string()),
        percent(address.to_string()),
        format!("[::ffff:{address}]"),
        format!("[0:0:0:0:0:ffff:{address}]"),
    ];
    forms.extend(
        [
            "::ffff:",
            "::",
            "::ffff:0:",
            "64:ff9b::",
            "64:ff9b:1::",
            "0064:FF9B::",
            "2001::",
        ]
        .map(v6),
    );
    forms.push(format!("[2002:{:x}:{:x}::1]", whole >> 16, whole & 0xffff));
    forms
}

/// F124: forms × addresses × schemes, by a list that has a name and a range, and by one that allows whatever it can.
#[test]
fn no_form_of_an_address_gets_past() {
    let narrow = allow("agents.example.com,198.51.100.0/24");
    let widest = allow("agents.example.com,0.0.0.0/0,::/0");
    let never = [
        "127.0.0.1",
        "127.8.9.10",
        "169.254.169.254",
        "0.0.0.0",
        "224.0.0.251",
        "255.255.255.255",
    ];
    let private = [
        "10.0.0.1",
        "172.31.255.254",
        "192.168.1.1",
        "100.64.0.1",
        "100.100.100.200",
        "198.18.0.1",
        "8.8.8.8",
    ];
    let mut tried = 0;
    for (addresses, lists) in [(&never[..], vec![&narrow, &widest]), (&private, vec![&narrow])] {
        for form in addresses.iter().flat_map(|address| forms(address.parse().unwrap())) {
            for (list, scheme) in lists
                .iter()
                .flat_map(|list| ["http", "https", "ws", "wss"].map(|scheme| (list, scheme)))
            {
                let endpoint = format!("{scheme}://{form}:8080");
                assert!(list.check(&endpoint).is_err(), "{endpoint}");
                tried += 1;
            }
        }
    }
    assert!(tried >= 200, "{tried}");
    assert!(narrow.check("http://198.51.100.7:8080").is_ok());
    assert!(widest.check("https://8.8.8.8").is_ok());
}

/// F124: names that read like another one are not it; the same name in other letters is.
#[test]
fn names_are_compared_as_they_are_resolved() {
    let rules = allow("agents.example.com");
    for (endpoint, passes) in [
        ("http://AGENTS.example.COM", true),
        ("http://agents。example。com", true),
        ("http://agents.example.com.", true),
        ("http://ａgents.example.com", true),
        ("http://%61gents.example.com", true),
        // Cyrillic a, the same in punycode, a dot below, a dotless i.
        ("http://аgents.example.com", false),
        ("http://xn--gents-3ve.example.com", false),
        ("http://ạgents.example.com", false),
        ("http://agents.exampłe.com", false),
        ("http://agents.example.com%2eevil.example", false),
        ("http://agents.example.com%00.evil.example", false),
        ("http://evil.example%2fagents.example.com", false),
        ("http://agents-example-com.evil.example", false),
        ("http://agents.example.com..", false),
    ] {
        assert_eq!(
            rules.check(endpoint).is_ok(),
            passes,
            "{endpoint}: {:?}",
            rules.check(endpoint)
        );
    }
}

/// F124: a name that leads to a public address when it is looked at and to this machine a moment later. One answer is looked at,
/// and what is dialled is of that answer.
#[test]
fn a_name_that_changes_its_mind_gains_nothing() {
    let rules = allow("agents.example.com");
    let at = |address: &str| SocketAddr::new(address.parse().unwrap(), 443);
    let mut answers = [
        vec![at("93.184.216.34")],
        vec![at("127.0.0.1")],
        // Both at one time: the one that may be dialled is left.
        vec![
            at("169.254.169.254"),
            at("93.184.216.34"),
            at("::1"),
            at("::ffff:127.0.0.1"),
        ],
        vec![],
    ]
    .into_iter();
    let mut dial = || rules.dialled("agents.example.com", answers.next().unwrap());
    assert_eq!(dial().unwrap(), [at("93.184.216.34")]);
    assert_eq!(dial().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    assert_eq!(dial().unwrap(), [at("93.184.216.34")]);
    assert_eq!(dial().unwrap_err().kind(), io::ErrorKind::NotFound);
    // A name may be at a private address, since agents are services of one's own; one that is not listed may not.
    assert!(rules.permits("a.agents.example.com", "10.1.2.3".parse().unwrap()));
    assert!(!rules.permits("elsewhere.example.com", "10.1.2.3".parse().unwrap()));
    assert!(!rules.permits("agents.example.com", "64:ff9b::7f00:1".parse().unwrap()));
    assert!(!rules.permits("agents.example.com", "fe80::1".parse().unwrap()));
}

proptest! {
    #[test]
    fn no_text_panics_and_what_passes_passes_again(text in "(https?|wss?)?(://)?[a-z0-9.:/@\\[\\]%#?\\\\-]{0,40}") {
        let rules = allow("example.com,10.0.0.0/8,loopback");
        if let Ok(dialled) = rules.check(&text) {
            prop_assert_eq!(rules.check(&dialled), Ok(dialled));
        }
    }
}
