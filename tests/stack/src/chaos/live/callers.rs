//! People who talk: so many at one time, every second of them called by us, the others calling an ExoPhone. Each says a clip, waits
//! until the echo has ended, and hangs up.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use anyhow::Context as _;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{
    super::{arguments::What, dice::Dice, load::cancel_after, part::Stage},
    desk::{Desk, ENDED, Heard},
    sound::{Clip, PIECE_MS},
};
use crate::poll;

/// Clips of as many lengths; calls that take turns with them do not end at one time.
const CLIPS: u64 = 32;
/// Tries of a client of gRPC, by its usual policy for UNAVAILABLE.
const TRIES: u32 = 4;
/// Where call-service dies, clients ask until it is back.
const TRIES_OF_DETACH: u32 = 200;

/// The people.
#[derive(Debug)]
pub(super) struct Callers {
    slots: Vec<JoinHandle<Option<Heard>>>,
    enough: CancellationToken,
    give_up: CancellationToken,
    begin: watch::Sender<bool>,
    /// Held by each call until its first audio; here and at the desk besides.
    beginning: Arc<()>,
}

impl Callers {
    /// Begins to call.
    pub(super) async fn start(stage: &Stage<'_>) -> anyhow::Result<Self> {
        let (system, part) = (stage.system, &stage.part);
        // A round takes longer than a call; where call-service dies, most calls outlive that. In pieces.
        let (shortest, longest) = if part.what == What::Rolling {
            (30, 90)
        } else {
            (60, 140)
        };
        let folder = system.folder.clone();
        let clips = tokio::task::spawn_blocking(move || {
            let length = |number| shortest + (longest - shortest) * number / CLIPS;
            (0..CLIPS)
                .map(|number| Clip::write(&folder, number, length(number)))
                .collect::<anyhow::Result<Vec<_>>>()
        });
        let clips = clips.await.context("the clips could not be written")??;
        let member = system.members.first().context("there is no account")?;
        let (enough, give_up, begin) = (
            CancellationToken::new(),
            CancellationToken::new(),
            watch::Sender::new(true),
        );
        let beginning = Arc::new(());
        let desk = Arc::new(Desk {
            control: system.control.clone(),
            clients: system.clients.clone(),
            account_sid: member.registered.account_sid.clone(),
            phone_id: member.registered.phone_id.clone(),
            phone_number: member.registered.phone_number.clone(),
            clips,
            enough: enough.clone(),
            give_up: give_up.clone(),
            begin: begin.subscribe(),
            beginning: Arc::clone(&beginning),
            next: AtomicU64::new(0),
            key: format!("{}-{}", part.seed, part.first),
            tries: if part.what == What::Rolling {
                TRIES
            } else {
                TRIES_OF_DETACH
            },
        });
        let slots = (0..u64::from(part.calls)).map(|slot| {
            // They begin spread over the length of a call.
            let dice = Dice::new(part.seed, "caller", part.first * 10_000 + slot);
            let (desk, spread) = (Arc::clone(&desk), longest * PIECE_MS);
            system.tasks.spawn(async move { desk.talk(dice, spread).await })
        });
        Ok(Self {
            slots: slots.collect(),
            enough,
            give_up,
            begin,
            beginning,
        })
    }

    /// Nobody begins to call until [`Callers::go_on`], and whoever has begun is through. Calls go on.
    pub(super) async fn pause(&self) -> anyhow::Result<()> {
        self.begin.send_replace(false);
        poll("calls that begin to be up", ENDED, async || {
            match Arc::strong_count(&self.beginning).saturating_sub(2) {
                0 => Ok(()),
                count => Err(format!("{count} are not")),
            }
        })
        .await?;
        Ok(())
    }

    /// People call again.
    pub(super) fn go_on(&self) {
        self.begin.send_replace(true);
    }

    /// Lets all calls end, and tells what became of them.
    pub(super) async fn finish(self, limit: Duration) -> Heard {
        self.enough.cancel();
        let late = cancel_after(limit, self.give_up);
        let mut heard = Heard::default();
        for slot in self.slots {
            if let Ok(Some(more)) = slot.await {
                heard.told.add(more.told);
                heard.talks.extend(more.talks);
                heard.retried += more.retried;
            }
        }
        late.shut_down(Duration::ZERO).await;
        heard
    }
}
