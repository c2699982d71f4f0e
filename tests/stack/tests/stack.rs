//! The stack itself: it starts, serves, loses a piece, gets it back, and stops.

use std::time::Duration;

use callbridge_proto::call::v1::{CallState, GetCallRequest, PlaceCallRequest, WaitFor, place_call_request::From};
use exotel_sim::{CallerScript, Outcome};
use stack::{ApiKey, Registration, Stack, poll};
use tonic::Code;

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_survives_the_restart_of_a_replica_and_of_the_edge() {
    let mut stack = Stack::builder().replicas(2).start().await.unwrap();
    let registered = stack.register(Registration::new("stack").unwrap()).await.unwrap();
    stack.restart_edge(0).await.unwrap();
    stack.call_services[0].kill().await;
    stack.restart_call_service(0).await.unwrap();

    let script = CallerScript::new().wait_for_audio_end(300).silence(200).hang_up();
    stack
        .control()
        .set_outcome("+919812345670", Outcome::answered_by(script))
        .unwrap();
    let request = PlaceCallRequest {
        idempotency_key: "one".to_owned(),
        to: "+919812345670".to_owned(),
        from: Some(From::PhoneId(registered.phone_id)),
        wait_for: WaitFor::Placed.into(),
        ..PlaceCallRequest::default()
    };
    // Through the replica that was not restarted.
    let placed = stack
        .clients_of(1)
        .calls()
        .place_call(request)
        .await
        .unwrap()
        .into_inner()
        .call
        .unwrap();
    let mut calls = stack.clients_of(0).calls();
    let ended = poll("the call to be completed", LIMIT, async || {
        let request = GetCallRequest {
            call_id: placed.id.clone(),
        };
        let call = calls.get_call(request).await.unwrap().into_inner().call.unwrap();
        if call.state() == CallState::Completed {
            Ok(call)
        } else {
            Err(format!("{:?}", call.state()))
        }
    });
    let ended = ended.await.unwrap();
    assert_eq!(ended.media_sessions.len(), 1);

    let unknown = stack
        .clients()
        .with_key(ApiKey::none())
        .calls()
        .get_call(GetCallRequest { call_id: placed.id })
        .await;
    assert_eq!(unknown.unwrap_err().code(), Code::Unauthenticated);
    stack.shut_down().await.unwrap();
}
