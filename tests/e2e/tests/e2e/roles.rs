//! call-service as the database's role that may read and write rows, and no more.

use std::fs;

use anyhow::{Context as _, Result};
use call_service::{db::ROLES, migrate};
use callbridge_proto::{
    call::v1::{CallState, PlaceCallRequest, WaitFor},
    campaign::v1::CampaignState,
    directory::v1::{ClearPhoneCredentialsRequest, ExotelCredentials, SetPhoneCredentialsRequest},
};
use e2e::{
    CUSTOMER, PATIENCE, Story,
    campaign::{always, numbers},
    quick, registration, session,
};
use exotel_sim::{CallerScript, Outcome};
use stack::{
    poll,
    postgres::{Binaries, Options, Postgres},
};
use tempfile::TempDir;

use crate::{
    campaigns::{everybody_answers, person},
    outbound::short,
};

/// Calls out and in, a campaign, credentials, an erasure, and retention; nothing of it needs a right that the role does not have.
#[tokio::test(flavor = "multi_thread")]
async fn the_role_that_serves_has_all_the_rights_that_it_needs() -> Result<()> {
    let folder = TempDir::new()?;
    let log = folder.path().join("postgres.log");
    let options = Options {
        log: Some(log.clone()),
        ..Options::default()
    };
    // Roles are of a whole cluster.
    let postgres = Postgres::start_with(&Binaries::find().await?, options).await?;
    let url = postgres.create_empty_database().await?;
    let admin = session(&url).await?;
    admin.batch_execute(ROLES).await?;
    migrate(&url.replace("callbridge@", "callsvc_migrate@")).await?;
    let serving = url.replace("callbridge@", "callsvc_app@");
    let builder = quick().database_url(&serving).call_setting("RETENTION", "2s");
    let story = Story::with(builder, registration()?).await?;
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, Outcome::answered_by(short()))?;

    let request = PlaceCallRequest {
        wait_for: WaitFor::Ended.into(),
        ..story.request(CUSTOMER)
    };
    let call = story.place(request).await?;
    assert_eq!(call.state(), CallState::Completed);
    story
        .call_in("09812340018", CallerScript::new().silence(100).hang_up())
        .await?;
    let inbound = story.inbound_row().await?;
    story.ended(&inbound.id).await?;

    everybody_answers(&story, 3)?;
    let campaign = story.campaign_of(always(), &numbers((0..3).map(person))).await?;
    story.campaign_is(&campaign.id, CampaignState::Finished).await?;

    let mut phones = story.stack.clients().phones();
    let phone_id = story.registered.phone_id.clone();
    let set = SetPhoneCredentialsRequest {
        phone_id: phone_id.clone(),
        credentials: Some(ExotelCredentials {
            api_key: "key".to_owned(),
            api_token: "token".to_owned(),
        }),
        subdomain: String::new(),
    };
    phones.set_phone_credentials(set).await?;
    phones
        .clear_phone_credentials(ClearPhoneCredentialsRequest { phone_id })
        .await?;

    story.callbridge(&["privacy", "export", CUSTOMER]).await?;
    let erase = ["privacy", "erase", CUSTOMER, "--reason", "they asked"];
    let erased = story.callbridge(&erase).await?.output;
    assert!(erased.contains("Erased."), "{erased}");
    for what in ["hold", "release"] {
        let words = ["privacy", what, CUSTOMER, "--reason", "a court's order"];
        story
            .callbridge(if what == "hold" { &words } else { &words[..3] })
            .await?;
    }
    let trail = story.callbridge(&["audit", "--number", CUSTOMER]).await?.output;
    assert!(trail.contains("PrivacyService/EraseNumber"), "{trail}");

    // Retention blanks all of it, and drops a month in which there is nothing left.
    admin
        .batch_execute(
            "SET ROLE callsvc_migrate;
            CREATE TABLE call_events_2020_01 PARTITION OF call_events
                FOR VALUES FROM (uuid_v7_floor('2020-01-01Z')) TO (uuid_v7_floor('2020-02-01Z'));
            RESET ROLE",
        )
        .await?;
    poll("retention to be done", PATIENCE, async || {
        let kept = "calls WHERE blanked_at IS NULL".to_owned();
        let month = "pg_class WHERE relname = 'call_events_2020_01'".to_owned();
        for from_where in [kept, month, "contacts".to_owned()] {
            match story.count(&from_where).await {
                Ok(0) => {}
                other => return Err(format!("{from_where}: {other:?}")),
            }
        }
        Ok(())
    })
    .await?;
    story.stack.shut_down().await?;
    let log = fs::read_to_string(&log).context("no log of PostgreSQL")?;
    let refused: Vec<&str> = log.lines().filter(|line| line.contains("permission denied")).collect();
    assert!(refused.is_empty(), "{refused:?}");
    Ok(())
}
