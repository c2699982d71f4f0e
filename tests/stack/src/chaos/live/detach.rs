//! Deaths of all replicas of call-service at one moment. Each round has two windows of the same length: in the one replicas die
//! that nobody is attached to (they serve a database of their own), in the other those that the edges are attached to. So the
//! machine has the same work in both, and a hole in the audio that only the second one has is the detachment's.

use anyhow::Context as _;
use runtime::Clock;
use tokio::time::{Duration, Instant, sleep, sleep_until};

use super::{
    super::{arguments::PieceName, check::Window, dice::Dice, figures::Figures},
    Callers, Fleet, Pool, REPLICAS, Service, Stage, live,
};

/// How long replicas are away, in milliseconds.
const AWAY: (u64, u64) = (0, 800);
/// A window. With the next one it is long enough for the lapse of what is not attached again: a lease of 12 s.
const WINDOW: Duration = Duration::from_secs(5);
/// After it people call again.
const BUSY: Duration = Duration::from_secs(1);

/// Runs the rounds.
pub(super) async fn run(
    stage: &Stage<'_>,
    fleet: &mut Fleet,
    callers: &mut Callers,
    figures: &mut Figures,
    windows: &mut Vec<Window>,
) -> anyhow::Result<()> {
    let system = stage.system;
    let replica = system.replicas.first().context("there is no replica")?;
    let mut template = replica.spec.clone();
    let database = system.postgres.create_database().await?;
    template.settings.insert("DATABASE_URL".to_owned(), database);
    template.log.set_file_name("call-service-apart.log");
    let service = Service::start(&system.tasks).await?;
    let mut apart = Pool::new(PieceName::CallService, &template, None, service, &system.tasks)?;
    apart.raise(REPLICAS).await?;
    let clock = Clock::system();

    for round in stage.part.first..stage.part.first + stage.part.rounds {
        for attached in [false, true] {
            // A call that begins needs call-service.
            callers.pause().await?;
            let pool = if attached {
                figures.live.push(live(system));
                &mut fleet.call_services
            } else {
                &mut apart
            };
            // Both windows of a round have the same pause.
            let away = Dice::new(stage.part.seed, "away", round).millis(AWAY.0, AWAY.1);
            let (from, begun) = (clock.now(), Instant::now());
            let killed = pool.kill().await?;
            sleep(away).await;
            pool.raise(REPLICAS).await?;
            callers.go_on();
            sleep_until(begun + WINDOW).await;
            if attached {
                figures.kills += killed;
            }
            windows.push(Window {
                from,
                until: clock.now(),
                attached,
            });
            sleep(BUSY).await;
        }
        stage.screen.show(round + 1, &stage.pulse.words());
    }
    apart.kill().await?;
    Ok(())
}
