//! What PlaceCall and its neighbours refuse.

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use callbridge_proto::{
    call::v1::{Call, GetCallRequest, PlaceCallRequest, place_call_request::From},
    directory::v1::{CallingHours, CreateAccountRequest, CreatePhoneRequest, ExotelCredentials},
};
use e2e::{CUSTOMER, Refusal, Story, invalid, refusal, refused};
use prost_types::{Duration, Timestamp};
use tonic::{Code, Status};

const NO_CALL: &str = "call_00000000000070008000000000000000";
const NO_PHONE: &str = "phone_00000000000070008000000000000000";
const NO_AGENT: &str = "agent_00000000000070008000000000000000";

async fn place(story: &Story, request: PlaceCallRequest) -> Result<Call, Status> {
    let placed = story.stack.clients().calls().place_call(request).await?.into_inner();
    placed.call.ok_or_else(|| Status::internal("an answer without a call"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_request_is_refused_field_by_field_and_leaves_no_trace() -> Result<()> {
    let story = Story::start().await?;
    let good = || story.request(CUSTOMER);
    let seconds = |seconds| Some(Duration { seconds, nanos: 0 });
    let entries = |count: usize, bytes: usize| -> HashMap<String, String> {
        (0..count).map(|at| (format!("k{at}"), "v".repeat(bytes))).collect()
    };
    let far = Timestamp {
        seconds: 4_000_000_000,
        nanos: 0,
    };
    let past = Timestamp {
        seconds: 1_000,
        nanos: 0,
    };
    let cases = [
        (
            PlaceCallRequest {
                to: String::new(),
                ..good()
            },
            &["to"][..],
        ),
        (
            PlaceCallRequest {
                to: "not a number".to_owned(),
                ..good()
            },
            &["to"],
        ),
        (
            PlaceCallRequest {
                to: "+91123".to_owned(),
                ..good()
            },
            &["to"],
        ),
        (
            PlaceCallRequest {
                from: Some(From::PhoneId("phone_7".to_owned())),
                ..good()
            },
            &["phone_id"],
        ),
        (
            PlaceCallRequest {
                from: Some(From::CallerId("0".to_owned())),
                ..good()
            },
            &["caller_id"],
        ),
        (PlaceCallRequest { from: None, ..good() }, &["phone_id"]),
        (
            PlaceCallRequest {
                agent_id: "call_7".to_owned(),
                ..good()
            },
            &["agent_id"],
        ),
        (
            PlaceCallRequest {
                ring_timeout: seconds(4),
                ..good()
            },
            &["ring_timeout"],
        ),
        (
            PlaceCallRequest {
                ring_timeout: Some(Duration { seconds: 9, nanos: 1 }),
                ..good()
            },
            &["ring_timeout"],
        ),
        (
            PlaceCallRequest {
                time_limit: seconds(3_601),
                ..good()
            },
            &["time_limit"],
        ),
        (
            PlaceCallRequest {
                not_before: Some(far),
                ..good()
            },
            &["not_before"],
        ),
        (
            PlaceCallRequest {
                expire_at: Some(past),
                ..good()
            },
            &["expire_at"],
        ),
        (
            PlaceCallRequest {
                priority: 101,
                ..good()
            },
            &["priority"],
        ),
        (
            PlaceCallRequest {
                calling_hours_override: "x".repeat(129),
                ..good()
            },
            &["calling_hours_override"],
        ),
        (
            PlaceCallRequest {
                metadata: entries(33, 1),
                ..good()
            },
            &["metadata"],
        ),
        (
            PlaceCallRequest {
                metadata: entries(1, 1_025),
                ..good()
            },
            &["metadata"],
        ),
        (
            PlaceCallRequest {
                metadata: entries(9, 1_000),
                ..good()
            },
            &["metadata"],
        ),
        (
            PlaceCallRequest {
                metadata: [("k".repeat(65), String::new())].into(),
                ..good()
            },
            &["metadata"],
        ),
        (PlaceCallRequest { wait_for: 99, ..good() }, &["wait_for"]),
        (
            PlaceCallRequest {
                when_number_busy: 99,
                ..good()
            },
            &["when_number_busy"],
        ),
        (
            PlaceCallRequest {
                when_at_capacity: -1,
                ..good()
            },
            &["when_at_capacity"],
        ),
        (
            PlaceCallRequest {
                to: "7".to_owned(),
                priority: -101,
                when_number_busy: 4,
                ..PlaceCallRequest::default()
            },
            &["idempotency_key", "to", "priority", "when_number_busy"],
        ),
    ];
    for (request, fields) in cases {
        let status = place(&story, request).await.unwrap_err();
        assert_eq!(refusal(&status), invalid(fields), "{}", status.message());
    }

    // Well-formed, but nothing is there: the field tells which one.
    let from = |from| PlaceCallRequest {
        from: Some(from),
        ..good()
    };
    let unknown_agent = PlaceCallRequest {
        agent_id: NO_AGENT.to_owned(),
        ..good()
    };
    for (request, field) in [
        (from(From::PhoneId(NO_PHONE.to_owned())), "phone_id"),
        (from(From::CallerId("08041110000".to_owned())), "caller_id"),
        (unknown_agent, "agent_id"),
    ] {
        let status = place(&story, request).await.unwrap_err();
        assert_eq!(refusal(&status), invalid(&[field]), "{}", status.message());
        assert!(!status.message().contains("80411"), "{}", status.message());
    }
    let not_found = refused(Code::NotFound, "NOT_FOUND");
    for (id, expected) in [(NO_CALL, not_found), ("call_x", invalid(&["call_id"]))] {
        let request = GetCallRequest { call_id: id.to_owned() };
        assert_eq!(
            refusal(&story.stack.clients().calls().get_call(request).await.unwrap_err()),
            expected
        );
    }
    assert_eq!(
        (
            story.posts()?,
            story.count("calls").await?,
            story.count("call_events").await?
        ),
        (0, 0, 0)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_lacks_an_agent_credentials_or_a_flow_is_refused() -> Result<()> {
    let story = Story::start().await?;
    let clients = story.stack.clients();
    let account = async |name: &str, app_id: &str, credentials: Option<ExotelCredentials>| -> Result<String> {
        let request = CreateAccountRequest {
            name: name.to_owned(),
            sid: format!("{name}1"),
            app_id: app_id.to_owned(),
            subdomain: story.stack.simulator_url(),
            calling_hours: Some(CallingHours {
                off: true,
                ..CallingHours::default()
            }),
            credentials,
            ..CreateAccountRequest::default()
        };
        Ok(clients
            .accounts()
            .create_account(request)
            .await?
            .into_inner()
            .account
            .context("no account")?
            .id)
    };
    let agent = story.registered.agent.id.as_str();
    let refused_for = async |account: String, number: &str, agent: &str| -> Result<Refusal> {
        let phone = CreatePhoneRequest {
            account_id: account,
            number: number.to_owned(),
            agent_id: agent.to_owned(),
            ..CreatePhoneRequest::default()
        };
        let phone = clients
            .phones()
            .create_phone(phone)
            .await?
            .into_inner()
            .phone
            .context("no phone")?;
        let request = PlaceCallRequest {
            from: Some(From::PhoneId(phone.id)),
            ..story.request(CUSTOMER)
        };
        let status = place(&story, request).await.err().context("the call was placed")?;
        assert!(!status.message().is_empty());
        Ok(refusal(&status))
    };
    let secrets = || {
        Some(ExotelCredentials {
            api_key: "k".to_owned(),
            api_token: "t".to_owned(),
        })
    };
    let precondition = |reason: &str| refused(Code::FailedPrecondition, reason);

    let whole = account("whole", "7", secrets()).await?;
    assert_eq!(refused_for(whole, "08041110001", "").await?, precondition("NO_AGENT"));
    let keyless = account("keyless", "7", None).await?;
    assert_eq!(
        refused_for(keyless, "08041110002", agent).await?,
        precondition("NO_CREDENTIALS")
    );
    let flowless = account("flowless", "", secrets()).await?;
    assert_eq!(
        refused_for(flowless, "08041110003", agent).await?,
        precondition("NO_APP_ID")
    );
    assert_eq!(
        (story.count("calls").await?, story.stack.control().ledger().await?.len()),
        (0, 0)
    );
    Ok(())
}
