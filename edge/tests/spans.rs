//! Tracing and the audio path: between two frames nothing is traced, so that tracing costs a call what its beginning and its end cost.

#![expect(
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "parts of the other tests' peers; tests fail by panicking, and count small things"
)]

#[path = "edge/frames.rs"]
mod frames;
#[path = "edge/peers/mod.rs"]
mod peers;
#[path = "edge/web.rs"]
mod web;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use callbridge_proto::ingress::v1::session_event::Event as Report;
use frames::pcm;
use peers::{Manner, with_agent};
use tracing::{
    Event, Subscriber,
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    filter::LevelFilter,
    layer::{Context, Layer, SubscriberExt as _},
    util::SubscriberInitExt as _,
};
use web::begin;

/// Counts all that a tracing layer is told, which is what tracing costs.
#[derive(Clone, Default)]
struct Counted(Arc<AtomicU64>);

impl Counted {
    fn one_more(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn so_far(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl<S: Subscriber> Layer<S> for Counted {
    fn on_new_span(&self, _: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        self.one_more();
    }

    fn on_record(&self, _: &Id, _: &Record<'_>, _: Context<'_, S>) {
        self.one_more();
    }

    fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
        self.one_more();
    }

    fn on_enter(&self, _: &Id, _: Context<'_, S>) {
        self.one_more();
    }
}

/// As in production, INFO is what is wanted.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_traced_between_two_frames() {
    let counted = Counted::default();
    tracing_subscriber::registry()
        .with(counted.clone().with_filter(LevelFilter::INFO))
        .init();
    let (mut bench, _events) = with_agent(Manner::Echo).await;
    let mut socket = begin(&bench).await;
    assert!(matches!(bench.event().await.event, Some(Report::AgentConnected(_))));
    let mut chunk = 0;
    let mut talk = async |frames: u64| {
        for _ in 0..frames {
            chunk += 1;
            socket.send(frames::media(chunk, &pcm(vec![7; 160]))).await;
            assert_eq!(socket.listen(160).await, [7; 160]);
        }
    };
    // A second, in which what belongs to the beginning comes to its end.
    talk(50).await;
    let before = counted.so_far();
    assert!(before > 0, "the call's beginning is not traced");
    talk(100).await;
    assert_eq!(counted.so_far(), before);
}
