//! What answers and failures of calls mean, in the words of upstream's client, since users meet
//! them in the messages of refused writes.

use std::error::Error;

use api::Status;
use api::status::{Cause, Details};
use rustls::CertificateError;
use serde_json::Value;

/// Characters of a body that is no Status that are shown.
const SHOWN: usize = 2048;

/// An answer that is not a success: the Status in its body, or one made of its code.
pub fn refusal(code: u16, body: &[u8]) -> Status {
    if let Ok(value) = serde_json::from_slice::<Value>(body)
        && value["kind"] == "Status"
        && let Ok(status) = serde_json::from_value::<Status>(value)
        && status.status != "Success"
    {
        return status;
    }
    let shown: String = String::from_utf8_lossy(body).chars().take(SHOWN).collect();
    let (reason, message) = by_code(code, shown.trim());
    let cause = Cause {
        reason: "UnexpectedServerResponse".into(),
        message: match shown.trim() {
            "" => "unknown".into(),
            text => text.into(),
        },
        ..Cause::default()
    };
    Status {
        code,
        status: "Failure".into(),
        reason: reason.into(),
        message,
        details: Some(Details {
            causes: vec![cause],
            ..Details::default()
        }),
        ..Status::default()
    }
}

fn by_code(code: u16, body: &str) -> (&'static str, String) {
    let (reason, text) = match code {
        400 => (
            "BadRequest",
            "the server rejected our request for an unknown reason",
        ),
        401 => (
            "Unauthorized",
            "the server has asked for the client to provide credentials",
        ),
        403 => ("Forbidden", body),
        404 => (
            "NotFound",
            "the server could not find the requested resource",
        ),
        405 => (
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        ),
        406 | 415 if !body.is_empty() => ("", body),
        409 => ("AlreadyExists", "the server reported a conflict"),
        422 => (
            "Invalid",
            "the server rejected our request due to an error in our request",
        ),
        429 => (
            "TooManyRequests",
            "the server has received too many requests and has asked us to try again later",
        ),
        503 => (
            "ServiceUnavailable",
            "the server is currently unable to handle the request",
        ),
        504 => (
            "Timeout",
            "the server was unable to return a response in the time allotted, but may still be processing the request",
        ),
        500.. => {
            let body = if body.is_empty() { "unknown" } else { body };
            let text = format!(
                "an error on the server ({body:?}) has prevented the request from succeeding"
            );
            return ("InternalError", text);
        }
        _ => {
            let text = format!(
                "the server responded with the status code {code} but did not return more information"
            );
            return ("", text);
        }
    };
    (reason, text.to_owned())
}

/// Why a request did not get through.
pub fn why(error: &(dyn Error + 'static)) -> String {
    let mut at = error;
    loop {
        if let Some(tls) = at.downcast_ref::<rustls::Error>() {
            return tls_text(tls);
        }
        if let Some(io) = at.downcast_ref::<std::io::Error>()
            && let Some(tls) = io.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>())
        {
            return tls_text(tls);
        }
        match at.source() {
            Some(deeper) => at = deeper,
            None => return at.to_string(),
        }
    }
}

fn tls_text(error: &rustls::Error) -> String {
    let rustls::Error::InvalidCertificate(what) = error else {
        return format!("tls: {error}");
    };
    let why = match what {
        CertificateError::UnknownIssuer => "certificate signed by unknown authority".to_owned(),
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => {
            "certificate has expired or is not yet valid".to_owned()
        }
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            let wanted = expected.to_str();
            match presented.is_empty() {
                true => {
                    format!("certificate is not valid for any names, but wanted to match {wanted}")
                }
                false => format!(
                    "certificate is valid for {}, not {wanted}",
                    names(presented)
                ),
            }
        }
        other => other.to_string(),
    };
    format!("tls: failed to verify certificate: x509: {why}")
}

/// Names of a certificate, which rustls shows with their kinds: `DnsName("a")`, `IpAddress(::1)`.
fn names(presented: &[String]) -> String {
    let bare = presented.iter().map(|name| {
        let inner = name.split_once('(').and_then(|(_, n)| n.strip_suffix(')'));
        inner.unwrap_or(name).trim_matches('"')
    });
    bare.collect::<Vec<_>>().join(", ")
}
