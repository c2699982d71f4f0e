//! The edge process.

use std::process::ExitCode;

use edge::{Config, Listeners};

fn main() -> ExitCode {
    runtime::program::main("edge", Config::read, async |config, tasks| {
        let listeners = Listeners::bind(&config).await?;
        edge::run(config, listeners, tasks).await
    })
}
