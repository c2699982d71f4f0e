//! The `call-service` program.

use std::process::ExitCode;

use call_service::{Config, Listeners, config, rewrap, run, vault::rotate::How};
use clap::{Parser, Subcommand};
use runtime::program;
use secrecy::ExposeSecret as _;

/// Owns Exotel calling and the log of calls. All settings come from the environment.
#[derive(Parser)]
#[command(name = "call-service", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serves gRPC until SIGTERM (the default).
    Serve,
    /// Brings the database of DATABASE_DIRECT_URL, or else DATABASE_URL, up to this program's schema, one runner at a time.
    Migrate,
    /// Seals credentials that old keys of CREDENTIAL_KEYS sealed with the first one, while everything runs, and opens all at the end.
    /// May be killed at any time and run again; several may run at one time.
    Rewrap {
        /// After a leak of an old key: with new data keys too. Takes the credentials that the first key has not sealed yet, so
        /// put a new one first. Set new credentials at Exotel as well.
        #[arg(long)]
        reseal: bool,
    },
    /// Prints the SQL that makes the database's roles, for an administrator: call-service roles | psql "$ADMIN_URL".
    Roles,
    /// Prints EDGE_TOKEN_KEYS for the edge, derived from TOKEN_KEYS. The output is secret.
    DeriveEdgeKeys,
}

fn main() -> ExitCode {
    match Arguments::parse().command.unwrap_or(Command::Serve) {
        Command::Serve => program::main("call-service", Config::read, |config, tasks| async move {
            let listeners = Listeners::bind(&config).await?;
            run(config, listeners, tasks).await
        }),
        Command::Migrate => program::main("call-service", config::migrate_url, |url, _| async move {
            for migration in call_service::migrate(url.expose_secret()).await? {
                tracing::info!(migration, "applied");
            }
            Ok(())
        }),
        Command::Rewrap { reseal } => {
            program::main("call-service", config::Rewrap::read, |settings, tasks| async move {
                let how = if reseal { How::Reseal } else { How::Rewrap };
                rewrap::run(settings, how, &tasks).await.map(drop)
            })
        }
        Command::Roles => {
            #[expect(clippy::print_stdout, reason = "the command's output")]
            {
                print!("{}", call_service::db::ROLES);
            }
            ExitCode::SUCCESS
        }
        Command::DeriveEdgeKeys => program::main("call-service", config::token_keys, |keys, _| async move {
            #[expect(clippy::print_stdout, reason = "the command's output")]
            {
                println!("{}", keys.edge_keys());
            }
            Ok(())
        }),
    }
}
