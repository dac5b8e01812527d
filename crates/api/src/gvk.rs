//! Group, version, kind and resource: the names by which the API addresses things.

use std::fmt;

use compact_str::CompactString;

macro_rules! name_pair {
    ($(#[$doc:meta])* $name:ident, $a:ident, $b:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
        pub struct $name {
            pub $a: CompactString,
            pub $b: CompactString,
        }
        impl $name {
            pub fn new($a: &str, $b: &str) -> Self {
                Self { $a: $a.into(), $b: $b.into() }
            }
        }
    };
}

name_pair!(
    /// An API group and one of its versions; the core group is the empty string.
    GroupVersion, group, version);
name_pair!(
    /// A kind without its version.
    GroupKind, group, kind);
name_pair!(
    /// A resource (plural, lower case) without its version.
    GroupResource, group, resource);

impl GroupVersion {
    /// Reads `v1` or `apps/v1`; `None` when there is more than one slash.
    pub fn parse(api_version: &str) -> Option<Self> {
        match api_version.split_once('/') {
            None => Some(Self::new("", api_version)),
            Some((_, v)) if v.contains('/') => None,
            Some((g, v)) => Some(Self::new(g, v)),
        }
    }
}

impl fmt::Display for GroupVersion {
    /// As in `apiVersion`: `v1`, `apps/v1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() {
            f.write_str(&self.version)
        } else {
            write!(f, "{}/{}", self.group, self.version)
        }
    }
}

impl fmt::Display for GroupKind {
    /// `Pod`, `Deployment.apps`: as upstream prints it in messages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        dotted(f, &self.kind, &self.group)
    }
}

impl fmt::Display for GroupResource {
    /// `pods`, `deployments.apps`: as upstream prints it in messages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        dotted(f, &self.resource, &self.group)
    }
}

fn dotted(f: &mut fmt::Formatter<'_>, name: &str, group: &str) -> fmt::Result {
    if group.is_empty() {
        f.write_str(name)
    } else {
        write!(f, "{name}.{group}")
    }
}

/// A kind in one of its versions.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct GroupVersionKind {
    pub group: CompactString,
    pub version: CompactString,
    pub kind: CompactString,
}

impl GroupVersionKind {
    pub fn new(group: &str, version: &str, kind: &str) -> Self {
        Self {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
        }
    }
    pub fn group_version(&self) -> GroupVersion {
        GroupVersion {
            group: self.group.clone(),
            version: self.version.clone(),
        }
    }
}

/// A resource in one of its versions.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct GroupVersionResource {
    pub group: CompactString,
    pub version: CompactString,
    pub resource: CompactString,
}

impl GroupVersionResource {
    pub fn new(group: &str, version: &str, resource: &str) -> Self {
        Self {
            group: group.into(),
            version: version.into(),
            resource: resource.into(),
        }
    }
    pub fn group_resource(&self) -> GroupResource {
        GroupResource {
            group: self.group.clone(),
            resource: self.resource.clone(),
        }
    }
}
