//! Kubeconfig files: how clients find the server and prove who they are, and how a server finds
//! webhooks that are named so.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

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

/// A server that a kubeconfig names by its current context, and who one is there.
#[derive(Clone, Default)]
pub struct Remote {
    pub server: String,
    /// The name that its certificate must have, where that is not its host's.
    pub server_name: Option<String>,
    /// Whom to believe; this machine's authorities without it.
    pub ca_pem: Option<Vec<u8>>,
    /// Believe whatever it shows.
    pub insecure: bool,
    pub pair: Option<Pair>,
    pub token: Option<String>,
    /// Where the token was read: it may be exchanged there.
    pub token_file: Option<PathBuf>,
}

impl std::fmt::Debug for Remote {
    /// Secrets stay out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Remote({})", self.server)
    }
}

/// Why a kubeconfig names nobody.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error("reading {0}: {1}")]
    File(String, std::io::Error),
    #[error("it is not a kubeconfig: {0}")]
    Form(String),
    #[error("{0} {1:?} is missing")]
    Missing(&'static str, String),
    #[error("{0} is not base64, or not text")]
    Data(&'static str),
    #[error("{0} is not known here; a client certificate or a token is")]
    Unknown(String),
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Cluster {
    server: String,
    tls_server_name: Option<String>,
    insecure_skip_tls_verify: bool,
    certificate_authority: Option<String>,
    certificate_authority_data: Option<String>,
    proxy_url: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct User {
    client_certificate: Option<String>,
    client_certificate_data: Option<String>,
    client_key: Option<String>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<String>,
    #[serde(flatten)]
    other: std::collections::BTreeMap<String, Value>,
}

impl Remote {
    /// Reads the file, and those that it names; their paths are meant from where it lies.
    pub fn read(path: &Path) -> Result<Self, RemoteError> {
        let text = read(path)?;
        let config: Value =
            serde_norway::from_slice(&text).map_err(|e| RemoteError::Form(e.to_string()))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut remote = Self::of(&config, &|name: &str| read(&folder.join(name)))?;
        remote.token_file = remote.token_file.map(|path| folder.join(path));
        Ok(remote)
    }

    fn of(
        config: &Value,
        file: &dyn Fn(&str) -> Result<Vec<u8>, RemoteError>,
    ) -> Result<Self, RemoteError> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let context = named(
            config,
            "contexts",
            "context",
            &text(&config["current-context"]),
        )?;
        let cluster = named(config, "clusters", "cluster", &text(&context["cluster"]))?;
        let cluster: Cluster = parsed(cluster)?;
        let user: User = match text(&context["user"]).as_str() {
            "" => User::default(),
            // A user of whom nothing is said is anonymous.
            name => match &entry(config, "users", "user", name)?["user"] {
                Value::Null => User::default(),
                said => parsed(said)?,
            },
        };
        if let Some(name) = user.other.keys().next() {
            return Err(RemoteError::Unknown(name.clone()));
        }
        if cluster.proxy_url.is_some_and(|url| !url.is_empty()) {
            return Err(RemoteError::Unknown("proxy-url".into()));
        }
        let bytes = |what, data: &Option<String>, path: &Option<String>| match (data, path) {
            (Some(data), _) => {
                let bytes = STANDARD.decode(data.trim());
                bytes.map(Some).map_err(|_| RemoteError::Data(what))
            }
            (None, Some(path)) => file(path).map(Some),
            (None, None) => Ok(None),
        };
        let pem = |what, data: &Option<String>, path: &Option<String>| {
            let bytes = bytes(what, data, path)?;
            let text = bytes.map(String::from_utf8).transpose();
            text.map_err(|_| RemoteError::Data(what))
        };
        let certificate = pem(
            "the client certificate",
            &user.client_certificate_data,
            &user.client_certificate,
        )?;
        let key = pem("the client key", &user.client_key_data, &user.client_key)?;
        let pair = match (certificate, key) {
            (Some(cert_pem), Some(key_pem)) => Some(Pair { cert_pem, key_pem }),
            (None, None) => None,
            (None, _) => {
                return Err(RemoteError::Missing(
                    "the client certificate",
                    String::new(),
                ));
            }
            (_, None) => return Err(RemoteError::Missing("the client key", String::new())),
        };
        let token_file = match &user.token {
            None => user.token_file.as_ref().map(PathBuf::from),
            Some(_) => None,
        };
        let token = match (user.token, &user.token_file) {
            (None, Some(path)) => pem("the token", &None, &Some(path.clone()))?,
            (token, _) => token,
        };
        let ca = (
            &cluster.certificate_authority_data,
            &cluster.certificate_authority,
        );
        Ok(Self {
            ca_pem: bytes("the certificate authority", ca.0, ca.1)?,
            server: cluster.server,
            server_name: cluster.tls_server_name,
            insecure: cluster.insecure_skip_tls_verify,
            pair,
            token: token.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()),
            token_file,
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, RemoteError> {
    std::fs::read(path).map_err(|e| RemoteError::File(path.display().to_string(), e))
}

fn parsed<T: for<'de> Deserialize<'de>>(value: &Value) -> Result<T, RemoteError> {
    T::deserialize(value).map_err(|e| RemoteError::Form(e.to_string()))
}

/// The entry of a name in a list of a kubeconfig.
fn entry<'a>(
    config: &'a Value,
    list: &str,
    what: &'static str,
    name: &str,
) -> Result<&'a Value, RemoteError> {
    let all = config[list].as_array().map(Vec::as_slice);
    let found = all.unwrap_or_default().iter().find(|v| v["name"] == name);
    found.ok_or_else(|| RemoteError::Missing(what, name.to_owned()))
}

/// What that entry says.
fn named<'a>(
    config: &'a Value,
    list: &str,
    what: &'static str,
    name: &str,
) -> Result<&'a Value, RemoteError> {
    let said = &entry(config, list, what, name)?[what];
    let said = Some(said).filter(|v| v.is_object());
    said.ok_or_else(|| RemoteError::Missing(what, name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let pair = Pair {
            cert_pem: "certificate".into(),
            key_pem: "key".into(),
        };
        let text = Kubeconfig {
            name: "n",
            server: "https://127.0.0.1:1",
            ca_pem: "ca",
            credential: Credential::Certificate(&pair),
        }
        .to_yaml();
        let config: Value = serde_norway::from_str(&text).expect("yaml");
        let none = |name: &str| Err(RemoteError::Missing("file", name.to_owned()));
        let remote = Remote::of(&config, &none).expect("remote");
        assert_eq!(remote.server, "https://127.0.0.1:1");
        assert_eq!(remote.ca_pem.as_deref(), Some(&b"ca"[..]));
        assert_eq!(remote.pair.expect("pair").key_pem, "key");
        assert!(remote.token.is_none() && !remote.insecure);
    }

    #[test]
    fn files_are_read_and_what_is_not_known_is_said() {
        let of = |user: Value| {
            let config = json!({"current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "d", "user": "u"}}],
                "clusters": [{"name": "d", "cluster": {"server": "https://x",
                    "certificate-authority": "ca.crt", "tls-server-name": "y"}}],
                "users": [{"name": "u", "user": user}]});
            Remote::of(&config, &|name: &str| {
                Ok(format!("of {name}\n").into_bytes())
            })
        };
        let remote = of(json!({"tokenFile": "t"})).expect("remote");
        assert_eq!(remote.token.as_deref(), Some("of t"));
        assert_eq!(remote.token_file.as_deref(), Some(Path::new("t")));
        assert_eq!(remote.ca_pem.as_deref(), Some(&b"of ca.crt\n"[..]));
        assert_eq!(remote.server_name.as_deref(), Some("y"));
        let anonymous = of(Value::Null).expect("nothing is said of the user");
        assert!(anonymous.pair.is_none() && anonymous.token.is_none());
        let wrong = |user| of(user).expect_err("wrong").to_string();
        assert!(wrong(json!({"exec": {}})).starts_with("exec"));
        assert!(wrong(json!({"client-key": "k"})).contains("certificate"));
        assert!(wrong(json!({"client-key-data": "?"})).contains("base64"));
    }
}
