//! Rolling restarts: in turn all edges and all replicas of call-service are replaced.

use super::{super::figures::Figures, Fleet, Stage, live};

/// Runs the rounds.
pub(super) async fn run(stage: &Stage<'_>, fleet: &mut Fleet, figures: &mut Figures) -> anyhow::Result<()> {
    for round in stage.part.first..stage.part.first + stage.part.rounds {
        figures.live.push(live(stage.system));
        let pool = if round.is_multiple_of(2) {
            &mut fleet.edges
        } else {
            &mut fleet.call_services
        };
        figures.restarts += pool.roll().await?;
        stage.screen.show(round + 1, &stage.pulse.words());
    }
    Ok(())
}
