//! `cargo load`: measures a running system against a baseline in the same run.

mod arguments;
mod audio;
mod baseline;
mod campaign;
mod capture;
mod clients;
mod forged;
mod machine;
mod place;
mod progress;
mod provider;
mod start;

use std::process::ExitCode;

use clap::Parser as _;

use self::{
    arguments::{Arguments, What},
    audio::{
        cores::{self, Cores},
        pieces,
    },
};

/// The `main` of `cargo load`.
pub fn main() -> ExitCode {
    if let Some(code) = pieces::run_if_asked() {
        return code;
    }
    let arguments = Arguments::parse();
    runtime::install_crypto_provider();
    let processors = machine::processors();
    let mut shared = Cores::default();
    if matches!(arguments.what, What::Audio | What::Idle) {
        runtime::descriptors::raise();
        if arguments.pin {
            shared = Cores::share(&cores::allowed());
        }
        // Before there is another thread, or PostgreSQL.
        if let Err(error) = cores::pin(&shared.others) {
            return failed(&error);
        }
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&anyhow::Error::new(error).context("cannot start the async runtime")),
    };
    let result = runtime.block_on(async {
        match &arguments.what {
            What::Place => place::run(&arguments).await,
            What::Audio => audio::run(&arguments, &shared, processors).await,
            What::Idle => audio::idle::run(&arguments, &shared, processors).await,
            What::Campaign => campaign::run(&arguments).await,
            What::Forged => forged::run(&arguments).await,
            What::Start => start::run(&arguments).await,
            What::Tracing => audio::tracing::run(&arguments).await,
        }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    say(&format!("load: {error:#}"));
    ExitCode::FAILURE
}

/// Progress, to stderr.
#[expect(clippy::print_stderr, reason = "progress of a command")]
fn say(text: &str) {
    eprintln!("{text}");
}

/// Results, to stdout.
#[expect(clippy::print_stdout, reason = "the command's output")]
fn result(text: &str) {
    println!("{text}");
}
