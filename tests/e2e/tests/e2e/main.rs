//! Stories of the whole stack, one file for each area.

mod api;
mod audio;
mod callbacks;
mod clocks;
mod commits;
mod credentials;
mod directory;
mod disk;
mod end;
mod failover;
mod idempotency;
mod inbound;
mod locks;
mod migration;
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
mod webhook_faults;
mod webhooks;
