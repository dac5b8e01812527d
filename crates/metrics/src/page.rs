//! A page of figures, in one of two forms: Prometheus' text, which is what upstream's components
//! answer with, and OpenMetrics for those who ask for nothing else. They differ in the names of
//! counters' families and in the end's mark. What comes in may mix both.

use std::borrow::Cow;
use std::fmt::Write;

/// Content types.
pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upstream's counters whose names do not end as counters' should.
const WITHOUT_TOTAL: &[&str] = &[
    "authentication_attempts",
    "authenticated_user_requests",
    "kubelet_evictions",
    "kubelet_preemptions",
    "kubelet_pod_resources_endpoint_requests_list",
    "kubelet_pod_resources_endpoint_requests_get_allocatable",
    "kubelet_pod_resources_endpoint_requests_get",
    "kubelet_pod_resources_endpoint_errors_list",
    "kubelet_pod_resources_endpoint_errors_get_allocatable",
    "kubelet_pod_resources_endpoint_errors_get",
    "apiserver_admission_webhook_rejection_count",
    "apiserver_admission_webhook_fail_open_count",
    "endpoint_slice_controller_changes",
    "endpoint_slice_controller_syncs",
    "endpoint_slice_mirroring_controller_changes",
    "kubelet_certificate_manager_client_expiration_renew_errors",
    "kubelet_server_expiration_renew_errors",
];

/// The form that a request's `Accept` header asks for: its content type.
pub fn kind_for(accept: Option<&str>) -> &'static str {
    match accept {
        Some(a) if a.contains("application/openmetrics-text") && !a.contains("text/plain") => {
            OPENMETRICS
        }
        _ => TEXT,
    }
}

/// The page in the form that a request's `Accept` header asks for: its content type and text.
pub fn page_for(accept: Option<&str>, lines: &str) -> (&'static str, String) {
    match kind_for(accept) {
        OPENMETRICS => (OPENMETRICS, openmetrics(lines)),
        kind => (kind, prometheus(lines)),
    }
}

/// As Prometheus' text.
pub fn prometheus(lines: &str) -> String {
    rewrite(lines, false)
}

/// As OpenMetrics.
pub fn openmetrics(lines: &str) -> String {
    rewrite(lines, true) + "# EOF\n"
}

fn base(name: &str) -> &str {
    name.strip_suffix("_total").unwrap_or(name)
}

fn rewrite(lines: &str, open: bool) -> String {
    let mut out = String::with_capacity(lines.len() + lines.len() / 16);
    let mut help = None;
    // The counter whose name has no ending, while its samples are read.
    let mut bare = None;
    for line in lines.lines() {
        if let Some(said) = line.strip_prefix("# HELP ") {
            help = said.split_once(' ');
            continue;
        }
        let Some(said) = line.strip_prefix("# TYPE ") else {
            if line.starts_with("# EOF") || line.starts_with("# UNIT") {
                continue;
            }
            let line = match bare {
                Some(name) => Cow::from(without_total(line, name)),
                None => Cow::from(line),
            };
            // Prometheus' text has no exemplars.
            let line = match line.rfind(" # {").filter(|_| !open) {
                Some(at) => Cow::from(line.get(..at).unwrap_or_default().to_owned()),
                None => line,
            };
            // A figure that has no labels is written as upstream writes it.
            let line = match line.split_once("{} ") {
                Some((name, value)) if !name.contains('"') => Cow::from(format!("{name} {value}")),
                _ => line,
            };
            match whole_bound(&line).filter(|_| !open) {
                Some((before, after)) => out.extend([before, after]),
                None => out.push_str(&line),
            }
            out.push('\n');
            continue;
        };
        let (name, kind) = said.split_once(' ').unwrap_or((said, "untyped"));
        bare = WITHOUT_TOTAL
            .iter()
            .copied()
            .find(|n| kind == "counter" && *n == base(name));
        let full;
        let (name, kind) = match (kind, open) {
            ("counter", true) if bare.is_some() => (base(name), "unknown"),
            ("counter", true) => (base(name), kind),
            ("counter", false) if bare.is_none() => {
                full = format!("{}_total", base(name));
                (full.as_str(), kind)
            }
            ("unknown", false) => (name, "untyped"),
            ("untyped", true) => (name, "unknown"),
            _ => (if bare.is_some() { base(name) } else { name }, kind),
        };
        // Writing to a string cannot fail.
        if let Some((_, text)) = help.take() {
            let _ = writeln!(out, "# HELP {name} {text}");
        }
        let _ = writeln!(out, "# TYPE {name} {kind}");
    }
    out
}

/// A bucket's sample before and behind the `.0` of a bound that is a whole number: Prometheus' text
/// has none there, as upstream's components write it.
fn whole_bound(line: &str) -> Option<(&str, &str)> {
    let at = line.find("le=\"")?;
    let (_, bound) = line.split_at_checked(at + 4)?;
    let end = at + 4 + bound.find('"')?;
    let (before, after) = line.split_at_checked(end)?;
    Some((before.strip_suffix(".0")?, after))
}

/// A counter's sample under its family's name.
fn without_total(line: &str, name: &str) -> String {
    let rest = line
        .strip_prefix(name)
        .and_then(|rest| rest.strip_prefix("_total"));
    rest.map_or_else(|| line.to_owned(), |rest| format!("{name}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIXED: &str = "\
# HELP a Ones.\n# TYPE a counter\na_total{x=\"1\"} 2\n\
# HELP b_total Twos\n# TYPE b_total counter\nb_total 3\n\
# HELP kubelet_evictions E\n# TYPE kubelet_evictions counter\nkubelet_evictions_total{s=\"m\"} 1\n\
# HELP g G\n# TYPE g gauge\ng 1\n\
# HELP h H\n# TYPE h histogram\nh_bucket{a=\"b\",le=\"10.0\"} 1\nh_bucket{le=\"0.5\",a=\"b\"} 1\n\
# TYPE n gauge\nn{} 2\n# EOF\n";

    #[test]
    fn prometheus_text_names_counters_as_their_samples() {
        assert_eq!(
            prometheus(MIXED),
            "# HELP a_total Ones.\n# TYPE a_total counter\na_total{x=\"1\"} 2\n\
             # HELP b_total Twos\n# TYPE b_total counter\nb_total 3\n\
             # HELP kubelet_evictions E\n# TYPE kubelet_evictions counter\n\
             kubelet_evictions{s=\"m\"} 1\n# HELP g G\n# TYPE g gauge\ng 1\n\
             # HELP h H\n# TYPE h histogram\nh_bucket{a=\"b\",le=\"10\"} 1\nh_bucket{le=\"0.5\",a=\"b\"} 1\n\
             # TYPE n gauge\nn 2\n"
        );
    }

    #[test]
    fn openmetrics_names_families_without_the_ending() {
        assert_eq!(
            openmetrics(MIXED),
            "# HELP a Ones.\n# TYPE a counter\na_total{x=\"1\"} 2\n\
             # HELP b Twos\n# TYPE b counter\nb_total 3\n\
             # HELP kubelet_evictions E\n# TYPE kubelet_evictions unknown\n\
             kubelet_evictions{s=\"m\"} 1\n# HELP g G\n# TYPE g gauge\ng 1\n\
             # HELP h H\n# TYPE h histogram\nh_bucket{a=\"b\",le=\"10.0\"} 1\nh_bucket{le=\"0.5\",a=\"b\"} 1\n\
             # TYPE n gauge\nn 2\n# EOF\n"
        );
    }

    #[test]
    fn exemplars_are_openmetrics_own() {
        let lines =
            "# TYPE h histogram\nh_bucket{le=\"1.0\"} 1 # {trace_id=\"ab\"} 0.5\nh_count 1\n";
        assert!(openmetrics(lines).contains("h_bucket{le=\"1.0\"} 1 # {trace_id=\"ab\"} 0.5\n"));
        assert!(prometheus(lines).contains("h_bucket{le=\"1\"} 1\nh_count 1\n"));
    }

    #[test]
    fn who_asks_for_openmetrics_alone_gets_it() {
        let scraper = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2";
        for (accept, want) in [
            (None, TEXT),
            (Some("*/*"), TEXT),
            (Some(scraper), TEXT),
            (
                Some("application/openmetrics-text; version=1.0.0"),
                OPENMETRICS,
            ),
        ] {
            assert_eq!(kind_for(accept), want, "{accept:?}");
        }
    }
}
