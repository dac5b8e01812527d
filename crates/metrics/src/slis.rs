//! What checks of health answered, as upstream's components show it at `/metrics/slis`: of each check
//! its last answer, and how often it gave which. They are a page of their own, not a part of
//! `/metrics`, so that they can be read often and cheaply.

use std::collections::BTreeMap;
use std::fmt::Write;

use parking_lot::Mutex;

use crate::process;

/// Answers of one check.
#[derive(Clone, Copy, Debug, Default)]
struct CheckCounts {
    is_well: bool,
    well: u64,
    failed: u64,
}

/// Checks by their names and the pages on which they are asked. Both are words of this program, so
/// there is only a handful.
type Table = BTreeMap<(&'static str, &'static str), CheckCounts>;

static ALL: Mutex<Table> = Mutex::new(BTreeMap::new());

/// Enters an answer of a check, such as `etcd`, that was asked on a page, such as `readyz`.
pub fn observe(check: &'static str, page: &'static str, is_well: bool) {
    enter(&mut ALL.lock(), check, page, is_well);
}

/// The page's lines, to be given to [`crate::prometheus`] or [`crate::openmetrics`].
pub fn lines() -> String {
    let table = ALL.lock().clone();
    text(&table) + &process::start_line()
}

fn enter(table: &mut Table, check: &'static str, page: &'static str, is_well: bool) {
    let seen = table.entry((check, page)).or_default();
    seen.is_well = is_well;
    match is_well {
        true => seen.well += 1,
        false => seen.failed += 1,
    }
}

fn text(table: &Table) -> String {
    if table.is_empty() {
        return String::new();
    }
    let mut out = String::from(
        "# HELP kubernetes_healthcheck This metric records the result of a single healthcheck.\n\
         # TYPE kubernetes_healthcheck gauge\n",
    );
    // Writing to a string cannot fail.
    for ((check, page), seen) in table {
        let value = u8::from(seen.is_well);
        let _ = writeln!(
            out,
            "kubernetes_healthcheck{{name=\"{check}\",type=\"{page}\"}} {value}"
        );
    }
    out.push_str(
        "# HELP kubernetes_healthchecks_total This metric records the results of all healthcheck.\n\
         # TYPE kubernetes_healthchecks_total counter\n",
    );
    for ((check, page), seen) in table {
        for (status, count) in [("error", seen.failed), ("success", seen.well)] {
            if count > 0 {
                let _ = writeln!(
                    out,
                    "kubernetes_healthchecks_total{{name=\"{check}\",status=\"{status}\",type=\"{page}\"}} {count}"
                );
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_shown_under_upstreams_names() {
        let mut table = Table::new();
        for is_well in [true, true, false] {
            enter(&mut table, "etcd", "readyz", is_well);
        }
        enter(&mut table, "ping", "livez", true);
        let text = crate::prometheus(&text(&table));
        assert_eq!(
            text,
            "# HELP kubernetes_healthcheck This metric records the result of a single healthcheck.\n\
             # TYPE kubernetes_healthcheck gauge\n\
             kubernetes_healthcheck{name=\"etcd\",type=\"readyz\"} 0\n\
             kubernetes_healthcheck{name=\"ping\",type=\"livez\"} 1\n\
             # HELP kubernetes_healthchecks_total This metric records the results of all healthcheck.\n\
             # TYPE kubernetes_healthchecks_total counter\n\
             kubernetes_healthchecks_total{name=\"etcd\",status=\"error\",type=\"readyz\"} 1\n\
             kubernetes_healthchecks_total{name=\"etcd\",status=\"success\",type=\"readyz\"} 2\n\
             kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"livez\"} 1\n"
        );
    }
}
