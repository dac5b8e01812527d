//! Pages of figures beside `/metrics`, which a component of this process shows while it runs: what is
//! worked out when it is asked for, and too much to be on every page.

use std::sync::Arc;

use parking_lot::Mutex;

type Write = Arc<dyn Fn() -> String + Send + Sync>;

struct Page {
    path: &'static str,
    number: u64,
    write: Write,
}

/// Those that are shown, and the number of the next one.
static ALL: Mutex<(Vec<Page>, u64)> = Mutex::new((Vec::new(), 0));

/// A page is shown as long as this is kept.
#[must_use]
pub struct PageGuard(u64);

impl Drop for PageGuard {
    fn drop(&mut self) {
        ALL.lock().0.retain(|page| page.number != self.0);
    }
}

/// Shows a page under a path such as `/metrics/resources`; of several with one path the latest.
pub fn show(path: &'static str, write: impl Fn() -> String + Send + Sync + 'static) -> PageGuard {
    let mut all = ALL.lock();
    all.1 += 1;
    let number = all.1;
    all.0.push(Page {
        path,
        number,
        write: Arc::new(write),
    });
    PageGuard(number)
}

/// The lines of a page, to be given to [`crate::page_for`]; none where nobody shows it.
pub fn lines(path: &str) -> Option<String> {
    // Not written under the lock: it may be long.
    let write = {
        let all = ALL.lock();
        let page = all.0.iter().rev().find(|page| page.path == path)?;
        page.write.clone()
    };
    Some(write())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_there_as_long_as_somebody_shows_it() {
        let path = "/metrics/of-this-test";
        assert_eq!(lines(path), None);
        let first = show(path, || "a 1\n".to_owned());
        let second = show(path, || "a 2\n".to_owned());
        assert_eq!(lines(path).as_deref(), Some("a 2\n"));
        drop(second);
        assert_eq!(lines(path).as_deref(), Some("a 1\n"));
        drop(first);
        assert_eq!(lines(path), None);
    }
}
