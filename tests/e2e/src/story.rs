//! A stack with one account, and its calls.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::Context as _;
use callbridge_proto::call::v1::{
    Call, CallEvent, CallFilter, CallState, Direction, GetCallRequest, ListCallsRequest, PlaceCallRequest, WaitFor,
    WatchCallRequest, place_call_request::From,
};
use data_encoding::BASE64;
use diesel::{QueryableByName, sql_query, sql_types::BigInt};
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use exotel_sim::{Account, CallReport, CallerScript, InboundCall};
use stack::{Builder, Keys, Registered, Registration, Stack, poll};
use tokio::time::timeout;

use crate::sweep::{Sweep, plant, plant_number};

/// A person whose number scripts nothing by itself.
pub const CUSTOMER: &str = "+919812340017";

/// Longer than anything in a story takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Keys of calls in this process.
static NEXT_KEY: AtomicU32 = AtomicU32::new(0);

/// A stack with settings that a story need not wait for.
pub fn quick() -> Builder {
    Stack::builder().call_setting("POLL_INTERVAL", "50ms")
}

/// An account, a phone and an echo agent that does not greet.
///
/// # Errors
/// When the system has no randomness.
pub fn registration() -> anyhow::Result<Registration> {
    let mut registration = Registration::new("story")?;
    r#"{"greet":false}"#.clone_into(&mut registration.agent.config);
    Ok(registration)
}

/// A stack and what is registered in it.
#[derive(Debug)]
pub struct Story {
    /// Everything that runs.
    pub stack: Stack,
    /// The account, the phone and the agent.
    pub registered: Registered,
    /// What its calls carry as metadata, and nothing else holds.
    note: String,
    /// Last, so that it hears what the end of the others tells.
    _sweep: Sweep,
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

impl Story {
    /// The usual one.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start() -> anyhow::Result<Self> {
        Self::with(quick(), registration()?).await
    }

    /// With other settings, or another registration.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn with(mut builder: Builder, registration: Registration) -> anyhow::Result<Self> {
        let sweep = Sweep::begin();
        plant_keys(builder.its_keys()?)?;
        if let Some(credentials) = &registration.account.credentials {
            plant("Exotel's key", &credentials.api_key);
            plant("Exotel's token", &credentials.api_token);
            let basic = format!("{}:{}", credentials.api_key, credentials.api_token);
            plant("Exotel's key and token", &BASE64.encode(basic.as_bytes()));
        }
        plant_number("our number", &registration.phone.number);
        let stack = builder.start().await?;
        let registered = stack.register(registration).await?;
        plant("the account's token", &registered.urls.account_token);
        let note = format!("canary of {}", registered.account_sid);
        plant("metadata", &note);
        Ok(Self {
            stack,
            registered,
            note,
            _sweep: sweep,
        })
    }

    /// A call to this number from the story's phone, with a key of its own, which is answered for when it is queued.
    pub fn request(&self, to: &str) -> PlaceCallRequest {
        plant_number("the callee", to);
        PlaceCallRequest {
            idempotency_key: format!("story-{}", NEXT_KEY.fetch_add(1, Ordering::Relaxed)),
            metadata: [("note".to_owned(), self.note.clone())].into(),
            to: to.to_owned(),
            from: Some(From::PhoneId(self.registered.phone_id.clone())),
            wait_for: WaitFor::Queued.into(),
            ..PlaceCallRequest::default()
        }
    }

    /// Places a call.
    ///
    /// # Errors
    /// Of `PlaceCall`.
    pub async fn place(&self, request: PlaceCallRequest) -> anyhow::Result<Call> {
        for value in request.metadata.values() {
            plant("metadata", value);
        }
        let placed = self
            .stack
            .clients()
            .calls()
            .place_call(request)
            .await
            .context("PlaceCall")?;
        placed.into_inner().call.context("PlaceCall answered without a call")
    }

    /// A person calls the story's phone. Returns Exotel's id of the call.
    ///
    /// # Errors
    /// Of the simulator.
    pub async fn call_in(&self, from: &str, script: CallerScript) -> anyhow::Result<String> {
        plant_number("the caller", from);
        let call = InboundCall {
            account: self.registered.account_sid.clone(),
            from: from.to_owned(),
            to: self.registered.phone_number.clone(),
            script: Some(script),
        };
        Ok(self.stack.control().inbound(call).await?)
    }

    /// The call as it stands.
    ///
    /// # Errors
    /// Of `GetCall`.
    pub async fn get(&self, id: &str) -> anyhow::Result<Call> {
        let got = self
            .stack
            .clients()
            .calls()
            .get_call(GetCallRequest { call_id: id.to_owned() })
            .await
            .context("GetCall")?;
        got.into_inner().call.context("GetCall answered without a call")
    }

    /// The rows of a direction, newest first.
    ///
    /// # Errors
    /// Of `ListCalls`.
    pub async fn list(&self, direction: Direction) -> anyhow::Result<Vec<Call>> {
        let filter = Some(CallFilter {
            direction: direction.into(),
            ..CallFilter::default()
        });
        let request = ListCallsRequest {
            filter,
            ..ListCallsRequest::default()
        };
        Ok(self
            .stack
            .clients()
            .calls()
            .list_calls(request)
            .await
            .context("ListCalls")?
            .into_inner()
            .calls)
    }

    /// The row of the only inbound call, as soon as there is one.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn inbound_row(&self) -> anyhow::Result<Call> {
        let found = poll("the inbound call's row", PATIENCE, async || {
            match self.list(Direction::Inbound).await {
                Ok(calls) => calls.into_iter().next().ok_or_else(|| "no row".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        });
        Ok(found.await?)
    }

    /// Follows a call to its end and returns its row and its timeline.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn ended(&self, id: &str) -> anyhow::Result<(Call, Vec<CallEvent>)> {
        let request = WatchCallRequest {
            call_id: id.to_owned(),
            ..WatchCallRequest::default()
        };
        let mut events = self
            .stack
            .clients()
            .calls()
            .watch_call(request)
            .await
            .context("WatchCall")?
            .into_inner();
        let mut seen = Vec::new();
        let watch = async {
            while let Some(response) = events.message().await? {
                seen.extend(response.event);
            }
            anyhow::Ok(())
        };
        let watched = timeout(PATIENCE, watch).await;
        watched.with_context(|| format!("the call does not end; so far: {:?}", kinds(&seen)))??;
        Ok((self.get(id).await?, seen))
    }

    /// The call's events so far, those after its end included.
    ///
    /// # Errors
    /// Of `WatchCall`.
    pub async fn events(&self, id: &str) -> anyhow::Result<Vec<CallEvent>> {
        let version = self.get(id).await?.version;
        let request = WatchCallRequest {
            call_id: id.to_owned(),
            after_version: 0,
            follow_late_facts: true,
        };
        let mut events = self
            .stack
            .clients()
            .calls()
            .watch_call(request)
            .await
            .context("WatchCall")?
            .into_inner();
        let mut seen: Vec<CallEvent> = Vec::new();
        while seen.last().is_none_or(|event| event.version < version) {
            let next = timeout(PATIENCE, events.message())
                .await
                .context("WatchCall is silent")??;
            seen.push(next.context("WatchCall ended")?.event.context("no event")?);
        }
        Ok(seen)
    }

    /// Waits until the call is as wanted.
    ///
    /// # Errors
    /// When it is not in time; the message says how it was last.
    pub async fn until(&self, id: &str, what: &str, wanted: impl Fn(&Call) -> bool) -> anyhow::Result<Call> {
        let found = poll(what, PATIENCE, async || match self.get(id).await {
            Ok(call) if wanted(&call) => Ok(call),
            Ok(call) => Err(format!(
                "{} {} (waits for {:?})",
                call.state().as_str_name(),
                call.end_reason,
                call.waiting_reason
            )),
            Err(error) => Err(error.to_string()),
        });
        Ok(found.await?)
    }

    /// Waits until the call has this state.
    ///
    /// # Errors
    /// When it has not in time.
    pub async fn until_state(&self, id: &str, state: CallState) -> anyhow::Result<Call> {
        self.until(id, state.as_str_name(), |call| call.state() == state).await
    }

    /// Waits until the simulator knows of a call as wanted.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn at_exotel(&self, wanted: impl Fn(&CallReport) -> bool) -> anyhow::Result<CallReport> {
        Ok(self.stack.control().wait_for_any(PATIENCE, wanted).await?)
    }

    /// The simulator's report of a call that has ended there.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn report(&self, call: &Call) -> anyhow::Result<CallReport> {
        Ok(self
            .stack
            .control()
            .wait_for_end(&call.exotel_call_sid, PATIENCE)
            .await?)
    }

    /// Waits until the simulator has sent this call's last callback and it was taken.
    ///
    /// # Errors
    /// When it was not in time.
    pub async fn told(&self, call_sid: &str) -> anyhow::Result<CallReport> {
        let taken = |report: &CallReport| {
            report
                .callbacks
                .iter()
                .any(|c| c.event == "terminal" && c.status == Some(200))
        };
        Ok(self.stack.control().wait_for(call_sid, PATIENCE, taken).await?)
    }

    /// Changes the account at the simulator, such as its flows.
    ///
    /// # Errors
    /// When the simulator does not take it.
    pub fn at_account(&self, change: impl FnOnce(&mut Account)) -> anyhow::Result<()> {
        let control = self.stack.control();
        let mut accounts = control.accounts().into_iter();
        let mut account = accounts
            .find(|account| account.sid == self.registered.account_sid)
            .context("no account")?;
        change(&mut account);
        Ok(control.put_account(account)?)
    }

    /// What a flow's applet asks about an inbound call of this person.
    pub fn arrival(&self, call_sid: &str, from: &str) -> Vec<(&'static str, String)> {
        let query = [
            ("CallSid", call_sid),
            ("CallFrom", from),
            ("CallTo", &self.registered.phone_number),
            ("Direction", "incoming"),
            ("To", "09513886363"),
        ];
        query.map(|(key, value)| (key, value.to_owned())).into()
    }

    /// How often the phone of this person, in national form, was dialled.
    ///
    /// # Errors
    /// Of the simulator's ledger.
    pub async fn dials(&self, national: &str) -> anyhow::Result<usize> {
        let ledger = self.stack.control().ledger().await?;
        Ok(ledger
            .iter()
            .filter(|entry| entry.from.ends_with(&national[1..]))
            .count())
    }

    /// How many connects came to the simulator, refused ones included.
    ///
    /// # Errors
    /// When the simulator does not know the account.
    pub fn posts(&self) -> anyhow::Result<usize> {
        Ok(usize::try_from(
            self.stack.control().load(&self.registered.account_sid)?.connects,
        )?)
    }

    /// Counts rows, with SQL: what the API does not show, such as the inbox of webhooks.
    ///
    /// # Errors
    /// Of the database.
    pub async fn count(&self, from_where: &str) -> anyhow::Result<i64> {
        let mut conn = AsyncPgConnection::establish(&self.stack.database_url).await?;
        let query = sql_query(format!("SELECT count(*) AS count FROM {from_where}"));
        let counted: Count = diesel_async::RunQueryDsl::get_result(query, &mut conn).await?;
        Ok(counted.count)
    }

    /// Changes rows, with SQL, as nothing of ours would. Returns how many.
    ///
    /// # Errors
    /// Of the database.
    pub async fn change(&self, table_set_where: &str) -> anyhow::Result<usize> {
        let mut conn = AsyncPgConnection::establish(&self.stack.database_url).await?;
        let update = sql_query(format!("UPDATE {table_set_where}"));
        Ok(diesel_async::RunQueryDsl::execute(update, &mut conn).await?)
    }

    /// Lets an import be one of which nothing has come for an hour.
    ///
    /// # Errors
    /// Of the database.
    pub async fn import_is_old(&self, key: &str) -> anyhow::Result<()> {
        let mut conn = AsyncPgConnection::establish(&self.stack.database_url).await?;
        let update = sql_query(format!(
            "UPDATE campaign_imports SET updated_at = now() - interval '1 hour' WHERE key = '{key}'"
        ));
        let updated = diesel_async::RunQueryDsl::execute(update, &mut conn).await?;
        anyhow::ensure!(updated == 1, "{updated} imports have the key {key}");
        Ok(())
    }

    /// Lets the time come at which Exotel is asked about a call again: the real one is a minute away and more.
    ///
    /// # Errors
    /// Of the database.
    pub async fn read_back_now(&self, call: &Call) -> anyhow::Result<()> {
        let mut conn = AsyncPgConnection::establish(&self.stack.database_url).await?;
        let update = format!(
            "UPDATE calls SET read_back_at = now() WHERE 'call_' || replace(id::text, '-', '') = '{}'",
            call.id
        );
        let changed = diesel_async::RunQueryDsl::execute(sql_query(update), &mut conn).await?;
        anyhow::ensure!(changed == 1, "{changed} rows have this id");
        Ok(())
    }
}

/// Lets a stack's secrets be looked for.
fn plant_keys(keys: &Keys) -> anyhow::Result<()> {
    plant("an API key", &keys.api_key);
    plant("the edge's API key", &keys.edge_api_key);
    for (what, list) in [
        ("CREDENTIAL_KEYS", &keys.credential_keys),
        ("TOKEN_KEYS", &keys.token_keys),
        ("EDGE_TOKEN_KEYS", &keys.edge_token_keys()?),
    ] {
        for key in list.split(',').filter_map(|entry| entry.rsplit(':').next()) {
            plant(what, key);
        }
    }
    Ok(())
}

/// The words of a timeline, in order.
pub fn kinds(events: &[CallEvent]) -> Vec<&str> {
    events.iter().map(|event| event.r#type.as_str()).collect()
}
