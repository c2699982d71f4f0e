//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::target;

const AFTER: &str = "\
It starts a private PostgreSQL, the Exotel simulator, replicas of call-service and an edge as processes of their own,
and places calls from many clients that repeat each one, with its key, until there is a definite answer. At the end
everything settles, and the simulator's ledger is checked against the database.

The last line has the figures:
  kills=40 calls=212 dials=199 double_dials=0 lost_calls=0 stuck_slots=0 … seed=1
The exit code is 0 only when all that must hold does:
  double_dials   two dials for one idempotency key
  lost_calls     an accepted key without a row, a dial without a row, a call that never ended
  stuck_slots    rows in an active state at the end
  violations     all that is wrong: those above, two rows for one key, an end without a dial, an account's cap or rate exceeded;
                 of campaigns also: a cap or rate of their own, a contact that was lost, doubled, left or dialled too often,
                 and late_posts: a request more than a second after PauseCampaign was answered, before the campaign was resumed

rolling and edge-detach have people who talk all the time, half of them called by us. Each says samples of which every one is
known; the agent echoes them, and the person hangs up when the echo has ended. Of each call must hold (all in violations):
  dropped          a call that ended in any other way, or before all was said
  samples_lost     samples that were said and did not come back: from the very first to the very last one, nothing is left out
  samples_doubled  samples that came back more than once, or in another place
  refused          (rolling) a request, callback or handshake of Exotel's without an answer or with 5xx, each try counted by
                   itself; a connection that no process took; a PlaceCall that failed four times in a row (others: retried)
  and the row says that the person hung up, with one end of the call and of its only session, none of them presumed
A round of rolling replaces all edges, or all replicas of call-service, as a Deployment with maxSurge 1 and maxUnavailable 0
does: behind a Service, by SIGTERM, with an exit code of 0. A round of edge-detach kills all replicas at one moment, and before
that as many replicas that serve nobody; at the end of a part an edge dies, its calls (cut) must be settled, and the URLs of
their sockets must open nothing. A hole in the audio (longest_hole_ms, windows_over_40_ms) counts when those make
nothing like it (control_ms, control), three times or in one of twenty rounds twice as long, or more often than chance has it.

cargo chaos rotate is about the keys of credentials and has options of its own: see cargo chaos rotate --help.

State, in target/chaos/WHAT/ unless --state-dir says otherwise:
  progress.json  the figures of the parts that are done, for --from
  part/          the part that runs, or failed: ledger.jsonl and events.jsonl of the simulator, logs of the processes,
                 violations.txt with the timeline of each call that something is wrong with

Examples:
  cargo chaos kills --rounds 40 --seed 1       under a minute
  cargo chaos kills --rounds 10000             every crash point hundreds of times; with --replicas 4 in half the time
  cargo chaos kills --rounds 10000 --from 4000 goes on after an interrupt (progress.json says from where)
  cargo chaos rolling --rounds 100 --calls 200  100 rolling restarts; cargo build --release first, on small machines
  cargo chaos campaign --contacts 100000 --rounds 100   100 deaths spread over a campaign of half an hour or more";

/// Breaks a running callbridge and checks that every call was dialled at most once, that none is lost and that no slot is stuck.
#[derive(Debug, Parser)]
#[command(name = "cargo chaos", bin_name = "cargo chaos", after_help = AFTER)]
pub(super) struct Arguments {
    /// What to break.
    #[arg(value_enum)]
    pub(super) what: What,
    /// How often; a round is one fault.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(super) rounds: u64,
    /// All that is random comes from it; a new one when absent.
    #[arg(long, value_name = "S")]
    pub(super) seed: Option<u64>,
    /// Go on at this round with the figures and the seed of progress.json.
    #[arg(long, value_name = "ROUND")]
    pub(super) from: Option<u64>,
    /// Replicas of call-service: two, or three for zombie, of which one is always awake, or four for campaign. More of them die more
    /// often.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=8))]
    pub(super) replicas: Option<u8>,
    /// campaign: contacts of all campaigns together.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(10..=1_000_000))]
    pub(super) contacts: u64,
    /// rolling, edge-detach: calls that are live at one time.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..=2_000))]
    pub(super) calls: u16,
    /// rolling: a folder with the programs call-service and edge of an earlier release. Restarts then lead from the one release to
    /// the other and back, on the schema of this one.
    #[arg(long, value_name = "FOLDER")]
    pub(super) previous: Option<PathBuf>,
    /// Where state goes; two that run at one time need one each.
    #[arg(long, value_name = "FOLDER")]
    pub(super) state_dir: Option<PathBuf>,
}

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum What {
    /// Processes, by SIGKILL: at each crash point in turn, and at random; now and then several at once, or all with PostgreSQL.
    Kills,
    /// PostgreSQL, by an immediate stop at a random time and a start on the same data.
    Postgres,
    /// Exotel's callbacks: all lost, all doubled, or late and in any order.
    Callbacks,
    /// Replicas, by SIGSTOP for longer than the sweep, in the middle of a dial or at random, and SIGCONT.
    Zombie,
    /// Replicas, by SIGKILL at random times, while campaigns call all their contacts.
    Campaign,
    /// Nothing: all edges, then all replicas of call-service are replaced as a Deployment does it, while people talk.
    Rolling,
    /// All replicas of call-service, by SIGKILL at one moment, while people talk.
    EdgeDetach,
}

impl What {
    /// The word of the command line.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Kills => "kills",
            Self::Postgres => "postgres",
            Self::Callbacks => "callbacks",
            Self::Zombie => "zombie",
            Self::Campaign => "campaign",
            Self::Rolling => "rolling",
            Self::EdgeDetach => "edge-detach",
        }
    }

    /// Whether people talk all the time, and what they hear is compared with what was said.
    pub(super) fn is_live(self) -> bool {
        match self {
            Self::Rolling | Self::EdgeDetach => true,
            Self::Kills | Self::Postgres | Self::Callbacks | Self::Zombie | Self::Campaign => false,
        }
    }
}

impl Arguments {
    pub(super) fn replicas(&self) -> usize {
        let usual = match self.what {
            What::Kills | What::Postgres | What::Callbacks | What::Rolling | What::EdgeDetach => 2,
            What::Zombie => 3,
            What::Campaign => 4,
        };
        self.replicas.unwrap_or(usual).into()
    }

    pub(super) fn state_dir(&self) -> PathBuf {
        self.state_dir
            .clone()
            .unwrap_or_else(|| target::folder().join("chaos").join(self.what.word()))
    }
}

/// The command line of a process that the driver starts: the driver itself, as a piece.
#[derive(Debug, Parser)]
pub(super) struct PieceArguments {
    #[command(subcommand)]
    pub(super) command: PieceCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum PieceCommand {
    /// Runs one piece with the settings of the environment until its standard input ends.
    Piece {
        /// Which.
        #[arg(value_enum)]
        name: PieceName,
    },
    /// Runs `call-service rewrap` with the settings of the environment.
    Rewrap,
}

/// The pieces that are processes of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum PieceName {
    /// call-service.
    CallService,
    /// The edge.
    Edge,
}

impl PieceName {
    /// The word of the command line, which is also its name in the log.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::CallService => "call-service",
            Self::Edge => "edge",
        }
    }

    /// The settings of where it serves, and of where it says whether it is ready.
    pub(super) fn addresses(self) -> [&'static str; 2] {
        match self {
            Self::CallService => ["CALL_SERVICE_ADDR", "CALL_SERVICE_INTERNAL_ADDR"],
            Self::Edge => ["EDGE_ADDR", "EDGE_INTERNAL_ADDR"],
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_lines_are_sound() {
        Arguments::command().debug_assert();
        PieceArguments::command().debug_assert();
        let arguments = Arguments::parse_from(["chaos", "kills", "--rounds", "7", "--seed", "3", "--from", "2"]);
        assert_eq!(
            (arguments.what, arguments.rounds, arguments.seed),
            (What::Kills, 7, Some(3))
        );
        assert!(arguments.state_dir().ends_with("chaos/kills"));
        let arguments = Arguments::parse_from(["chaos", "campaign", "--contacts", "500"]);
        assert_eq!((arguments.contacts, arguments.replicas()), (500, 4));
        let piece = PieceArguments::parse_from(["chaos", "piece", PieceName::CallService.word()]);
        assert!(matches!(
            piece.command,
            PieceCommand::Piece {
                name: PieceName::CallService
            }
        ));
    }
}
