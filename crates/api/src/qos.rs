//! Quality of service: the class of a pod, from what it asks for of CPU and memory alone
//! (documentation "Pod Quality of Service Classes").

use std::fmt;
use std::str::FromStr;

use crate::Quantity;

/// Class of a pod, in the order in which pods have to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Nothing asked: evicted first.
    BestEffort,
    /// Something asked.
    Burstable,
    /// Limits equal to requests everywhere.
    Guaranteed,
}

impl Class {
    /// As `qosClass` of a pod's status has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BestEffort => "BestEffort",
            Self::Burstable => "Burstable",
            Self::Guaranteed => "Guaranteed",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that is the name of no class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownClass;

impl FromStr for Class {
    type Err = UnknownClass;

    fn from_str(name: &str) -> Result<Self, UnknownClass> {
        let all = [Self::BestEffort, Self::Burstable, Self::Guaranteed];
        all.into_iter()
            .find(|class| class.name() == name)
            .ok_or(UnknownClass)
    }
}

/// The resources that classes are about.
pub const RESOURCES: [&str; 2] = ["cpu", "memory"];

/// One of [`RESOURCES`], as somebody asks for it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Amount {
    pub request: Option<Quantity>,
    pub limit: Option<Quantity>,
}

impl Amount {
    fn asks(self) -> bool {
        let some = |q: Option<Quantity>| q.is_some_and(|q| q > Quantity::ZERO);
        some(self.request) || some(self.limit)
    }

    /// A request that is missing is the limit, as the defaults of pods have it.
    fn is_fixed(self) -> bool {
        self.limit
            .is_some_and(|limit| limit > Quantity::ZERO && self.request.unwrap_or(limit) == limit)
    }
}

/// Of each of [`RESOURCES`] what a container asks for, or the pod itself.
pub type ContainerAmounts = [Amount; 2];

/// The class of a pod: of its own resources if its specification has any, even empty ones, else
/// of those of all its containers, init containers among them.
#[must_use]
pub fn class(of: &[ContainerAmounts]) -> Class {
    let all = || of.iter().flatten();
    if !all().any(|amount| amount.asks()) {
        Class::BestEffort
    } else if all().all(|amount| amount.is_fixed()) {
        Class::Guaranteed
    } else {
        Class::Burstable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(request: &str, limit: &str) -> Amount {
        let read = |text: &str| text.parse().ok();
        Amount {
            request: read(request),
            limit: read(limit),
        }
    }

    #[test]
    fn classes_by_what_is_asked() {
        let (nothing, fixed) = (asked("", ""), asked("1000m", "1"));
        for (of, wanted) in [
            (vec![], Class::BestEffort),
            (vec![[nothing, nothing]], Class::BestEffort),
            (vec![[asked("0", "0"), nothing]], Class::BestEffort),
            (vec![[fixed, nothing]], Class::Burstable),
            (vec![[fixed, fixed]], Class::Guaranteed),
            (vec![[fixed, asked("", "1")]], Class::Guaranteed),
            (vec![[fixed, asked("1", "")]], Class::Burstable),
            (vec![[fixed, asked("1", "2")]], Class::Burstable),
            (vec![[fixed, asked("0", "2")]], Class::Burstable),
            (vec![[fixed, fixed], [nothing, nothing]], Class::Burstable),
            (vec![[fixed, fixed], [fixed, fixed]], Class::Guaranteed),
        ] {
            assert_eq!(class(&of), wanted, "{of:?}");
        }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for class in [Class::BestEffort, Class::Burstable, Class::Guaranteed] {
            assert_eq!(class.to_string().parse(), Ok(class));
        }
        assert_eq!("".parse::<Class>(), Err(UnknownClass));
    }
}
