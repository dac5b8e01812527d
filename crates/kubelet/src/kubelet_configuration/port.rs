//! What a configuration says of the port: its certificate, and whose certificates are believed there.

use super::values::{At, absolute, flag, text};
use serde_json::Value;
use std::path::PathBuf;

/// `tlsCertFile`.
pub(super) fn certificate(at: &mut At, v: &Value) -> Result<(), String> {
    at.config.tls_files.certificate = file(v)?;
    Ok(())
}

/// `tlsPrivateKeyFile`.
pub(super) fn key(at: &mut At, v: &Value) -> Result<(), String> {
    at.config.tls_files.key = file(v)?;
    Ok(())
}

/// `authentication`: whose certificates are believed. Who has a token is always asked for, and nobody gets
/// in without either.
pub(super) fn authentication(at: &mut At, v: &Value) -> Result<(), String> {
    v.as_object().ok_or("it is not an object")?;
    let said = |pointer: &str| v.pointer(pointer).filter(|v| !v.is_null());
    if let Some(ca) = said("/x509/clientCAFile") {
        let ca = file(ca).map_err(|why| format!("x509.clientCAFile: {why}"))?;
        at.config.tls_files.client_ca = ca;
    }
    for (pointer, field, is_so, why) in [
        (
            "/anonymous/enabled",
            "anonymous.enabled",
            false,
            "nobody gets in without a certificate or a token",
        ),
        (
            "/webhook/enabled",
            "webhook.enabled",
            true,
            "the API server is asked about every token",
        ),
    ] {
        let Some(value) = said(pointer) else { continue };
        let value = flag(value).map_err(|why| format!("{field}: {why}"))?;
        if value != is_so {
            at.warnings.push(format!(
                "authentication.{field} has no effect on this kubelet: {why}"
            ));
        }
    }
    Ok(())
}

/// A file; none where nothing is named.
fn file(v: &Value) -> Result<Option<PathBuf>, String> {
    match text(v)? {
        "" => Ok(None),
        _ => absolute(v).map(|path| Some(path.into())),
    }
}
