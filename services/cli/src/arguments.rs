//! What may be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::{audit, calls, campaigns, doctor, keys, privacy};

/// Looks after calls, campaigns and phones of callbridge.
#[derive(Debug, Parser)]
#[command(name = "callbridge", version, after_help = include_str!("help.txt"))]
pub struct Arguments {
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(flatten)]
    pub(crate) display: Display,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How call-service is reached.
#[derive(Debug, Args)]
pub(crate) struct Connection {
    /// Where call-service is; https for TLS.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "CALL_SERVICE_URL",
        default_value = "http://127.0.0.1:50051"
    )]
    pub(crate) endpoint: String,
    /// The API key: ck_<kid>_<secret>. Better in the environment, where other users of the machine do not see it.
    #[arg(
        long,
        global = true,
        value_name = "KEY",
        env = "CALLBRIDGE_API_KEY",
        hide_env_values = true
    )]
    pub(crate) api_key: Option<String>,
    /// PEM file with the authority of call-service's certificate, where it is a private one.
    #[arg(long, global = true, value_name = "FILE", env = "CALLBRIDGE_CA")]
    pub(crate) ca: Option<PathBuf>,
    /// PEM file with your certificate, where call-service asks for one; with --client-key.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "CALLBRIDGE_CLIENT_CERT",
        requires = "client_key"
    )]
    pub(crate) client_cert: Option<PathBuf>,
    /// PEM file with the certificate's key.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "CALLBRIDGE_CLIENT_KEY",
        requires = "client_cert"
    )]
    pub(crate) client_key: Option<PathBuf>,
}

/// How results are shown.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Display {
    /// JSON for scripts, with the names of the .proto files: one object, or one in each line.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Shows people's numbers whole instead of masked.
    #[arg(long, global = true)]
    pub(crate) full_numbers: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Calls: list, show, watch, end, transfer.
    #[command(subcommand)]
    Calls(calls::Command),
    /// Campaigns: make, import contacts, start, pause, watch, export.
    #[command(subcommand)]
    Campaigns(campaigns::Command),
    /// Exotel accounts.
    #[command(subcommand)]
    Accounts(Directory),
    /// ExoPhones.
    #[command(subcommand)]
    Phones(Directory),
    /// Voice agents.
    #[command(subcommand)]
    Agents(Directory),
    /// API keys: make, list, revoke.
    #[command(subcommand)]
    Keys(keys::Command),
    /// Who changed what, and to whom what was shown: newest first.
    Audit(audit::Wanted),
    /// What is kept about a number: export, erase; calls that must be kept: hold, release.
    #[command(subcommand)]
    Privacy(privacy::Command),
    /// Checks an account's phone from Exotel to the edge, and tells what to do about what is wrong.
    Doctor(doctor::Wanted),
    /// Prints a shell's completions.
    Completions {
        /// Which shell.
        shell: Shell,
    },
}

/// What can be done with what is registered.
#[derive(Debug, Subcommand)]
pub(crate) enum Directory {
    /// Lists all.
    List,
    /// Shows one.
    Show {
        /// Its id.
        id: String,
    },
}
