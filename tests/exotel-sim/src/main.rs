//! The simulator as a program.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Parser;
use exotel_sim::{Config, Simulator};

/// A faithful Exotel on one machine: REST, callbacks, applet requests, AgentStream client, faults, dial ledger.
#[derive(Parser)]
#[command(version, after_help = include_str!("help.txt"))]
struct Arguments {
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Folder for ledger.jsonl, arrivals.jsonl, events.jsonl and the WAV files.
    #[arg(long, value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
    /// JSON file with accounts, flows and settings; every field has a default.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Prints the configuration that would be used, as JSON, and ends.
    #[arg(long)]
    print_config: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(filter())
        .with_writer(std::io::stderr)
        .init();
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn filter() -> tracing_subscriber::EnvFilter {
    tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into())
}

#[expect(
    clippy::print_stdout,
    reason = "the base URL and --print-config are the program's output"
)]
async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mut config = match &arguments.config {
        None => Config::default(),
        Some(path) => {
            let text = tokio::fs::read(path)
                .await
                .with_context(|| format!("cannot read {}", path.display()))?;
            serde_json::from_slice(&text).with_context(|| format!("{} is not a valid configuration", path.display()))?
        }
    };
    config.listen = arguments.listen.unwrap_or(config.listen);
    config.state_dir = arguments.state_dir.unwrap_or(config.state_dir);
    if arguments.print_config {
        println!("{}", serde_json::to_string_pretty(&config)?);
        return Ok(());
    }
    let simulator = Simulator::start(config).await?;
    println!("{}", simulator.base_url());
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminated.recv() => {}
    }
    simulator.shutdown().await;
    Ok(())
}
