//! Greetings by their hash: fetched once from call-service, checked, and kept while there is room.

use std::{
    collections::{BTreeMap, HashMap},
    io::Cursor,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use callbridge_proto::ingress::v1::FetchGreetingRequest;
use data_encoding::HEXLOWER;
use tokio::{sync::OnceCell, task::spawn_blocking, time::timeout};

use crate::{ingress::Client, session::resample::Resampler};

/// All greetings together, at all rates they were played at.
const MAX_CACHE: usize = 64 * 1024 * 1024;
/// One greeting's file, by contract.
const MAX_FILE: usize = 2 * 1024 * 1024;
/// The rates that a greeting is kept at besides its own; at any other it is converted for each call.
const KEPT_RATES: [u32; 3] = [8000, 16_000, 24_000];
/// A fetch that takes longer is of no use to the call that asked.
const FETCH_LIMIT: Duration = Duration::from_secs(5);

/// Why there is no greeting.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GreetingError {
    /// Not 64 hex digits.
    #[error("a greeting's hash is not 64 lower-case hex digits")]
    Hash,
    /// call-service does not give it.
    #[error("cannot fetch a greeting from call-service")]
    Fetch(#[source] tonic::Status),
    /// It took too long.
    #[error("fetching a greeting took longer than {FETCH_LIMIT:?}")]
    Slow,
    /// The contract's limit.
    #[error("a greeting is larger than {MAX_FILE} bytes")]
    Large,
    /// What came is not what was asked for.
    #[error("a greeting does not have the hash it is kept under")]
    Mismatch,
    /// Not a WAV file that can be played.
    #[error("a greeting is not a mono 16-bit PCM WAV file; store it anew")]
    Format(#[source] Option<hound::Error>),
    /// The process is stopping.
    #[error("a greeting was not converted to the line's rate, since the process stops")]
    Convert(#[source] tokio::task::JoinError),
}

/// A greeting in memory.
#[derive(Debug)]
pub(crate) struct Greeting {
    /// The WAV file.
    pub(crate) file: Bytes,
    /// Its samples: a part of the file.
    pcm: Bytes,
    /// Samples per second.
    rate: u32,
    /// The same at other rates.
    converted: Mutex<BTreeMap<u32, Bytes>>,
}

impl Greeting {
    fn size(&self) -> usize {
        let converted = self.converted.lock().unwrap_or_else(PoisonError::into_inner);
        self.file.len() + converted.values().map(Bytes::len).sum::<usize>()
    }

    /// The samples at this rate. A minute's conversion would hold up other calls, so it is done elsewhere.
    async fn at(&self, rate: u32) -> Result<Bytes, GreetingError> {
        if rate == self.rate {
            return Ok(self.pcm.clone());
        }
        let kept = || self.converted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pcm) = kept().get(&rate) {
            return Ok(pcm.clone());
        }
        let (pcm, own_rate) = (self.pcm.clone(), self.rate);
        let convert = move || {
            let mut converted = Vec::new();
            let mut resampler = Resampler::new(own_rate, rate);
            resampler.push(&pcm, &mut converted);
            resampler.flush(&mut converted);
            // The filter's delay is in front of the first word.
            let length = pcm.len() as u64 / 2 * u64::from(rate) / u64::from(own_rate) * 2;
            let delay = converted
                .len()
                .saturating_sub(usize::try_from(length).unwrap_or(usize::MAX));
            Bytes::from(converted).slice(delay..)
        };
        let converted = spawn_blocking(convert).await.map_err(GreetingError::Convert)?;
        if KEPT_RATES.contains(&rate) {
            kept().insert(rate, converted.clone());
        }
        Ok(converted)
    }
}

#[derive(Default)]
struct Cache {
    entries: HashMap<String, Entry>,
    uses: u64,
}

struct Entry {
    /// Filled by the first who asks; the others wait for that.
    greeting: Arc<OnceCell<Arc<Greeting>>>,
    last_use: u64,
}

/// The greetings of this process.
pub(crate) struct Greetings {
    client: Client,
    cache: Mutex<Cache>,
}

impl Greetings {
    /// None yet.
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            cache: Mutex::default(),
        }
    }

    /// The samples of the greeting with this hash at this rate.
    pub(crate) async fn pcm(&self, sha256: &str, rate: u32) -> Result<Bytes, GreetingError> {
        let pcm = self.get(sha256).await?.at(rate).await;
        self.make_room(sha256);
        pcm
    }

    /// The greeting with this hash.
    pub(crate) async fn get(&self, sha256: &str) -> Result<Arc<Greeting>, GreetingError> {
        if sha256.len() != 64 || HEXLOWER.decode(sha256.as_bytes()).is_err() {
            return Err(GreetingError::Hash);
        }
        let cell = {
            let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            cache.uses += 1;
            let uses = cache.uses;
            let entry = cache.entries.entry(sha256.to_owned()).or_insert_with(|| Entry {
                greeting: Arc::default(),
                last_use: 0,
            });
            entry.last_use = uses;
            Arc::clone(&entry.greeting)
        };
        let fetched = cell
            .get_or_try_init(|| async {
                timeout(FETCH_LIMIT, self.fetch(sha256))
                    .await
                    .unwrap_or(Err(GreetingError::Slow))
                    .map(Arc::new)
            })
            .await
            .map(Arc::clone);
        self.make_room(sha256);
        fetched
    }

    async fn fetch(&self, sha256: &str) -> Result<Greeting, GreetingError> {
        let mut file = BytesMut::new();
        let request = FetchGreetingRequest {
            sha256: sha256.to_owned(),
        };
        let mut chunks = self
            .client
            .clone()
            .fetch_greeting(request)
            .await
            .map_err(GreetingError::Fetch)?
            .into_inner();
        while let Some(piece) = chunks.message().await.map_err(GreetingError::Fetch)? {
            if file.len() + piece.chunk.len() > MAX_FILE {
                return Err(GreetingError::Large);
            }
            file.extend_from_slice(&piece.chunk);
        }
        if HEXLOWER.encode(ring::digest::digest(&ring::digest::SHA256, &file).as_ref()) != sha256 {
            return Err(GreetingError::Mismatch);
        }
        read_wav(file.freeze())
    }

    /// Forgets the greetings that were not used for longest, and attempts that failed.
    fn make_room(&self, keep: &str) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let size = |entry: &Entry| entry.greeting.get().map_or(0, |greeting| greeting.size());
        cache
            .entries
            .retain(|_, entry| entry.greeting.initialized() || Arc::strong_count(&entry.greeting) > 1);
        while cache.entries.values().map(size).sum::<usize>() > MAX_CACHE {
            let filled = cache
                .entries
                .iter()
                .filter(|(hash, entry)| size(entry) > 0 && hash.as_str() != keep);
            let Some(oldest) = filled
                .min_by_key(|(_, entry)| entry.last_use)
                .map(|(hash, _)| hash.clone())
            else {
                return;
            };
            cache.entries.remove(&oldest);
        }
    }
}

/// Finds the samples of a mono 16-bit PCM WAV file.
fn read_wav(file: Bytes) -> Result<Greeting, GreetingError> {
    let reader = hound::WavReader::new(Cursor::new(&file)).map_err(|error| GreetingError::Format(Some(error)))?;
    let (spec, bytes) = (reader.spec(), u64::from(reader.len()) * 2);
    let is_pcm = spec.bits_per_sample == 16 && spec.sample_format == hound::SampleFormat::Int && spec.channels == 1;
    let rate_fits = (4000..=48_000).contains(&spec.sample_rate);
    // The reader has read up to the first sample.
    let begin = reader.into_inner().position();
    let range = usize::try_from(begin).ok().zip(usize::try_from(begin + bytes).ok());
    let pcm = range.and_then(|(begin, end)| (end <= file.len()).then(|| file.slice(begin..end)));
    match pcm {
        Some(pcm) if is_pcm && rate_fits => Ok(Greeting {
            pcm,
            file,
            rate: spec.sample_rate,
            converted: Mutex::default(),
        }),
        _ => Err(GreetingError::Format(None)),
    }
}
