#![doc = include_str!("../README.md")]

mod accounts;
mod agents;
mod arguments;
mod audit;
mod calls;
mod campaigns;
mod client;
mod doctor;
mod failure;
mod json;
mod keys;
mod output;
mod phones;
mod privacy;
mod profile;
mod watching;
mod words;

use std::io::Write;

pub use arguments::Arguments;
pub use failure::{EXIT_USAGE, Failure};

use arguments::Command;
use clap::CommandFactory as _;
use client::Client;
use output::Out;

/// Does what the arguments say and writes the result. What goes wrong is for standard error, and has an exit code.
///
/// # Errors
/// What was attempted, what was wrong, and what to do.
pub async fn run(arguments: Arguments, writer: &mut (dyn Write + Send)) -> Result<(), Failure> {
    let Arguments {
        connection,
        display,
        command,
    } = arguments;
    if let Command::Completions { shell } = command {
        clap_complete::generate(shell, &mut Arguments::command(), "callbridge", &mut Adapter(writer));
        return Ok(());
    }
    let client = Client::new(&connection)?;
    let mut out = Out::new(writer, display);
    match command {
        Command::Calls(command) => calls::run(&client, &mut out, command).await,
        Command::Campaigns(command) => campaigns::run(&client, &mut out, command).await,
        Command::Accounts(command) => accounts::run(&client, &mut out, command).await,
        Command::Phones(command) => phones::run(&client, &mut out, command).await,
        Command::Agents(command) => agents::run(&client, &mut out, command).await,
        Command::Keys(command) => keys::run(&client, &mut out, command).await,
        Command::Audit(wanted) => audit::run(&client, &mut out, wanted).await,
        Command::Privacy(command) => privacy::run(&client, &mut out, command).await,
        Command::Doctor(wanted) => doctor::run(&client, &mut out, wanted).await,
        Command::Completions { .. } => Ok(()),
    }
}

/// A sized writer around one that is not.
struct Adapter<'a>(&'a mut (dyn Write + Send));

impl Write for Adapter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}
