//! Who waits for a call's next event, and how they learn of it.
//!
//! A commit on this replica wakes its waiters at once. Other replicas learn of it by one bare NOTIFY, sent at most every
//! 25 ms and never inside a call's transaction (a NOTIFY in a transaction makes all commits queue up behind one lock). A
//! woken replica compares the versions of the calls that somebody waits for, and one tail reader hands new events to the
//! watchers of all calls. A poll covers a lost NOTIFY.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use callbridge_proto::id::CallId;
use diesel::{ExpressionMethods as _, QueryDsl as _, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use futures_util::StreamExt as _;
use tokio::{
    sync::{Notify, broadcast, watch},
    time::{Instant, sleep, timeout},
};
use tracing::warn;
use uuid::Uuid;

use crate::{
    app::App,
    error::Error,
    store::{
        events::{self, Event, Place},
        schema::calls,
    },
};

/// At most 40 NOTIFYs a second from one replica, however many calls it changes.
const NOTIFY_EVERY: Duration = Duration::from_millis(25);
/// Covers a lost NOTIFY.
const POLL: Duration = Duration::from_secs(1);
/// Events that a watcher of all calls may lag behind before it is closed: seconds of a busy system.
const BACKLOG: usize = 4096;
/// Events read at one time.
const PAGE: i64 = 500;
const CHANNEL: &str = "callbridge_calls";

/// Hands news of calls to whoever waits for it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Hub {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    waiting: Mutex<HashMap<CallId, watch::Sender<u64>>>,
    /// Something was committed here since the last NOTIFY.
    to_notify: Notify,
    /// Another replica, or this one, has committed something.
    news: Notify,
    events: broadcast::Sender<Arc<Event>>,
    /// Whether the tail reader has a place to read from: before that it would skip what a watcher counts on.
    reading: watch::Sender<bool>,
    /// Queued calls may be due.
    work: Notify,
    /// A campaign's call may have been dialled or have ended.
    campaigns: Notify,
    /// Whether any campaign has calls: otherwise nobody is woken for every change of every call.
    campaigning: AtomicBool,
}

impl Default for Hub {
    fn default() -> Self {
        Self {
            shared: Arc::new(Shared {
                waiting: Mutex::default(),
                to_notify: Notify::new(),
                news: Notify::new(),
                events: broadcast::channel(BACKLOG).0,
                reading: watch::channel(false).0,
                work: Notify::new(),
                campaigns: Notify::new(),
                campaigning: AtomicBool::new(false),
            }),
        }
    }
}

/// Wakes when its call may have changed. Dropping it ends the waiting.
#[derive(Debug)]
pub struct Waiter {
    id: CallId,
    hub: Hub,
    /// Absent only while it is dropped.
    changes: Option<watch::Receiver<u64>>,
}

impl Waiter {
    /// Resolves when the call may have changed since the last time (or since the waiter was made).
    pub async fn changed(&mut self) {
        if let Some(changes) = &mut self.changes {
            // The sender lives as long as any waiter.
            let _ = changes.changed().await;
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut waiting = self.hub.lock();
        // Under the lock, so that of two that go at once the second one sees itself as the last.
        self.changes = None;
        if waiting.get(&self.id).is_some_and(|sender| sender.receiver_count() == 0) {
            waiting.remove(&self.id);
        }
    }
}

impl Hub {
    /// Says that a change of a call is committed. Call it after the commit, never before.
    pub fn committed(&self, id: CallId) {
        self.wake(id);
        self.shared.to_notify.notify_one();
        self.shared.news.notify_one();
        self.wake_campaigns();
    }

    fn wake_campaigns(&self) {
        if AtomicBool::load(&self.shared.campaigning, Ordering::Relaxed) {
            self.shared.campaigns.notify_one();
        }
    }

    /// Says whether any campaign has something to do when a call changes.
    pub fn campaigning(&self, any: bool) {
        self.shared.campaigning.store(any, Ordering::Relaxed);
    }

    /// Resolves when a campaign may have something to do.
    pub async fn campaigns_wait(&self) {
        self.shared.campaigns.notified().await;
    }

    /// Says that something of a campaign is committed. Call it after the commit.
    pub fn campaign_changed(&self) {
        self.shared.to_notify.notify_one();
        self.shared.campaigns.notify_one();
        self.work();
    }

    /// Says that a queued call may be due now.
    pub fn work(&self) {
        self.shared.work.notify_one();
    }

    /// Resolves when a queued call may be due.
    pub async fn work_waits(&self) {
        self.shared.work.notified().await;
    }

    /// Waits for changes of one call. Make the waiter before reading the call, so that nothing falls between.
    pub fn wait(&self, id: CallId) -> Waiter {
        let mut waiting = self.lock();
        let sender = waiting.entry(id).or_insert_with(|| watch::channel(0).0);
        Waiter {
            id,
            hub: self.clone(),
            changes: Some(sender.subscribe()),
        }
    }

    /// All events from now on, in the order in which they became visible. Waits until the first one is sure to be among them.
    pub async fn tail(&self) -> broadcast::Receiver<Arc<Event>> {
        // The sender lives as long as the hub.
        let _ = self.shared.reading.subscribe().wait_for(|reading| *reading).await;
        self.shared.events.subscribe()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<CallId, watch::Sender<u64>>> {
        self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, id: CallId) {
        if let Some(sender) = self.lock().get(&id) {
            sender.send_modify(|count| *count += 1);
        }
    }
}

/// Starts the tasks that carry news between replicas.
pub fn start(app: &Arc<App>) {
    if !app.db.can_listen() {
        warn!("DATABASE_DIRECT_URL is not set: news of other replicas come by a poll, a second late");
    }
    for task in [Task::Notify, Task::Listen, Task::Read] {
        let app = Arc::clone(app);
        let tasks = app.tasks.clone();
        tasks.spawn(async move {
            let stopping = app.tasks.stopping();
            tokio::pin!(stopping);
            // Outlives an interruption: what was committed meanwhile must still reach the watchers.
            let mut place = None;
            loop {
                let result = tokio::select! {
                    () = &mut stopping => return,
                    result = task.run(&app, &mut place) => result,
                };
                if let Err(error) = result {
                    warn!(%error, ?task, "news of calls is interrupted; it goes on when the database is back");
                }
                sleep(POLL).await;
            }
        });
    }
}

#[derive(Debug, Clone, Copy)]
enum Task {
    Notify,
    Listen,
    Read,
}

impl Task {
    async fn run(self, app: &App, place: &mut Option<Place>) -> Result<(), Error> {
        match self {
            Self::Notify => notify(app).await,
            Self::Listen => listen(app).await,
            Self::Read => read(app, place).await,
        }
    }
}

async fn notify(app: &App) -> Result<(), Error> {
    loop {
        app.hub.shared.to_notify.notified().await;
        let began = Instant::now();
        let mut conn = app.db.conn().await?;
        sql_query(format!("NOTIFY {CHANNEL}")).execute(&mut conn).await?;
        app.metrics.notified();
        drop(conn);
        tokio::time::sleep_until(began + NOTIFY_EVERY).await;
    }
}

async fn listen(app: &App) -> Result<(), Error> {
    let mut conn = app.db.dedicated().await?;
    sql_query(format!("LISTEN {CHANNEL}")).execute(&mut conn).await?;
    let _listening = app.metrics.listening();
    // Anything may have been missed before.
    app.hub.shared.news.notify_one();
    app.hub.work();
    let mut notifications = std::pin::pin!(conn.notifications_stream());
    while let Some(notification) = notifications.next().await {
        notification?;
        app.metrics.news();
        app.hub.shared.news.notify_one();
        app.hub.wake_campaigns();
        app.hub.work();
    }
    Err(Error::unavailable(
        "the database closed the connection that listens for news",
    ))
}

/// Reads what is new: versions of the calls that are waited for, and the tail of all events.
async fn read(app: &App, place: &mut Option<Place>) -> Result<(), Error> {
    let mut versions = HashMap::new();
    loop {
        let _ = timeout(POLL, app.hub.shared.news.notified()).await;
        let mut conn = app.db.conn().await?;
        wake_changed(app, &mut conn, &mut versions).await?;
        read_tail(app, &mut conn, place).await?;
        drop(conn);
        // Bounds what a storm of NOTIFYs costs.
        sleep(NOTIFY_EVERY).await;
    }
}

async fn wake_changed(app: &App, conn: &mut AsyncPgConnection, versions: &mut HashMap<Uuid, i64>) -> Result<(), Error> {
    let waited: Vec<Uuid> = app.hub.lock().keys().map(|id| id.0).collect();
    if waited.is_empty() {
        versions.clear();
        return Ok(());
    }
    let now: Vec<(Uuid, i64)> = calls::table
        .filter(calls::id.eq_any(&waited))
        .select((calls::id, calls::version))
        .load(conn)
        .await?;
    let now: HashMap<Uuid, i64> = now.into_iter().collect();
    for (id, version) in &now {
        if versions.get(id) != Some(version) {
            app.hub.wake(CallId(*id));
        }
    }
    *versions = now;
    Ok(())
}

async fn read_tail(app: &App, conn: &mut AsyncPgConnection, place: &mut Option<Place>) -> Result<(), Error> {
    loop {
        let horizon = events::horizon(conn).await?;
        let from = match *place {
            Some(from) if app.hub.shared.events.receiver_count() > 0 => from,
            // Whoever comes later reads what is below its own horizon by itself.
            known => {
                *place = known.max(Some(Place { tx: horizon, id: 0 }));
                app.hub.shared.reading.send_replace(true);
                return Ok(());
            }
        };
        let page = events::after(conn, from, horizon, PAGE).await?;
        let full = i64::try_from(page.len()) == Ok(PAGE);
        for event in page {
            *place = Some(event.place());
            // No receiver is no trouble.
            let _ = app.hub.shared.events.send(Arc::new(event));
        }
        if !full {
            return Ok(());
        }
    }
}
