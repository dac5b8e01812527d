//! What several servers and clients share: keys and certificates, TLS, the accept loop,
//! kubeconfig files, streaming channels. It knows the API's words and no kinds.
#![forbid(unsafe_code)]

pub mod balance;
mod batch_writes;
pub mod followed;
pub mod join;
pub mod jwks;
pub mod jwt;
pub mod kubeconfig;
pub mod pki;
pub mod pod_keys;
mod private_key;
pub mod seal;
pub mod serve;
pub mod serving_files;
mod signatures;
pub mod stream;
pub mod tls;
pub mod trust;

/// Chooses ring as the process's TLS cryptography. Call once at start; later calls do nothing.
pub fn install_crypto() {
    // An error only says that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
