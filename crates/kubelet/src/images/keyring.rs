//! Which of a pod's pull credentials are for an image: as upstream's, by the registry's host, of which
//! parts may be patterns, its port, and the beginning of the path. Pure.

use crate::objects::Data;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use host::runtime::Credential;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Docker's own registry, in the words of its credentials.
const DOCKER: &str = "index.docker.io";

/// A credential as a docker config writes it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    auths: BTreeMap<String, Entry>,
}

/// The credentials of a secret, each with the place that it is for. A secret of another type has none.
///
/// # Errors
/// It is not what its type says.
pub fn entries(data: &Data) -> Result<Vec<(String, Credential)>, String> {
    let value = |key: &str| data.values.get(key).filter(|v| !v.is_empty());
    match data.secret_type.as_str() {
        "kubernetes.io/dockerconfigjson" => match value(".dockerconfigjson") {
            Some(bytes) => of_config(bytes),
            None => Ok(Vec::new()),
        },
        "kubernetes.io/dockercfg" => match value(".dockercfg") {
            Some(bytes) => each(serde_json::from_slice(bytes).map_err(wrong)?),
            None => Ok(Vec::new()),
        },
        _ => Ok(Vec::new()),
    }
}

/// The credentials of a docker config (`config.json`), each with the place that it is for.
///
/// # Errors
/// It is none.
pub fn of_config(bytes: &[u8]) -> Result<Vec<(String, Credential)>, String> {
    let config: Config = serde_json::from_slice(bytes).map_err(wrong)?;
    each(config.auths)
}

/// Not the words of the error itself, which hold what was found.
fn wrong(e: serde_json::Error) -> String {
    format!(
        "no docker config at line {}, column {}",
        e.line(),
        e.column()
    )
}

fn each(all: BTreeMap<String, Entry>) -> Result<Vec<(String, Credential)>, String> {
    let one = |(server, entry): (String, Entry)| -> Result<_, String> {
        let place = place(&server);
        let credential = credential(server, entry)?;
        Ok((place, credential))
    };
    all.into_iter().map(one).collect()
}

fn credential(server: String, entry: Entry) -> Result<Credential, String> {
    let (mut username, mut password) = (entry.username, entry.password);
    if !entry.auth.is_empty() {
        (username, password) = decoded(&entry.auth)
            .ok_or_else(|| format!("`auth` of {server:?} is not base64 of username:password"))?;
    }
    Ok(Credential {
        username,
        password,
        server,
    })
}

fn decoded(auth: &str) -> Option<(String, String)> {
    let text: String = auth.split(['\r', '\n']).collect();
    let text = text.trim().trim_end_matches('=');
    let text = String::from_utf8(STANDARD_NO_PAD.decode(text).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    Some((username.to_owned(), password.to_owned()))
}

/// Host and path of the registry that a credential names; its API's own beginning is not a path.
pub(super) fn place(server: &str) -> String {
    let bare = server.strip_prefix("https://");
    let bare = bare.or_else(|| server.strip_prefix("http://"));
    let bare = bare.unwrap_or(server).split(['?', '#']).next();
    let (host, path) = split(bare.unwrap_or_default());
    let path = match path.get(..4) {
        Some("/v1/" | "/v2/") => path.get(3..).unwrap_or_default(),
        _ => path,
    };
    format!("{host}{}", if path == "/" { "" } else { path })
}

/// The host and the path of a name, the latter with its slash.
fn split(name: &str) -> (&str, &str) {
    name.split_at(name.find('/').unwrap_or(name.len()))
}

/// What belongs to places that an image's name lies below, the most precise ones first. Docker's own
/// registry has another name in credentials: those count where no others do.
#[must_use]
pub fn matching<T>(image: &str, mut all: Vec<(String, T)>) -> Vec<T> {
    let image = whole(image);
    let (host, path) = split(&image);
    // As upstream: by text, from the end. Those of one place stay in their order.
    all.sort_by(|a, b| b.0.cmp(&a.0));
    let is_for = |place: &str| {
        let (pattern, beginning) = split(place);
        path.starts_with(beginning) && is_host(pattern, host)
    };
    let (mut own, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|(p, _)| is_for(p));
    if own.is_empty() && host == "docker.io" {
        own.extend(rest.into_iter().filter(|(p, _)| p == DOCKER));
    }
    own.into_iter().map(|(_, what)| what).collect()
}

/// An image's name with its registry and without tag and digest.
pub(super) fn whole(image: &str) -> String {
    let bare = super::verification::bare(image);
    match bare.split_once('/') {
        Some((first, rest)) if first == DOCKER => format!("docker.io/{rest}"),
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => bare.to_owned(),
        Some(_) => format!("docker.io/{bare}"),
        None => format!("docker.io/library/{bare}"),
    }
}

/// Whether a host is meant, port and all; each part between dots is a pattern of its own.
fn is_host(pattern: &str, host: &str) -> bool {
    fn parts(host: &str) -> (Vec<&str>, &str) {
        let (name, port) = match host.rsplit_once(':') {
            // Not a part of an address of IPv6.
            Some((name, port)) if !port.ends_with(']') => (name, port),
            _ => (host, ""),
        };
        (name.split('.').collect(), port)
    }
    let ((patterns, wanted), (names, port)) = (parts(pattern), parts(host));
    wanted == port
        && patterns.len() == names.len()
        && patterns.iter().zip(&names).all(|(p, n)| is_like(p, n))
}

/// Whether a text is as a pattern says, where `*` is anything. In time that grows with
/// the length of the one times that of the other, since both are anybody's.
fn is_like(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut at, mut here) = (0, 0);
    // The last `*`, and how far the text goes that it stands for.
    let mut star: Option<(usize, usize)> = None;
    while let Some(c) = text.get(here) {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, here));
                at += 1;
            }
            Some(p) if p == c => {
                at += 1;
                here += 1;
            }
            _ => match star {
                Some((place, until)) => {
                    star = Some((place, until + 1));
                    at = place + 1;
                    here = until + 1;
                }
                None => return false,
            },
        }
    }
    let mut rest = pattern.iter().skip(at);
    rest.all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn secret(kind: &str, key: &str, text: &str) -> Data {
        Data {
            values: [(key.to_owned(), text.as_bytes().to_vec())].into(),
            secret_type: kind.into(),
            ..Default::default()
        }
    }

    #[test]
    fn the_most_precise_credentials_come_first() {
        let all = |places: &[&'static str]| -> Vec<(String, &'static str)> {
            places.iter().map(|p| (place(p), *p)).collect()
        };
        let hub = "https://index.docker.io/v1/";
        for (image, places, want) in [
            (
                "reg.io/a/b:1",
                vec!["reg.io", "reg.io/a", "reg.io/c", "https://reg.io/v2/a/b"],
                vec!["https://reg.io/v2/a/b", "reg.io/a", "reg.io"],
            ),
            (
                "reg.io/ab@sha256:1",
                vec!["reg.io/a", "reg.io/b"],
                vec!["reg.io/a"],
            ),
            (
                "x.reg.io/a",
                vec![
                    "*.reg.io",
                    "*.io",
                    "*.*.io",
                    "y.reg.io",
                    "reg.io",
                    "x.r*g.io/a",
                ],
                vec!["x.r*g.io/a", "*.reg.io", "*.*.io"],
            ),
            (
                "reg.io:5000/a",
                vec!["reg.io", "reg.io:5000", "reg.io:50"],
                vec!["reg.io:5000"],
            ),
            (
                "[::1]:5000/a",
                vec!["[::1]:5000", "[::1]"],
                vec!["[::1]:5000"],
            ),
            ("localhost/a", vec!["localhost", hub], vec!["localhost"]),
            ("busybox", vec![hub, "reg.io"], vec![hub]),
            (
                "me/busybox",
                vec!["docker.io/me", hub],
                vec!["docker.io/me"],
            ),
            ("index.docker.io/me/a", vec![hub], vec![hub]),
            (
                "reg.io/a",
                vec![hub, "http://reg.io/v1/"],
                vec!["http://reg.io/v1/"],
            ),
        ] {
            assert_eq!(matching(image, all(&places)), want, "{image}");
        }
    }

    #[test]
    fn patterns_end_in_time() {
        for (pattern, text, want) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abcd", false),
            ("*a*b", "xaxb", true),
            ("", "a", false),
        ] {
            assert_eq!(is_like(pattern, text), want, "{pattern} {text}");
        }
        assert!(!is_like(&"*a".repeat(200), &"a".repeat(199)));
        assert!(!is_like(
            &format!("{}b", "*a".repeat(200)),
            &"a".repeat(5000)
        ));
    }

    #[test]
    fn secrets_say_credentials_in_two_forms() {
        let read = |data: &Data| {
            let found = entries(data)?;
            let text = |(place, c): (String, Credential)| {
                format!("{place} {} {} {}", c.username, c.password, c.server)
            };
            Ok::<_, String>(found.into_iter().map(text).collect::<Vec<_>>())
        };
        let auths = json!({ "https://reg.io/v1/": { "auth": "dTpw\n" },
            "other.io": { "username": "x", "password": "y", "auth": "" },
            "padded.io": { "username": "x", "auth": "dXM6cA==" } });
        let want = [
            "reg.io u p https://reg.io/v1/",
            "other.io x y other.io",
            "padded.io us p padded.io",
        ]
        .map(str::to_owned);
        let new = json!({ "auths": auths }).to_string();
        let kinds = ["kubernetes.io/dockerconfigjson", "kubernetes.io/dockercfg"];
        let keys = [".dockerconfigjson", ".dockercfg"];
        assert_eq!(read(&secret(kinds[0], keys[0], &new)).unwrap(), want);
        let old = auths.to_string();
        assert_eq!(read(&secret(kinds[1], keys[1], &old)).unwrap(), want);
        assert!(read(&secret("Opaque", keys[0], &new)).unwrap().is_empty());
        assert!(read(&secret(kinds[0], keys[0], "{")).is_err());
        let wrong = json!({ "auths": { "a": { "auth": "!" } } }).to_string();
        let why = read(&secret(kinds[0], keys[0], &wrong)).unwrap_err();
        assert!(why.contains("\"a\"") && !why.contains('!'), "{why}");
    }
}
