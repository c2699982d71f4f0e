//! The `main` of every process.

use std::{future::Future, process::ExitCode};

use crate::{
    Tasks,
    config::{ConfigError, EXIT_USAGE, Vars},
    lifecycle, telemetry,
};

/// Runs a process: installs the crypto provider, reads the settings (exit 64 when they are wrong), starts telemetry, runs,
/// and flushes telemetry at the end. `run` gets the settings and the tasks, whose soft stop follows SIGTERM and SIGINT.
pub fn main<C, R, F>(service: &'static str, config: impl FnOnce(Vars) -> Result<C, ConfigError>, run: R) -> ExitCode
where
    R: FnOnce(C, Tasks) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    crate::install_crypto_provider();
    let settings = telemetry::Settings::read(&mut Vars::from_process());
    let config = match config(Vars::from_process()) {
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
        let signalled = tasks.clone();
        tasks.spawn(async move {
            tokio::select! {
                signal = lifecycle::signal() => match signal {
                    Ok(()) => signalled.stop(),
                    Err(error) => tracing::error!(%error, "cannot listen for signals"),
                },
                () = signalled.stopping() => {}
            }
        });
        let result = run(config, tasks).await;
        telemetry.shut_down().await;
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(service, &format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "the process ends here, and its log may not have begun")]
fn complain(service: &str, what: &str) {
    eprintln!("{service}: {what}");
}
