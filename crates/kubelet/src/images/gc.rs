//! Which images go when the disk fills up.

use clock::Instant;
use host::runtime::Image;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// What is to be removed.
#[derive(Clone, Copy, Debug)]
pub struct RemovalRequest {
    /// Images that came later stay.
    pub min_age: Duration,
    /// Images that nobody used for longer go; none: they stay.
    pub max_age: Option<Duration>,
    /// So many bytes are to be freed.
    pub bytes: u64,
}

/// When images were seen first and used last.
#[derive(Debug, Default)]
pub struct Ages {
    seen: HashMap<String, (Instant, Instant)>,
}

impl Ages {
    /// Notes what is here and what is used now.
    pub fn note(&mut self, images: &[Image], used: &HashSet<String>, now: Instant) {
        self.seen.retain(|id, _| images.iter().any(|i| &i.id == id));
        for image in images {
            let entry = self.seen.entry(image.id.clone()).or_insert((now, now));
            if is_used(image, used) {
                entry.1 = now;
            }
        }
    }

    /// Ids to remove, and whether nobody used the image for too long; after those as much as must be
    /// freed, least recently used first.
    #[must_use]
    pub fn victims(
        &self,
        images: &[Image],
        used: &HashSet<String>,
        keep: &str,
        ask: RemovalRequest,
        now: Instant,
    ) -> Vec<(String, bool)> {
        let mut candidates: Vec<(&Image, Instant)> = images
            .iter()
            .filter(|i| !is_used(i, used) && !i.pinned && !i.tags.iter().any(|t| t == keep))
            .filter_map(|i| self.seen.get(&i.id).map(|(first, last)| (i, *first, *last)))
            .filter(|(_, first, _)| now.duration_since(*first) >= ask.min_age)
            .map(|(i, _, last)| (i, last))
            .collect();
        candidates.sort_by_key(|(_, last)| *last);
        let mut freed = 0;
        let mut out = Vec::new();
        for (image, last) in candidates {
            let old = ask
                .max_age
                .is_some_and(|most| now.duration_since(last) > most);
            if freed >= ask.bytes && !old {
                break;
            }
            freed += image.bytes;
            out.push((image.id.clone(), old));
        }
        out
    }
}

fn is_used(image: &Image, used: &HashSet<String>) -> bool {
    used.contains(&image.id)
        || image
            .tags
            .iter()
            .chain(&image.digests)
            .any(|n| used.contains(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn used_young_and_kept_images_stay() {
        let image = |id: &str, tag: &str| Image {
            id: id.into(),
            tags: vec![tag.into()],
            bytes: 10,
            ..Default::default()
        };
        let images = [image("1", "a"), image("2", "b"), image("3", "pause")];
        let used = HashSet::from(["a".to_owned()]);
        let mut ages = Ages::default();
        let start = Instant::now();
        ages.note(&images, &used, start);
        let later = start + Duration::from_secs(200);
        let ask = |bytes, max_age: Option<u64>| RemovalRequest {
            min_age: Duration::from_secs(120),
            max_age: max_age.map(Duration::from_secs),
            bytes,
        };
        let victims = |ask, now| ages.victims(&images, &used, "pause", ask, now);
        let two = |was_old| [("2".to_owned(), was_old)];
        assert_eq!(victims(ask(5, None), later), two(false));
        assert!(victims(ask(5, None), start).is_empty());
        assert!(victims(ask(0, None), later).is_empty());
        assert!(victims(ask(0, Some(200)), later).is_empty());
        assert_eq!(victims(ask(0, Some(199)), later), two(true));
    }
}
