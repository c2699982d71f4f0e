//! The REST client against real sockets that misbehave in every way a server, a proxy or a network can.

mod dial;
mod read;
mod recording;
mod server;
mod spans;
mod tls;

use exotel::PhoneNumber;
use exotel::rest::{Client, Credentials, Dial, Limits, Mode};
use std::time::Duration;

/// For what must answer: a busy machine is given time.
fn client() -> Client {
    let limits = Limits {
        connect: Duration::from_secs(10),
        connect_soon: Duration::from_millis(400),
        dial: Duration::from_secs(30),
        read: Duration::from_secs(30),
    };
    Client::with_limits(limits).expect("client")
}

/// For what never answers: the limit is what ends the test.
fn impatient() -> Client {
    let limits = Limits {
        connect: Duration::from_millis(400),
        connect_soon: Duration::from_millis(400),
        dial: Duration::from_secs(2),
        read: Duration::from_millis(600),
    };
    Client::with_limits(limits).expect("client")
}

fn credentials(base: String) -> Credentials {
    Credentials {
        sid: "acme1".into(),
        key: "the-key".into(),
        token: "the-token".into(),
        subdomain: base,
    }
}

fn dial() -> Dial {
    Dial {
        customer: PhoneNumber::parse("+919812345678").expect("number"),
        caller_id: PhoneNumber::parse("+918040000155").expect("number"),
        mode: Mode::Flow { app_id: "45195".into() },
        custom_field: "call_1.ABCDEFGHIJKLMNOP".into(),
        status_callback: "https://bridge.example.com/api/v1/exotel/voice/status/TOKEN".into(),
        time_limit_s: 600,
        ring_timeout_s: 30,
        record: true,
    }
}
