//! The driver as one of its own children: a piece with the settings of the environment.

use std::{ffi::OsString, process::ExitCode};

use clap::Parser as _;
use runtime::program;

use super::arguments::{PieceArguments, PieceCommand, PieceName};
use crate::child::die_with_driver;

/// The first argument of a child.
const PIECE: &str = "piece";

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
pub(super) fn arguments(name: PieceName) -> Vec<String> {
    [PIECE, name.word()].map(str::to_owned).into()
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
