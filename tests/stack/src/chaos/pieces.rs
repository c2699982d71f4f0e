//! The driver as one of its own children: a piece with the settings of the environment.

use std::{ffi::OsString, process::ExitCode};

use clap::Parser as _;

use super::arguments::{PieceArguments, PieceCommand, PieceName};
use crate::child;

/// The first argument of a child that serves, and of one that seals credentials anew.
const PIECE: &str = "piece";
pub(super) const REWRAP: &str = "rewrap";

/// Runs a piece if that is what the command line asks for.
pub(super) fn run_if_asked() -> Option<ExitCode> {
    let first = std::env::args_os().nth(1);
    let is_piece = [PIECE, REWRAP].iter().any(|word| first == Some(OsString::from(word)));
    is_piece.then(|| {
        let command = PieceArguments::parse().command;
        child::die_with_driver();
        match command {
            PieceCommand::Piece {
                name: PieceName::CallService,
            } => child::call_service(),
            PieceCommand::Piece { name: PieceName::Edge } => child::edge(),
            PieceCommand::Rewrap => child::rewrap(),
        }
    })
}

/// The arguments of a child.
pub(super) fn arguments(name: PieceName) -> Vec<String> {
    [PIECE, name.word()].map(str::to_owned).into()
}
