//! The files of the port's TLS, as flags or a KubeletConfiguration name them. Who reads and follows them is
//! whoever starts the kubelet.

use std::path::{Path, PathBuf};

/// Files (PEM) of which the port's TLS is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate with those that signed it.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// The authority whose client certificates are believed.
    pub client_ca: Option<PathBuf>,
}

/// A file that nothing names.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{flag} is missing, and no KubeletConfiguration has {field}")]
pub struct Missing {
    /// The flag that names it.
    pub flag: &'static str,
    /// The field that names it.
    pub field: &'static str,
}

const CERTIFICATE: Missing = Missing {
    flag: "--tls-cert-file",
    field: "tlsCertFile",
};
const KEY: Missing = Missing {
    flag: "--tls-private-key-file",
    field: "tlsPrivateKeyFile",
};
const CLIENT_CA: Missing = Missing {
    flag: "--client-ca-file",
    field: "authentication.x509.clientCAFile",
};

impl TlsFiles {
    /// These; in the place of what they do not name, the others'. A certificate goes with its own key.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        let (certificate, key) = match (self.certificate, self.key) {
            (None, None) => (others.certificate, others.key),
            named => named,
        };
        Self {
            certificate,
            key,
            client_ca: self.client_ca.or(others.client_ca),
        }
    }

    /// The certificate, its key, and the authority of clients.
    ///
    /// # Errors
    /// The first of them that nothing names.
    pub fn all(&self) -> Result<[&Path; 3], Missing> {
        let certificate = self.certificate.as_deref().ok_or(CERTIFICATE)?;
        let key = self.key.as_deref().ok_or(KEY)?;
        let client_ca = self.client_ca.as_deref().ok_or(CLIENT_CA)?;
        Ok([certificate, key, client_ca])
    }

    /// The fields of a KubeletConfiguration that name what is named here.
    pub fn fields(&self) -> impl Iterator<Item = &'static str> {
        let all = [
            (self.certificate.is_some(), CERTIFICATE),
            (self.key.is_some(), KEY),
            (self.client_ca.is_some(), CLIENT_CA),
        ];
        let named = all.into_iter().filter(|(is_named, _)| *is_named);
        named.map(|(_, file)| file.field)
    }

    /// A certificate without its key, or a key without its certificate.
    pub(crate) fn contradiction(&self) -> Option<String> {
        let (has, lacks) = match (&self.certificate, &self.key) {
            (Some(_), None) => (CERTIFICATE.field, KEY.field),
            (None, Some(_)) => (KEY.field, CERTIFICATE.field),
            _ => return None,
        };
        Some(format!("{has} must not be without {lacks}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(files: [&str; 3]) -> TlsFiles {
        let [certificate, key, client_ca] =
            files.map(|name| Some(name).filter(|n| !n.is_empty()).map(PathBuf::from));
        TlsFiles {
            certificate,
            key,
            client_ca,
        }
    }

    #[test]
    fn flags_outrank_files_and_a_pair_stays_one() {
        let file = || named(["c", "k", "ca"]);
        for (flags, wanted) in [
            (["", "", ""], ["c", "k", "ca"]),
            (["C", "K", ""], ["C", "K", "ca"]),
            (["", "", "CA"], ["c", "k", "CA"]),
            (["C", "", ""], ["C", "", "ca"]),
        ] {
            assert_eq!(named(flags).or(file()), named(wanted), "{flags:?}");
        }
        assert_eq!(
            named(["c", "", ""]).fields().collect::<Vec<_>>(),
            ["tlsCertFile"]
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(
            named(["c", "k", "ca"]).all(),
            Ok(["c", "k", "ca"].map(Path::new))
        );
        for (files, missing) in [
            (["", "", "ca"], CERTIFICATE),
            (["c", "", "ca"], KEY),
            (["c", "k", ""], CLIENT_CA),
        ] {
            assert_eq!(named(files).all(), Err(missing));
        }
        assert_eq!(
            CERTIFICATE.to_string(),
            "--tls-cert-file is missing, and no KubeletConfiguration has tlsCertFile"
        );
        let said = named(["", "k", ""]).contradiction();
        assert_eq!(
            said.as_deref(),
            Some("tlsPrivateKeyFile must not be without tlsCertFile")
        );
        assert_eq!(named(["c", "k", ""]).contradiction(), None);
    }
}
