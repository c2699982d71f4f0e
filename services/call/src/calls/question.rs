//! Which requests it takes to ask about calls.

use std::collections::{HashSet, VecDeque};

use exotel::rest::MAX_SIDS;
use uuid::Uuid;

use super::settle::Sought;
use crate::store::{accounts::Account, calls::Call};

/// One request.
pub(super) enum Question {
    /// By their ids, some calls at once.
    List(Vec<Call>),
    /// By its id.
    One(Call),
    /// Which id it has.
    Search(Call),
    /// There is nothing to ask: only time settles it.
    None(Call),
}

impl Question {
    /// Whether it can wait: every call of it is over.
    pub(super) fn is_late(&self) -> bool {
        self.calls().iter().all(|call| call.state.is_terminal())
    }

    /// Those that it is about.
    pub(super) fn calls(&self) -> &[Call] {
        match self {
            Self::List(calls) => calls,
            Self::One(call) | Self::Search(call) | Self::None(call) => std::slice::from_ref(call),
        }
    }
}

/// Sorts calls into requests: those that are not over come first, the oldest dial before all others, and what is only about a
/// price comes last.
pub(super) fn questions(mut batch: Vec<Call>, singly: &HashSet<Uuid>, account: &Account) -> VecDeque<Question> {
    batch.sort_by_key(|call| (call.state.is_terminal(), call.post_started_at));
    let mut questions: VecDeque<Question> = VecDeque::new();
    for call in batch {
        if call.call_sid.is_none() {
            let sought = Sought::of(&call, account.utc_offset_minutes).is_some();
            questions.push_back(if sought {
                Question::Search(call)
            } else {
                Question::None(call)
            });
        } else if singly.contains(&call.id) {
            questions.push_back(Question::One(call));
        } else {
            let open = questions.iter_mut().find_map(|question| match question {
                Question::List(calls) if calls.len() < MAX_SIDS => Some(calls),
                _ => None,
            });
            match open {
                Some(calls) => calls.push(call),
                None => questions.push_back(Question::List(vec![call])),
            }
        }
    }
    questions
}

#[cfg(test)]
mod tests;
