//! Watches that go on where they were when call-service restarts.

use std::{io, time::Duration};

use tonic::{Code, Status};

use crate::{Failure, client::Client};

/// Between tries.
const AGAIN: Duration = Duration::from_secs(1);
/// Tries in a row without any news.
const TRIES: u32 = 30;

/// Why a watch ended.
pub(crate) enum Broken {
    /// The service, or the way to it.
    Service(Status),
    /// Nobody takes what is seen.
    Output(io::Error),
}

impl From<Status> for Broken {
    fn from(status: Status) -> Self {
        Self::Service(status)
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// How often a watch has been begun again.
#[derive(Default)]
pub(crate) struct Patience {
    begun: bool,
    tries: u32,
}

impl Patience {
    /// Something came: the address, the key and the id are right.
    pub(crate) fn news(&mut self) {
        (self.begun, self.tries) = (true, 0);
    }

    /// Waits until the watch may be begun again.
    ///
    /// # Errors
    /// When it cannot go on.
    pub(crate) async fn again(&mut self, client: &Client, what: &str, broken: Broken) -> Result<(), Failure> {
        let status = match broken {
            Broken::Service(status) => status,
            Broken::Output(error) => return Err(Failure::Output(error)),
        };
        self.tries += 1;
        let passes = matches!(status.code(), Code::Unavailable | Code::ResourceExhausted);
        if !(passes && self.begun && self.tries < TRIES) {
            return Err(client.failed(format!("watch {what}"))(status));
        }
        tokio::time::sleep(AGAIN).await;
        Ok(())
    }
}
