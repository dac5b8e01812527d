//! URLs as upstream's parser takes them apart. Its rules are older and laxer than those of
//! browsers, which is why no library fits.

use std::collections::BTreeMap;

/// A parsed URL.
#[derive(Clone, Debug)]
pub struct Url {
    text: String,
    pub(crate) scheme: String,
    /// With the port.
    pub(crate) host: String,
    pub(crate) escaped_path: String,
    raw_query: String,
}

/// Whether a text is an absolute URI or an absolute path; why not.
pub fn is_request_uri(text: &str) -> Result<(), String> {
    parse(text, true).map(|_| ())
}

impl Url {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        is_request_uri(text)?;
        let before_fragment = text.split('#').next().unwrap_or_default();
        let mut url = parse(before_fragment, false)?;
        url.text = text.to_owned();
        Ok(url)
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn hostname(&self) -> &str {
        if let Some(inner) = self.host.strip_prefix('[') {
            return inner.split(']').next().unwrap_or_default();
        }
        match self.host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => &self.host,
        }
    }

    pub(crate) fn port(&self) -> &str {
        let after = match self.host.rsplit_once(']') {
            Some((_, after)) => after,
            None => &self.host,
        };
        match after.rsplit_once(':') {
            Some((_, port)) if port.bytes().all(|b| b.is_ascii_digit()) => port,
            _ => "",
        }
    }

    /// Parameters and their values; what is not a parameter is left out.
    pub(crate) fn query(&self) -> BTreeMap<String, Vec<String>> {
        let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pair in self.raw_query.split('&') {
            if pair.is_empty() || pair.contains(';') {
                continue;
            }
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decode = |t: &str| unescape(&t.replace('+', " "));
            if let (Some(key), Some(value)) = (decode(key), decode(value)) {
                out.entry(key).or_default().push(value);
            }
        }
        out
    }
}

fn parse(text: &str, request: bool) -> Result<Url, String> {
    let fail = |what: &str| format!("parse {text:?}: {what}");
    if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return Err(fail("net/url: invalid control character in URL"));
    }
    if text.is_empty() && request {
        return Err(fail("empty url"));
    }
    let (scheme, rest) = scheme(text).map_err(|what| fail(&what))?;
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut url = Url {
        text: text.to_owned(),
        scheme: scheme.to_ascii_lowercase(),
        host: String::new(),
        escaped_path: String::new(),
        raw_query: query.to_owned(),
    };
    let mut path = path;
    if !path.starts_with('/') {
        if !scheme.is_empty() {
            // Opaque: neither host nor path.
            return Ok(url);
        }
        if request && text != "*" {
            return Err(fail("invalid URI for request"));
        }
        let first = path.split('/').next().unwrap_or_default();
        if first.contains(':') {
            return Err(fail("first path segment in URL cannot contain colon"));
        }
    }
    let has_authority = !scheme.is_empty() || (!request && !path.starts_with("///"));
    if has_authority && let Some(after) = path.strip_prefix("//") {
        let end = after.find('/').unwrap_or(after.len());
        url.host = authority(&after[..end]).map_err(|what| fail(&what))?;
        path = &after[end..];
    }
    let plain = unescape_bytes(path).map_err(|bad| fail(&format!("invalid URL escape {bad:?}")))?;
    url.escaped_path = if path.bytes().all(is_path_byte) {
        path.to_owned()
    } else {
        escape(&plain)
    };
    Ok(url)
}

/// What stands before the first colon, if it is a scheme.
fn scheme(text: &str) -> Result<(&str, &str), String> {
    for (i, b) in text.bytes().enumerate() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if i > 0 => {}
            b':' if i == 0 => return Err("missing protocol scheme".into()),
            b':' => return Ok((&text[..i], &text[i + 1..])),
            _ => break,
        }
    }
    Ok(("", text))
}

fn authority(text: &str) -> Result<String, String> {
    let (user, host) = match text.rsplit_once('@') {
        Some((user, host)) => (user, host),
        None => ("", text),
    };
    let user_ok = |c: char| c.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=%@".contains(c);
    if !user.chars().all(user_ok) {
        return Err("net/url: invalid userinfo".into());
    }
    if let Some(inner) = host.strip_prefix('[') {
        let (_, after) = inner.rsplit_once(']').ok_or("missing ']' in host")?;
        check_port(after)?;
    } else if let Some(colon) = host.rfind(':') {
        check_port(&host[colon..])?;
    }
    for (i, c) in host.char_indices() {
        let ok = !c.is_ascii()
            || c.is_ascii_alphanumeric()
            || "-_.~!$&'()*+,;=:[]<>\"".contains(c)
            || (c == '%' && host.starts_with('['));
        if c == '%' && !ok {
            let escape: String = host[i..].chars().take(3).collect();
            return Err(format!("invalid URL escape {escape:?}"));
        }
        if !ok {
            return Err(format!(
                "invalid character {:?} in host name",
                c.to_string()
            ));
        }
    }
    Ok(host.to_owned())
}

fn check_port(text: &str) -> Result<(), String> {
    let ok = text.is_empty()
        || text
            .strip_prefix(':')
            .is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()));
    if ok {
        return Ok(());
    }
    Err(format!("invalid port {text:?} after host"))
}

fn is_path_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:@/[]%".contains(&b)
}

/// Bytes without percent signs' meaning; the error is the sequence that has none.
fn unescape_bytes(text: &str) -> Result<Vec<u8>, String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        if bytes[i] != b'%' {
            out.push(bytes[i]);
            i += 1;
            continue;
        }
        let digits = bytes.get(i + 1..i + 3);
        let byte = digits
            .and_then(|d| std::str::from_utf8(d).ok())
            .filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|d| u8::from_str_radix(d, 16).ok());
        let Some(byte) = byte else {
            let end = (i + 3).min(bytes.len());
            return Err(String::from_utf8_lossy(&bytes[i..end]).into_owned());
        };
        out.push(byte);
        i += 3;
    }
    Ok(out)
}

fn unescape(text: &str) -> Option<String> {
    let bytes = unescape_bytes(text).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn escape(bytes: &[u8]) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&b);
    api::percent::encoded(bytes, is_plain)
}
