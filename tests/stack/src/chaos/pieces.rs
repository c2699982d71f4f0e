//! The driver as one of its own children: a piece with the settings of the environment.

use std::{ffi::OsString, process::ExitCode};

use clap::Parser as _;

use super::arguments::{PieceArguments, PieceCommand, PieceName};
use crate::child;

/// The first argument of a child.
const PIECE: &str = "piece";

/// Runs a piece if that is what the command line asks for.
pub(super) fn run_if_asked() -> Option<ExitCode> {
    let is_piece = std::env::args_os().nth(1) == Some(OsString::from(PIECE));
    is_piece.then(|| {
        let PieceCommand::Piece { name } = PieceArguments::parse().command;
        child::die_with_driver();
        match name {
            PieceName::CallService => child::call_service(),
            PieceName::Edge => child::edge(),
        }
    })
}

/// The arguments of a child.
pub(super) fn arguments(name: PieceName) -> Vec<String> {
    [PIECE, name.word()].map(str::to_owned).into()
}
