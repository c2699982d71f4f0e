//! Contacts come as a file: what is good is taken, what is not is reported by line, and what broke off goes on.

use anyhow::{Context as _, Result};
use callbridge_proto::campaign::v1::{
    AddContactsRequest, AddContactsResponse, CampaignState, ContactList, DuplicatePolicy, ForecastCampaignRequest,
    ImportHeader, ListContactsRequest, NewContact, RowProblem, add_contacts_request::Message,
};
use data_encoding::HEXLOWER;
use e2e::{
    PATIENCE, Story,
    campaign::{always, messages, numbers},
    invalid, quick, refusal, refused, registration,
};
use exotel_sim::Outcome;
use ring::digest::{SHA256, digest};
use runtime::Tasks;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::outbound::short;

fn problem(line: i64, column: &str, problem: &str) -> RowProblem {
    RowProblem {
        line,
        column: column.to_owned(),
        problem: problem.to_owned(),
    }
}

async fn send(story: &Story, header: ImportHeader, file: &[u8]) -> Result<AddContactsResponse, tonic::Status> {
    let stream = tokio_stream::iter(messages(header, file));
    let mut campaigns = story.stack.clients().campaigns();
    Ok(campaigns.add_contacts(stream).await?.into_inner())
}

fn header(campaign: &str, key: &str) -> ImportHeader {
    ImportHeader {
        campaign_id: campaign.to_owned(),
        key: key.to_owned(),
        ..ImportHeader::default()
    }
}

/// A file with every mistake: each bad row is told by its line, and every good one is taken, with its variables.
#[tokio::test(flavor = "multi_thread")]
async fn bad_rows_are_reported_by_line_and_the_others_are_taken() -> Result<()> {
    let story = Story::start().await?;
    let campaign = story.campaign("one", story.settings(always())).await?;
    let mut file = b"\xef\xbb\xbfname,Phone,zone,due\r\n".to_vec();
    file.extend_from_slice("Asha,+919813000001,,\"1,200\"\n".as_bytes());
    file.extend_from_slice(b"Ravi,09813000002,Asia/Kolkata,\n");
    file.extend_from_slice(b"Nobody,12,,\n");
    file.extend_from_slice(b"Twice,9813000001,,\n");
    file.extend_from_slice(b"Elsewhere,+919813000003,Mars/Olympus,\n");
    file.extend_from_slice(b"Caf\xe9,+919813000004,,\n");
    file.extend_from_slice(b"Short,+919813000005\n");
    file.extend_from_slice(format!("Long,+919813000006,,{}\n", "x".repeat(70_000)).as_bytes());
    file.extend_from_slice(b"Last,+919813000007,,");
    let sha256 = HEXLOWER.encode(digest(&SHA256, &file).as_ref());
    let with_hash = ImportHeader {
        sha256,
        ..header(&campaign.id, "mixed")
    };
    let report = send(&story, with_hash.clone(), &file).await?;
    assert_eq!(
        (report.rows, report.accepted, report.duplicates, report.rejected),
        (9, 3, 1, 5)
    );
    let expected = [
        problem(4, "number", "number_length"),
        problem(5, "number", "duplicate"),
        problem(6, "zone", "zone_unknown"),
        problem(7, "name", "encoding"),
        problem(8, "", "cell_count"),
        problem(9, "", "line_too_long"),
    ];
    assert_eq!(report.problems, expected);
    // The same file again is the same report, and nobody new.
    let again = send(&story, with_hash, &file).await?;
    assert!(again.repeated);
    assert_eq!(again.problems, report.problems);
    let contacts = story.contacts(&campaign.id).await?;
    let read: Vec<_> = contacts
        .iter()
        .map(|contact| (contact.number.as_str(), contact.zone.as_str()))
        .collect();
    let expected = [
        ("+919813000001", ""),
        ("+919813000002", "Asia/Kolkata"),
        ("+919813000007", ""),
    ];
    assert_eq!(read, expected);
    assert_eq!(
        contacts[0].variables,
        [("name", "Asha"), ("due", "1,200")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into()
    );

    // Without a column for the number nothing is taken.
    let status = send(&story, header(&campaign.id, "bad"), b"name,city\nAsha,Pune\n")
        .await
        .unwrap_err();
    assert_eq!(refusal(&status), invalid(&["csv_chunk"]));
    let wrong = ImportHeader {
        sha256: "00".repeat(32),
        ..header(&campaign.id, "hash")
    };
    let status = send(&story, wrong, b"number\n").await.unwrap_err();
    assert_eq!(refusal(&status), invalid(&["header.sha256"]));
    assert_eq!(story.contacts(&campaign.id).await?.len(), 3);
    story.stack.shut_down().await
}

/// Nobody of a file with a hash is called before the whole of it is there and is what it should be: of another one nothing is left,
/// and the same key takes the right one. A campaign that had finished goes on with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_what_it_should_be_is_not_called() -> Result<()> {
    let story = Story::start().await?;
    let control = story.stack.control();
    let (wrong, right) = (
        numbers(["+919813000020".to_owned()]),
        numbers(["+919813000021".to_owned()]),
    );
    for number in ["+919813000020", "+919813000021", "+919813000022"] {
        control.set_outcome(number, Outcome::answered_by(short()))?;
    }
    let campaign = story.campaign("one", story.settings(always())).await?;
    story
        .add_contacts(&campaign.id, "first", numbers(["+919813000022".to_owned()]).as_bytes())
        .await?;
    story.start_campaign(&campaign.id).await?;
    story.campaign_is(&campaign.id, CampaignState::Finished).await?;
    let hashed = ImportHeader {
        sha256: HEXLOWER.encode(digest(&SHA256, right.as_bytes()).as_ref()),
        ..header(&campaign.id, "hashed")
    };
    let status = send(&story, hashed.clone(), wrong.as_bytes())
        .await
        .err()
        .context("it was taken")?;
    assert_eq!(refusal(&status), invalid(&["header.sha256"]));
    assert_eq!(story.contacts(&campaign.id).await?.len(), 1);
    let report = send(&story, hashed, right.as_bytes()).await?;
    assert_eq!(
        (report.rows, report.accepted, report.resumed_after, report.repeated),
        (1, 1, 0, false)
    );
    let done = story.campaign_is(&campaign.id, CampaignState::Finished).await?;
    assert_eq!(
        done.progress.context("no progress")?.by_state,
        [("reached".to_owned(), 2)].into()
    );
    assert_eq!((story.posts()?, story.dials("09813000020").await?), (2, 0));
    story.stack.shut_down().await
}

/// A file with a hash that breaks off holds nobody for ever: whoever comes with another file is that one's, and is called.
#[tokio::test(flavor = "multi_thread")]
async fn people_of_a_file_that_broke_off_come_with_another_one() -> Result<()> {
    let story = Story::start().await?;
    let number = "+919813000023";
    story
        .stack
        .control()
        .set_outcome(number, Outcome::answered_by(short()))?;
    let campaign = story.campaign("one", story.settings(always())).await?;
    story.start_campaign(&campaign.id).await?;
    let hashed = ImportHeader {
        sha256: "00".repeat(32),
        ..header(&campaign.id, "broken")
    };
    // So many rows are committed before the end, which is no end.
    let begun = messages(hashed, numbers(vec![number.to_owned(); 12_000]).as_bytes());
    let breaking = tokio_stream::iter(begun.into_iter().chain([AddContactsRequest::default()]));
    let mut campaigns = story.stack.clients().campaigns();
    campaigns.add_contacts(breaking).await.err().context("it was taken")?;
    stack::poll("its person", PATIENCE, async || match story.count("contacts").await {
        Ok(1) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
    let held = story.contacts(&campaign.id).await?;
    assert!(held[0].next_at.is_none(), "{:?}", held[0].next_at);
    let again = numbers([number.to_owned()]);
    for (key, accepted) in [("at once", 0), ("again", 1), ("once more", 0)] {
        if key == "again" {
            // The rest of a file that is on its way may come at any moment, so its people stay its own.
            assert_eq!(story.contacts(&campaign.id).await?[0].next_at, None);
            story.import_is_old("broken").await?;
        }
        let report = send(&story, header(&campaign.id, key), again.as_bytes()).await?;
        assert_eq!(
            (report.rows, report.accepted, report.duplicates),
            (1, accepted, 1 - accepted)
        );
    }
    let called = story
        .campaign_until(&campaign.id, "the person is reached", |got| {
            let progress = got.progress.as_ref();
            progress.is_some_and(|progress| progress.by_state.get("reached") == Some(&1))
        })
        .await?;
    assert_eq!(called.progress.context("no progress")?.contacts, 1);
    story.stack.shut_down().await
}

/// Messages instead of a file, a duplicate that replaces what was there, and the variables on the call.
#[tokio::test(flavor = "multi_thread")]
async fn a_contacts_variables_reach_its_call() -> Result<()> {
    let story = Story::start().await?;
    story
        .stack
        .control()
        .set_outcome("+919813000010", Outcome::answered_by(short()))?;
    let campaign = story.campaign("one", story.settings(always())).await?;
    let contact = |plan: &str| NewContact {
        number: "+919813000010".to_owned(),
        zone: String::new(),
        variables: [("plan".to_owned(), plan.to_owned())].into(),
    };
    for (key, plan) in [("first", "old"), ("second", "new")] {
        let header = ImportHeader {
            when_duplicate: DuplicatePolicy::Replace.into(),
            ..header(&campaign.id, key)
        };
        let list = Message::Contacts(ContactList {
            contacts: vec![contact(plan)],
        });
        let sent = [Message::Header(header), list].map(|message| AddContactsRequest { message: Some(message) });
        story
            .stack
            .clients()
            .campaigns()
            .add_contacts(tokio_stream::iter(sent))
            .await?;
    }
    story.start_campaign(&campaign.id).await?;
    story.campaign_is(&campaign.id, CampaignState::Finished).await?;
    let contact = story
        .contacts(&campaign.id)
        .await?
        .into_iter()
        .next()
        .context("no contact")?;
    let call = story.get(&contact.call_id).await?;
    assert_eq!(call.metadata["plan"], "new");
    assert_eq!((call.campaign_id, call.contact_id), (campaign.id, contact.id));
    story.stack.shut_down().await
}

/// F117: a file that broke off half-way, with the replica that took it, goes on at another one: nobody twice, nobody lost.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_broke_off_goes_on_where_it_was() -> Result<()> {
    let mut story = Story::with(quick().replicas(2), registration()?).await?;
    let campaign = story.campaign("one", story.settings(always())).await?;
    let file = numbers((0..45_000).map(|number| format!("+9198{:08}", 20_000_000 + number)));
    let all = messages(header(&campaign.id, "big"), file.as_bytes());
    let half = all.len() / 2;
    let (sender, receiver) = mpsc::channel(1);
    let mut of_first = story.stack.clients_of(0).campaigns();
    let sending = Tasks::new().spawn(async move { of_first.add_contacts(ReceiverStream::new(receiver)).await });
    for message in &all[..half] {
        sender.send(message.clone()).await?;
    }
    let committed = "campaign_imports WHERE line > 0";
    stack::poll("some of it is committed", PATIENCE, async || {
        match story.count(committed).await {
            Ok(1) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    story.stack.call_services[0].stop().await?;
    drop(sender);
    assert!(sending.await?.is_some_and(|answer| answer.is_err()));
    let taken = story.count("contacts").await?;
    assert!((1..45_000).contains(&taken), "{taken}");
    let mut of_second = story.stack.clients_of(1).campaigns();
    let report = of_second.add_contacts(tokio_stream::iter(all)).await?.into_inner();
    assert_eq!(
        (report.rows, report.accepted, report.duplicates, report.rejected),
        (45_000, 45_000, 0, 0)
    );
    assert!(report.resumed_after > 0);
    assert_eq!(story.count("contacts").await?, 45_000);
    let page = ListContactsRequest {
        campaign_id: campaign.id.clone(),
        number: "+919820000007".to_owned(),
        ..ListContactsRequest::default()
    };
    assert_eq!(of_second.list_contacts(page).await?.into_inner().contacts.len(), 1);
    let forecast = ForecastCampaignRequest {
        campaign_id: campaign.id.clone(),
        ..ForecastCampaignRequest::default()
    };
    let forecast = of_second.forecast_campaign(forecast).await?.into_inner();
    assert!(
        forecast.finishes_at.is_some() && forecast.calls >= 45_000.0,
        "{}",
        forecast.calls
    );
    assert!(forecast.chart_svg.starts_with("<svg"));
    story.stack.shut_down().await
}

/// A key is of one file, sent in one way: what is known of that one is not taken for true of another.
#[tokio::test(flavor = "multi_thread")]
async fn another_file_needs_another_key() -> Result<()> {
    let story = Story::start().await?;
    let campaign = story.campaign("one", story.settings(always())).await?;
    let file = b"number,name\n+919813000001,Asha\n";
    let hash = |file: &[u8]| HEXLOWER.encode(digest(&SHA256, file).as_ref());
    let hashed = |file: &[u8]| ImportHeader {
        sha256: hash(file),
        ..header(&campaign.id, "hashed")
    };
    send(&story, hashed(file), file).await?;
    let other = b"number,name\n+919813000002,Ravi\n";
    let replaced = ImportHeader {
        when_duplicate: DuplicatePolicy::Replace.into(),
        ..hashed(file)
    };
    for (header, file) in [(hashed(other), &other[..]), (replaced, file)] {
        let status = send(&story, header, file).await.err().context("it was taken")?;
        assert_eq!(refusal(&status), refused(Code::AlreadyExists, "IMPORT_KEY_REUSED"));
    }

    // Without a hash the columns tell. The first stream breaks off when a row was committed.
    let broken = format!("number,name\n{}", "+919813000003,Mina\n".repeat(12_000));
    let begun = messages(header(&campaign.id, "open"), broken.as_bytes());
    let breaking = tokio_stream::iter(begun.into_iter().chain([AddContactsRequest::default()]));
    let mut campaigns = story.stack.clients().campaigns();
    campaigns.add_contacts(breaking).await.err().context("it was taken")?;
    stack::poll("its first rows", PATIENCE, async || {
        match story.count("campaign_imports WHERE key = 'open' AND line > 0").await {
            Ok(1) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    let others = broken.replace("name", "city");
    let status = send(&story, header(&campaign.id, "open"), others.as_bytes()).await;
    let status = status.err().context("it was taken")?;
    assert_eq!(refusal(&status), refused(Code::AlreadyExists, "IMPORT_KEY_REUSED"));
    let report = send(&story, header(&campaign.id, "open"), broken.as_bytes()).await?;
    assert_eq!((report.rows, report.accepted), (12_000, 1));
    story.stack.shut_down().await
}
