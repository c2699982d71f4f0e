//! How long transactions take, from the spans that the service makes of them.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tracing::{
    Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id},
};
use tracing_subscriber::{
    Layer,
    filter::filter_fn,
    layer::{Context, SubscriberExt as _},
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

use crate::load::machine;

/// The name of every transaction's span; what it is for is in `otel.name`.
const TRANSACTION: &str = "db.transaction";

#[derive(Debug, Default)]
struct Taken {
    claims: Vec<Duration>,
    fills: Vec<Duration>,
}

/// What was seen.
#[derive(Debug, Clone, Default)]
pub(super) struct Spans(Arc<Mutex<Taken>>);

impl Spans {
    /// Begins to look; in this process alone, and once.
    pub(super) fn install() -> Self {
        let spans = Self::default();
        let transactions = filter_fn(|of| of.is_span() && of.name() == TRANSACTION);
        let all = tracing_subscriber::registry().with(spans.clone().with_filter(transactions));
        // With another subscriber there is nothing to see, and the figures say so.
        let _ = all.try_init();
        spans
    }

    /// Claims and fills since the last time.
    pub(super) fn take(&self) -> (Vec<Duration>, Vec<Duration>) {
        let taken = mem::take(&mut *self.taken());
        (taken.claims, taken.fills)
    }

    /// Leaves out what was seen so far.
    pub(super) fn forget(&self) {
        drop(self.take());
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Claim,
    Fill,
}

struct Begun(Kind, Instant);

#[derive(Default)]
struct Name(Option<Kind>);

impl Visit for Name {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "otel.name" {
            self.0 = match value {
                "claim" => Some(Kind::Claim),
                "campaign_fill" => Some(Kind::Fill),
                _ => None,
            };
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut name = Name::default();
        attributes.record(&mut name);
        if let (Some(kind), Some(span)) = (name.0, context.span(id)) {
            span.extensions_mut().insert(Begun(kind, Instant::now()));
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        if let Some(Begun(kind, at)) = span.extensions().get::<Begun>() {
            let mut taken = self.taken();
            match kind {
                Kind::Claim => taken.claims.push(at.elapsed()),
                Kind::Fill => taken.fills.push(at.elapsed()),
            }
        }
    }
}

/// The median of the longest ones, in milliseconds.
pub(super) fn median_of_longest(mut took: Vec<Duration>, many: usize) -> f64 {
    took.sort_unstable();
    let longest = took.split_off(took.len().saturating_sub(many));
    let ms: Vec<f64> = longest.iter().map(|took| took.as_secs_f64() * 1_000.0).collect();
    machine::median(&ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_are_left_out() {
        let took = [5, 1, 9, 1, 7].map(Duration::from_millis).to_vec();
        assert!((median_of_longest(took.clone(), 3) - 7.0).abs() < 1e-9);
        assert!((median_of_longest(took, usize::MAX) - 5.0).abs() < 1e-9);
        assert!(median_of_longest(Vec::new(), 3).abs() < 1e-9);
    }
}
