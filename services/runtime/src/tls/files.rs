//! Files in PEM, and what is made of them.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::Tasks;

/// Certificates and keys are some kilobytes.
const LARGEST: u64 = 1024 * 1024;

/// Why a file of TLS cannot be used. Never shows what is in it.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It holds something else.
    #[error("{path} holds no {what} in PEM")]
    Empty {
        /// Which file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// Certificate and key do not fit, or one of them cannot be used.
    #[error("cannot use the certificate in {path} with its key: {source}")]
    Pair {
        /// The certificate's file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: rustls::Error,
    },
    /// The authorities cannot be used.
    #[error("cannot use the authorities in {path}: {why}")]
    Authorities {
        /// Which file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
}

/// A file as it was read.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct File {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl File {
    fn read(path: &Path) -> Result<Self, TlsError> {
        let failed = |source| TlsError::Read {
            path: path.to_owned(),
            source,
        };
        let size = fs::metadata(path).map_err(failed)?.len();
        if size > LARGEST {
            return Err(failed(io::Error::other("it is larger than a mebibyte")));
        }
        Ok(Self {
            path: path.to_owned(),
            bytes: fs::read(path).map_err(failed)?,
        })
    }

    fn empty(&self, what: &'static str) -> TlsError {
        TlsError::Empty {
            path: self.path.clone(),
            what,
        }
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.bytes).collect();
        let certificates = read.map_err(|_| self.empty("certificate"))?;
        if certificates.is_empty() {
            return Err(self.empty("certificate"));
        }
        Ok(certificates)
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(&self.bytes).map_err(|_| self.empty("private key"))
    }

    /// As roots of trust.
    pub(super) fn authorities(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates()? {
            roots
                .add(certificate)
                .map_err(|error| self.unusable(error.to_string()))?;
        }
        Ok(roots)
    }

    pub(super) fn unusable(&self, why: String) -> TlsError {
        TlsError::Authorities {
            path: self.path.clone(),
            why,
        }
    }

    /// What `take` makes of this chain and of its key.
    pub(super) fn pair<T>(
        &self,
        key: &Self,
        take: impl FnOnce(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) -> Result<T, rustls::Error>,
    ) -> Result<T, TlsError> {
        take(self.certificates()?, key.key()?).map_err(|source| TlsError::Pair {
            path: self.path.clone(),
            source,
        })
    }
}

type Make<T> = Box<dyn Fn(&[File]) -> Result<T, TlsError> + Send + Sync>;

/// Something that is made of files, made anew when they change. Cheap to clone.
pub struct Fresh<T>(Arc<Inner<T>>);

struct Inner<T> {
    paths: Vec<PathBuf>,
    make: Make<T>,
    now: RwLock<Arc<T>>,
    /// What it was made of.
    files: Mutex<Vec<File>>,
}

impl<T> Clone for Fresh<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> fmt::Debug for Fresh<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fresh")
            .field("paths", &self.0.paths)
            .finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> Fresh<T> {
    /// Reads the files for the first time.
    pub(super) fn read(
        paths: Vec<PathBuf>,
        make: impl Fn(&[File]) -> Result<T, TlsError> + Send + Sync + 'static,
    ) -> Result<Self, TlsError> {
        let files = all(&paths)?;
        let now = RwLock::new(Arc::new(make(&files)?));
        Ok(Self(Arc::new(Inner {
            paths,
            make: Box::new(make),
            now,
            files: Mutex::new(files),
        })))
    }

    /// As it is now.
    pub fn now(&self) -> Arc<T> {
        Arc::clone(&self.0.now.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks whether the files have changed. What cannot be used, because it is half written for example, leaves everything as it is.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn look(&self) -> Result<bool, TlsError> {
        let files = all(&self.0.paths)?;
        let mut last = self.0.files.lock().unwrap_or_else(PoisonError::into_inner);
        if *last == files {
            return Ok(false);
        }
        let made = Arc::new((self.0.make)(&files)?);
        *self.0.now.write().unwrap_or_else(PoisonError::into_inner) = made;
        *last = files;
        Ok(true)
    }

    /// Looks again and again. By what is in them, not by their times: a mounted secret is a link whose target is exchanged.
    pub fn keep(&self, tasks: &Tasks, every: Duration) {
        let (fresh, stopping) = (self.clone(), tasks.stopping());
        tasks.spawn(async move {
            tokio::pin!(stopping);
            let mut said = String::new();
            loop {
                tokio::select! {
                    () = &mut stopping => return,
                    () = sleep(every) => {}
                }
                let of_look = fresh.clone();
                let looked = tokio::task::spawn_blocking(move || of_look.look()).await;
                let problem = match looked {
                    Ok(Ok(changed)) => {
                        if changed {
                            info!("certificates have changed: new connections use the new ones");
                        }
                        String::new()
                    }
                    Ok(Err(error)) => error.to_string(),
                    Err(error) => error.to_string(),
                };
                // Once for each new problem, not at each look.
                if !problem.is_empty() && problem != said {
                    warn!(
                        problem,
                        "changed certificates cannot be used; the ones before are still in use"
                    );
                }
                said = problem;
            }
        });
    }
}

fn all(paths: &[PathBuf]) -> Result<Vec<File>, TlsError> {
    paths.iter().map(|path| File::read(path)).collect()
}
