//! A fence: the proof of leadership that a leader's writes carry. Each time a Lease changes hands
//! the API server writes a key beside it; a write that names the key's revision is refused as
//! soon as the Lease has changed hands again, whatever the writer believes of its clock or cache.
//! A fence can only make a request stricter, so nobody needs a permission for it.

use std::fmt;
use std::str::FromStr;

/// A Lease and the revision at which its holder took it: the resourceVersion of that write.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fence {
    pub namespace: String,
    pub name: String,
    pub revision: u64,
}

impl Fence {
    /// The header of a request that carries one: `namespace/name=revision`. A server that does
    /// not know it ignores it.
    pub const HEADER: &str = "tiphys-fence";
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}={}", self.namespace, self.name, self.revision)
    }
}

/// Text that is not a fence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a fence: expected namespace/name=revision")]
pub struct BadFence(pub String);

impl FromStr for Fence {
    type Err = BadFence;

    fn from_str(text: &str) -> Result<Self, BadFence> {
        let bad = || BadFence(text.to_owned());
        let (lease, revision) = text.rsplit_once('=').ok_or_else(bad)?;
        let (namespace, name) = lease.split_once('/').ok_or_else(bad)?;
        let revision = revision.parse().map_err(|_| bad())?;
        let is_word = |s: &str| !s.is_empty() && !s.contains('/');
        if !is_word(namespace) || !is_word(name) || revision == 0 {
            return Err(bad());
        }
        Ok(Self {
            namespace: namespace.into(),
            name: name.into(),
            revision,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let fence = Fence {
            namespace: "kube-system".into(),
            name: "kube-scheduler".into(),
            revision: 17,
        };
        assert_eq!(fence.to_string(), "kube-system/kube-scheduler=17");
        assert_eq!(fence.to_string().parse(), Ok(fence));
    }

    #[test]
    fn other_text_is_refused() {
        for text in [
            "", "a/b", "a=1", "/b=1", "a/=1", "a/b=x", "a/b=0", "a/b/c=1",
        ] {
            assert_eq!(text.parse::<Fence>(), Err(BadFence(text.into())), "{text}");
        }
    }
}
