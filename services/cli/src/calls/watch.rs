//! What happens to calls, as it happens. A watch that breaks off goes on where it was.

use callbridge_proto::call::v1::{CallEvent, CallFilter, WatchCallRequest, WatchCallsRequest};

use crate::{
    Failure,
    client::Client,
    output::Out,
    watching::{Broken, Patience},
    words,
};

/// One call, to its end.
pub(super) async fn one(client: &Client, out: &mut Out<'_>, id: String, follow: bool) -> Result<(), Failure> {
    let (mut seen, mut patience) = (0, Patience::default());
    loop {
        let request = WatchCallRequest {
            call_id: id.clone(),
            after_version: seen,
            follow_late_facts: follow,
        };
        let watched: Result<(), Broken> = async {
            let mut stream = client.calls().watch_call(request).await?.into_inner();
            while let Some(response) = stream.message().await? {
                patience.news();
                if let Some(event) = response.event {
                    seen = event.version;
                    tell(out, &event, false)?;
                }
            }
            Ok(())
        }
        .await;
        match watched {
            Ok(()) => return Ok(()),
            Err(broken) => patience.again(client, "the call", broken).await?,
        }
    }
}

/// All calls that match, without end.
pub(super) async fn all(client: &Client, out: &mut Out<'_>, filter: CallFilter) -> Result<(), Failure> {
    let (mut cursor, mut patience) = (String::new(), Patience::default());
    loop {
        let request = WatchCallsRequest {
            cursor: cursor.clone(),
            filter: Some(filter.clone()),
        };
        let watched: Result<(), Broken> = async {
            let mut stream = client.calls().watch_calls(request).await?.into_inner();
            while let Some(response) = stream.message().await? {
                patience.news();
                cursor = response.cursor;
                if let Some(event) = response.event {
                    tell(out, &event, true)?;
                }
            }
            Ok(())
        }
        .await;
        match watched {
            Ok(()) => return Ok(()),
            Err(broken) => patience.again(client, "calls", broken).await?,
        }
    }
}

fn tell(out: &mut Out<'_>, event: &CallEvent, with_call: bool) -> std::io::Result<()> {
    if out.json {
        return out.message(event);
    }
    let call = if with_call {
        format!("{}  ", event.call_id)
    } else {
        String::new()
    };
    let line = format!(
        "{}  {call}{:<16} {:<12} {:<10} {}",
        words::clock(event.at),
        event.r#type,
        words::call_state(event.state()),
        event.source,
        words::facts(&event.data)
    );
    out.line(line.trim_end())
}
