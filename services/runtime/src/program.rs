//! The `main` of every process.

use std::{future::Future, process::ExitCode};

use crate::{
    Tasks,
    config::{ConfigError, EXIT_USAGE, Vars},
    lifecycle, telemetry,
};

/// Runs a process: installs the crypto provider, forbids core dumps, reads the settings (exit 64 when they are wrong), starts telemetry, runs,
/// and flushes telemetry at the end. `run` gets the settings and the tasks, whose soft stop follows SIGTERM and SIGINT; a second signal cuts
/// the drain short.
pub fn main<C, R, F>(service: &'static str, config: impl FnOnce(Vars) -> Result<C, ConfigError>, run: R) -> ExitCode
where
    R: FnOnce(C, Tasks) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    crate::install_crypto_provider();
    crate::descriptors::raise();
    crate::dumps::forbid();
    let mut vars = Vars::from_process();
    let settings = telemetry::Settings::read(&mut vars);
    // What was wrong with the first settings is told together with the rest.
    let config = match config(vars) {
        Ok(config) => config,
        Err(error) => {
            complain(service, &error.to_string());
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(service, &format!("cannot start the async runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        let telemetry = telemetry::start(service, &settings)?;
        let tasks = Tasks::new();
        let signals = lifecycle::Signals::listen()?;
        let result = tokio::select! {
            result = run(config, tasks.clone()) => result,
            never = signals.drive(&tasks) => match never {},
        };
        telemetry.shut_down().await;
        result
    });
    // What still blocks has had its time.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(service, &format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[expect(
    clippy::print_stderr,
    reason = "the process ends here, and its log may not have begun"
)]
fn complain(service: &str, what: &str) {
    eprintln!("{service}: {what}");
}
