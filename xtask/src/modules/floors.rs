//! The floors of crates that are built in floors: each file knows only those of its own floor and
//! of the floors before it.

use super::graph::Arrows;

/// A floor: files, and folders with all below them.
type Floor = &'static [&'static str];

/// The API server. What each floor is for stands in ARCHITECTURE.md.
pub const APISERVER: &[Floor] = &[
    &[
        "http/",
        "object.rs",
        "settings.rs",
        "errors.rs",
        "dialer/",
        "resource_samples.rs",
        "configuration_file.rs",
        "cluster_ips.rs",
        "node_ports.rs",
        "unix_grpc.rs",
        "signing/",
    ],
    &["metrics.rs", "metrics/", "codec.rs"],
    &["cache/"],
    &["storage/"],
    &["configuration_objects.rs"],
    &["permissions.rs"],
    &["flow_control/"],
    &["state.rs"],
    &["egress/"],
    &["audit/"],
    &["filters/"],
    &["admission/"],
    &["call.rs", "hooks.rs"],
    &[
        "fence.rs",
        "allocations.rs",
        "render.rs",
        "scaled.rs",
        "table.rs",
    ],
    &["verbs/"],
    &["subresources/", "reviews.rs", "resource_metrics.rs"],
    &["loopback/"],
    &["aggregation/"],
    &["discovery/"],
    &["config.rs", "server.rs"],
    &["serve/"],
    &["lib.rs"],
];

/// What is wrong with the arrows of a crate that has these floors.
pub fn wrong(name: &str, floors: &[Floor], arrows: &Arrows) -> Vec<String> {
    let mut wrong = Vec::new();
    for (file, to) in arrows {
        let Some(own) = floor(floors, file) else {
            wrong.push(format!(
                "{name}: {file} is on no floor: give it one in xtask/src/modules/floors.rs"
            ));
            continue;
        };
        let above = to
            .iter()
            .filter(|to| floor(floors, to).is_some_and(|other| other > own));
        wrong
            .extend(above.map(|to| format!("{name}: {file} uses {to}, which is on a floor above")));
    }
    wrong
}

/// What is wrong with the table of the floors in a document: it has each of their files, in their
/// order. What lies above all others is the crate's own list of modules.
pub fn wrong_table(document: &str, text: &str, floors: &[Floor]) -> Vec<String> {
    let shown = shown(text);
    let all = floors.iter().copied().flatten().copied();
    let wanted: Vec<&str> = all.filter(|file| *file != "lib.rs").collect();
    let differ = (0..shown.len().max(wanted.len())).find(|n| shown.get(*n) != wanted.get(*n));
    let Some(nth) = differ else { return Vec::new() };
    let name = |all: &[&str]| all.get(nth).map_or("nothing more", |file| *file).to_owned();
    vec![format!(
        "{document}: the table of the floors has {} where xtask/src/modules/floors.rs has {}",
        name(&shown),
        name(&wanted)
    )]
}

/// The files that the first column of the table names.
fn shown(text: &str) -> Vec<&str> {
    let after = text.split("\n### The floors of the API server\n").nth(1);
    let section = after.and_then(|after| after.split("\n#").next());
    let rows = section.unwrap_or_default().lines();
    let cells = rows.filter_map(|row| row.strip_prefix("| ")?.split('|').next());
    cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .collect()
}

fn floor(floors: &[Floor], file: &str) -> Option<usize> {
    let is_in = |place: &&str| {
        let below = file.strip_prefix(*place);
        below.is_some_and(|rest| rest.is_empty() || place.ends_with('/'))
    };
    floors.iter().position(|floor| floor.iter().any(is_in))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_knows_nothing_above_it() {
        let floors: &[Floor] = &[&["a/", "b.rs"], &["c.rs"]];
        let arrows = |all: &[(&str, &str)]| -> Arrows {
            let all = all.iter();
            all.map(|(from, to)| ((*from).to_owned(), [(*to).to_owned()].into()))
                .collect()
        };
        let good = arrows(&[("a/x.rs", "b.rs"), ("b.rs", "a/x.rs"), ("c.rs", "b.rs")]);
        assert!(wrong("n", floors, &good).is_empty());
        assert_eq!(wrong("n", floors, &arrows(&[("b.rs", "c.rs")])).len(), 1);
        assert_eq!(wrong("n", floors, &arrows(&[("d.rs", "b.rs")])).len(), 1);
    }

    #[test]
    fn the_table_of_a_document_is_held_against_the_floors() {
        let floors: &[Floor] = &[&["a/", "b.rs"], &["c.rs"], &["lib.rs"]];
        let wrong = |rows: &str| {
            let text = format!(
                "# A\n\n### The floors of the API server\n`x`\n| floor | is |\n{rows}\n## B\n| `y` |\n"
            );
            wrong_table("A.md", &text, floors)
        };
        assert!(wrong("| `a/`, `b.rs` | of `z` |\n| `c.rs` | |").is_empty());
        for rows in [
            "| `a/`, `b.rs` | |",
            "| `a/`, `c.rs` | |",
            "| `a/`, `b.rs`, `c.rs`, `d.rs` | |",
            "",
        ] {
            assert_eq!(wrong(rows).len(), 1, "{rows}");
        }
    }
}
