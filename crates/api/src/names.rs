//! Which texts may be names of what. Each check returns the messages for what is wrong, in the
//! API's words; an empty list means that the text is fine
//! (documentation "Object Names and IDs", "Labels and Selectors").

/// Most bytes of a DNS label, of a label's value and of a qualified name's last part.
pub const LABEL_BYTES: usize = 63;
/// Most bytes of a DNS subdomain.
pub const SUBDOMAIN_BYTES: usize = 253;
/// Letters of generated suffixes: no vowels, so that no words come about, and none that look alike.
pub const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

const LABEL_MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS1035_MESSAGE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED_MESSAGE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const QUALIFIED_FORM: &str = "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
const VALUE_MESSAGE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY_MESSAGE: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const ENV_MESSAGE: &str = "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and must not start with a digit (e.g. 'my.env-name',  or 'MY_ENV.NAME',  or 'MyEnvName1', regex used for validation is '[-._a-zA-Z][-._a-zA-Z0-9]*')";
const RELAXED_ENV_MESSAGE: &str = "a valid environment variable name must consist only of printable ASCII characters other than '='";
const HEADER_MESSAGE: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
const C_IDENTIFIER_MESSAGE: &str = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";
const WILDCARD_MESSAGE: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

fn too_long(text: &str, most: usize) -> Option<String> {
    (text.len() > most).then(|| format!("must be no more than {most} bytes"))
}

fn unless(ok: bool, message: &str) -> Option<String> {
    (!ok).then(|| message.to_owned())
}

fn all(problems: impl IntoIterator<Item = Option<String>>) -> Vec<String> {
    problems.into_iter().flatten().collect()
}

fn is_lower(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// Non-empty, `inner` throughout, `end` at both ends.
fn framed(text: &str, end: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    match text.as_bytes() {
        [] => false,
        bytes @ [first, .., last] => end(*first) && end(*last) && bytes.iter().all(|b| inner(*b)),
        [only] => end(*only),
    }
}

fn label_form(text: &str) -> bool {
    framed(text, is_lower, |b| is_lower(b) || b == b'-')
}

fn subdomain_form(text: &str) -> bool {
    text.split('.').all(label_form)
}

fn name_form(text: &str) -> bool {
    framed(
        text,
        |b| b.is_ascii_alphanumeric(),
        |b| b.is_ascii_alphanumeric() || b"-_.".contains(&b),
    )
}

/// A lower-case DNS label, such as a namespace's name.
pub fn is_dns1123_label(text: &str) -> Vec<String> {
    all([
        too_long(text, LABEL_BYTES),
        unless(label_form(text), LABEL_MESSAGE),
    ])
}

/// A lower-case DNS subdomain: the name of most objects.
pub fn is_dns1123_subdomain(text: &str) -> Vec<String> {
    all([
        too_long(text, SUBDOMAIN_BYTES),
        unless(subdomain_form(text), SUBDOMAIN_MESSAGE),
    ])
}

/// A DNS label that starts with a letter, such as a Service's name.
pub fn is_dns1035_label(text: &str) -> Vec<String> {
    let form = label_form(text) && text.starts_with(|c: char| c.is_ascii_lowercase());
    all([too_long(text, LABEL_BYTES), unless(form, DNS1035_MESSAGE)])
}

/// `*.example.com`.
pub fn is_wildcard_dns1123_subdomain(text: &str) -> Vec<String> {
    let form = text.strip_prefix("*.").is_some_and(subdomain_form);
    all([
        too_long(text, SUBDOMAIN_BYTES),
        unless(form, WILDCARD_MESSAGE),
    ])
}

/// A label's or annotation's key: a name with an optional DNS prefix.
pub fn is_qualified_name(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let name = match text.split_once('/') {
        None => text,
        Some((prefix, name)) if !name.contains('/') => {
            if prefix.is_empty() {
                out.push("prefix part must be non-empty".to_owned());
            } else {
                out.extend(
                    is_dns1123_subdomain(prefix)
                        .into_iter()
                        .map(|m| format!("prefix part {m}")),
                );
            }
            name
        }
        Some(_) => return vec![QUALIFIED_FORM.to_owned()],
    };
    if name.is_empty() {
        out.push("name part must be non-empty".to_owned());
    } else if let Some(message) = too_long(name, LABEL_BYTES) {
        out.push(format!("name part {message}"));
    }
    out.extend(unless(name_form(name), QUALIFIED_MESSAGE));
    out
}

/// A label's value.
pub fn is_valid_label_value(text: &str) -> Vec<String> {
    let form = text.is_empty() || name_form(text);
    all([too_long(text, LABEL_BYTES), unless(form, VALUE_MESSAGE)])
}

/// Why a name must not be that of a file in a folder: as a path it leads elsewhere.
fn leads_away(text: &str) -> Option<String> {
    match text {
        "." | ".." => Some(format!("must not be '{text}'")),
        t if t.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

/// A key of a ConfigMap or Secret.
pub fn is_config_map_key(text: &str) -> Vec<String> {
    let form = !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    all([
        too_long(text, SUBDOMAIN_BYTES),
        unless(form, CONFIG_KEY_MESSAGE),
        leads_away(text),
    ])
}

/// The classic rule for names of environment variables.
pub fn is_env_var_name(text: &str) -> Vec<String> {
    let form = !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    all([unless(form, ENV_MESSAGE), leads_away(text)])
}

/// Today's rule: any printable ASCII but `=`.
pub fn is_relaxed_env_var_name(text: &str) -> Vec<String> {
    if text.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    let form = text.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=');
    all([unless(form, RELAXED_ENV_MESSAGE)])
}

pub fn is_c_identifier(text: &str) -> Vec<String> {
    let form = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    all([unless(form, C_IDENTIFIER_MESSAGE)])
}

pub fn is_http_header_name(text: &str) -> Vec<String> {
    let form = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    all([unless(form, HEADER_MESSAGE)])
}

/// A container port's name (RFC 6335 service name).
pub fn is_valid_port_name(text: &str) -> Vec<String> {
    let chars = text.bytes().all(|b| is_lower(b) || b == b'-');
    let letter = text.bytes().any(|b| b.is_ascii_lowercase());
    let ends = text.starts_with('-') || text.ends_with('-');
    all([
        unless(text.len() <= 15, "must be no more than 15 characters"),
        unless(
            chars,
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
        ),
        unless(letter, "must contain at least one letter (a-z)"),
        unless(!text.contains("--"), "must not contain consecutive hyphens"),
        unless(!ends, "must not begin or end with a hyphen"),
    ])
}

pub fn is_valid_port_num(port: i64) -> Vec<String> {
    all([unless(
        (1..=65535).contains(&port),
        "must be between 1 and 65535, inclusive",
    )])
}

pub fn is_valid_ip(text: &str) -> Vec<String> {
    let ok = text.parse::<std::net::IpAddr>().is_ok();
    all([unless(
        ok,
        "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
    )])
}

pub fn is_valid_cidr(text: &str) -> Vec<String> {
    let ok = text.split_once('/').is_some_and(|(ip, length)| {
        let most = match ip.parse::<std::net::IpAddr>() {
            Ok(std::net::IpAddr::V4(_)) => 32,
            Ok(std::net::IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        length
            .parse::<u8>()
            .is_ok_and(|n| n <= most && length == n.to_string())
    });
    all([unless(
        ok,
        "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
    )])
}

/// A name that may be one segment of a path, such as a Role's.
pub fn is_path_segment_name(text: &str) -> Vec<String> {
    if text == "." || text == ".." {
        return vec![format!("may not be '{text}'")];
    }
    ["/", "%"]
        .iter()
        .filter(|part| text.contains(**part))
        .map(|part| format!("may not contain '{part}'"))
        .collect()
}

/// The name for `generateName`: the base, cut so that all fits into a DNS label, and `suffix`
/// (five letters of [`SUFFIX_ALPHABET`]).
pub fn generate_name(base: &str, suffix: &str) -> String {
    let mut end = base.len().min(LABEL_BYTES.saturating_sub(suffix.len()));
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &base[..end])
}

/// A suffix for [`generate_name`] from random bits.
pub fn suffix(mut random: u64) -> String {
    let n = SUFFIX_ALPHABET.len() as u64;
    (0..5)
        .map(|_| {
            let letter = SUFFIX_ALPHABET[(random % n) as usize];
            random /= n;
            char::from(letter)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(f: fn(&str) -> Vec<String>, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(f(text).is_empty(), "{text:?}: {:?}", f(text));
        }
        for text in bad {
            assert!(!f(text).is_empty(), "{text:?} is accepted");
        }
    }

    #[test]
    fn each_rule_takes_and_refuses() {
        let long = "a".repeat(64);
        check(
            is_dns1123_label,
            &["a", "a-b", "1"],
            &["", "-a", "a-", "A", "a.b", "ä", &long],
        );
        check(
            is_dns1123_subdomain,
            &["a.b", "a-b.c"],
            &["", "a..b", ".a", "a.", "A"],
        );
        check(is_dns1035_label, &["a", "a1"], &["1a", ""]);
        check(
            is_qualified_name,
            &["a", "a.b/C_d", "A"],
            &["", "/a", "a/", "a/b/c", "-a", "A_/b"],
        );
        check(
            is_valid_label_value,
            &["", "a", "A_.b"],
            &["-", "a b", &long],
        );
        check(
            is_config_map_key,
            &["a.b", ".x", "A_"],
            &["", "..", "..a", "a/b"],
        );
        check(
            is_valid_port_name,
            &["http", "a-1"],
            &["", "1", "a--b", "-a", "HTTP", "sixteen-letters-x"],
        );
        check(
            is_valid_ip,
            &["10.0.0.1", "::1"],
            &["", "10.0.0", "010.0.0.1"],
        );
        check(
            is_valid_cidr,
            &["10.0.0.0/8", "::/0"],
            &["10.0.0.0", "10.0.0.0/33", "10.0.0.0/08"],
        );
        check(
            is_path_segment_name,
            &["a:b", "X"],
            &[".", "..", "a/b", "a%"],
        );
        check(
            is_wildcard_dns1123_subdomain,
            &["*.a.b"],
            &["*", "a.b", "*.A"],
        );
    }

    #[test]
    fn generated_names_fit() {
        assert_eq!(generate_name("web-", "bcdfg"), "web-bcdfg");
        assert_eq!(generate_name(&"x".repeat(100), "bcdfg").len(), 63);
        assert_eq!(suffix(0), "bbbbb");
        assert_ne!(suffix(1), suffix(2));
    }
}
