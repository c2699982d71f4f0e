//! How the database stands, looked at several times a second: paces the clients, and is shown.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};
use tokio_postgres::Client;

use super::{arguments::What, system::System};

/// Between two looks.
const EVERY: Duration = Duration::from_millis(150);
/// Nobody is paced by them there, and they take longer with each call of a campaign.
const EVERY_OF_CAMPAIGN: Duration = Duration::from_secs(2);
/// Calls that may be open on an account without a cap: beyond, a part would settle for ever.
const ROOM: u64 = 24;

/// How many open calls an account may have before clients turn to another: some of them wait, that is what a cap is for.
pub(super) fn room(cap: u64) -> u64 {
    if cap == 0 { ROOM } else { (cap * 2 + 2).min(ROOM) }
}

#[derive(Debug, Default, Clone)]
struct Seen {
    open: Vec<u64>,
    calls: u64,
    dialled: u64,
}

/// The latest look. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Pulse(watch::Receiver<Seen>);

impl Pulse {
    /// Begins to look.
    pub(super) fn start(system: &System, what: What) -> Self {
        let every = match what {
            // Nor by those who talk.
            What::Campaign | What::Rolling | What::EdgeDetach => EVERY_OF_CAMPAIGN,
            What::Kills | What::Postgres | What::Callbacks | What::Zombie => EVERY,
        };
        let (tell, seen) = watch::channel(Seen::default());
        let sids: Vec<String> = system
            .members
            .iter()
            .map(|member| member.registered.account_sid.clone())
            .collect();
        let (postgres, database, tasks) = (Arc::clone(&system.postgres), system.database.clone(), &system.tasks);
        tasks.spawn(async move {
            let mut session = None;
            while !tell.is_closed() {
                sleep(every).await;
                // PostgreSQL may be away on purpose: the last look stands.
                let client = match session.take() {
                    Some(client) => client,
                    None => match postgres.connect(&database).await {
                        Ok(client) => client,
                        Err(_) => continue,
                    },
                };
                if let Ok(seen) = look(&client, &sids).await {
                    tell.send_replace(seen);
                    session = Some(client);
                }
            }
        });
        Self(seen)
    }

    /// Open calls of each account.
    pub(super) fn open(&self) -> Vec<u64> {
        self.0.borrow().open.clone()
    }

    /// Calls so far.
    pub(super) fn calls(&self) -> u64 {
        self.0.borrow().calls
    }

    /// For the screen.
    pub(super) fn words(&self) -> String {
        let seen = self.0.borrow();
        let open: u64 = seen.open.iter().sum();
        format!("{} calls, {} dialled, {open} open", seen.calls, seen.dialled)
    }
}

async fn look(client: &Client, sids: &[String]) -> Result<Seen, tokio_postgres::Error> {
    let statement = "SELECT a.sid, count(*) FILTER (WHERE c.state IN ('queued', 'dialing', 'unconfirmed', 'placed', 'ringing', \
                     'in_progress')), count(*), count(*) FILTER (WHERE c.call_sid IS NOT NULL) \
                     FROM calls c JOIN accounts a ON a.id = c.account_id GROUP BY a.sid";
    let mut seen = Seen {
        open: vec![0; sids.len()],
        ..Seen::default()
    };
    let count = |row: &tokio_postgres::Row, at| u64::try_from(row.get::<_, i64>(at)).unwrap_or(0);
    for row in client.query(statement, &[]).await? {
        let sid: String = row.get(0);
        if let Some(at) = sids.iter().position(|known| *known == sid) {
            seen.open[at] = count(&row, 1);
        }
        seen.calls += count(&row, 2);
        seen.dialled += count(&row, 3);
    }
    Ok(seen)
}
