//! Stories of the whole stack, one file for each area.

mod api;
mod audio;
mod callbacks;
mod commits;
mod credentials;
mod directory;
mod end;
mod idempotency;
mod inbound;
mod locks;
mod outbound;
mod postgres;
mod queue;
mod reconcile;
mod reflection;
mod restart;
mod schema;
mod settling;
mod waiting;
mod watch;
mod webhooks;
