//! What must be in order before the first request: the schema, the keys, the environment's account.

use std::time::Duration;

use callbridge_proto::id::{AccountId, PhoneId};
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use tokio::time::sleep;
use tracing::{error, info, warn};

use crate::{
    app::App,
    db::{DbError, Migrated, migrated, unlimited},
    directory::account,
    store::{accounts, phones},
    vault::CanaryError,
};

/// Between checks; a database that comes back is met within this.
const AGAIN: Duration = Duration::from_secs(1);

/// Why requests are not let in yet.
#[derive(Debug, thiserror::Error)]
enum NotInOrder {
    #[error(transparent)]
    Db(#[from] DbError),
    #[error("the database lacks migrations {0:?}: run `call-service migrate`")]
    NotMigrated(Vec<String>),
    #[error(
        "sessions have no limits, and a pooler is in between or DATABASE_URL has options of its own: run `{}` and let the pooler \
         connect anew; through a pooler set DATABASE_POOLED=true too",
        .0.join("; ")
    )]
    Unlimited(Vec<String>),
    #[error(transparent)]
    Keys(#[from] CanaryError),
}

impl From<diesel::result::Error> for NotInOrder {
    fn from(error: diesel::result::Error) -> Self {
        Self::Db(error.into())
    }
}

/// Checks again and again until all is in order. False: the process is stopping.
pub(crate) async fn until_in_order(app: &App) -> bool {
    let mut said = String::new();
    loop {
        let stopping = app.tasks.stopping();
        let problem = tokio::select! {
            checked = check(app) => match checked {
                Ok(()) => return true,
                Err(problem) => problem,
            },
            () = stopping => return false,
        };
        let text = problem.to_string();
        // Once for each new problem, not once a second.
        if text != said {
            match problem {
                NotInOrder::Keys(CanaryError::Db(_)) | NotInOrder::Db(_) => {
                    warn!(problem = text, "not ready: the database is awaited");
                }
                NotInOrder::Unlimited(_) => error!(
                    problem = text,
                    "not ready: nothing bounds a statement, or a crash can undo a commit"
                ),
                NotInOrder::NotMigrated(_) => warn!(problem = text, "not ready: migrations are awaited"),
                NotInOrder::Keys(_) => error!(problem = text, "not ready: CREDENTIAL_KEYS are not this database's"),
            }
            said = text;
        }
        let stopping = app.tasks.stopping();
        tokio::select! {
            () = sleep(AGAIN) => {}
            () = stopping => return false,
        }
    }
}

async fn check(app: &App) -> Result<(), NotInOrder> {
    let mut conn = app.db.conn().await?;
    if let Migrated::Missing(missing) = migrated(&mut conn).await? {
        return Err(NotInOrder::NotMigrated(missing));
    }
    let statements = unlimited(&mut conn).await?;
    if !statements.is_empty() {
        return Err(NotInOrder::Unlimited(statements));
    }
    // Nothing is written before the keys are known to be right.
    app.vault.check_keys(&mut conn).await?;
    put_environment(app, &mut conn).await?;
    Ok(())
}

/// Gives the account of `EXOTEL_*` and its phone their rows, so that they too have caps, a rate and a token.
async fn put_environment(app: &App, conn: &mut AsyncPgConnection) -> Result<(), DbError> {
    let environment = &app.config.environment;
    let added = conn
        .transaction::<_, diesel::result::Error, _>(async |conn| {
            let Some(set) = &environment.credentials else {
                return accounts::release_environment(conn, None).await.map(|_| false);
            };
            let id = AccountId(app.clock.new_uuid());
            let settings = account::from_environment(&set.subdomain);
            let account = accounts::put_from_environment(conn, id, &set.sid, &settings).await?;
            let Some(number) = &environment.caller_id else {
                return Ok(false);
            };
            let added = phones::put_from_environment(conn, PhoneId(app.clock.new_uuid()), account.id(), number).await?;
            Ok(added > 0)
        })
        .await?;
    if added {
        info!("EXOTEL_CALLER_ID was added as a phone of the environment's account");
    }
    Ok(())
}
