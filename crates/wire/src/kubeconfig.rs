//! Kubeconfig files: how clients find the server and prove who they are.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::pki::{Pair, PkiError, write_private};

/// What a kubeconfig says.
#[derive(Clone, Debug)]
pub struct Kubeconfig<'a> {
    /// Name of cluster, context and user.
    pub name: &'a str,
    /// `https://host:port`.
    pub server: &'a str,
    pub ca_pem: &'a str,
    pub credential: Credential<'a>,
}

/// How the client proves who it is.
#[derive(Clone)]
pub enum Credential<'a> {
    Certificate(&'a Pair),
    Token(&'a str),
}

impl std::fmt::Debug for Credential<'_> {
    /// Secrets stay out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Certificate(_) => "Certificate(..)",
            Self::Token(_) => "Token(..)",
        })
    }
}

impl Kubeconfig<'_> {
    /// The file's text (YAML).
    pub fn to_yaml(&self) -> String {
        let user = match &self.credential {
            Credential::Certificate(pair) => json!({
                "client-certificate-data": STANDARD.encode(&pair.cert_pem),
                "client-key-data": STANDARD.encode(&pair.key_pem),
            }),
            Credential::Token(token) => json!({ "token": token }),
        };
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": self.name, "cluster": {
                "server": self.server,
                "certificate-authority-data": STANDARD.encode(self.ca_pem),
            }}],
            "users": [{ "name": self.name, "user": user }],
            "contexts": [{ "name": self.name, "context": { "cluster": self.name, "user": self.name } }],
            "current-context": self.name,
        });
        serde_norway::to_string(&config).unwrap_or_default()
    }

    /// Writes the file, readable by its owner alone.
    pub fn write(&self, path: &Path) -> Result<(), PkiError> {
        write_private(path, self.to_yaml().as_bytes())
    }
}
