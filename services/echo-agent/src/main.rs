//! The echo agent's process.

use std::process::ExitCode;

use echo_agent::{Config, Listeners, run};

fn main() -> ExitCode {
    runtime::program::main("echo-agent", Config::read, async |config, tasks| {
        let listeners = Listeners::bind(&config).await?;
        run(config, listeners, tasks).await
    })
}
