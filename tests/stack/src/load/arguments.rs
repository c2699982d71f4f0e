//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

const AFTER: &str = "\
place    What PlaceCall costs. A private PostgreSQL (durable, as in production), one call-service and a provider that answers each
         connect at once, on this machine. Rounds of two measurements take turns: the highest rate of calls that are committed,
         dialled and answered PLACED, and the rate that pgbench reaches with the very same statements, which are taken from
         PostgreSQL's own log of one PlaceCall. Then calls come at half the highest rate, evenly, and the time of each is
         taken from when it was due. The last line has the figures:
           place_per_s=… pgbench_per_s=… ratio=… p50_ms=… p99_ms=… at_per_s=… load_avg=…

Examples:
  cargo load place                              about two minutes
  cargo load place --seconds 20 --json place.json";

/// Measures callbridge on this machine against a baseline in the same run. A release build, or the figures mean nothing.
#[derive(Debug, Parser)]
#[command(name = "cargo load", bin_name = "cargo load", after_help = AFTER)]
pub(super) struct Arguments {
    /// What to measure.
    #[arg(value_enum)]
    pub(super) what: What,
    /// How long each measurement takes.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(super) seconds: u64,
    /// How often the two measurements take turns; the medians are compared.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub(super) rounds: u32,
    /// Writes all figures there too.
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum What {
    /// PlaceCall, against pgbench with the same statements.
    Place,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
        let arguments = Arguments::parse_from(["load", "place", "--seconds", "3"]);
        assert_eq!(
            (arguments.what, arguments.seconds, arguments.rounds),
            (What::Place, 3, 3)
        );
    }
}
