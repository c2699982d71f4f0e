//! The driver as one of its own children: a piece with the settings of the environment.

use std::{
    ffi::OsString,
    io::Read as _,
    process::{self, ExitCode},
    thread,
};

use clap::Parser as _;
use runtime::program;

use super::arguments::{PieceArguments, PieceCommand, PieceName};

/// The first argument of a child.
const PIECE: &str = "piece";

/// How a child ends whose driver is gone.
const ORPHANED: i32 = 75;

/// Runs a piece if that is what the command line asks for.
pub(super) fn run_if_asked() -> Option<ExitCode> {
    let is_piece = std::env::args_os().nth(1) == Some(OsString::from(PIECE));
    is_piece.then(|| {
        let PieceCommand::Piece { name } = PieceArguments::parse().command;
        die_with_driver();
        run(name)
    })
}

/// The arguments of a child.
pub(super) fn arguments(name: PieceName) -> [&'static str; 2] {
    [PIECE, name.word()]
}

fn run(name: PieceName) -> ExitCode {
    match name {
        PieceName::CallService => program::main(name.word(), call_service::Config::read, async |config, tasks| {
            let listeners = call_service::Listeners::bind(&config).await?;
            call_service::run(config, listeners, tasks).await
        }),
        PieceName::Edge => program::main(name.word(), edge::Config::read, async |config, tasks| {
            let listeners = edge::Listeners::bind(&config).await?;
            edge::run(config, listeners, tasks).await
        }),
    }
}

/// Standard input is a pipe from the driver, which never writes: its end is the driver's, however it came about.
fn die_with_driver() {
    thread::spawn(|| {
        let mut byte = [0];
        while std::io::stdin().read(&mut byte).is_ok_and(|read| read > 0) {}
        process::exit(ORPHANED);
    });
}
