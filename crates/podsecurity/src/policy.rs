//! What a namespace asks for: a level and a version each for what is refused, what is audited and
//! what is warned of.

use std::fmt;

use api::{FieldError, FieldPath};
use serde_json::Value;

pub const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
pub const ENFORCE_VERSION: &str = "pod-security.kubernetes.io/enforce-version";
pub const AUDIT: &str = "pod-security.kubernetes.io/audit";
pub const AUDIT_VERSION: &str = "pod-security.kubernetes.io/audit-version";
pub const WARN: &str = "pod-security.kubernetes.io/warn";
pub const WARN_VERSION: &str = "pod-security.kubernetes.io/warn-version";

/// From the least to the most strict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            "privileged" => Ok(Self::Privileged),
            "baseline" => Ok(Self::Baseline),
            "restricted" => Ok(Self::Restricted),
            _ => Err("must be one of privileged, baseline, restricted"),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        })
    }
}

/// A version of the standards; the newest is larger than all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// `v1.MINOR`.
    Minor(u64),
    Latest,
}

impl Version {
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text == "latest" {
            return Ok(Self::Latest);
        }
        let number = text.strip_prefix("v1.").filter(|digits| {
            let plain = digits.bytes().all(|b| b.is_ascii_digit());
            plain && (digits.len() == 1 || !digits.starts_with('0'))
        });
        let minor = number.and_then(|n| n.parse().ok());
        minor
            .map(Self::Minor)
            .ok_or("must be \"latest\" or \"v1.x\"")
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Minor(minor) => write!(f, "v1.{minor}"),
            Self::Latest => f.write_str("latest"),
        }
    }
}

/// A level in a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Standard {
    pub level: Level,
    pub version: Version,
}

impl Standard {
    pub const PRIVILEGED: Self = Self {
        level: Level::Privileged,
        version: Version::Latest,
    };

    pub fn is_privileged(self) -> bool {
        self.level == Level::Privileged
    }

    /// Allows the same as another.
    fn equals(self, other: Self) -> bool {
        self == other || self.is_privileged() && other.is_privileged()
    }
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.level, self.version)
    }
}

/// What is refused, audited, and warned of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub enforce: Standard,
    pub audit: Standard,
    pub warn: Standard,
}

impl Policy {
    /// Everything is allowed, silently: upstream's default.
    pub const PRIVILEGED: Self = Self {
        enforce: Standard::PRIVILEGED,
        audit: Standard::PRIVILEGED,
        warn: Standard::PRIVILEGED,
    };

    pub fn is_privileged(&self) -> bool {
        let all = [self.enforce, self.audit, self.warn];
        all.into_iter().all(Standard::is_privileged)
    }

    /// Whether two policies do the same.
    pub fn equals(&self, other: &Self) -> bool {
        self.enforce.equals(other.enforce)
            && self.audit.equals(other.audit)
            && self.warn.equals(other.warn)
    }

    /// What a namespace's labels say, over the cluster's defaults. There is always a policy: what
    /// cannot be read is refused as by the strictest one, and neither audited nor warned of.
    pub fn of(labels: Option<&Value>, defaults: &Self) -> (Self, Vec<FieldError>) {
        let (mut policy, mut errors) = (*defaults, Vec::new());
        let label = |name: &str| labels.and_then(|l| l.get(name)).and_then(Value::as_str);
        let mut wrong = |name: &str, value: &str, why: &str| {
            let path = FieldPath::new("metadata").child("labels").key(name);
            errors.push(FieldError::invalid_str(&path, value, why));
        };
        let mut enforced = false;
        for (part, level, version, otherwise) in [
            (
                &mut policy.enforce,
                ENFORCE,
                ENFORCE_VERSION,
                Level::Restricted,
            ),
            (&mut policy.audit, AUDIT, AUDIT_VERSION, Level::Privileged),
            (&mut policy.warn, WARN, WARN_VERSION, Level::Privileged),
        ] {
            if let Some(text) = label(level) {
                let parsed = Level::parse(text);
                enforced |= level == ENFORCE && parsed.is_ok();
                part.level = parsed.unwrap_or_else(|why| {
                    wrong(level, text, why);
                    otherwise
                });
            }
            if let Some(text) = label(version) {
                part.version = Version::parse(text).unwrap_or_else(|why| {
                    wrong(version, text, why);
                    Version::Latest
                });
            }
        }
        // What is refused is also warned of, where nothing else is said: of templates.
        if enforced && label(WARN).is_none() && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if label(WARN_VERSION).is_none() {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, errors)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(labels: Value) -> (String, Vec<String>) {
        let (p, errors) = Policy::of(Some(&labels), &Policy::PRIVILEGED);
        let errors = errors.iter().map(ToString::to_string).collect();
        (format!("{} {} {}", p.enforce, p.audit, p.warn), errors)
    }

    #[test]
    fn labels_say_what_is_enforced_audited_and_warned_of() {
        let none = "privileged:latest privileged:latest privileged:latest";
        assert_eq!(read(json!({})), (none.into(), vec![]));
        assert_eq!(
            read(json!({ ENFORCE: "baseline", ENFORCE_VERSION: "v1.24" })).0,
            "baseline:v1.24 privileged:latest baseline:v1.24"
        );
        assert_eq!(
            read(json!({ ENFORCE: "baseline", WARN: "restricted", AUDIT: "restricted", AUDIT_VERSION: "v1.0" })).0,
            "baseline:latest restricted:v1.0 restricted:latest"
        );
    }

    #[test]
    fn what_cannot_be_read_is_refused_as_by_the_strictest() {
        let (policy, errors) = read(json!({ ENFORCE: "x", AUDIT: "y", WARN_VERSION: "v1.01" }));
        assert_eq!(
            policy,
            "restricted:latest privileged:latest privileged:latest"
        );
        assert_eq!(errors.len(), 3, "{errors:?}");
        assert!(errors[0].contains("must be one of privileged, baseline, restricted"));
        for text in ["", "1.2", "v2.0", "v1.", "v1.x", "v1.-1", "v1.00"] {
            assert!(Version::parse(text).is_err(), "{text}");
        }
        assert_eq!(Version::parse("v1.0"), Ok(Version::Minor(0)));
    }
}
