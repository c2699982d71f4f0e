//! The settings.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use runtime::config::{ConfigError, Vars};

/// Enough for most test calls to end by themselves, and well within Kubernetes' default grace period of 30 s.
const DRAIN_SECONDS: u64 = 10;

/// What the echo agent is told by its environment.
#[derive(Debug, Clone)]
pub struct Config {
    /// `ECHO_AGENT_ADDR`: where it listens.
    pub address: SocketAddr,
    /// `ECHO_AGENT_DRAIN_SECONDS`: how long sessions go on after the stop.
    pub drain: Duration,
}

impl Config {
    /// Reads the settings.
    ///
    /// # Errors
    /// All mistakes together.
    pub fn read(mut vars: Vars) -> Result<Self, ConfigError> {
        let default = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 50061));
        let config = Self {
            address: vars.parsed_or("ECHO_AGENT_ADDR", "an address such as 0.0.0.0:50061", default),
            drain: Duration::from_secs(vars.parsed_or("ECHO_AGENT_DRAIN_SECONDS", "whole seconds", DRAIN_SECONDS)),
        };
        vars.finish(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_environment_is_enough_and_a_mistake_is_named() {
        let config = Config::read(Vars::default()).unwrap();
        assert_eq!((config.address.port(), config.drain), (50061, Duration::from_secs(10)));
        let wrong = Config::read([("ECHO_AGENT_ADDR", "here")].into_iter().collect()).unwrap_err();
        assert!(wrong.to_string().contains("ECHO_AGENT_ADDR"), "{wrong}");
    }
}
