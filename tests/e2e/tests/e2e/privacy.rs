//! A person's data from the command line, after a whole call.

use anyhow::{Context as _, Result};
use callbridge_proto::call::v1::PlaceCallRequest;
use diesel_async::{AsyncConnection as _, AsyncPgConnection, SimpleAsyncConnection as _};
use e2e::{CUSTOMER, PATIENCE, Story, callback_url, http, seconds_from_now};
use exotel_sim::{CallerScript, Outcome};
use stack::poll;

/// Counts the rows of all tables that have these digits in any column, as text or as bytes.
const TRACES: &str = "CREATE FUNCTION traces(digits text) RETURNS bigint LANGUAGE plpgsql AS $$
    DECLARE name text; n bigint; found bigint := 0;
    BEGIN
        FOR name IN SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace
            AND relkind IN ('r', 'p') AND NOT relispartition
        LOOP
            EXECUTE format('SELECT count(*) FROM %I t WHERE position($1 IN to_jsonb(t)::text) > 0
                OR position(encode($1::bytea, ''hex'') IN to_jsonb(t)::text) > 0', name) INTO n USING digits;
            found := found + n;
        END LOOP;
        RETURN found;
    END $$";

/// F122: what a whole call left behind is exported, and erased without a trace; a webhook that was set aside has no number either.
#[tokio::test(flavor = "multi_thread")]
async fn a_persons_call_is_exported_and_erased() -> Result<()> {
    let story = Story::start().await?;
    let mut conn = AsyncPgConnection::establish(&story.stack.database_url).await?;
    conn.batch_execute(TRACES).await?;
    let script = CallerScript::new().silence(300).hang_up();
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, Outcome::answered_by(script))?;
    let request = PlaceCallRequest {
        metadata: [("phone".to_owned(), CUSTOMER.to_owned())].into(),
        ..story.request(CUSTOMER)
    };
    let placed = story.place(request).await?;
    let (call, _) = story.ended(&placed.id).await?;
    story.told(&call.exotel_call_sid).await?;
    // One that contradicts the call.
    let url = callback_url(&story, &call.id, seconds_from_now(60))?;
    let other = [("CallSid", "another"), ("Status", "busy"), ("From", CUSTOMER)];
    assert_eq!(http()?.post(url.clone()).form(&other).send().await?.status(), 200);
    let digits = CUSTOMER.strip_prefix("+91").context("the number is Indian")?;
    assert!(story.count(&format!("generate_series(1, traces('{digits}'))")).await? > 0);
    poll(
        "all webhooks to be applied or set aside",
        PATIENCE,
        async || match story
            .count("webhook_inbox WHERE applied_at IS NULL AND problem IS NULL")
            .await
        {
            Ok(0) => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )
    .await?;
    assert_eq!(story.count("webhook_inbox WHERE problem IS NOT NULL").await?, 1);
    assert!(story.count("webhook_inbox WHERE applied_at IS NOT NULL").await? > 0);
    let unmasked = format!("webhook_inbox WHERE position('{digits}' IN encode(body, 'escape')) > 0");
    assert_eq!(story.count(&unmasked).await?, 0);

    let exported = story.callbridge(&["privacy", "export", CUSTOMER]).await?.json()?;
    let kinds = |kind: &str| exported.iter().filter(|line| line["kind"] == kind).count();
    assert_eq!((kinds("call"), kinds("session"), kinds("audit")), (1, 1, 1));
    assert!(kinds("event") > 4 && kinds("webhook") > 1, "{exported:?}");

    let hold = ["privacy", "hold", &call.id, "--reason", "court order"];
    assert!(story.callbridge(&hold).await?.output.contains("held since"));
    let erase = ["privacy", "erase", CUSTOMER, "--reason", "they asked"];
    let (told, exit) = story.callbridge(&erase).await?.failure.context("it is erased")?;
    assert!(exit == 1 && told.contains("held"), "{exit}: {told}");
    let released = story.callbridge(&["privacy", "release", &call.id]).await?.output;
    assert!(released.contains("released"), "{released}");
    let of_number = ["privacy", "hold", CUSTOMER, "--reason", "tax audit"];
    assert!(story.callbridge(&of_number).await?.output.contains("held since"));
    let (told, exit) = story.callbridge(&erase).await?.failure.context("it is erased")?;
    assert!(exit == 1 && told.contains("held"), "{exit}: {told}");
    let released = story.callbridge(&["privacy", "release", CUSTOMER]).await?.output;
    assert!(released.contains("released"), "{released}");
    let counted = story
        .callbridge(&["privacy", "erase", CUSTOMER, "--reason", "they asked", "--dry-run"])
        .await?
        .output;
    assert!(counted.contains("dry run"), "{counted}");
    assert!(story.count(&format!("generate_series(1, traces('{digits}'))")).await? > 0);
    // As if Exotel had not told of it yet.
    conn.batch_execute(
        "UPDATE calls SET price = NULL, talk_seconds = NULL, read_back_at = now() + interval '5 minutes'",
    )
    .await?;
    let erased = story.callbridge(&erase).await?.output;
    assert!(erased.contains("Erased."), "{erased}");
    assert_eq!(
        story.count(&format!("generate_series(1, traces('{digits}'))")).await?,
        0
    );
    assert_eq!(story.get(&call.id).await?.customer_number, "");
    assert_eq!(story.get(&call.id).await?.state(), call.state());
    // What Exotel tells later of its price is no person's, and what else it tells is left out.
    assert_eq!(
        story
            .count("calls WHERE read_back_at IS NOT NULL AND price IS NULL")
            .await?,
        1
    );
    let late = poll("the price", PATIENCE, async || {
        let asked = story.read_back_now(&call).await;
        match asked.and(story.get(&call.id).await) {
            Ok(late) if !late.price.is_empty() => Ok(late),
            other => Err(format!("{:?}", other.map(|call| call.version))),
        }
    });
    assert_eq!(late.await?.recording_url, "");
    assert_eq!(
        story.count(&format!("generate_series(1, traces('{digits}'))")).await?,
        0
    );

    let trail = story
        .callbridge(&["--json", "audit", "--number", CUSTOMER])
        .await?
        .json()?;
    let outcomes: Vec<_> = trail
        .iter()
        .map(|entry| entry["outcome"].as_str().unwrap_or_default())
        .collect();
    let word = |word: &str| format!("AUDIT_OUTCOME_{word}");
    let told = ["CHANGED", "SHOWN", "CHANGED", "REFUSED", "CHANGED", "REFUSED", "SHOWN"];
    assert_eq!(outcomes, told.map(word));
    let refused = story.callbridge(&["audit", "--outcome", "refused", "--after", "2020-01-01T00:00:00Z"]);
    let refused = refused.await?.output;
    assert!(
        refused.contains("LEGAL_HOLD") && !refused.contains("HoldCall"),
        "{refused}"
    );
    let people = story.callbridge(&["audit", "--about", &call.id]).await?.output;
    assert!(
        people.contains("PrivacyService/HoldCall") && people.contains("court order"),
        "{people}"
    );
    story.stack.shut_down().await
}
