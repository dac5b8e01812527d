//! Values and functions of Kubernetes' libraries: quantities, versions, addresses, URLs, formats.

use std::net::IpAddr;
use std::rc::Rc;

use api::Quantity;

use crate::error::EvalError;
use crate::format::Format;
use crate::net::{Cidr, Ip};
use crate::url::{self, Url};
use crate::value::{Evaluated, Str, Value};

fn wrong<'a>() -> Evaluated<'a> {
    Err(EvalError::no_overload())
}

// Quantities.

pub(crate) fn quantity<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::String(text)] = args else {
        return wrong();
    };
    match text.parse() {
        Ok(quantity) => Ok(Value::Quantity(quantity)),
        Err(error) => Err(EvalError::new(api::quantity::ParseError::to_string(&error))),
    }
}

pub(crate) fn is_quantity<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(text)] => Ok(Value::Bool(text.parse::<Quantity>().is_ok())),
        _ => wrong(),
    }
}

/// `isGreaterThan`, `isLessThan` and `compareTo` of quantities and versions.
pub(crate) fn compared<'a>(name: &str, args: &[Value<'a>]) -> Evaluated<'a> {
    let order = match args {
        [Value::Quantity(a), Value::Quantity(b)] => a.cmp(b),
        [Value::Semver(a), Value::Semver(b)] => a.cmp_precedence(b),
        _ => return wrong(),
    };
    Ok(match name {
        "isGreaterThan" => Value::Bool(order.is_gt()),
        "isLessThan" => Value::Bool(order.is_lt()),
        _ => Value::Int(order as i64),
    })
}

pub(crate) fn quantity_part<'a>(name: &str, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::Quantity(quantity)] = args else {
        return wrong();
    };
    let fits = quantity.is_whole() && quantity.value() != i64::MAX && quantity.value() != i64::MIN;
    Ok(match name {
        "sign" if quantity.is_zero() => Value::Int(0),
        "sign" => Value::Int(if quantity.is_negative() { -1 } else { 1 }),
        "isInteger" => Value::Bool(fits),
        "asInteger" if fits => Value::Int(quantity.value()),
        "asInteger" => return Err(EvalError::new("cannot convert value to integer")),
        _ => Value::Double(approximate(quantity)),
    })
}

fn approximate(quantity: &Quantity) -> f64 {
    if quantity.is_whole() {
        return quantity.value() as f64;
    }
    let whole = Quantity::from_units(quantity.value() - 1);
    let parts = (*quantity - whole).to_string();
    let parts = [("m", 1e-3), ("u", 1e-6), ("n", 1e-9), ("", 1.0)]
        .iter()
        .find_map(|(suffix, scale)| Some(parts.strip_suffix(suffix)?.parse::<f64>().ok()? * scale));
    whole.value() as f64 + parts.unwrap_or(0.0)
}

pub(crate) fn quantity_sum<'a>(name: &str, args: &[Value<'a>]) -> Evaluated<'a> {
    let (a, b) = match args {
        [Value::Quantity(a), Value::Quantity(b)] => (*a, *b),
        [Value::Quantity(a), Value::Int(b)] => (*a, Quantity::from_units(*b)),
        _ => return wrong(),
    };
    Ok(Value::Quantity(if name == "add" { a + b } else { a - b }))
}

// Versions.

fn parse_semver(text: &str, normalize: bool) -> Result<semver::Version, String> {
    let text = if normalize {
        normalized(text)
    } else {
        text.to_owned()
    };
    if text.is_empty() {
        return Err("Version string empty".into());
    }
    let parts: Vec<&str> = text.splitn(3, '.').collect();
    if parts.len() != 3 {
        return Err("No Major.Minor.Patch elements found".into());
    }
    for (part, name) in parts.iter().zip(["Major", "Minor"]) {
        if !part.bytes().all(|b| b.is_ascii_digit()) || part.is_empty() {
            let lower = name.to_lowercase();
            return Err(format!(
                "Invalid character(s) found in {lower} number \"{part}\""
            ));
        }
        if part.len() > 1 && part.starts_with('0') {
            return Err(format!(
                "{name} number must not contain leading zeroes \"{part}\""
            ));
        }
    }
    semver::Version::parse(&text).map_err(|e| e.to_string())
}

/// Without `v`, with all three numbers, without leading zeros.
fn normalized(text: &str) -> String {
    let text = text.strip_prefix('v').unwrap_or(text);
    let mut parts: Vec<String> = text
        .splitn(3, '.')
        .map(|part| {
            if part.len() < 2 {
                return part.to_owned();
            }
            let trimmed = part.trim_start_matches('0');
            if trimmed.starts_with(|c: char| c.is_ascii_digit()) {
                trimmed.to_owned()
            } else {
                format!("0{trimmed}")
            }
        })
        .collect();
    if parts.len() < 3 {
        // What follows a number (`1-alpha`) makes it no version.
        if parts.last().is_some_and(|p| p.contains(['-', '+'])) {
            return text.to_owned();
        }
        parts.resize(3, "0".into());
    }
    parts.join(".")
}

fn semver_args<'v>(args: &'v [Value<'_>]) -> Option<(&'v str, bool)> {
    match args {
        [Value::String(text)] => Some((text, false)),
        [Value::String(text), Value::Bool(normalize)] => Some((text, *normalize)),
        _ => None,
    }
}

pub(crate) fn semver<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let Some((text, normalize)) = semver_args(args) else {
        return wrong();
    };
    match parse_semver(text, normalize) {
        Ok(version) => Ok(Value::Semver(Rc::new(version))),
        Err(what) => Err(EvalError::new(what)),
    }
}

pub(crate) fn is_semver<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match semver_args(args) {
        Some((text, normalize)) => Ok(Value::Bool(parse_semver(text, normalize).is_ok())),
        None => wrong(),
    }
}

pub(crate) fn semver_part<'a>(name: &str, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::Semver(version)] = args else {
        return wrong();
    };
    let n = match name {
        "major" => version.major,
        "minor" => version.minor,
        _ => version.patch,
    };
    Ok(Value::Int(n as i64))
}

// Addresses.

/// `ip('…')` and `cidr.ip()`.
pub(crate) fn ip<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(text)] => Ip::parse(text).map(Value::Ip).map_err(EvalError::new),
        [Value::Cidr(cidr)] => Ok(Value::Ip(Ip(cidr.0))),
        _ => wrong(),
    }
}

pub(crate) fn is_ip<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(text)] => Ok(Value::Bool(Ip::parse(text).is_ok())),
        _ => wrong(),
    }
}

pub(crate) fn is_canonical<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(text)] => {
            let ip = Ip::parse(text).map_err(EvalError::new)?;
            Ok(Value::Bool(ip.to_string() == **text))
        }
        _ => wrong(),
    }
}

pub(crate) fn ip_part<'a>(name: &str, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::Ip(Ip(ip))] = args else {
        return wrong();
    };
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.segments()[0] & 0xffc0 == 0xfe80,
    };
    let link_local_multicast = match ip {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
    };
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    Ok(Value::Bool(match name {
        "family" => return Ok(Value::Int(if ip.is_ipv4() { 4 } else { 6 })),
        "isUnspecified" => ip.is_unspecified(),
        "isLoopback" => ip.is_loopback(),
        "isLinkLocalMulticast" => link_local_multicast,
        "isLinkLocalUnicast" => link_local,
        _ => {
            !(ip.is_unspecified()
                || ip.is_loopback()
                || ip.is_multicast()
                || link_local
                || broadcast)
        }
    }))
}

pub(crate) fn cidr<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(text)] => cidr_of(text).map(Value::Cidr),
        _ => wrong(),
    }
}

fn cidr_of(text: &str) -> Result<Cidr, EvalError> {
    Cidr::parse(text).map_err(|what| {
        EvalError::new(format!(
            "network address parse error during conversion from string: {what}"
        ))
    })
}

pub(crate) fn is_cidr<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(text)] => Ok(Value::Bool(Cidr::parse(text).is_ok())),
        _ => wrong(),
    }
}

pub(crate) fn contains_ip<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (cidr, ip) = match args {
        [Value::Cidr(cidr), Value::Ip(ip)] => (cidr, *ip),
        [Value::Cidr(cidr), Value::String(text)] => {
            (cidr, Ip::parse(text).map_err(EvalError::new)?)
        }
        _ => return wrong(),
    };
    Ok(Value::Bool(cidr.contains(&ip.0)))
}

pub(crate) fn contains_cidr<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (outer, inner) = match args {
        [Value::Cidr(outer), Value::Cidr(inner)] => (outer, *inner),
        [Value::Cidr(outer), Value::String(text)] => (outer, cidr_of(text)?),
        _ => return wrong(),
    };
    Ok(Value::Bool(outer.1 <= inner.1 && outer.contains(&inner.0)))
}

pub(crate) fn cidr_part<'a>(name: &str, args: &[Value<'a>]) -> Evaluated<'a> {
    match (args, name) {
        ([Value::Cidr(cidr)], "prefixLength") => Ok(Value::Int(i64::from(cidr.1))),
        ([Value::Cidr(cidr)], _) => Ok(Value::Cidr(cidr.masked())),
        _ => wrong(),
    }
}

// URLs.

pub(crate) fn url<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::String(text)] = args else {
        return wrong();
    };
    match Url::parse(text) {
        Ok(url) => Ok(Value::Url(Rc::new(url))),
        Err(what) => Err(EvalError::new(format!(
            "URL parse error during conversion from string: {what}"
        ))),
    }
}

pub(crate) fn is_url<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(text)] => Ok(Value::Bool(url::is_request_uri(text).is_ok())),
        _ => wrong(),
    }
}

pub(crate) fn url_part<'a>(name: &str, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::Url(url)] = args else {
        return wrong();
    };
    Ok(Value::text(match name {
        "getScheme" => url.scheme.clone(),
        "getHost" => url.host.clone(),
        "getHostname" => url.hostname().to_owned(),
        "getPort" => url.port().to_owned(),
        "getEscapedPath" => url.escaped_path.clone(),
        _ => {
            let entries = url
                .query()
                .into_iter()
                .map(|(key, values)| (Value::text(key), Value::texts(values)))
                .collect();
            let empty = Value::Map(crate::value::Map::Owned(Rc::default()));
            return crate::lists::map_insert(empty, entries);
        }
    }))
}

// Formats.

pub(crate) fn format_named<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::String(name)] = args else {
        return wrong();
    };
    Ok(Value::Optional(
        Format::named(name).map(|f| Rc::new(Value::Format(f))),
    ))
}

pub(crate) fn validate<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::Format(format), Value::String(text)] = args else {
        return wrong();
    };
    let problems = format.problems(text);
    if problems.is_empty() {
        return Ok(Value::Optional(None));
    }
    let problems = problems.into_iter().map(|p| Value::String(Str::from(p)));
    Ok(Value::some(Value::list(problems.collect())))
}
