//! Every URL path that Exotel is given: axum route constants, and the functions that build the URLs.
//!
//! Secrets ride in the path, not in the query: Exotel strips the query of a `wss` URL before it connects (seen live).

/// The Voicebot applet's dynamic URL.
pub const CONNECT: &str = "/api/v1/exotel/{account_token}/voice/connect";
/// The Greeting applet's dynamic text.
pub const GREETING: &str = "/api/v1/exotel/{account_token}/voice/greeting";
/// The greeting as a WAV file.
pub const GREETING_WAV: &str = "/api/v1/exotel/{account_token}/voice/greeting.wav";
/// The Gather applet's dynamic prompt.
pub const GATHER: &str = "/api/v1/exotel/{account_token}/voice/gather";
/// The Passthru after a Gather.
pub const INPUT: &str = "/api/v1/exotel/{account_token}/voice/input";
/// The Connect applet's dynamic URL: whom to dial next.
pub const TRANSFER: &str = "/api/v1/exotel/{account_token}/voice/transfer";
/// The Passthru after a Voicebot.
pub const END: &str = "/api/v1/exotel/{account_token}/voice/end";
/// Status callbacks.
pub const STATUS: &str = "/api/v1/exotel/voice/status/{token}";
/// The audio WebSocket of one call.
pub const SOCKET: &str = "/ws/exotel/voice/{call_id}/{token}";
/// The audio WebSocket for applets with a fixed URL, authenticated by Basic credentials.
pub const STATIC_SOCKET: &str = "/ws/exotel/voice";
/// [`CONNECT`] as existing flows have it, with `?key={account_token}`.
pub const LEGACY_CONNECT: &str = "/api/v1/exotel/voice/connect";
/// [`GREETING`] as existing flows have it.
pub const LEGACY_GREETING: &str = "/api/v1/exotel/voice/greeting";
/// [`GATHER`] as existing flows have it.
pub const LEGACY_GATHER: &str = "/api/v1/exotel/voice/gather";
/// [`INPUT`] as existing flows have it.
pub const LEGACY_INPUT: &str = "/api/v1/exotel/voice/input";
/// [`TRANSFER`] as existing flows have it.
pub const LEGACY_TRANSFER: &str = "/api/v1/exotel/voice/transfer";
/// [`END`] as existing flows have it.
pub const LEGACY_END: &str = "/api/v1/exotel/voice/end";

/// The parameter of our own probes, behind any of these URLs: Exotel sends none of this name.
pub const PROBE: &str = "callbridge-probe";

/// The word of a probe, if a query has one.
pub fn probe_of(query: &str) -> Option<String> {
    url::form_urlencoded::parse(query.as_bytes())
        .find(|(key, _)| key == PROBE)
        .map(|(_, word)| word.into_owned())
}

/// A URL of ours with a probe's word behind it.
pub fn with_probe(url: &str, word: &str) -> String {
    format!("{url}?{PROBE}={word}")
}

/// What an operator pastes into an applet of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Applet {
    /// Voicebot, dynamic URL.
    Connect,
    /// Greeting, dynamic text.
    Greeting,
    /// The greeting's audio.
    GreetingWav,
    /// Gather, dynamic prompt.
    Gather,
    /// Passthru after Gather.
    Input,
    /// Connect, dynamic URL.
    Transfer,
    /// Passthru after Voicebot.
    End,
}

impl Applet {
    /// All of them, in the order a flow meets them.
    pub const ALL: [Self; 7] = [
        Self::Connect,
        Self::Greeting,
        Self::GreetingWav,
        Self::Gather,
        Self::Input,
        Self::Transfer,
        Self::End,
    ];

    /// The axum route.
    pub const fn route(self) -> &'static str {
        match self {
            Self::Connect => CONNECT,
            Self::Greeting => GREETING,
            Self::GreetingWav => GREETING_WAV,
            Self::Gather => GATHER,
            Self::Input => INPUT,
            Self::Transfer => TRANSFER,
            Self::End => END,
        }
    }
}

/// The URL of an applet's request. `base` is the public base URL, with or without a slash at its end.
pub fn applet_url(base: &str, account_token: &str, applet: Applet) -> String {
    join(base, &applet.route().replace("{account_token}", account_token))
}

/// The URL for status callbacks of the call that `token` names.
pub fn status_url(base: &str, token: &str) -> String {
    join(base, &STATUS.replace("{token}", token))
}

/// The audio WebSocket's URL: `https` becomes `wss`, `http` becomes `ws`.
pub fn socket_url(base: &str, shown_call_id: &str, token: &str) -> String {
    join(
        &socket_base(base),
        &SOCKET.replace("{call_id}", shown_call_id).replace("{token}", token),
    )
}

/// The audio WebSocket's URL for applets with a fixed URL.
pub fn static_socket_url(base: &str) -> String {
    join(&socket_base(base), STATIC_SOCKET)
}

fn socket_base(base: &str) -> String {
    if let Some(rest) = base.strip_prefix("https://") {
        format!("wss://{rest}")
    } else if let Some(rest) = base.strip_prefix("http://") {
        format!("ws://{rest}")
    } else {
        base.to_owned()
    }
}

fn join(base: &str, path: &str) -> String {
    format!("{}{path}", base.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::any;

    #[test]
    fn urls() {
        let base = "https://bridge.example.com/";
        assert_eq!(
            applet_url(base, "TOK", Applet::GreetingWav),
            "https://bridge.example.com/api/v1/exotel/TOK/voice/greeting.wav"
        );
        assert_eq!(
            status_url(base, "TOK"),
            "https://bridge.example.com/api/v1/exotel/voice/status/TOK"
        );
        assert_eq!(
            socket_url(base, "call_1", "TOK"),
            "wss://bridge.example.com/ws/exotel/voice/call_1/TOK"
        );
        assert_eq!(
            static_socket_url("http://127.0.0.1:8080"),
            "ws://127.0.0.1:8080/ws/exotel/voice"
        );
    }

    #[test]
    fn a_probe_is_found_in_any_query() {
        let url = with_probe("https://bridge.example.com/x", "w1");
        assert_eq!(url, "https://bridge.example.com/x?callbridge-probe=w1");
        let query = url.split_once('?').unwrap().1;
        assert_eq!(probe_of(query).as_deref(), Some("w1"));
        assert_eq!(probe_of(&format!("CallSid=a&{query}&b=c")).as_deref(), Some("w1"));
        assert_eq!(probe_of("CallSid=a&probe=b"), None);
    }

    #[test]
    fn axum_takes_all_routes_together() {
        // The router panics on a malformed or conflicting path.
        let mut router = axum::Router::<()>::new();
        for applet in Applet::ALL {
            router = router.route(applet.route(), any(|| async {}));
        }
        for path in [
            STATUS,
            SOCKET,
            STATIC_SOCKET,
            LEGACY_CONNECT,
            LEGACY_GREETING,
            LEGACY_GATHER,
            LEGACY_INPUT,
            LEGACY_TRANSFER,
            LEGACY_END,
        ] {
            router = router.route(path, any(|| async {}));
        }
        assert!(router.has_routes());
    }
}
