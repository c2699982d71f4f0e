//! The object store of recordings: a folder of this machine, or anything that speaks S3.

use std::{
    fmt, fs, io,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
    time::Duration,
};

use object_store::{
    ClientOptions, ObjectStore, RetryConfig, aws::AmazonS3Builder, local::LocalFileSystem, path::Path,
    prefix::PrefixStore,
};
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use crate::config::Vars;

/// What S3 is told, by the names that all its programs use.
const S3_OPTIONS: [&str; 16] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL_STS",
    "AWS_ALLOW_HTTP",
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];
/// A request's answer, the sending of a part of a file included, and each further piece of it: a file may take long to read.
const REQUEST_LIMIT: Duration = Duration::from_mins(1);
/// Requests are sent again for so long; then whoever asked tries again later.
const RETRY_LIMIT: Duration = Duration::from_secs(20);
const EXPECTED: &str = "file:///folder or s3://bucket/prefix";

/// Where an object store is. `Debug` shows no secret.
#[derive(Clone)]
pub struct Place {
    url: Url,
    options: Vec<(&'static str, SecretString)>,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place")
            .field("url", &self.url.as_str())
            .finish_non_exhaustive()
    }
}

/// Why an object store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The folder cannot be made.
    #[error("cannot make the folder {0}: check that this process may write there")]
    Folder(PathBuf, #[source] io::Error),
    /// The settings do not fit together.
    #[error("the object store's settings cannot be used; S3 needs a region, and a key or a role")]
    Settings(#[from] object_store::Error),
}

impl Place {
    /// A folder of this machine. None: the path is not absolute.
    pub fn folder(path: &FilePath) -> Option<Self> {
        Some(Self {
            url: Url::from_directory_path(path).ok()?,
            options: Vec::new(),
        })
    }

    /// Reads the setting of this name. What is not a URL of a folder or a bucket is a mistake; none: it is not set.
    pub fn read(vars: &mut Vars, name: &str) -> Option<Self> {
        let url: Url = vars.parsed(name, EXPECTED)?;
        let has_host = url.host_str().is_some_and(|host| !host.is_empty());
        let fits = match url.scheme() {
            "file" => !has_host && url.to_file_path().is_ok(),
            "s3" => has_host,
            _ => false,
        };
        // Keys have settings of their own: the URL is shown.
        let is_plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
        if !fits || !is_plain {
            vars.problem(name, &format!("does not read as {EXPECTED}"));
            return None;
        }
        let options = S3_OPTIONS
            .into_iter()
            .filter_map(|name| Some((name, vars.secret(name)?)))
            .collect();
        Some(Self { url, options })
    }

    /// Opens the store; a folder is made. Nothing is connected.
    ///
    /// # Errors
    /// When the folder cannot be made, or S3's settings do not fit together.
    pub fn open(&self) -> Result<Arc<dyn ObjectStore>, PlaceError> {
        crate::install_crypto_provider();
        if let Ok(folder) = self.url.to_file_path() {
            fs::create_dir_all(&folder).map_err(|error| PlaceError::Folder(folder.clone(), error))?;
            let store = LocalFileSystem::new_with_prefix(folder)?;
            // What is stored is removed where it came from: it must be on the disk by then.
            return Ok(Arc::new(store.with_automatic_cleanup(true).with_fsync(true)));
        }
        let retry = RetryConfig {
            retry_timeout: RETRY_LIMIT,
            ..RetryConfig::default()
        };
        let client = ClientOptions::new()
            .with_timeout_disabled()
            .with_read_timeout(REQUEST_LIMIT);
        let mut builder = AmazonS3Builder::new()
            .with_url(self.url.as_str())
            .with_retry(retry)
            .with_client_options(client);
        for (name, value) in &self.options {
            builder = builder.with_config(name.to_ascii_lowercase().parse()?, value.expose_secret());
        }
        let prefix = Path::from_url_path(self.url.path()).map_err(object_store::Error::from)?;
        Ok(Arc::new(PrefixStore::new(builder.build()?, prefix)))
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt as _;

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> (Option<Place>, bool) {
        let mut vars: Vars = pairs.iter().copied().collect();
        let place = Place::read(&mut vars, "STORE");
        (place, vars.finish(()).is_ok())
    }

    #[test]
    fn only_folders_and_buckets_are_places() {
        assert!(matches!(read(&[]), (None, true)));
        for url in ["file:///var/recordings", "s3://bucket", "s3://bucket/some/prefix"] {
            assert!(matches!(read(&[("STORE", url)]), (Some(_), true)), "{url}");
        }
        for url in [
            "recordings",
            "/var/recordings",
            "http://bucket",
            "file://host/folder",
            "s3://key:secret@bucket",
            "s3://bucket?token=secret",
            "gs://bucket",
        ] {
            assert!(matches!(read(&[("STORE", url)]), (None, false)), "{url}");
        }
    }

    #[test]
    fn s3_is_set_up_without_a_connection_and_shows_no_secret() {
        let (place, _) = read(&[
            ("STORE", "s3://bucket/prefix"),
            ("AWS_ACCESS_KEY_ID", "key-id"),
            ("AWS_SECRET_ACCESS_KEY", "key-secret"),
            ("AWS_REGION", "ap-south-1"),
        ]);
        let place = place.unwrap();
        let store = place.open().unwrap();
        let shown = format!("{place:?} {store}");
        assert!(shown.contains("bucket") && !shown.contains("key-"), "{shown}");
    }

    #[tokio::test]
    async fn a_folder_is_made_and_keeps_objects() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::folder(&folder.path().join("a b/c")).unwrap();
        let store = place.open().unwrap();
        store.put(&Path::from("x/y.wav"), "sound".into()).await.unwrap();
        assert_eq!(fs::read(folder.path().join("a b/c/x/y.wav")).unwrap(), b"sound");
    }
}
