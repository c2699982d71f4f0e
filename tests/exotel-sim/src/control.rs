//! The handle that steers a running simulator from the same process. The HTTP control API does the same.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    Account, AccountLoad, Arrival, CallReport, CallerScript, Cause, Event, LedgerEntry, Outcome, Settings, Step,
    call::{Call, life},
    journal,
    number::Number,
    world::{World, locked},
};

/// What a control operation could not do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such account.
    #[error("there is no account {0}; add it with put_account")]
    UnknownAccount(String),
    /// No such call.
    #[error("there is no call {0}")]
    UnknownCall(String),
    /// The number is not the account's.
    #[error("the number is no ExoPhone of account {0}")]
    UnknownExoPhone(String),
    /// A number could not be read.
    #[error("{0} is not a phone number; use 0XXXXXXXXXX or +91XXXXXXXXXX")]
    NotANumber(&'static str),
    /// The account makes no sense.
    #[error("{0}")]
    BadAccount(String),
    /// The call has ended.
    #[error("call {0} has ended")]
    Ended(String),
    /// Too many steps wait.
    #[error("too many steps wait for call {0}; let it take some first")]
    TooManySteps(String),
    /// What was waited for did not come.
    #[error("waited {waited:?} in vain; last state: {last}")]
    TimedOut {
        /// How long.
        waited: Duration,
        /// The last state, without numbers.
        last: String,
    },
    /// A journal could not be read or written.
    #[error("the journal cannot be used")]
    Journal(#[from] journal::Error),
}

/// A call to an ExoPhone.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InboundCall {
    /// The account's SID.
    pub account: String,
    /// The caller.
    pub from: String,
    /// The ExoPhone.
    pub to: String,
    /// What the caller does; `None` is the script of the caller's number.
    #[serde(default)]
    pub script: Option<CallerScript>,
}

/// Steers a simulator; cheap to clone.
#[derive(Clone)]
pub struct Control {
    pub(crate) world: Arc<World>,
}

impl Control {
    /// The settings in force.
    pub fn settings(&self) -> Settings {
        (*self.world.settings()).clone()
    }

    /// Replaces the settings.
    pub fn set_settings(&self, settings: Settings) {
        *self.world.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }

    /// Changes some settings.
    pub fn change_settings(&self, change: impl FnOnce(&mut Settings)) {
        let mut settings = self.settings();
        change(&mut settings);
        self.set_settings(settings);
    }

    /// The accounts.
    pub fn accounts(&self) -> Vec<Account> {
        let accounts = self.world.accounts.read().unwrap_or_else(PoisonError::into_inner);
        accounts.values().map(|state| (*state.get()).clone()).collect()
    }

    /// Adds an account, or replaces the one with the same SID.
    pub fn put_account(&self, account: Account) -> Result<(), Error> {
        if let Some(problem) = account.problem() {
            return Err(Error::BadAccount(problem));
        }
        self.world.put_account(account);
        Ok(())
    }

    /// Load and peaks of an account.
    pub fn load(&self, account: &str) -> Result<AccountLoad, Error> {
        self.world
            .account(account)
            .map(|state| state.load())
            .ok_or_else(|| Error::UnknownAccount(account.to_owned()))
    }

    /// Scripts a number.
    pub fn set_outcome(&self, number: &str, outcome: Outcome) -> Result<(), Error> {
        let number = Number::parse(number).ok_or(Error::NotANumber("number"))?;
        locked(&self.world.outcomes).insert(number, outcome);
        Ok(())
    }

    /// What would happen if the number were dialled now.
    pub fn outcome(&self, number: &str) -> Result<Outcome, Error> {
        Ok(self
            .world
            .outcome(&Number::parse(number).ok_or(Error::NotANumber("number"))?))
    }

    /// Forgets a number's script.
    pub fn clear_outcome(&self, number: &str) -> Result<(), Error> {
        let number = Number::parse(number).ok_or(Error::NotANumber("number"))?;
        locked(&self.world.outcomes).remove(&number);
        Ok(())
    }

    /// Forgets all scripts.
    pub fn clear_outcomes(&self) {
        locked(&self.world.outcomes).clear();
    }

    /// All scripted numbers in E.164.
    pub fn outcomes(&self) -> BTreeMap<String, Outcome> {
        let outcomes = locked(&self.world.outcomes);
        outcomes
            .iter()
            .map(|(number, outcome)| (number.e164(), outcome.clone()))
            .collect()
    }

    /// Calls an ExoPhone and returns the call's SID.
    pub async fn inbound(&self, call: InboundCall) -> Result<String, Error> {
        let account = self
            .world
            .account(&call.account)
            .ok_or_else(|| Error::UnknownAccount(call.account.clone()))?;
        let from = Number::parse(&call.from).ok_or(Error::NotANumber("from"))?;
        let to = Number::parse(&call.to).ok_or(Error::NotANumber("to"))?;
        if account.get().exophone(&to).is_none() {
            return Err(Error::UnknownExoPhone(call.account));
        }
        Ok(life::call_in(&self.world, &account, from, to, &call).await?)
    }

    /// All calls that are remembered, oldest first.
    pub fn calls(&self) -> Vec<CallReport> {
        let calls = locked(&self.world.calls).all();
        calls.iter().map(|call| call.report.borrow().clone()).collect()
    }

    /// One call.
    pub fn call(&self, call_sid: &str) -> Result<CallReport, Error> {
        Ok(self.find(call_sid)?.report.borrow().clone())
    }

    /// Waits until a call is as wanted.
    pub async fn wait_for(
        &self,
        call_sid: &str,
        timeout: Duration,
        wanted: impl Fn(&CallReport) -> bool,
    ) -> Result<CallReport, Error> {
        let call = self.find(call_sid)?;
        let mut report = call.report.subscribe();
        let found = tokio::time::timeout(timeout, report.wait_for(|report| wanted(report))).await;
        match found {
            Ok(Ok(found)) => Ok(found.clone()),
            _ => Err(Error::TimedOut {
                waited: timeout,
                last: summary(&call.report.borrow()),
            }),
        }
    }

    /// Waits until a call has ended; its recordings are on the disk by then, its terminal callback is about to be sent.
    pub async fn wait_for_end(&self, call_sid: &str, timeout: Duration) -> Result<CallReport, Error> {
        self.wait_for(call_sid, timeout, CallReport::has_ended).await
    }

    /// Waits until there is a call as wanted, and returns it.
    pub async fn wait_for_any(
        &self,
        timeout: Duration,
        wanted: impl Fn(&CallReport) -> bool,
    ) -> Result<CallReport, Error> {
        let mut changes = self.world.changes.subscribe();
        let search = async {
            loop {
                changes.borrow_and_update();
                let calls = locked(&self.world.calls).all();
                if let Some(call) = calls.iter().rev().find(|call| wanted(&call.report.borrow())) {
                    return Some(call.report.borrow().clone());
                }
                if changes.changed().await.is_err() {
                    return None;
                }
            }
        };
        if let Ok(Some(report)) = tokio::time::timeout(timeout, search).await {
            return Ok(report);
        }
        let last = self.calls().last().map_or_else(|| "no call at all".to_owned(), summary);
        Err(Error::TimedOut { waited: timeout, last })
    }

    /// Hangs up on the person's side.
    pub fn hang_up(&self, call_sid: &str) -> Result<(), Error> {
        let call = self.live(call_sid)?;
        call.end(Cause::Caller);
        Ok(())
    }

    /// Presses keys, in the stream or the Gather applet that runs or comes next.
    pub fn press(&self, call_sid: &str, digits: &str) -> Result<(), Error> {
        self.add_steps(call_sid, vec![Step::Press(digits.to_owned())])
    }

    /// Lets the person do these steps at once, before what is left of the script.
    pub fn add_steps(&self, call_sid: &str, steps: Vec<Step>) -> Result<(), Error> {
        let call = self.live(call_sid)?;
        if call.add_steps(steps) {
            Ok(())
        } else {
            Err(Error::TooManySteps(call_sid.to_owned()))
        }
    }

    /// The dial ledger: every dial and every inbound call since the state folder exists.
    pub async fn ledger(&self) -> Result<Vec<LedgerEntry>, Error> {
        Ok(self.world.ledger.read().await?)
    }

    /// Every connect that came since the state folder exists.
    pub async fn arrivals(&self) -> Result<Vec<Arrival>, Error> {
        Ok(self.world.arrivals.read().await?)
    }

    /// The events on the wire; of one call, or all.
    pub async fn events(&self, call_sid: Option<&str>) -> Result<Vec<Event>, Error> {
        let mut events: Vec<Event> = self.world.events.read().await?;
        if let Some(sid) = call_sid {
            events.retain(|event| event.call_sid.as_deref() == Some(sid));
        }
        Ok(events)
    }

    /// Events that were not written because the disk was too slow.
    pub fn dropped_events(&self) -> u64 {
        self.world.events.dropped()
    }

    /// Connections that clients hold open at the moment.
    pub fn open_connections(&self) -> usize {
        Arc::strong_count(&self.world.connections) - 1
    }

    /// The folder of the journals and recordings.
    pub fn state_dir(&self) -> &Path {
        &self.world.state_dir
    }

    /// The WAV files of a call's last stream: heard, received, said.
    pub fn recordings(&self, call_sid: &str) -> Result<[Option<PathBuf>; 3], Error> {
        let report = self.call(call_sid)?;
        Ok(report.streams.last().map_or([None, None, None], |s| {
            [s.heard.clone(), s.received.clone(), s.said.clone()]
        }))
    }

    fn find(&self, call_sid: &str) -> Result<Arc<Call>, Error> {
        self.world
            .call(call_sid)
            .ok_or_else(|| Error::UnknownCall(call_sid.to_owned()))
    }

    fn live(&self, call_sid: &str) -> Result<Arc<Call>, Error> {
        let call = self.find(call_sid)?;
        if call.report.borrow().has_ended() {
            Err(Error::Ended(call_sid.to_owned()))
        } else {
            Ok(call)
        }
    }
}

/// A call's state in words that hold no number.
fn summary(report: &CallReport) -> String {
    let open = report.streams.iter().filter(|stream| stream.open).count();
    format!(
        "{} is {:?} (status {:?}, cause {:?}, applets {:?}, {} streams, {open} open, {} callbacks)",
        report.call_sid,
        report.phase,
        report.status,
        report.cause,
        report.applets,
        report.streams.len(),
        report.callbacks.len(),
    )
}
