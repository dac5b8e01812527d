//! Which part of an old value a part of a new one came from: fields by their names, items of lists
//! by their keys. Items of other lists have no past.

use serde_json::Value as Json;

use crate::model::List;

/// A part of a new value, and what it was before.
#[derive(Clone, Copy)]
pub(crate) struct Pair<'v> {
    pub new: &'v Json,
    /// None for what is new, or whose old value cannot be found.
    pub old: Option<&'v Json>,
    /// The nearest part around it whose past is known.
    above: Option<(&'v Json, &'v Json)>,
    is_root: bool,
}

impl<'v> Pair<'v> {
    pub fn root(new: &'v Json, old: Option<&'v Json>) -> Self {
        Self {
            new,
            old,
            above: None,
            is_root: true,
        }
    }

    fn below(&self, new: &'v Json, old: Option<&'v Json>) -> Self {
        let above = match self.old {
            Some(old) => Some((self.new, old)),
            None => self.above,
        };
        Self {
            new,
            old,
            above,
            is_root: false,
        }
    }

    /// A field of an object; of an atomic one without its past.
    pub fn field(&self, name: &str, atomic: bool) -> Option<Self> {
        let new = self.new.get(name)?;
        // Both are of one version, whatever was written.
        let hidden = self.is_root && matches!(name, "apiVersion" | "kind");
        let old = self.old.and_then(|old| old.get(name));
        if hidden {
            return Some(Self {
                new,
                old: None,
                above: None,
                is_root: false,
            });
        }
        Some(self.below(new, old.filter(|_| !atomic)))
    }

    /// An item of a list.
    pub fn item(&self, at: usize, list: &List) -> Option<Self> {
        let new = self.new.get(at)?;
        let old = match (list, self.old) {
            (List::Map(keys), Some(Json::Array(before))) => before
                .iter()
                .find(|item| keys.iter().all(|k| item.get(&**k) == new.get(&**k))),
            _ => None,
        };
        Some(self.below(new, old))
    }

    /// Whether it is as it was; errors of such a part were there before.
    pub fn is_unchanged_here(&self) -> bool {
        self.old.is_some_and(|old| old == self.new)
    }

    /// … or lies in something that is as it was.
    pub fn is_unchanged(&self) -> bool {
        match (self.old, self.above) {
            (Some(old), _) => old == self.new,
            (None, Some((new, old))) => new == old,
            (None, None) => false,
        }
    }
}
