//! Where an answer leads that sends an HTTP probe elsewhere, and the URL that it asks. Pure.

use std::fmt;

/// The parts of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeUrl {
    /// Under TLS.
    pub https: bool,
    /// Without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Path and query, with what a request line cannot hold escaped.
    pub path: String,
}

impl fmt::Display for ProbeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        let at = api::host_port(&self.host, self.port);
        write!(f, "{scheme}://{at}{}", self.path)
    }
}

impl ProbeUrl {
    /// A place by its parts; the path may be as people write it.
    #[must_use]
    pub fn new(https: bool, host: &str, port: u16, path: &str) -> Self {
        let path = path.split('#').next().unwrap_or_default();
        let slash = if path.starts_with('/') { "" } else { "/" };
        Self {
            https,
            host: host.to_owned(),
            port,
            path: format!("{slash}{}", escaped(path)),
        }
    }

    /// Where a `Location` leads from here.
    ///
    /// # Errors
    /// It is not a place that can be asked by HTTP.
    pub fn follow(&self, location: &str) -> Result<Self, String> {
        let (https, rest) = match scheme(location) {
            None => (self.https, location),
            Some(name) => {
                let rest = location.get(name.len() + 1..).unwrap_or_default();
                match name.to_ascii_lowercase().as_str() {
                    "http" => (false, rest),
                    "https" => (true, rest),
                    other => return Err(format!("unsupported protocol scheme {other:?}")),
                }
            }
        };
        if let Some(rest) = rest.strip_prefix("//") {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(end);
            let (host, port) = host_and_port(authority, https)
                .ok_or_else(|| format!("failed to parse Location header {location:?}"))?;
            return Ok(Self::new(https, host, port, &plain(path)));
        }
        let old = self.path.split('?').next().unwrap_or_default();
        let path = match rest.chars().next() {
            None | Some('#') => self.path.clone(),
            Some('/') => plain(rest),
            Some('?') => format!("{old}{rest}"),
            Some(_) => {
                let folder = old.rsplit_once('/').map_or("", |(folder, _)| folder);
                plain(&format!("{folder}/{rest}"))
            }
        };
        Ok(Self::new(https, &self.host, self.port, &path))
    }
}

/// The scheme that a reference begins with, if it names one.
#[must_use]
pub fn scheme(reference: &str) -> Option<&str> {
    let (name, _) = reference.split_once(':')?;
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic());
    let rest = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    (begins && name.chars().all(rest)).then_some(name)
}

/// Host and port of what stands between `//` and the path; a user's name before them is left out.
fn host_and_port(authority: &str, https: bool) -> Option<(&str, u16)> {
    let at = authority.rsplit_once('@').map_or(authority, |(_, at)| at);
    let (host, port) = match at.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            (host, after.strip_prefix(':').unwrap_or_default())
        }
        None => at.split_once(':').unwrap_or((at, "")),
    };
    let port = match port {
        "" => Some(if https { 443 } else { 80 }),
        port => port.parse().ok(),
    };
    port.filter(|_| !host.is_empty()).map(|port| (host, port))
}

/// The path without `.` and `..`; what follows `?` is left as it is.
fn plain(path: &str) -> String {
    let end = path.find(['?', '#']).unwrap_or(path.len());
    let (path, query) = path.split_at(end);
    let mut out: Vec<&str> = Vec::new();
    for part in path.split('/').skip(usize::from(path.starts_with('/'))) {
        match part {
            "." => {}
            ".." => {
                out.pop();
            }
            part => out.push(part),
        }
    }
    let is_folder = path.ends_with("/.") || path.ends_with("/..");
    let end = if is_folder && !out.is_empty() {
        "/"
    } else {
        ""
    };
    format!("/{}{end}{query}", out.join("/"))
}

/// Escapes what may not stand in a request line.
fn escaped(path: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&b);
    api::percent::encoded(path.as_bytes(), is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_read_as_a_browser_reads_them() {
        let from = ProbeUrl::new(false, "10.0.0.1", 8080, "/a/b?x=1");
        for (location, to) in [
            ("/c", "http://10.0.0.1:8080/c"),
            ("c", "http://10.0.0.1:8080/a/c"),
            ("../c/./d", "http://10.0.0.1:8080/c/d"),
            ("../../../c", "http://10.0.0.1:8080/c"),
            ("..", "http://10.0.0.1:8080/"),
            ("?y=2", "http://10.0.0.1:8080/a/b?y=2"),
            ("#there", "http://10.0.0.1:8080/a/b?x=1"),
            (
                "/c?u=http://x/../y",
                "http://10.0.0.1:8080/c?u=http://x/../y",
            ),
            ("https://10.0.0.1/", "https://10.0.0.1:443/"),
            ("HTTP://10.0.0.1", "http://10.0.0.1:80/"),
            ("//b:81/c", "http://b:81/c"),
            ("http://me@[fd00::1]:81?q", "http://[fd00::1]:81/?q"),
            ("/ä b", "http://10.0.0.1:8080/%C3%A4%20b"),
        ] {
            let found = from.follow(location).map(|p| p.to_string());
            assert_eq!(found.as_deref(), Ok(to), "{location}");
        }
        for wrong in ["ftp://10.0.0.1/", "http://", "http://a:x/", "http://[::1/"] {
            assert!(from.follow(wrong).is_err(), "{wrong}");
        }
    }
}
