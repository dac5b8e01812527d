//! Names and zones: which name lies in which, and which names a plugin passes on. Pure.

/// Names for which the next plugin is asked when one has no answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Falls {
    /// None.
    #[default]
    Never,
    /// All.
    Always,
    /// Those in these zones.
    Within(Vec<String>),
}

impl Falls {
    /// Whether a name falls through; in lower case, without a final dot.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::Within(zones) => zones.iter().any(|zone| is_within(name, zone)),
        }
    }
}

/// Whether a name lies in a zone; both in lower case, without a final dot.
pub fn is_within(name: &str, zone: &str) -> bool {
    if zone.is_empty() || name == zone {
        return true;
    }
    name.strip_suffix(zone)
        .is_some_and(|rest| rest.ends_with('.'))
}
