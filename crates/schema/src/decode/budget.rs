//! What a document may cost, whatever its form: a body of a few megabytes can stand for far more
//! memory than it takes itself (`{}` is two bytes and a map), and aliases for any amount.

/// Deeper documents are refused. Go allows 10,000, but no real object comes near this, the walk's
/// recursion must fit a thread's stack, and serde_json, which reads stored objects again, stops
/// at 128.
pub(crate) const MAX_DEPTH: usize = 100;

/// Most values in one document, an object or list counting [`CONTAINER`] times. The largest object
/// that is stored (1.5 MiB) holds at most a third of it in any kind that is in use; in memory it
/// is some 100 MB.
const MAX_VALUES: usize = 1_000_000;

/// What an object or list takes in memory beside its content, in scalars.
const CONTAINER: usize = 8;

/// Most bytes of text that aliases may make of a document: as much as a body may have.
const MAX_COPIED_BYTES: usize = 3 << 20;

/// The document asks for more than one may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooMuch {
    #[error("exceeded max depth")]
    Depth,
    #[error("the document has too many values")]
    Values,
    #[error("the document contains excessive aliasing")]
    Aliases,
}

/// What is left of what a document may cost; each step takes from it, so that work and memory are
/// bounded before they are spent.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    values: usize,
    copied: usize,
}

impl Budget {
    pub fn new() -> Self {
        Self {
            values: MAX_VALUES,
            copied: MAX_COPIED_BYTES,
        }
    }

    fn take(&mut self, n: usize) -> Result<(), TooMuch> {
        self.values = self.values.checked_sub(n).ok_or(TooMuch::Values)?;
        Ok(())
    }

    pub fn scalar(&mut self) -> Result<(), TooMuch> {
        self.take(1)
    }

    pub fn container(&mut self) -> Result<(), TooMuch> {
        self.take(CONTAINER)
    }

    /// Takes what a copy of a value costs, and gives its depth; stops as soon as it is too much.
    pub fn copy(&mut self, value: &serde_json::Value) -> Result<usize, TooMuch> {
        use serde_json::Value;
        match value {
            Value::Array(items) => {
                self.container()?;
                self.deepest(items)
            }
            Value::Object(fields) => {
                self.container()?;
                for name in fields.keys() {
                    self.text(name)?;
                }
                self.deepest(fields.values())
            }
            Value::String(text) => {
                self.scalar()?;
                self.text(text)?;
                Ok(0)
            }
            _ => self.scalar().map(|()| 0),
        }
    }

    fn deepest<'v>(
        &mut self,
        values: impl IntoIterator<Item = &'v serde_json::Value>,
    ) -> Result<usize, TooMuch> {
        let mut deepest = 0;
        for v in values {
            deepest = deepest.max(self.copy(v)?);
        }
        Ok(deepest + 1)
    }

    fn text(&mut self, text: &str) -> Result<(), TooMuch> {
        let left = self.copied.checked_sub(text.len());
        self.copied = left.ok_or(TooMuch::Aliases)?;
        Ok(())
    }

    /// What has been taken so far, in values: what tests count instead of time.
    #[cfg(test)]
    pub fn spent(&self) -> usize {
        MAX_VALUES - self.values
    }
}

/// How deep a value is nested: 0 for a scalar.
pub(crate) fn depth(value: &serde_json::Value) -> usize {
    use serde_json::Value;
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}
