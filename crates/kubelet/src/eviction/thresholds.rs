//! Below what the node is short of something. Written as upstream's `--eviction-hard`:
//! `memory.available<100Mi,nodefs.available<10%`.

use std::fmt;
use std::str::FromStr;

/// How little of a resource is too little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threshold {
    /// Bytes, inodes or process ids.
    Amount(u64),
    /// Percent of the whole.
    Percent(u8),
}

impl Threshold {
    /// Whether `left` of `whole` is below it. Of a whole that is not known nothing is said.
    #[must_use]
    pub fn is_crossed(self, left: Share) -> bool {
        left.whole > 0 && left.free < self.of(left.whole)
    }

    /// The threshold as an amount.
    #[must_use]
    pub fn of(self, whole: u64) -> u64 {
        match self {
            Self::Amount(amount) => amount,
            Self::Percent(percent) => {
                let part = u128::from(whole) * u128::from(percent) / 100;
                u64::try_from(part).unwrap_or(u64::MAX)
            }
        }
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Amount(amount) if *amount >= 1 << 20 && amount % (1 << 20) == 0 => {
                write!(f, "{}Mi", amount >> 20)
            }
            Self::Amount(amount) => write!(f, "{amount}"),
        }
    }
}

impl FromStr for Threshold {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(percent) = text.strip_suffix('%') {
            let percent = percent.parse().ok().filter(|p| *p <= 100);
            return percent
                .map(Self::Percent)
                .ok_or_else(|| format!("{text:?} is not a percentage from 0% to 100%"));
        }
        let quantity: api::Quantity = text.parse().map_err(|e| format!("{text:?}: {e}"))?;
        u64::try_from(quantity.value())
            .map(Self::Amount)
            .map_err(|_| format!("{text:?} is negative"))
    }
}

/// What is left of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    pub free: u64,
    pub whole: u64,
}

/// What runs short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Memory.
    Memory,
    /// Disk or inodes.
    Disk,
    /// Process ids.
    Pid,
}

/// Something that can run short, by upstream's name of its signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// Memory, in bytes.
    Memory,
    /// The file system of volumes and logs, in bytes.
    NodeFs,
    /// Its inodes.
    NodeFsInodes,
    /// The file system of images, in bytes; also of containers' layers, where those are not apart.
    ImageFs,
    /// Its inodes.
    ImageFsInodes,
    /// Process ids.
    Pid,
}

impl Resource {
    /// The most urgent first: without memory nothing else can be done.
    pub const ALL: [Self; 6] = [
        Self::Memory,
        Self::NodeFs,
        Self::NodeFsInodes,
        Self::ImageFs,
        Self::ImageFsInodes,
        Self::Pid,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory.available",
            Self::NodeFs => "nodefs.available",
            Self::NodeFsInodes => "nodefs.inodesFree",
            Self::ImageFs => "imagefs.available",
            Self::ImageFsInodes => "imagefs.inodesFree",
            Self::Pid => "pid.available",
        }
    }

    /// Whether it is of the file system of images.
    #[must_use]
    pub fn is_of_images(self) -> bool {
        matches!(self, Self::ImageFs | Self::ImageFsInodes)
    }

    /// The condition of the node that says so.
    #[must_use]
    pub fn signal(self) -> Signal {
        match self {
            Self::Memory => Signal::Memory,
            Self::NodeFs | Self::NodeFsInodes | Self::ImageFs | Self::ImageFsInodes => Signal::Disk,
            Self::Pid => Signal::Pid,
        }
    }
}

/// The thresholds that are set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thresholds(Vec<(Resource, Threshold)>);

/// Upstream's, and one for process ids: a machine without any cannot even clean up.
const DEFAULT: [(Resource, Threshold); 6] = [
    (Resource::Memory, Threshold::Amount(100 << 20)),
    (Resource::NodeFs, Threshold::Percent(10)),
    (Resource::NodeFsInodes, Threshold::Percent(5)),
    (Resource::ImageFs, Threshold::Percent(15)),
    (Resource::ImageFsInodes, Threshold::Percent(5)),
    (Resource::Pid, Threshold::Percent(3)),
];

impl Default for Thresholds {
    fn default() -> Self {
        Self(DEFAULT.to_vec())
    }
}

impl FromIterator<(Resource, Threshold)> for Thresholds {
    fn from_iter<T: IntoIterator<Item = (Resource, Threshold)>>(all: T) -> Self {
        Self(all.into_iter().collect())
    }
}

impl Thresholds {
    /// Nothing is ever too little.
    #[must_use]
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (Resource, Threshold)> + '_ {
        self.0.iter().copied()
    }

    #[must_use]
    pub fn get(&self, resource: Resource) -> Option<Threshold> {
        self.0.iter().find(|(r, _)| *r == resource).map(|(_, t)| *t)
    }
}

impl FromStr for Thresholds {
    type Err = String;
    /// What is not named has no threshold, as with upstream.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Vec::new();
        for item in text.split(',').filter(|t| !t.is_empty()) {
            let (name, value) = item
                .split_once('<')
                .ok_or_else(|| format!("{item:?} is not of the form memory.available<100Mi"))?;
            let resource = Resource::ALL.into_iter().find(|r| r.name() == name);
            let resource = resource.ok_or_else(|| {
                let known = Resource::ALL.map(Resource::name).join(", ");
                format!("{name:?} is not a signal; there are {known}")
            })?;
            all.push((resource, value.parse()?));
        }
        Ok(Self(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_syntax_is_read() {
        let t: Thresholds = "memory.available<1Gi,nodefs.available<7%"
            .parse()
            .expect("thresholds");
        assert_eq!(t.get(Resource::Memory), Some(Threshold::Amount(1 << 30)));
        assert_eq!(t.get(Resource::NodeFs), Some(Threshold::Percent(7)));
        assert_eq!(t.get(Resource::Pid), None);
        for bad in [
            "memory.available",
            "cpu<1",
            "pid.available<101%",
            "memory.available<-1",
        ] {
            assert!(bad.parse::<Thresholds>().is_err(), "{bad}");
        }
    }

    #[test]
    fn percentages_are_of_the_whole() {
        let share = |free, whole| Share { free, whole };
        assert!(Threshold::Percent(10).is_crossed(share(9, 100)));
        assert!(!Threshold::Percent(10).is_crossed(share(10, 100)));
        assert!(Threshold::Amount(10).is_crossed(share(9, 1_000)));
        assert!(!Threshold::Amount(10).is_crossed(share(0, 0)));
    }
}
