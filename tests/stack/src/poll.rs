//! Waiting for something to become true, bounded, with the last state in the message.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Pause between two looks: short beside everything that is awaited, long beside the work of a look.
const PAUSE: Duration = Duration::from_millis(25);

/// What was awaited did not come.
#[derive(Debug, thiserror::Error)]
#[error("waited {limit:?} in vain for {what}; last state: {last}")]
pub struct TimedOut {
    /// What was awaited.
    pub what: String,
    /// How long.
    pub limit: Duration,
    /// What was seen last.
    pub last: String,
}

/// Looks again and again until the look succeeds. A look that fails says what it saw.
///
/// # Errors
/// When the limit passes first; the last state is in the message.
pub async fn poll<T, S: std::fmt::Display>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<T, S>,
) -> Result<T, TimedOut> {
    let deadline = Instant::now() + limit;
    let mut last = "nothing was seen at all".to_owned();
    loop {
        // A look that hangs is bounded too.
        match tokio::time::timeout_at(deadline, look()).await {
            Ok(Ok(seen)) => return Ok(seen),
            Ok(Err(state)) => last = state.to_string(),
            Err(_) => {
                return Err(TimedOut {
                    what: what.to_owned(),
                    limit,
                    last,
                });
            }
        }
        if Instant::now() >= deadline {
            return Err(TimedOut {
                what: what.to_owned(),
                limit,
                last,
            });
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_last_state_is_told() {
        let mut looks = 0;
        let seen = poll("three looks", Duration::from_secs(1), async || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err("not yet") }
        });
        assert_eq!(seen.await.unwrap(), 3);
        let error = poll("ever", Duration::from_secs(1), async || Err::<(), _>("state 7"))
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "waited 1s in vain for ever; last state: state 7");
        let error = poll(
            "an answer",
            Duration::from_secs(1),
            std::future::pending::<Result<(), &str>>,
        )
        .await
        .unwrap_err();
        assert!(error.last.starts_with("nothing"));
    }
}
