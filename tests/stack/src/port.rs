//! Ports for servers that die and come back.

use std::{
    io::{self, Error, ErrorKind},
    net::{Ipv4Addr, TcpListener},
    sync::atomic::{AtomicU16, Ordering},
};

/// Below the ports that systems give to outgoing connections (32768 on Linux, 49152 elsewhere): such a connection would take
/// the port of a server that is down for a moment.
const RANGE: std::ops::Range<u16> = 15_000..32_000;

/// No port is given twice by one process.
static NEXT: AtomicU16 = AtomicU16::new(0);

/// A free port that stays free while its server is down, unless another program asks for this very one.
pub(crate) fn lasting() -> io::Result<u16> {
    let length = RANGE.end - RANGE.start;
    // Processes that start together begin at different places, farther apart than any of them needs ports.
    let offset = u16::try_from(std::process::id() % u32::from(length)).unwrap_or(0);
    for _ in 0..length {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % length;
        let port =
            RANGE.start + u16::try_from((u32::from(offset) * 64 + u32::from(step)) % u32::from(length)).unwrap_or(0);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(Error::new(
        ErrorKind::AddrInUse,
        "no port between 15000 and 32000 is free",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_are_below_those_of_outgoing_connections() {
        let (one, other) = (lasting().unwrap(), lasting().unwrap());
        assert_ne!(one, other);
        assert!(RANGE.contains(&one) && RANGE.contains(&other));
    }
}
