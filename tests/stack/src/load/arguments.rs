//! The command line.

use std::path::PathBuf;

use clap::{ArgAction, Parser, ValueEnum};

const AFTER: &str = "\
place    What PlaceCall costs. A private PostgreSQL (durable, as in production), one call-service and a provider that answers each
         connect at once, on this machine. Rounds of two measurements take turns: the highest rate of calls that are committed,
         dialled and answered PLACED, and the rate that pgbench reaches with the very same statements, which are taken from
         PostgreSQL's own log of one PlaceCall. Then calls come at half the highest rate, evenly, and the time of each is
         taken from when it was due. The last line has the figures:
           place_per_s=… pgbench_per_s=… ratio=… p50_ms=… p99_ms=… at_per_s=… load_avg=…
audio    What a call's audio costs. So many calls in real time through an edge and an agent that echoes, each a process, over
         call-service and PostgreSQL; before that the same audio through a bare axum WebSocket that echoes, and through a bare
         tonic stream that echoes, whose costs together are the baseline. A sample's value is its place, so each byte lost,
         doubled or out of order is counted, from the first to the last one. The echo's latency is from a chunk's last byte in
         to its first byte out. The last line has the figures; ms_per_stream_s is processor time for a second of one call:
           edge_ms_per_stream_s=… agent_ms_per_stream_s=… baseline_ms_per_stream_s=… axum_ms_per_stream_s=…
           tonic_ms_per_stream_s=… ratio=… p50_ms=… p99_ms=… p999_ms=… lost=0 doubled=0 out_of_order=0 rss_per_call_kib=…
           greeting_ms=… setup_ms=… clear_ms=… lateness_p99_ms=… streams=… chunk_ms=… processors=… load_avg=…
         The exit code is 0 only when no audio went wrong and the generator was in time: 99 of 100 chunks within 5 ms.
         The server that is measured has one processor to itself, and the generator another one, unless --pin false.
idle     What sockets cost that never say `start`. --sockets of them, with an account's credentials, within a few seconds, at an edge whose
         bounds for them are raised to that, and nothing else; ten calls of 20 ms chunks talk meanwhile, and for --seconds alone before.
         `live` is while all sockets are open and idle, `storm` from the first opening to the last close, 1,500 of each a second.
         The memory is the edge's, at most and with the calls. Before that an edge with the usual bounds is asked for 600 sockets
         from each of six addresses. The last line has the figures:
           idle=… rss_mib=… kib_each=… closed=… closed_after_s_min=… closed_after_s_max=… live_p99_ms=… baseline_p99_ms=…
           p99_ratio=… lateness_p99_ms=… storm_p99_ms=… storm_lateness_p99_ms=… default_admitted=… default_refused=…
           calls=10 processors=… load_avg=…
         The exit code is 0 only when the edge closed every socket with 1008, and no audio of the calls went wrong.
campaign What a campaign costs. Contacts come as a CSV file through AddContacts, and the same rows through a bare COPY: once into a
         table with the columns and the keys of the contacts, once into one without keys; the three take turns. A campaign
         of 10,000 contacts calls before that, one of --contacts after it, both at 6,000 calls a minute, for eight times
         --seconds; whoever is called is busy after 200 ms. A claim is the transaction that dials, as the service's own spans
         have it; dials are counted at the simulator; the pace is one every 65 s / 6,000. The last line has the figures:
           contacts=… import_per_s=… copy_per_s=… ratio=… copy_bare_per_s=… ratio_bare=… import_peak_mib=… claim_small_ms=…
           claim_large_ms=… claim_ratio=… fill_small_ms=… fill_large_ms=… dials_per_s=… pace_per_s=… rate_ratio=…
           processors=… load_avg=…
forged   What forged tokens cost. An edge as a process of its own, over call-service and PostgreSQL, is sent genuine tokens with each of
         their bits the other way round, and random ones, as callbacks, upgrades and Connect requests (with the account's token in the
         path and in the query); in turns with requests of the same length to paths that are not there, which is what they are
         compared with. What PostgreSQL was asked is counted in its own log.
         Then tokens that are used up come once each, and again and again. The last line has the figures:
           accepted=0 queries=0 ratio_to_404=… callbacks_ratio=… callbacks_per_s=… sockets_ratio=… sockets_per_s=…
           connects_ratio=… connects_per_s=… older_connects_ratio=… older_connects_per_s=…
           replay_accepted=0 replay_reads_max=1 replays=… replays_per_s=… replay_reads=… processors=… load_avg=…
         The exit code is 0 only when nothing was accepted, no forged token was asked about, and a used one at most once.
start    How long a process takes from its start until /readyz says so, over a migrated database: call-service; the edge, which has
         attached to call-service by then; and a bare tonic server until it takes a connection, as the baseline. The three take
         turns; the medians count. The last line has the figures:
           call_service_ms=… edge_ms=… bare_ms=… call_service_p90_ms=… edge_p90_ms=… starts=… processors=… load_avg=…
tracing  What tracing costs the audio path, in instructions of the edge, counted by valgrind (it must be installed) and not timed:
         ten calls of 20 ms chunks through the edge for --seconds and for three times as long, whose difference is the cost of
         a second of a call; without a collector, and with one that takes all spans and metrics. The last line has the figures:
           instructions_per_stream_s=… traced_per_stream_s=… ratio=… whole_run_ratio=… streams=10 processors=… load_avg=…

Examples:
  cargo load place                              about two minutes
  cargo load place --seconds 20 --json place.json
  cargo load audio --streams 1000 --chunk-ms 100 --seconds 30
  cargo load audio --streams 500 --chunk-ms 20 --seconds 30
  cargo load idle                               about a minute
  cargo load campaign                           about five minutes
  cargo load forged                             about four minutes
  cargo load start
  cargo load tracing                            about three minutes";

/// Measures callbridge on this machine against a baseline in the same run. A release build, or the figures mean nothing.
#[derive(Debug, Parser)]
#[command(name = "cargo load", bin_name = "cargo load", after_help = AFTER)]
pub(super) struct Arguments {
    /// What to measure.
    #[arg(value_enum)]
    pub(super) what: What,
    /// How long each measurement takes.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=3_000))]
    pub(super) seconds: u64,
    /// place, campaign, forged: how often the measurements take turns; the medians are compared. start: ten starts each.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub(super) rounds: u32,
    /// campaign: how many contacts the large one has.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1_000..=4_000_000))]
    pub(super) contacts: u64,
    /// audio: how many calls at one time.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = streams)]
    pub(super) streams: usize,
    /// idle: how many sockets.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = streams)]
    pub(super) sockets: usize,
    /// audio: how many milliseconds of audio a caller sends, and is sent back, at once: 20 or 100.
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = chunk_ms)]
    pub(super) chunk_ms: u32,
    /// audio, idle: whether the server has a processor to itself; with one processor nothing has.
    #[arg(long, value_name = "YES", default_value_t = true, action = ArgAction::Set)]
    pub(super) pin: bool,
    /// Writes all figures there too.
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum What {
    /// PlaceCall, against pgbench with the same statements.
    Place,
    /// The audio path, against servers that only echo.
    Audio,
    /// Sockets that never say `start`, beside calls.
    Idle,
    /// Imports, against COPY; claims and dials of a large campaign, against those of a small one.
    Campaign,
    /// Forged and used tokens, against paths that are not there.
    Forged,
    /// How long processes take to be ready.
    Start,
    /// Tracing on the audio path, in instructions.
    Tracing,
}

/// As many as have ports and descriptors on one machine.
fn streams(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=10_000).contains(number));
    number.ok_or_else(|| "a number from 1 to 10000".to_owned())
}

fn chunk_ms(text: &str) -> Result<u32, String> {
    match text {
        "20" => Ok(20),
        "100" => Ok(100),
        _ => Err("20 or 100".to_owned()),
    }
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
        let arguments = Arguments::parse_from(["load", "audio", "--streams", "500", "--chunk-ms", "20"]);
        assert_eq!(
            (arguments.what, arguments.streams, arguments.chunk_ms, arguments.pin),
            (What::Audio, 500, 20, true)
        );
        assert!(!Arguments::parse_from(["load", "audio", "--pin", "false"]).pin);
        let arguments = Arguments::parse_from(["load", "idle", "--sockets", "100"]);
        assert_eq!((arguments.what, arguments.sockets), (What::Idle, 100));
        let arguments = Arguments::parse_from(["load", "campaign", "--contacts", "20000"]);
        assert_eq!((arguments.what, arguments.contacts), (What::Campaign, 20_000));
        for wrong in [["--chunk-ms", "30"], ["--streams", "0"]] {
            assert!(Arguments::try_parse_from(["load", "audio"].into_iter().chain(wrong)).is_err());
        }
    }
}
