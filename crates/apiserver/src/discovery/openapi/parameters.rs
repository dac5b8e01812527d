//! Parameters of OpenAPI's operations: what each means, in a sentence. In the second edition those
//! that are alike stand once in the document and are referred to, as upstream's.

use serde_json::{Map, Value, json};

use super::edition::Edition;

/// kubectl looks for these in the operations themselves.
const INLINE: [&str; 2] = ["dryRun", "fieldValidation"];

/// What parameters mean. Upstream's own scripts look for words of `labelSelector` and `watch`.
const MEANINGS: &[(&str, &str)] = &[
    (
        "allowWatchBookmarks",
        "Whether a watch may be sent events of type BOOKMARK: how far it has come, without a change.",
    ),
    (
        "command",
        "A word of the command line to run, the first its program; given once for each. No shell reads it.",
    ),
    (
        "container",
        "The container that is meant; may be left out where the pod has one.",
    ),
    (
        "continue",
        "Where a list goes on that was given in part: the token of the part before. Other parameters stay the same.",
    ),
    ("dryRun", "`All`: everything is done but the writing."),
    (
        "fieldManager",
        "The name of whoever makes the change, to whom the fields belong then; up to 128 printable characters.",
    ),
    (
        "fieldSelector",
        "Fields by which the list of returned objects is narrowed, such as `metadata.name=web`.",
    ),
    (
        "fieldValidation",
        "What becomes of fields that are unknown or given twice: `Strict` refuses them, `Warn` (the default) warns of them, `Ignore` drops them in silence.",
    ),
    ("follow", "Whether what is written later is sent, too."),
    (
        "force",
        "Whether an apply takes over fields of other managers, with which it would conflict.",
    ),
    (
        "gracePeriodSeconds",
        "How long an object may take to end, in seconds; 0 deletes it at once. Without it, the object's own time.",
    ),
    (
        "ignoreStoreReadErrorWithClusterBreakingPotential",
        "Whether an object is deleted even if what is stored of it cannot be read. Finalizers and preconditions are passed over then: use it with care.",
    ),
    (
        "insecureSkipTLSVerifyBackend",
        "Whether the log is read from the node without a look at its certificate.",
    ),
    (
        "labelSelector",
        "Labels by which the list of returned objects is narrowed, such as `app=web,tier!=cache`.",
    ),
    (
        "limit",
        "The most objects that an answer has. Where there are more, it says with which `continue` to go on.",
    ),
    ("limitBytes", "The most bytes of the log that are sent."),
    ("name", "The name of the object."),
    ("namespace", "The namespace of the objects."),
    (
        "orphanDependents",
        "Deprecated, use `propagationPolicy`: whether dependent objects stay.",
    ),
    (
        "path",
        "The path that is asked of the other side of the proxy.",
    ),
    ("ports", "A port of the pod; may be given several times."),
    (
        "pretty",
        "Whether the answer is laid out for people: `true` or `false`.",
    ),
    (
        "previous",
        "Whether the log is that of the container's last run before this one.",
    ),
    (
        "propagationPolicy",
        "What becomes of dependent objects: they stay (`Orphan`), go afterwards (`Background`) or beforehand (`Foreground`).",
    ),
    (
        "resourceVersion",
        "The version of the cluster's objects from which a watch begins, or that a list is at least as new as.",
    ),
    (
        "resourceVersionMatch",
        "How a list takes `resourceVersion`: `Exact`, or `NotOlderThan`.",
    ),
    (
        "sendInitialEvents",
        "Whether a watch begins with an event for each object that is there already, and a bookmark behind them.",
    ),
    (
        "shardSelector",
        "The part of all objects that is wanted, where several clients share them.",
    ),
    (
        "sinceSeconds",
        "How old lines of the log may be, in seconds.",
    ),
    ("stderr", "Whether the standard error is sent."),
    ("stdin", "Whether what is sent becomes the standard input."),
    ("stdout", "Whether the standard output is sent."),
    (
        "stream",
        "Which lines of the log are sent: `All`, `Stdout` or `Stderr`.",
    ),
    (
        "tailLines",
        "How many of the log's last lines are sent, before those that follow.",
    ),
    (
        "timeoutSeconds",
        "How long a list or watch may last, in seconds.",
    ),
    (
        "timestamps",
        "Whether each line of the log begins with its time.",
    ),
    ("tty", "Whether the program gets a terminal."),
    (
        "watch",
        "Watch for changes to the described resources instead of listing them: an event for each, until the connection ends.",
    ),
];

/// What a parameter means; none where only its own kind knows.
fn meaning(name: &str) -> Option<&'static str> {
    let found = MEANINGS.iter().find(|(of, _)| *of == name);
    found.map(|(_, meaning)| *meaning)
}

/// The parameters that a document's operations refer to.
#[derive(Default)]
pub struct Parameters(Map<String, Value>);

impl Parameters {
    /// A parameter as an operation or a path has it.
    pub fn of(&mut self, edition: Edition, place: &str, name: &str, ty: &str) -> Value {
        let parameter = written(edition, place, name, ty);
        if edition == Edition::V3 || INLINE.contains(&name) {
            return parameter;
        }
        json!({ "$ref": format!("#/parameters/{}", self.key(name, parameter)) })
    }

    /// All of them, for the document.
    pub fn into_map(self) -> Map<String, Value> {
        self.0
    }

    /// The key of a parameter: its name, with a number where that means something else already.
    fn key(&mut self, name: &str, parameter: Value) -> String {
        let (mut key, mut number) = (name.to_owned(), 1);
        while self.0.get(&key).is_some_and(|have| *have != parameter) {
            number += 1;
            key = format!("{name}-{number}");
        }
        self.0.insert(key.clone(), parameter);
        key
    }
}

fn written(edition: Edition, place: &str, name: &str, ty: &str) -> Value {
    let mut p = json!({ "name": name, "in": place });
    if let Some(meaning) = meaning(name) {
        p["description"] = meaning.into();
    }
    if place == "path" {
        p["required"] = true.into();
    }
    if edition == Edition::V2 {
        p["type"] = ty.into();
        p["uniqueItems"] = true.into();
    } else {
        p["schema"] = json!({ "type": ty, "uniqueItems": true });
    }
    p
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_alike_stands_once() {
        let mut all = Parameters::default();
        let mut of = |place: &str, name: &str, ty: &str| all.of(Edition::V2, place, name, ty);
        let watch = json!({ "$ref": "#/parameters/watch" });
        assert_eq!(of("query", "watch", "boolean"), watch);
        assert_eq!(of("query", "watch", "boolean"), watch);
        assert_eq!(of("path", "path", "string")["$ref"], "#/parameters/path");
        assert_eq!(of("query", "path", "string")["$ref"], "#/parameters/path-2");
        assert_eq!(of("path", "path", "string")["$ref"], "#/parameters/path");
        assert_eq!(of("query", "dryRun", "string")["name"], "dryRun");
        let all = all.into_map();
        let keys: Vec<&String> = all.keys().collect();
        assert_eq!(keys, ["path", "path-2", "watch"]);
        let words = all["watch"]["description"].as_str();
        assert!(words.is_some_and(|w| w.contains("changes to the described resources")));
        assert_eq!(all["path"]["required"], true);
        let third = Parameters::default().of(Edition::V3, "query", "watch", "boolean");
        assert_eq!(third["schema"]["type"], "boolean");
    }
}
