use proptest::prelude::*;

use super::*;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn settings(entries: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (id, value) in entries {
        payload.extend(id.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    frame(SETTINGS, 0, 0, &payload)
}

fn window(stream: u32, more: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &more.to_be_bytes())
}

#[test]
fn as_many_streams_as_the_windows_allow() {
    let mut windows = Windows::new();
    assert_eq!(windows.streams(), 1, "nothing is told");
    windows.received(&settings(&[]));
    assert_eq!(windows.streams(), 1, "64 KiB each and in all");
    windows.received(&window(0, 9 * INITIAL_WINDOW));
    assert_eq!(windows.streams(), 10);
    windows.received(&settings(&[(INITIAL_WINDOW_SIZE, 2 * INITIAL_WINDOW), (1, 4096)]));
    assert_eq!(windows.streams(), 5);
    windows.received(&settings(&[(MAX_CONCURRENT_STREAMS, 4)]));
    assert_eq!(windows.streams(), 3);
    windows.received(&settings(&[(MAX_CONCURRENT_STREAMS, 0), (INITIAL_WINDOW_SIZE, 0)]));
    assert_eq!(windows.streams(), 1);
}

proptest! {
    /// What the server gives back after it was used is no larger window, however the bytes are cut.
    #[test]
    fn what_is_given_back_is_not_counted_twice(
        sizes in prop::collection::vec(1usize..5000, 1..20), cut in 1usize..200, piece in 1usize..200,
    ) {
        let mut windows = Windows::new();
        let mut up = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        up.extend(settings(&[(INITIAL_WINDOW_SIZE, 1 << 20)]));
        let mut down = settings(&[(INITIAL_WINDOW_SIZE, 10_000)]);
        down.extend(frame(SETTINGS, ACK, 0, &[]));
        for (at, size) in sizes.iter().enumerate() {
            let stream = 2 * u32::try_from(at).unwrap() + 1;
            up.extend(frame(1, 4, stream, &[7; 30]));
            up.extend(frame(DATA, 0, stream, &vec![8; *size]));
            down.extend(frame(DATA, 0, stream, &vec![8; *size]));
            down.extend(window(stream, u32::try_from(*size).unwrap()));
            down.extend(window(0, u32::try_from(*size).unwrap()));
        }
        for bytes in up.chunks(cut) {
            windows.sent(bytes);
        }
        for bytes in down.chunks(piece) {
            windows.received(bytes);
        }
        prop_assert_eq!((windows.stream, windows.left, windows.size), (10_000, 65_535, 65_535));
        prop_assert_eq!(windows.streams(), 6);
    }

    /// F104: a server that speaks no HTTP/2 does no harm here.
    #[test]
    fn any_bytes_do(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..30)) {
        let mut windows = Windows::new();
        for piece in &pieces {
            windows.received(piece);
            windows.sent(piece);
        }
        prop_assert!(windows.streams() >= 1);
    }
}
