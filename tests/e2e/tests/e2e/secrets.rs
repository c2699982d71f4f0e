//! What must be told nowhere. Every story is looked through for that (`e2e::sweep`); here it is planted in every field.

use anyhow::Result;
use callbridge_proto::{
    call::v1::{Call, CallState, SendToAgentRequest},
    campaign::v1::CampaignState,
    id::CallId,
};
use data_encoding::{BASE64, HEXLOWER};
use e2e::{
    Socket, Story, answer,
    campaign::always,
    http, refusal,
    sweep::{self, plant, plant_number},
};
use exotel_sim::{Callee, CallerScript, Outcome};
use ring::digest::{SHA256, digest};

/// People of the campaign: each has a number and two variables.
const PEOPLE: usize = 70;

fn person(number: usize) -> String {
    format!("+91981377{number:04}")
}

/// A value that is nowhere else.
fn canary(what: &str, number: usize) -> String {
    let seed = format!("{what}{number}");
    format!(
        "canary{}",
        HEXLOWER.encode(&digest(&SHA256, seed.as_bytes()).as_ref()[..6])
    )
}

/// F122, F123: two hundred values and more, in contacts, calls, credentials, tokens and wrong requests, and none of them in lines at
/// TRACE, spans, metrics or errors.
#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_planted_values_are_told_nowhere() -> Result<()> {
    let story = Story::start().await?;
    let before = sweep::looked();
    let control = story.stack.control();

    let mut file = "number,name,order\n".to_owned();
    for number in 0..PEOPLE {
        let (to, name, order) = (person(number), canary("name", number), canary("order", number));
        plant_number("a contact", &to);
        plant("a contact's name", &name);
        plant("a contact's order", &order);
        file += &[to.as_str(), &name, &order].join(",");
        file.push('\n');
        control.set_outcome(&to, Outcome::callee(Callee::Busy))?;
    }
    let campaign = story.campaign_of(always(), &file).await?;
    story.campaign_is(&campaign.id, CampaignState::Finished).await?;

    wrong_requests(&story).await?;

    // A call with everything: metadata, a message to its agent, keys that are pressed.
    let callee = "+919813771999";
    control.set_outcome(callee, Outcome::answered_by(CallerScript::new()))?;
    let call = story.place(story.request(callee)).await?;
    let call = story.until_state(&call.id, CallState::InProgress).await?;
    let has_agent = |call: &Call| call.media_sessions.iter().any(|session| session.started_at.is_some());
    story.until(&call.id, "its agent", has_agent).await?;
    let message = canary("message", 0);
    plant("a message", &message);
    let message = SendToAgentRequest {
        call_id: call.id.clone(),
        json: format!("{{\"text\":\"{message}\"}}"),
    };
    story.stack.clients().calls().send_to_agent(message).await?;
    plant("keys that were pressed", "40718293");
    control.press(&call.exotel_call_sid, "40718293")?;
    control.hang_up(&call.exotel_call_sid)?;
    story.ended(&call.id).await?;

    let looked = sweep::looked();
    assert!(looked.canaries - before.canaries >= 200, "{looked:?}");
    // Nothing leaks where nothing is told.
    let page = runtime::telemetry::figures()?;
    assert!(page.contains("callbridge_requests_refused"), "{page}");
    for (told, what) in [
        (looked.lines - before.lines, "lines"),
        (looked.spans - before.spans, "spans"),
        (looked.errors - before.errors, "errors"),
    ] {
        assert!(told > 0, "no {what} were looked through: {looked:?}");
    }
    story.stack.shut_down().await
}

/// Values in fields that take others, and tokens that are none: what refuses them must not repeat them.
async fn wrong_requests(story: &Story) -> Result<()> {
    for field in 0..6 {
        let value = canary("wrong", field);
        plant("what a wrong request held", &value);
        let mut request = story.request("+919813771998");
        match field {
            0 => request.to = value,
            1 => request.idempotency_key = value.repeat(20),
            2 => request.metadata = [(value.repeat(20), "value".to_owned())].into(),
            3 => request.metadata = [("key".to_owned(), value.repeat(2_000))].into(),
            4 => request.from = Some(callbridge_proto::call::v1::place_call_request::From::PhoneId(value)),
            _ => request.agent_id = value,
        }
        let refused = story.stack.clients().calls().place_call(request).await;
        let Err(status) = refused else {
            anyhow::bail!("field {field} takes anything")
        };
        refusal(&status);
    }
    plant("a wrong number", "09813770");
    let wrong = story
        .stack
        .clients()
        .calls()
        .place_call(story.request("09813770"))
        .await;
    refusal(&wrong.expect_err("a wrong number is refused"));

    let forged = canary("token", 0).repeat(5)[..84].to_owned();
    plant("a forged token", &forged);
    let base = story.stack.edge_url();
    let status = exotel::paths::status_url(&base, &forged);
    let answered = http()?.post(&status).body("CallSid=1").send().await?;
    assert_eq!(answered.status().as_u16(), 404);
    sweep::look_at_error(&answered.bytes().await?);
    let connect = story
        .registered
        .urls
        .connect_url
        .replace(&story.registered.urls.account_token, &forged);
    assert_eq!(answer(&connect, &[]).await?.0, 404);
    let base = base.replace("http", "ws");
    let call = CallId(uuid::Uuid::from_u128(7)).to_string();
    let socket = exotel::paths::SOCKET
        .replace("{call_id}", &call)
        .replace("{token}", &forged);
    assert_eq!(Socket::open(&format!("{base}{socket}"), None).await?.err(), Some(404));
    let (user, password) = (canary("user", 0), canary("password", 0));
    plant("a user", &user);
    plant("a password", &password);
    plant(
        "a user and a password",
        &BASE64.encode(format!("{user}:{password}").as_bytes()),
    );
    let socket = format!("{base}{}", exotel::paths::STATIC_SOCKET);
    assert_eq!(Socket::open(&socket, Some((&user, &password))).await?.err(), Some(401));
    Ok(())
}
