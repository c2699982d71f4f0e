//! Which credentials a call uses. A set (sid, key, token, subdomain) is taken whole from the first of phone, account and
//! environment that has one; mixing sets would ask one account with another's key.

use std::{fmt, ops::Deref};

use callbridge_proto::id::{AccountId, PhoneId};
use diesel_async::AsyncPgConnection;
use secrecy::{ExposeSecret as _, SecretString};
use tracing::error;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    Vault,
    seal::{self, Place, SealError},
};
use crate::{
    directory::account,
    error::Error,
    store::{
        accounts::{self, Account},
        credentials::{self as store, Owner, Sealed},
        phones::{self, Phone},
    },
};

/// The reason of a call that is not made because the credentials for it do not open, or were changed.
pub const UNREADABLE: &str = "CREDENTIALS_UNREADABLE";

/// Where a set came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The phone's own.
    Phone,
    /// Its account's.
    Account,
    /// `EXOTEL_*`.
    Environment,
}

impl Source {
    /// The word in `CredentialCheck.source`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Phone => "phone",
            Self::Account => "account",
            Self::Environment => "environment",
        }
    }
}

/// A key and its token, to be sealed.
#[derive(Clone)]
pub struct Secrets {
    /// The API key.
    pub key: SecretString,
    /// The API token.
    pub token: SecretString,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets")
    }
}

/// A whole set, ready for one use. Dereferences to what the client takes.
#[derive(Clone)]
pub struct Opened {
    /// For [`exotel::rest::Client`].
    pub credentials: exotel::rest::Credentials,
    /// Where it came from.
    pub source: Source,
}

impl Deref for Opened {
    type Target = exotel::rest::Credentials;

    fn deref(&self) -> &Self::Target {
        &self.credentials
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl Vault {
    /// The set for calls of this phone.
    ///
    /// # Errors
    /// `NO_CREDENTIALS` when nobody has a set, `CREDENTIALS_UNREADABLE` when the stored one does not open,
    /// `CREDENTIAL_KEY_MISSING` when this replica does not have its key, which others may.
    pub async fn open(&self, conn: &mut AsyncPgConnection, phone: PhoneId) -> Result<Opened, Error> {
        let phone = phones::find(conn, phone)
            .await?
            .ok_or_else(|| Error::not_found("phone", phone))?;
        let account = AccountId(phone.account_id);
        let account = accounts::find(conn, account)
            .await?
            .ok_or_else(|| Error::not_found("account", account))?;
        self.resolve(conn, &account, Some(&phone)).await
    }

    /// The set of this account itself.
    ///
    /// # Errors
    /// As [`Vault::open`].
    pub async fn open_account(&self, conn: &mut AsyncPgConnection, account: AccountId) -> Result<Opened, Error> {
        let account = accounts::find(conn, account)
            .await?
            .ok_or_else(|| Error::not_found("account", account))?;
        self.resolve(conn, &account, None).await
    }

    /// The set for a call's row: its phone's where it has one.
    ///
    /// # Errors
    /// As [`Vault::open`].
    pub async fn open_for_call(
        &self,
        conn: &mut AsyncPgConnection,
        account: Uuid,
        phone: Option<Uuid>,
    ) -> Result<Opened, Error> {
        match phone {
            Some(phone) => self.open(conn, PhoneId(phone)).await,
            None => self.open_account(conn, AccountId(account)).await,
        }
    }

    /// The set for a phone of an account, both at hand.
    ///
    /// # Errors
    /// As [`Vault::open`].
    pub async fn resolve(
        &self,
        conn: &AsyncPgConnection,
        account: &Account,
        phone: Option<&Phone>,
    ) -> Result<Opened, Error> {
        let sets = store::of(conn, account.id, phone.map(|phone| phone.id)).await?;
        let own = phone.and_then(|phone| sets.iter().find(|set| set.phone_id == Some(phone.id)));
        let shared = sets.iter().find(|set| set.account_id == Some(account.id));
        let (credentials, source) = match (own, shared, &self.environment.credentials) {
            (Some(set), _, _) => {
                let subdomain = set.subdomain.as_ref().unwrap_or(&account.subdomain);
                (self.unseal(set, &account.sid, subdomain)?, Source::Phone)
            }
            (None, Some(set), _) => (self.unseal(set, &account.sid, &account.subdomain)?, Source::Account),
            (None, None, Some(set)) => {
                let credentials = exotel::rest::Credentials {
                    sid: set.sid.clone(),
                    key: set.key.clone(),
                    token: set.token.clone(),
                    subdomain: set.subdomain.clone(),
                };
                (credentials, Source::Environment)
            }
            (None, None, None) => {
                return Err(Error::precondition(
                    "NO_CREDENTIALS",
                    "neither the phone nor its account nor the environment has Exotel credentials: set them first",
                ));
            }
        };
        Ok(Opened { credentials, source })
    }

    fn unseal(&self, set: &Sealed, sid: &str, subdomain: &str) -> Result<exotel::rest::Credentials, Error> {
        let unreadable = |error: &dyn fmt::Display| {
            error!(%error, "stored credentials cannot be used");
            Error::precondition(UNREADABLE, "the stored credentials cannot be opened: set them again")
        };
        // The host is not sealed; whoever can write rows must not be able to send the key elsewhere.
        account::subdomain(subdomain).map_err(|problem| unreadable(&problem))?;
        let secrets = self.secrets(set).map_err(|error| match error {
            SealError::UnknownKey { .. } => {
                error!(%error, "stored credentials cannot be opened here");
                Error::Unavailable {
                    reason: "CREDENTIAL_KEY_MISSING",
                    message: "this replica lacks the key of the stored credentials: try again, another one may have it"
                        .to_owned(),
                }
            }
            error => unreadable(&error),
        })?;
        Ok(exotel::rest::Credentials {
            sid: sid.to_owned(),
            key: secrets.key,
            token: secrets.token,
            subdomain: subdomain.to_owned(),
        })
    }

    /// Seals and stores a set in place of the one before. `row_id` is used when there is none. Call it in a transaction.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn store(
        &self,
        conn: &mut AsyncPgConnection,
        row_id: Uuid,
        owner: Owner,
        secrets: &Secrets,
        subdomain: Option<&str>,
    ) -> Result<(), Error> {
        let (id, row_version) = store::next_version(conn, owner).await?.unwrap_or((row_id, 1));
        let sealed = self
            .seal(id, row_version, secrets)
            .map_err(|error| Error::internal_from("cannot seal credentials", error))?;
        store::put(conn, id, owner, row_version, self.sealing_key(), &sealed, subdomain).await?;
        Ok(())
    }

    /// Opens a row's key and token, for one use.
    ///
    /// # Errors
    /// [`SealError`], which names the row.
    pub fn secrets(&self, set: &Sealed) -> Result<Secrets, SealError> {
        let place = place(set.id, set.row_version);
        let text = seal::open(&self.keys, &place, &set.sealed)?;
        unpack(&text).ok_or_else(|| SealError::Content(place.to_string()))
    }

    /// Seals a key and a token for a row and its version, with [`Vault::sealing_key`].
    ///
    /// # Errors
    /// [`SealError::Seal`], in theory.
    pub fn seal(&self, row: Uuid, row_version: i64, secrets: &Secrets) -> Result<Vec<u8>, SealError> {
        seal::seal(&self.keys, &place(row, row_version), &pack(secrets))
    }

    /// The id of the key that seals, as its column has it.
    pub fn sealing_key(&self) -> i32 {
        self.keys.current().0.into()
    }
}

/// Where a row's blob belongs.
pub(super) fn place(row: Uuid, row_version: i64) -> Place {
    Place {
        table: "credentials",
        column: "sealed",
        row,
        row_version,
    }
}

/// `key length:2 | key | token`.
fn pack(secrets: &Secrets) -> Zeroizing<Vec<u8>> {
    let (key, token) = (secrets.key.expose_secret(), secrets.token.expose_secret());
    let mut text = Zeroizing::new(Vec::with_capacity(2 + key.len() + token.len()));
    let length = u16::try_from(key.len()).expect("checked to be at most 256 bytes");
    text.extend_from_slice(&length.to_be_bytes());
    text.extend_from_slice(key.as_bytes());
    text.extend_from_slice(token.as_bytes());
    text
}

fn unpack(text: &[u8]) -> Option<Secrets> {
    let (length, rest) = text.split_first_chunk::<2>()?;
    let (key, token) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    let secret = |bytes| std::str::from_utf8(bytes).ok().map(SecretString::from);
    Some(Secrets {
        key: secret(key)?,
        token: secret(token)?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_is_unpacked_as_it_was_packed(key in ".{0,60}", token in ".{0,60}", junk in prop::collection::vec(any::<u8>(), 0..40)) {
            let secrets = Secrets { key: key.clone().into(), token: token.clone().into() };
            let unpacked = unpack(&pack(&secrets)).unwrap();
            prop_assert_eq!(unpacked.key.expose_secret(), &key);
            prop_assert_eq!(unpacked.token.expose_secret(), &token);
            let _ = unpack(&junk);
        }
    }

    #[test]
    fn nothing_opened_is_shown() {
        let opened = Opened {
            credentials: exotel::rest::Credentials {
                sid: "acme1".to_owned(),
                key: "canary-key".into(),
                token: "canary-token".into(),
                subdomain: "api.exotel.com".to_owned(),
            },
            source: Source::Phone,
        };
        assert!(!format!("{opened:?}").contains("canary"));
    }
}
