//! A glance as text.

use super::{Finding, Glance, Level, Ready, Room};
use crate::style::{Style, Tone, harmless};
use crate::table::cut;
use crate::words;

/// Findings that are shown, unless all are wanted: a screen of them.
const MOST: usize = 15;

/// Its lines. `width` is the terminal's; without one nothing is cut.
pub fn render(glance: &Glance, all: bool, width: Option<usize>, style: Style) -> Vec<String> {
    let mut out = vec![headline(glance, style)];
    let most = if all { usize::MAX } else { MOST };
    for finding in glance.findings.iter().take(most) {
        out.extend(finding_lines(finding, width, style));
    }
    if let Some(more) = glance.findings.len().checked_sub(most).filter(|n| *n > 0) {
        out.push(style.paint(Tone::Quiet, &format!("  {more} more: --all shows them")));
    }
    out.push(String::new());
    out.extend(
        counts(glance)
            .into_iter()
            .map(|(name, text)| format!("{name:<11}{text}")),
    );
    for (kind, why) in &glance.unread {
        let text = format!("{kind} could not be read: {}", harmless(why));
        out.push(style.paint(Tone::Warn, &text));
    }
    out
}

fn headline(glance: &Glance, style: Style) -> String {
    let count = |level| glance.findings.iter().filter(|f| f.level == level).count();
    let (wrong, notice) = (count(Level::Wrong), count(Level::Notice));
    let is = |n| if n == 1 { "is" } else { "are" };
    match (wrong, notice) {
        // What was not read may hide something.
        (0, 0) if !glance.unread.is_empty() => {
            style.paint(Tone::Warn, "Nothing is wrong in what may be read.")
        }
        (0, 0) => style.paint(Tone::Good, "Nothing is wrong."),
        (0, n) => {
            let text = format!("{} should be looked at:", words::count(n, "thing"));
            style.paint(Tone::Warn, &text)
        }
        (n, 0) => {
            let text = format!("{} {} wrong:", words::count(n, "thing"), is(n));
            style.paint(Tone::Bad, &text)
        }
        (n, m) => {
            let text = format!(
                "{} {} wrong, {m} should be looked at:",
                words::count(n, "thing"),
                is(n)
            );
            style.paint(Tone::Bad, &text)
        }
    }
}

fn finding_lines(finding: &Finding, width: Option<usize>, style: Style) -> Vec<String> {
    let mut name = format!("{}/{}", finding.kind, finding.name);
    if !finding.namespace.is_empty() {
        name = format!("{name} in {}", finding.namespace);
    }
    if finding.count > 1 {
        name = format!("{name} and {} like it", finding.count - 1);
    }
    let reason = harmless(&finding.reason);
    let head = format!(
        "  {}  {}",
        style.paint(finding.level.tone(), &reason),
        harmless(&name)
    );
    let indented = |text: &str| {
        let text = format!("      {}", harmless(text));
        width.map_or(text.clone(), |w| cut(&text, w))
    };
    let mut out = vec![head];
    if !finding.message.is_empty() {
        out.push(indented(&finding.message));
    }
    if !finding.more.is_empty() {
        out.push(style.paint(Tone::Quiet, &indented(&finding.more)));
    }
    out
}

fn counts(glance: &Glance) -> Vec<(&'static str, String)> {
    let counts = &glance.counts;
    let of = |r: Ready, word: &str| format!("{} of {} {word}", r.ready, r.all);
    let pods = counts.pods.as_ref().map(|phases| {
        let all: Vec<String> = phases
            .iter()
            .map(|(phase, n)| format!("{n} {phase}"))
            .collect();
        if all.is_empty() {
            "none".to_owned()
        } else {
            all.join(", ")
        }
    });
    let server = format!("{} {}", glance.version, glance.server);
    [
        ("server", Some(server.trim().to_owned())),
        ("nodes", counts.nodes.map(|r| of(r, "ready"))),
        ("pods", pods),
        ("workloads", counts.workloads.map(|r| of(r, "available"))),
        (
            "claims",
            counts.claims.filter(|r| r.all > 0).map(|r| of(r, "bound")),
        ),
        ("cpu", glance.cpu_millis.map(|r| room(r, words::cores))),
        ("memory", glance.memory_bytes.map(|r| room(r, words::bytes))),
    ]
    .into_iter()
    .filter_map(|(name, text)| Some((name, text?)))
    .collect()
}

fn room(room: Room, word: fn(i64) -> String) -> String {
    let share = |part| match words::percent(part, room.allocatable) {
        Some(p) => format!(" ({p}%)"),
        None => String::new(),
    };
    let used = match room.used {
        Some(used) => format!("{}{} used, ", word(used), share(used)),
        None => String::new(),
    };
    let requested = room.requested;
    format!(
        "{used}{}{} requested of {}",
        word(requested),
        share(requested),
        word(room.allocatable)
    )
}
