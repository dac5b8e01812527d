//! Keys that a key management service keeps: a plugin of upstream's KMS v2 protocol, over gRPC by a
//! unix socket. Values are encrypted here, each with a key of its own that is derived from a seed;
//! the service encrypts the seed, once, and opens it again for those who read. The forms are
//! upstream's.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use clock::Instant;
use parking_lot::Mutex;
use prost::Message;
use ring::aead::{AES_128_GCM, AES_256_GCM, LessSafeKey, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk};

use super::provider::{CipherError, open_gcm, random, seal_gcm};
use crate::unix_grpc::UnixGrpc;

/// Bytes of a seed, of what a value's key is derived with, and of that key.
const SIZE: usize = 32;
/// Seeds of others that are kept opened; there is one for each start of a server and each key of
/// the service.
const KEPT: usize = 1000;
/// Time between two questions whether services have other keys; upstream's, and when one failed.
pub(super) const ASK_EVERY: Duration = Duration::from_secs(60);
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(10);
/// How long an answer counts for those who ask whether the service is well, and how long a failure;
/// upstream's.
const WELL_FOR: Duration = Duration::from_secs(20);
const ILL_FOR: Duration = Duration::from_secs(3);
/// The versions of the protocol that are spoken.
const VERSIONS: [&str; 2] = ["v2", "v2beta1"];
/// What it is asked.
const STATUS: &str = "/v2.KeyManagementService/Status";
const ENCRYPT: &str = "/v2.KeyManagementService/Encrypt";
const DECRYPT: &str = "/v2.KeyManagementService/Decrypt";

#[derive(Clone, PartialEq, Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(string, tag = "2")]
    healthz: String,
    #[prost(string, tag = "3")]
    key_id: String,
}

#[derive(Clone, PartialEq, Message)]
struct DecryptRequest {
    #[prost(bytes = "bytes", tag = "1")]
    ciphertext: Bytes,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    key_id: String,
    #[prost(map = "string, bytes", tag = "4")]
    annotations: HashMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct DecryptResponse {
    #[prost(bytes = "bytes", tag = "1")]
    plaintext: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct EncryptRequest {
    #[prost(bytes = "bytes", tag = "1")]
    plaintext: Bytes,
    #[prost(string, tag = "2")]
    uid: String,
}

#[derive(Clone, PartialEq, Message)]
struct EncryptResponse {
    #[prost(bytes = "bytes", tag = "1")]
    ciphertext: Bytes,
    #[prost(string, tag = "2")]
    key_id: String,
    #[prost(map = "string, bytes", tag = "3")]
    annotations: HashMap<String, Vec<u8>>,
}

/// What is stored of a value.
#[derive(Clone, PartialEq, Message)]
struct EncryptedObject {
    #[prost(bytes = "bytes", tag = "1")]
    data: Bytes,
    #[prost(string, tag = "2")]
    key_id: String,
    #[prost(bytes = "bytes", tag = "3")]
    source: Bytes,
    #[prost(map = "string, bytes", tag = "4")]
    annotations: HashMap<String, Vec<u8>>,
    #[prost(int32, tag = "5")]
    source_type: i32,
}

/// The source is a key of AES-GCM, or a seed.
const KEY: i32 = 0;
const SEED: i32 = 1;

/// A service.
pub struct Kms {
    name: String,
    prefix: Vec<u8>,
    service: UnixGrpc,
    timeout: Duration,
    /// What writes now.
    now: ArcSwapOption<Writing>,
    /// Sources as they were before the service encrypted them.
    opened: Mutex<HashMap<Bytes, Arc<Vec<u8>>>>,
    /// When it was last asked whether it is well, and what came of it; held while it is asked.
    asked: tokio::sync::Mutex<Option<(Instant, Result<(), CipherError>)>>,
}

struct Writing {
    seed: Vec<u8>,
    /// All but the data.
    object: EncryptedObject,
}

impl std::fmt::Debug for Kms {
    /// Keys stay out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kms({})", self.name)
    }
}

/// A source that the service is to open before a value can be read.
#[derive(Clone, Debug)]
pub struct PendingDecryption {
    kms: Arc<Kms>,
    object: Box<EncryptedObject>,
}

impl PartialEq for PendingDecryption {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.kms, &other.kms) && self.object == other.object
    }
}
impl Eq for PendingDecryption {}

impl PendingDecryption {
    /// Has it opened; the value can be read then.
    pub async fn open(&self) -> Result<(), CipherError> {
        let object = &*self.object;
        let request = DecryptRequest {
            ciphertext: object.source.clone(),
            uid: uid(),
            key_id: object.key_id.clone(),
            annotations: object.annotations.clone(),
        };
        let answer: DecryptResponse = self.kms.call(DECRYPT, request).await?;
        let mut opened = self.kms.opened.lock();
        if opened.len() >= KEPT {
            opened.clear();
        }
        opened.insert(object.source.clone(), Arc::new(answer.plaintext.to_vec()));
        Ok(())
    }
}

fn uid() -> String {
    random::<16>().iter().map(|b| format!("{b:02x}")).collect()
}

impl Kms {
    /// A service at a socket, which is connected to when it is first asked.
    pub fn new(name: &str, socket: PathBuf, timeout: Duration) -> Self {
        Self {
            name: name.to_owned(),
            prefix: format!("k8s:enc:kms:v2:{name}:").into_bytes(),
            service: UnixGrpc::new(socket),
            timeout,
            now: ArcSwapOption::empty(),
            opened: Mutex::default(),
            asked: tokio::sync::Mutex::default(),
        }
    }

    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    fn failed(&self, why: impl std::fmt::Display) -> CipherError {
        CipherError::Provider(format!("the KMS provider {:?}: {why}", self.name))
    }

    async fn call<Q, A>(&self, method: &'static str, request: Q) -> Result<A, CipherError>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let answer = self.service.call(method, request, self.timeout).await;
        answer.map_err(|e| self.failed(e.message()))
    }

    /// Asks whether the service is well, and makes a new seed where it has another key now.
    pub async fn refresh(&self) -> Result<(), CipherError> {
        let status: StatusResponse = self.call(STATUS, StatusRequest {}).await?;
        if status.healthz != "ok" {
            return Err(self.failed(format!("it is not well: {}", status.healthz)));
        }
        if !VERSIONS.contains(&&*status.version) {
            let why = format!("it speaks version {:?}, not v2", status.version);
            return Err(self.failed(why));
        }
        let has = self
            .now
            .load()
            .as_ref()
            .map(|now| now.object.key_id.clone());
        if has.is_some_and(|key| key == status.key_id) {
            return Ok(());
        }
        let seed = random::<SIZE>().to_vec();
        let request = EncryptRequest {
            plaintext: seed.clone().into(),
            uid: uid(),
        };
        let answer: EncryptResponse = self.call(ENCRYPT, request).await?;
        if answer.key_id.is_empty() || answer.ciphertext.is_empty() {
            return Err(self.failed("it names no key, or encrypts to nothing"));
        }
        let source = answer.ciphertext;
        self.opened
            .lock()
            .insert(source.clone(), Arc::new(seed.clone()));
        self.now.store(Some(Arc::new(Writing {
            seed,
            object: EncryptedObject {
                data: Bytes::new(),
                key_id: answer.key_id,
                source,
                annotations: answer.annotations,
                source_type: SEED,
            },
        })));
        Ok(())
    }

    /// Whether the service is well, by its last answer or, if that is old, by a new one.
    pub async fn is_well(&self) -> Result<(), CipherError> {
        let mut asked = self.asked.lock().await;
        if let Some((when, done)) = &*asked {
            let counts = if done.is_ok() { WELL_FOR } else { ILL_FOR };
            if when.elapsed() < counts {
                return done.clone();
            }
        }
        let done = self.refresh().await;
        *asked = Some((Instant::now(), done.clone()));
        done
    }

    /// The value as it is stored.
    pub fn seal(&self, at: &[u8], plain: &[u8]) -> Result<Bytes, CipherError> {
        let now = self.now.load();
        let now = now
            .as_ref()
            .ok_or_else(|| self.failed("it has not answered yet"))?;
        let info = random::<SIZE>();
        let key = derived(&now.seed, &info).ok_or_else(|| self.failed("a seed is too short"))?;
        let mut data = info.to_vec();
        seal_gcm(&key, at, plain, &mut data)
            .ok_or_else(|| self.failed("the value is too large"))?;
        let mut object = now.object.clone();
        object.data = data.into();
        let mut out = Vec::with_capacity(self.prefix.len() + object.encoded_len());
        out.extend_from_slice(&self.prefix);
        out.extend_from_slice(&object.encode_to_vec());
        Ok(out.into())
    }

    /// The value as it was; what comes after the prefix.
    pub fn open(self: &Arc<Self>, at: &[u8], sealed: &[u8]) -> Result<Bytes, CipherError> {
        let wrong = || CipherError::Wrong(format!("the KMS provider {:?}", self.name));
        let object = EncryptedObject::decode(sealed).map_err(|_| wrong())?;
        let Some(source) = self.opened.lock().get(&object.source).cloned() else {
            return Err(CipherError::Asks(PendingDecryption {
                kms: self.clone(),
                object: Box::new(object),
            }));
        };
        let opened = match object.source_type {
            KEY => gcm_key(&source).and_then(|key| open_gcm(&key, at, &object.data)),
            SEED => object
                .data
                .split_first_chunk::<SIZE>()
                .and_then(|(info, data)| {
                    let key = derived(&source, info)?;
                    open_gcm(&key, at, data)
                }),
            _ => None,
        };
        opened.map(Bytes::from).ok_or_else(wrong)
    }

    /// Whether a value would be stored otherwise now; what comes after the prefix.
    pub fn is_stale(&self, sealed: &[u8]) -> bool {
        let now = self.now.load();
        let Some(now) = &*now else {
            return false;
        };
        EncryptedObject::decode(sealed).is_ok_and(|object| {
            object.key_id != now.object.key_id || object.source_type != now.object.source_type
        })
    }
}

fn gcm_key(bytes: &[u8]) -> Option<LessSafeKey> {
    let algorithm = match bytes.len() {
        16 => &AES_128_GCM,
        SIZE => &AES_256_GCM,
        _ => return None,
    };
    Some(LessSafeKey::new(UnboundKey::new(algorithm, bytes).ok()?))
}

/// The length of a derived key.
struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        SIZE
    }
}

/// The key of one value: the seed, expanded with what stands before the value.
fn derived(seed: &[u8], info: &[u8]) -> Option<LessSafeKey> {
    if seed.len() < SIZE {
        return None;
    }
    let mut key = [0; SIZE];
    let info = [info];
    let seed = Prk::new_less_safe(HKDF_SHA256, seed);
    let expanded = seed.expand(&info, Length);
    expanded.ok()?.fill(&mut key).ok()?;
    gcm_key(&key)
}

#[cfg(test)]
mod tests;
