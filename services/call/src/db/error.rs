//! What can go wrong with the database, sorted by what a caller should do.

use deadpool::managed::{PoolError, TimeoutType};
use diesel::{
    ConnectionError,
    result::{DatabaseErrorKind, Error as QueryError},
};

/// A database failure.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// An address, the value of this setting, cannot be used. Never contains it.
    #[error("{0} cannot be used: {1}")]
    Address(&'static str, String),
    /// No connection could be made.
    #[error("cannot connect to the database: {0}")]
    Unreachable(String),
    /// All connections are in use.
    #[error("no database connection became free in time")]
    Busy,
    /// A statement failed.
    #[error("a database statement failed: {0}")]
    Query(#[from] QueryError),
    /// A migration failed.
    #[error("cannot migrate the database: {0}")]
    Migration(String),
}

impl DbError {
    /// Whether the named unique constraint or index refused a row.
    pub fn is_unique_violation(&self, constraint: &str) -> bool {
        matches!(self, Self::Query(error) if is_unique_violation(error, constraint))
    }

    /// Whether a foreign key refused a row, and which.
    pub fn foreign_key(&self) -> Option<&str> {
        match self {
            Self::Query(QueryError::DatabaseError(DatabaseErrorKind::ForeignKeyViolation, info)) => {
                info.constraint_name()
            }
            _ => None,
        }
    }

    /// Whether the transaction was rolled back because of another one (40001, 40P01): done again at once, it may work.
    pub fn is_conflict(&self) -> bool {
        match self {
            Self::Query(QueryError::DatabaseError(DatabaseErrorKind::SerializationFailure, _)) => true,
            Self::Query(QueryError::DatabaseError(DatabaseErrorKind::Unknown, info)) => {
                info.message().contains("deadlock detected")
            }
            _ => false,
        }
    }

    #[cfg(test)]
    pub(crate) fn conflict_for_tests() -> Self {
        let text = "could not serialize access due to concurrent update".to_owned();
        Self::Query(QueryError::DatabaseError(
            DatabaseErrorKind::SerializationFailure,
            Box::new(text),
        ))
    }

    /// Whether the same request may well work a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Busy | Self::Query(QueryError::BrokenTransactionManager) => true,
            Self::Query(QueryError::DatabaseError(kind, info)) => match kind {
                DatabaseErrorKind::SerializationFailure
                | DatabaseErrorKind::ClosedConnection
                | DatabaseErrorKind::UnableToSendCommand
                // A fail-over that has not reached this connection yet.
                | DatabaseErrorKind::ReadOnlyTransaction => true,
                // diesel keeps no SQLSTATE; these are the English texts of 57014, 55P03, 40P01, 57P01, 57P03, 53300 and 53100.
                DatabaseErrorKind::Unknown => {
                    let message = info.message();
                    [
                        "canceling statement due to",
                        "deadlock detected",
                        "terminating connection due to",
                        "the database system is",
                        "too many clients",
                        "remaining connection slots",
                        "idle-in-transaction timeout",
                        "could not extend file",
                        "No space left on device",
                    ]
                    .iter()
                    .any(|text| message.contains(text))
                }
                _ => false,
            },
            Self::Address(..) | Self::Migration(_) | Self::Query(_) => false,
        }
    }
}

/// Whether the named unique constraint or index refused a row.
pub fn is_unique_violation(error: &QueryError, constraint: &str) -> bool {
    matches!(
        error,
        QueryError::DatabaseError(DatabaseErrorKind::UniqueViolation, info) if info.constraint_name() == Some(constraint)
    )
}

impl From<ConnectionError> for DbError {
    fn from(error: ConnectionError) -> Self {
        Self::Unreachable(error.to_string())
    }
}

impl From<PoolError<diesel_async::pooled_connection::PoolError>> for DbError {
    fn from(error: PoolError<diesel_async::pooled_connection::PoolError>) -> Self {
        match error {
            PoolError::Timeout(TimeoutType::Wait) => Self::Busy,
            PoolError::Timeout(TimeoutType::Create | TimeoutType::Recycle) => {
                Self::Unreachable("connecting took too long".to_owned())
            }
            PoolError::Backend(error) => Self::Unreachable(error.to_string()),
            PoolError::Closed => Self::Unreachable("the pool is closed".to_owned()),
            PoolError::NoRuntimeSpecified => Self::Unreachable("the pool has no runtime".to_owned()),
            PoolError::PostCreateHook(error) => Self::Unreachable(error.to_string()),
        }
    }
}
