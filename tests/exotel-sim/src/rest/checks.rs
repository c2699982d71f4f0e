//! What a connect may ask: every documented parameter with its limits, and nothing else.

use url::Url;

use super::{error::Refusal, params::Params};
use crate::{
    Account, Mode,
    call::{self, CallbackRequest, callbacks::Kind},
    number::Number,
};

/// Documented limits.
const MAX_CUSTOM_FIELD: usize = 128;
const MAX_TIME_LIMIT: u64 = 14_400;
const MAX_RING_TIMEOUT: u64 = 60;
const STREAM_URL_CHARS: usize = 600;
const MAX_STREAM_NAME: usize = 32;

/// Every documented parameter; `StatusCallbackEvents` has several spellings besides.
const KNOWN: [&str; 24] = [
    "From",
    "To",
    "CallerId",
    "Url",
    "CallType",
    "TimeLimit",
    "TimeOut",
    "MaxRetries",
    "WaitUrl",
    "Record",
    "RecordingChannels",
    "RecordingFormat",
    "CustomField",
    "StartPlaybackToNew",
    "StartPlaybackValueNew",
    "StartPlaybackTo",
    "StartPlaybackValue",
    "StatusCallback",
    "StatusCallbackContentType",
    "StreamUrl",
    "StreamBegin",
    "StreamType",
    "StreamName",
    "details",
];

const EVENTS: &str = "StatusCallbackEvents";

/// A connect that passed all checks.
pub(crate) struct Connect {
    pub(crate) request: call::Request,
    /// The numbers as they were sent, for the ledger.
    pub(crate) from: String,
    pub(crate) to: Option<String>,
    pub(crate) caller_id: String,
}

/// Reads the parameters, or says which is wrong.
pub(crate) fn check(params: &Params, account: &Account) -> Result<Connect, Refusal> {
    if let Some((key, _)) = params.iter().find(|(key, _)| !KNOWN.contains(key) && !is_events(key)) {
        return Err(Refusal::bad_request(format!("Unknown parameter {key}")));
    }
    let required = |key: &str| {
        params
            .get(key)
            .ok_or_else(|| Refusal::bad_request(format!("{key} is mandatory")))
    };
    let number = |key: &str, text: &str| {
        Number::parse(text).ok_or_else(|| Refusal::bad_request(format!("{key} is not a valid phone number")))
    };
    let (from, caller_id) = (required("From")?, required("CallerId")?);
    let (customer, exophone) = (number("From", from)?, number("CallerId", caller_id)?);
    if account.exophone(&exophone).is_none() {
        return Err(Refusal::bad_request("CallerId is not a valid ExoPhone"));
    }
    if customer == exophone {
        return Err(Refusal::bad_request("From and CallerId must not be the same"));
    }
    let to = params.get("To").map(|to| number("To", to)).transpose()?;
    let (mode, app_id) = mode(params, account)?;
    limits(params)?;
    if !account.kyc {
        return Err(Refusal::kyc());
    }
    if mode == Mode::Stream && !account.voice_ai {
        return Err(Refusal::feature());
    }
    let seconds = |key: &str, max: u64| match params.get(key).map(str::parse::<u64>) {
        None => Ok(None),
        Some(Ok(seconds)) if (1..=max).contains(&seconds) => Ok(Some(seconds)),
        Some(_) => Err(Refusal::bad_request(format!(
            "{key} must be between 1 and {max} seconds"
        ))),
    };
    let request = call::Request {
        mode,
        customer,
        exophone,
        to,
        app_id,
        stream_url: params
            .get("StreamUrl")
            .filter(|_| mode == Mode::Stream)
            .map(str::to_owned),
        custom_field: params.get("CustomField").map(str::to_owned),
        record: params.get("Record") == Some("true"),
        time_limit: seconds("TimeLimit", MAX_TIME_LIMIT)?,
        ring_timeout: seconds("TimeOut", MAX_RING_TIMEOUT)?,
        callback: callback(params, mode)?,
    };
    Ok(Connect {
        request,
        from: from.to_owned(),
        to: params.get("To").map(str::to_owned),
        caller_id: caller_id.to_owned(),
    })
}

/// Which of `To`, `Url` and `StreamUrl` was sent; and the flow's app id.
fn mode(params: &Params, account: &Account) -> Result<(Mode, Option<String>), Refusal> {
    let (to, url, stream) = (params.get("To"), params.get("Url"), params.get("StreamUrl"));
    if url.is_some() && (stream.is_some() || params.get("StreamType").is_some()) {
        return Err(Refusal::bad_request("Url and StreamUrl must not be used together"));
    }
    if url.is_some() && to.is_some() {
        return Err(Refusal::bad_request("Url and To must not be used together"));
    }
    if let Some(stream) = stream {
        let scheme = Url::parse(stream)
            .ok()
            .is_some_and(|url| matches!(url.scheme(), "ws" | "wss") && url.has_host());
        if !scheme || stream.chars().count() >= STREAM_URL_CHARS {
            return Err(Refusal::bad_request(
                "StreamUrl must be a ws or wss URL of less than 600 characters",
            ));
        }
    }
    match (to, url, stream) {
        (Some(_), _, _) => Ok((Mode::TwoNumbers, None)),
        (None, Some(url), _) => {
            let app_id = app_id(url, &account.sid).filter(|app_id| account.flow(app_id).is_some());
            match app_id {
                Some(app_id) => Ok((Mode::Flow, Some(app_id))),
                None => Err(Refusal::bad_request("Url is not a valid flow of this account")),
            }
        }
        (None, None, Some(_)) => {
            if params.get("StreamType") != Some("bidirectional") {
                return Err(Refusal::bad_request("StreamType must be bidirectional"));
            }
            Ok((Mode::Stream, None))
        }
        (None, None, None) => Err(Refusal::bad_request("One of To, Url and StreamUrl is mandatory")),
    }
}

/// The app id of `http(s)://my.exotel.com/{sid}/exoml/start_voice/{app_id}`, or of the older form without the SID.
fn app_id(text: &str, sid: &str) -> Option<String> {
    let url = Url::parse(text).ok()?;
    let host = url.host_str()?;
    let platform = host.starts_with("my.") && (host.ends_with("exotel.com") || host.ends_with("exotel.in"));
    let here = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
    if !matches!(url.scheme(), "http" | "https") || !(platform || here) {
        return None;
    }
    let segments: Vec<&str> = url.path_segments()?.collect();
    match segments.as_slice() {
        [account, "exoml", "start_voice", app_id] if *account == sid => Some((*app_id).to_owned()),
        ["exoml", "start", app_id] => Some((*app_id).to_owned()),
        _ => None,
    }
}

fn limits(params: &Params) -> Result<(), Refusal> {
    let one_of = |key: &str, allowed: &[&str]| match params.get(key) {
        Some(value) if !allowed.contains(&value) => Err(Refusal::bad_request(format!(
            "{key} must be one of {}",
            allowed.join(", ")
        ))),
        _ => Ok(()),
    };
    one_of("CallType", &["trans"])?;
    one_of("Record", &["true", "false"])?;
    one_of("RecordingChannels", &["single", "dual"])?;
    one_of("RecordingFormat", &["mp3", "mp3-hq"])?;
    one_of(
        "StatusCallbackContentType",
        &["multipart/form-data", "application/json"],
    )?;
    one_of("StreamType", &["bidirectional", "unidirectional"])?;
    let longer = |key: &str, max: usize| params.get(key).is_some_and(|value| value.chars().count() > max);
    if longer("CustomField", MAX_CUSTOM_FIELD) {
        return Err(Refusal::bad_request(format!(
            "CustomField must not be longer than {MAX_CUSTOM_FIELD} characters"
        )));
    }
    if longer("StreamName", MAX_STREAM_NAME) {
        return Err(Refusal::bad_request(format!(
            "StreamName must not be longer than {MAX_STREAM_NAME} characters"
        )));
    }
    Ok(())
}

/// `StatusCallbackEvents`, `StatusCallbackEvents[]` and `StatusCallbackEvents[0]`.
fn is_events(key: &str) -> bool {
    key.strip_prefix(EVENTS).is_some_and(|rest| {
        rest.is_empty()
            || rest
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'))
                .is_some_and(|index| index.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

fn callback(params: &Params, mode: Mode) -> Result<Option<CallbackRequest>, Refusal> {
    let mut events = Vec::new();
    for (_, value) in params.iter().filter(|(key, _)| is_events(key)) {
        for event in value.split(',').map(str::trim).filter(|event| !event.is_empty()) {
            match event {
                "terminal" => events.push(Kind::Terminal),
                "answered" => events.push(Kind::Answered),
                "both" => events.extend([Kind::Terminal, Kind::Answered]),
                "ringing" if mode == Mode::Stream => events.push(Kind::Ringing),
                _ => return Err(Refusal::bad_request(format!("{EVENTS} must be terminal or answered"))),
            }
        }
    }
    let Some(url) = params.get("StatusCallback") else {
        return Ok(None);
    };
    if !Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host()) {
        return Err(Refusal::bad_request("StatusCallback is not a valid URL"));
    }
    let json = params.get("StatusCallbackContentType") == Some("application/json");
    Ok(Some(CallbackRequest {
        url: url.to_owned(),
        events,
        json,
    }))
}

#[cfg(test)]
mod tests {
    use super::{Connect, Kind, Params, check};
    use crate::{Account, Mode};

    const GOOD: &str = "From=09812345678&CallerId=08040000155";
    const FLOW: &str = "&Url=http://my.exotel.com/examplesid1/exoml/start_voice/1001";

    fn parse(extra: &str) -> Result<Connect, (u16, String)> {
        let params = Params::of_query(&format!("{GOOD}{extra}"));
        check(&params, &Account::default()).map_err(|refusal| (refusal.status.as_u16(), refusal.message))
    }

    #[test]
    fn the_three_modes_are_told_apart() {
        let mode = |extra| parse(extra).map(|connect| connect.request.mode);
        assert_eq!(mode(FLOW), Ok(Mode::Flow));
        assert_eq!(
            mode("&Url=https://my.in.exotel.com/examplesid1/exoml/start_voice/1001"),
            Ok(Mode::Flow)
        );
        assert_eq!(mode("&Url=http://my.exotel.in/exoml/start/1001"), Ok(Mode::Flow));
        assert_eq!(mode("&To=09812345670"), Ok(Mode::TwoNumbers));
        assert_eq!(
            mode("&StreamUrl=wss://b.example/x&StreamType=bidirectional"),
            Ok(Mode::Stream)
        );
    }

    #[test]
    fn every_spelling_of_the_events_is_read() {
        for events in [
            "StatusCallbackEvents[0]=terminal&StatusCallbackEvents[1]=answered",
            "StatusCallbackEvents[]=terminal&StatusCallbackEvents[]=answered",
            "StatusCallbackEvents=terminal,answered",
            "StatusCallbackEvents=both",
        ] {
            let connect = parse(&format!("{FLOW}&StatusCallback=http://h/x&{events}"))
                .map_err(|e| e.1)
                .expect(events);
            let callback = connect.request.callback.expect("a callback");
            assert_eq!(callback.events, [Kind::Terminal, Kind::Answered], "{events}");
        }
    }

    #[test]
    fn mistakes_are_refused() {
        let long = |n: usize| "x".repeat(n);
        for extra in [
            String::new(),
            "&Url=http://my.exotel.com/examplesid1/exoml/start_voice/9999".to_owned(),
            "&Url=http://my.exotel.com/other/exoml/start_voice/1001".to_owned(),
            "&Url=http://evil.example/examplesid1/exoml/start_voice/1001".to_owned(),
            format!("{FLOW}&StreamUrl=wss://b.example/x&StreamType=bidirectional"),
            format!("{FLOW}&To=09812345670"),
            format!("{FLOW}&Foo=bar"),
            format!("{FLOW}&CustomField={}", long(129)),
            format!("{FLOW}&TimeLimit=14401"),
            format!("{FLOW}&TimeLimit=soon"),
            format!("{FLOW}&TimeOut=61"),
            format!("{FLOW}&CallType=promo"),
            format!("{FLOW}&StatusCallback=nonsense"),
            format!("{FLOW}&StatusCallback=http://h/x&StatusCallbackEvents=dial"),
            "&StreamUrl=wss://b.example/x".to_owned(),
            "&StreamUrl=https://b.example/x&StreamType=bidirectional".to_owned(),
            format!("&StreamUrl=wss://b.example/{}&StreamType=bidirectional", long(600)),
        ] {
            assert_eq!(
                parse(&extra).map(|_| ()).map_err(|(status, _)| status),
                Err(400),
                "{extra}"
            );
        }
        let refused = |text: &str| {
            check(&Params::of_query(text), &Account::default())
                .map(|_| ())
                .map_err(|r| r.message)
        };
        assert!(refused(&format!("From=08040000155&CallerId=08040000155{FLOW}")).is_err());
        assert_eq!(
            refused(&format!("From=09812345678&CallerId=09812345670{FLOW}")),
            Err("CallerId is not a valid ExoPhone".to_owned())
        );
        assert!(refused(&format!("From=%2B09812345678&CallerId=08040000155{FLOW}")).is_err());
        assert!(parse(&format!("{FLOW}&CustomField={}&TimeLimit=14400&TimeOut=60", long(128))).is_ok());
    }

    #[test]
    fn accounts_without_kyc_or_voice_ai_get_403() {
        let status = |account: &Account, extra: &str| {
            check(&Params::of_query(&format!("{GOOD}{extra}")), account)
                .map(|_| ())
                .map_err(|r| r.status.as_u16())
        };
        let stream = "&StreamUrl=wss://b.example/x&StreamType=bidirectional";
        assert_eq!(
            status(
                &Account {
                    kyc: false,
                    ..Account::default()
                },
                FLOW
            ),
            Err(403)
        );
        assert_eq!(
            status(
                &Account {
                    voice_ai: false,
                    ..Account::default()
                },
                stream
            ),
            Err(403)
        );
        assert_eq!(
            status(
                &Account {
                    voice_ai: false,
                    ..Account::default()
                },
                FLOW
            ),
            Ok(())
        );
    }
}
