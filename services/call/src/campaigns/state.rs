//! Where a campaign stands, and which control leads where. Pure.

/// Where a campaign stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Not started.
    Draft,
    /// Calls.
    Running,
    /// Does not dial until it is resumed.
    Paused,
    /// Every contact has its last state, or the end time is over.
    Finished,
    /// Ended for good by an operator.
    Aborted,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Draft, Self::Running, Self::Paused, Self::Finished, Self::Aborted];

    /// The word in the database.
    pub fn word(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Finished => "finished",
            Self::Aborted => "aborted",
        }
    }

    /// The state of a word. None: a word of a later release.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }

    /// Whether nobody is called any more, unless it is resumed.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Finished | Self::Aborted)
    }
}

/// What is asked of a campaign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Control {
    /// To begin.
    Start,
    /// To stop dialling.
    Pause,
    /// To go on.
    Resume,
    /// To end for good.
    Abort,
    /// To end because nothing is left to do. Only callbridge asks for it.
    Finish,
}

impl Control {
    /// The word on the history.
    pub fn word(self) -> &'static str {
        match self {
            Self::Start => "started",
            Self::Pause => "paused",
            Self::Resume => "resumed",
            Self::Abort => "aborted",
            Self::Finish => "finished",
        }
    }
}

/// A control that makes no sense in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfPlace;

/// Where a control leads. Ok(None): it is there already, so that asking twice is asking once (F110).
///
/// # Errors
/// [`OutOfPlace`].
pub fn lead(from: State, control: Control) -> Result<Option<State>, OutOfPlace> {
    use Control::{Abort, Finish, Pause, Resume, Start};
    use State::{Aborted, Draft, Finished, Paused, Running};
    match (control, from) {
        (Start, Draft) | (Resume, Paused | Finished) => Ok(Some(Running)),
        (Pause, Running) => Ok(Some(Paused)),
        (Abort, Draft | Running | Paused) => Ok(Some(Aborted)),
        (Finish, Running) => Ok(Some(Finished)),
        (Start | Resume, Running) | (Pause, Paused) | (Abort, Aborted) | (Finish, Finished) => Ok(None),
        (Start, Paused | Finished | Aborted)
        | (Pause, Draft | Finished | Aborted)
        | (Resume, Draft | Aborted)
        | (Abort, Finished)
        | (Finish, Draft | Paused | Aborted) => Err(OutOfPlace),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTROLS: [Control; 5] = [
        Control::Start,
        Control::Pause,
        Control::Resume,
        Control::Abort,
        Control::Finish,
    ];

    /// F110: a control that was followed may be asked for again, and changes nothing the second time.
    #[test]
    fn asking_twice_is_asking_once() {
        for from in State::ALL {
            for control in CONTROLS {
                if let Ok(Some(to)) = lead(from, control) {
                    assert_eq!(lead(to, control), Ok(None), "{control:?} of {from:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_aborted_never_calls_again() {
        for control in CONTROLS {
            assert_ne!(lead(State::Aborted, control), Ok(Some(State::Running)), "{control:?}");
        }
        assert_eq!(lead(State::Draft, Control::Resume), Err(OutOfPlace));
        assert_eq!(lead(State::Paused, Control::Start), Err(OutOfPlace));
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for state in State::ALL {
            assert_eq!(State::of(state.word()), Some(state));
        }
        assert_eq!(State::of("x"), None);
    }
}
