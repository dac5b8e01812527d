//! Objects on their way through the store. The verb that writes an object knows already what the
//! cache would read from its bytes; a store that keeps the very bytes shows them to the cache
//! within a moment. A store that gives other bytes (another encoding, another server's write)
//! is read as ever.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use registry::Row;

use super::object::Object;

/// Objects at most: those of a group of transactions that are written together. 64, so that the
/// search is short.
const MOST: usize = 64;
/// The largest object that is handed over: 64 KiB, so that those that are never taken keep 4 MiB at
/// most, until the next tidying. Larger ones are rare, and are parsed.
const LARGEST: usize = 64 << 10;

/// See the module.
#[derive(Default)]
pub(super) struct Handed(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    objects: VecDeque<(Arc<Row>, Object)>,
    /// How many of them were there already at the last tidying.
    old: usize,
}

impl Handed {
    pub fn put(&self, row: &Arc<Row>, object: Object) {
        if object.stored().len() > LARGEST {
            return;
        }
        let mut waiting = self.0.lock();
        if waiting.objects.len() == MOST {
            waiting.drop_first(1);
        }
        waiting.objects.push_back((row.clone(), object));
    }

    /// The object that was handed over with these very bytes, read as this row says.
    pub fn take(&self, row: &Arc<Row>, key: &str, value: &Bytes) -> Option<Object> {
        let mut waiting = self.0.lock();
        let is_it = |(r, o): &(Arc<Row>, Object)| {
            // What is held here is not freed, so no other value can be at this place.
            std::ptr::eq(o.stored().as_ptr(), value.as_ptr())
                && o.stored().len() == value.len()
                && *o.key == *key
                && Arc::ptr_eq(r, row)
        };
        let at = waiting.objects.iter().position(is_it)?;
        waiting.old = waiting.old.saturating_sub(usize::from(at < waiting.old));
        waiting.objects.remove(at).map(|(_, object)| object)
    }

    /// Drops those that nobody took since the last call.
    pub fn tidy(&self) {
        let mut waiting = self.0.lock();
        let old = waiting.old;
        waiting.drop_first(old);
        waiting.old = waiting.objects.len();
    }
}

impl Waiting {
    fn drop_first(&mut self, count: usize) {
        self.objects.drain(..count.min(self.objects.len()));
        self.old = self.old.saturating_sub(count);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::object::encode;
    use super::*;

    fn made(row: &Row, name: &str) -> (Bytes, Object) {
        let value =
            json!({ "kind": "ConfigMap", "apiVersion": "v1", "metadata": { "name": name } });
        let bytes = encode(&value);
        let object = Object::written(row, name, &value, bytes.clone(), 0).expect("object");
        (bytes, object)
    }

    #[test]
    fn only_the_very_bytes_are_known_again_and_what_is_not_taken_is_dropped() {
        let kinds = registry::kinds();
        let row = kinds.resource("", "configmaps").expect("row");
        let handed = Handed::default();
        let (bytes, object) = made(row, "a");
        handed.put(row, object);
        let copy = Bytes::copy_from_slice(&bytes);
        assert!(handed.take(row, "a", &copy).is_none(), "another place");
        assert!(handed.take(row, "b", &bytes).is_none(), "another key");
        let other = Arc::new((**row).clone());
        assert!(handed.take(&other, "a", &bytes).is_none(), "another row");
        assert!(handed.take(row, "a", &bytes).is_some());
        assert!(handed.take(row, "a", &bytes).is_none(), "once");

        let all: Vec<_> = (0..MOST + 3).map(|n| made(row, &n.to_string())).collect();
        let kept: Vec<Bytes> = all.iter().map(|(bytes, _)| bytes.clone()).collect();
        all.into_iter()
            .for_each(|(_, object)| handed.put(row, object));
        assert!(
            handed.take(row, "2", &kept[2]).is_none(),
            "the oldest are pushed out"
        );
        assert!(handed.take(row, "3", &kept[3]).is_some());
        handed.tidy();
        assert!(handed.take(row, "4", &kept[4]).is_some(), "not yet");
        let (late, object) = made(row, "late");
        handed.put(row, object);
        handed.tidy();
        assert!(handed.take(row, "5", &kept[5]).is_none());
        assert!(handed.take(row, "late", &late).is_some());
    }
}
