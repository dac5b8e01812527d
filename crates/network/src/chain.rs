//! Network plugins of others, with ours behind them: a pod that they connect starts when its network
//! policies are in place, as one that we connect does.
//!
//! Their folders stay theirs. The runtime gets folders of ours: one with their first configuration, to
//! which our plugin is added, and one with links to their plugins and to ours. Both follow theirs.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::files::replace;

/// How often their folders are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How names of configurations end, as runtimes look for them.
const ENDINGS: [&str; 3] = ["conf", "conflist", "json"];
/// Plugins speak of a result before theirs from this version of the specification on.
const FIRST_VERSION: (u32, u32) = (0, 3);

/// Where everything is.
#[derive(Debug, Clone)]
pub struct ChainConfig {
    /// Their configurations.
    pub their_conf_dir: PathBuf,
    /// Their plugins.
    pub their_plugins: PathBuf,
    /// The configurations that the runtime reads.
    pub conf_dir: PathBuf,
    /// The plugins that the runtime calls.
    pub plugins: PathBuf,
    /// Our plugins, by their names.
    pub own_plugins: PathBuf,
    /// The name of ours.
    pub plugin: String,
    /// Where it records whom it has let in.
    pub state_dir: PathBuf,
    /// Where it waits.
    pub policy_socket: PathBuf,
}

/// Why nothing can be added to a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChainError {
    /// It is not one; it may be half written.
    #[error("not a network configuration: {0}")]
    Unreadable(String),
    /// Its version knows no plugins behind one another.
    #[error("version {0:?} of the CNI specification knows no plugins behind one another")]
    Version(String),
}

impl ChainConfig {
    /// What is added to their plugins.
    fn element(&self) -> Value {
        json!({
            "type": self.plugin, "chained": true,
            "stateDir": self.state_dir.to_string_lossy(),
            "policySocket": self.policy_socket.to_string_lossy(),
        })
    }
}

/// Follows their folders until `shutdown` ends.
pub async fn run(config: ChainConfig, shutdown: impl Future<Output = ()>) {
    let mut shutdown = std::pin::pin!(shutdown);
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut said = String::new();
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => return,
            _ = look.tick() => {}
        }
        let problem = match sync(&config) {
            Ok(None) => String::new(),
            Ok(Some(problem)) => problem,
            Err(error) => format!("the folders of network plugins: {error}"),
        };
        if problem != said && !problem.is_empty() {
            tracing::warn!(
                problem,
                "pods that others' plugins connect may start before their network policies are in place"
            );
        }
        said = problem;
    }
}

/// Brings our folders to what theirs are; says what keeps pods from being protected from their start.
fn sync(config: &ChainConfig) -> io::Result<Option<String>> {
    for folder in [
        &config.their_conf_dir,
        &config.their_plugins,
        &config.conf_dir,
        &config.plugins,
    ] {
        fs::create_dir_all(folder)?;
    }
    link_plugins(config)?;
    let Some(theirs) = first(&config.their_conf_dir)? else {
        clear(&config.conf_dir, None)?;
        return Ok(None);
    };
    let text = fs::read_to_string(&theirs)?;
    let stem = theirs.file_stem().unwrap_or_default();
    let mut name = stem.to_owned();
    name.push(".conflist");
    let (ours, stem) = (config.conf_dir.join(name), stem.to_string_lossy());
    let (content, problem) = match chained(&text, &stem, &config.element()) {
        Ok(content) => (content, None),
        // What is there holds on: who writes it may not be ready.
        Err(error @ ChainError::Unreadable(_)) => {
            return Ok(Some(format!("{}: {error}", theirs.display())));
        }
        Err(error @ ChainError::Version(_)) => {
            let content = list_of(&text, &stem).map_err(io::Error::other)?;
            (content, Some(format!("{}: {error}", theirs.display())))
        }
    };
    let text = format!("{:#}\n", Value::Object(content));
    if !fs::read_to_string(&ours).is_ok_and(|old| old == text) {
        replace(&ours, &text)?;
    }
    clear(&config.conf_dir, Some(&ours))?;
    Ok(problem)
}

/// The configuration that a runtime takes: the first by its name.
fn first(folder: &Path) -> io::Result<Option<PathBuf>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let ending = path.extension().and_then(|e| e.to_str());
        if ending.is_some_and(|e| ENDINGS.contains(&e)) && path.is_file() {
            all.push(path);
        }
    }
    Ok(all.into_iter().min())
}

/// Removes all configurations but one.
fn clear(folder: &Path, kept: Option<&Path>) -> io::Result<()> {
    while let Some(other) = others(folder, kept)? {
        fs::remove_file(other)?;
    }
    Ok(())
}

fn others(folder: &Path, kept: Option<&Path>) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if Some(path.as_path()) != kept && path.is_file() {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Links to their plugins and ours; of two with one name ours is the one of our own plugin alone.
fn link_plugins(config: &ChainConfig) -> io::Result<()> {
    let mut wanted = BTreeMap::new();
    for (folder, only) in [
        (&config.own_plugins, None),
        (&config.their_plugins, None),
        (&config.own_plugins, Some(config.plugin.as_str())),
    ] {
        for entry in fs::read_dir(std::path::absolute(folder)?)? {
            let entry = entry?;
            let name = entry.file_name();
            if only.is_none_or(|only| name == only) {
                wanted.insert(name, entry.path());
            }
        }
    }
    for entry in fs::read_dir(&config.plugins)? {
        let entry = entry?;
        if !wanted.contains_key(&entry.file_name()) {
            fs::remove_file(entry.path())?;
        }
    }
    for (name, to) in wanted {
        let link = config.plugins.join(&name);
        if fs::read_link(&link).is_ok_and(|now| now == to) {
            continue;
        }
        // By another name first: there is no moment without it.
        let mut new = name.clone();
        new.push(".new");
        let new = config.plugins.join(new);
        let _ = fs::remove_file(&new);
        symlink(&to, &new)?;
        fs::rename(&new, &link)?;
    }
    Ok(())
}

/// A configuration as a list of plugins, whichever of both forms it has. A list has its file's name
/// where it has none.
fn list_of(text: &str, name: &str) -> Result<Map<String, Value>, ChainError> {
    let unreadable = |why: &str| ChainError::Unreadable(why.to_owned());
    let read: Map<String, Value> =
        serde_json::from_str(text).map_err(|e| ChainError::Unreadable(e.to_string()))?;
    if let Some(plugins) = read.get("plugins") {
        let plugins = plugins
            .as_array()
            .ok_or_else(|| unreadable("plugins is not a list"))?;
        if plugins.is_empty() {
            return Err(unreadable("it names no plugin"));
        }
        return Ok(read);
    }
    if !read.get("type").is_some_and(Value::is_string) {
        return Err(unreadable("it names no plugin"));
    }
    let mut list = Map::new();
    let named = read.get("name").cloned();
    list.insert("name".into(), named.unwrap_or_else(|| name.into()));
    if let Some(version) = read.get("cniVersion") {
        list.insert("cniVersion".into(), version.clone());
    }
    list.insert("plugins".into(), json!([read]));
    Ok(list)
}

/// Their configuration with a plugin more at its end.
fn chained(text: &str, name: &str, element: &Value) -> Result<Map<String, Value>, ChainError> {
    let mut list = list_of(text, name)?;
    let version = list.get("cniVersion").and_then(Value::as_str);
    let version = version.unwrap_or_default().to_owned();
    let numbers = version.split_once('.').and_then(|(major, rest)| {
        let minor = rest.split('.').next()?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    });
    if numbers.is_none_or(|numbers: (u32, u32)| numbers < FIRST_VERSION) {
        return Err(ChainError::Version(version));
    }
    if let Some(Value::Array(plugins)) = list.get_mut("plugins") {
        // Somebody may have added it by hand.
        plugins.retain(|plugin| plugin["type"] != element["type"]);
        plugins.push(element.clone());
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element() -> Value {
        json!({ "type": "ours", "chained": true })
    }

    #[test]
    fn ours_stands_behind_theirs() {
        let types = |text: Value| -> Result<Vec<String>, ChainError> {
            let list = chained(&text.to_string(), "file", &element())?;
            let plugins = list["plugins"].as_array().expect("a list");
            let of = |plugin: &Value| plugin["type"].as_str().expect("a type").to_owned();
            Ok(plugins.iter().map(of).collect())
        };
        let list = json!({ "cniVersion": "0.4.0", "name": "n", "plugins": [
            { "type": "ours" }, { "type": "bridge", "mtu": 1400 }, { "type": "portmap" } ] });
        assert_eq!(types(list).unwrap(), ["bridge", "portmap", "ours"]);
        let single = json!({ "cniVersion": "1.0.0", "type": "ptp", "mtu": 1400 });
        assert_eq!(types(single.clone()).unwrap(), ["ptp", "ours"]);
        let made = chained(&single.to_string(), "file", &element()).unwrap();
        assert_eq!(
            (&made["name"], &made["plugins"][0]),
            (&json!("file"), &single)
        );
        assert_eq!(made["cniVersion"], "1.0.0");
        for version in [json!("0.2.0"), json!(""), json!(null), json!("x")] {
            let old = json!({ "cniVersion": version, "name": "n", "type": "bridge" });
            assert!(
                matches!(types(old), Err(ChainError::Version(_))),
                "{version}"
            );
        }
        for bad in [
            json!({}),
            json!([]),
            json!({ "plugins": [] }),
            json!({ "plugins": 1 }),
        ] {
            let is_bad = matches!(types(bad.clone()), Err(ChainError::Unreadable(_)));
            assert!(is_bad, "{bad}");
        }
    }

    #[test]
    fn folders_follow_theirs() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let config = ChainConfig {
            their_conf_dir: at("net.d"),
            their_plugins: at("theirs"),
            conf_dir: at("conf"),
            plugins: at("plugins"),
            own_plugins: at("own"),
            plugin: "ours".into(),
            state_dir: at("state"),
            policy_socket: at("socket"),
        };
        for folder in ["net.d", "theirs", "own"] {
            fs::create_dir(at(folder)).unwrap();
        }
        for plugin in [
            "theirs/bridge",
            "theirs/loopback",
            "theirs/ours",
            "own/ours",
            "own/loopback",
        ] {
            fs::write(at(plugin), "").unwrap();
        }
        let names = |folder: &str| -> Vec<String> {
            let all = fs::read_dir(at(folder)).unwrap();
            let mut all: Vec<String> = all
                .map(|e| e.unwrap().file_name().into_string().unwrap())
                .collect();
            all.sort();
            all
        };
        assert_eq!(sync(&config).unwrap(), None);
        assert_eq!(names("conf"), Vec::<String>::new());
        assert_eq!(names("plugins"), ["bridge", "loopback", "ours"]);
        let to = |name: &str| fs::read_link(at("plugins").join(name)).unwrap();
        assert_eq!(
            (to("ours"), to("loopback")),
            (at("own/ours"), at("theirs/loopback"))
        );
        // The first one counts, in whichever form.
        let single = json!({ "cniVersion": "0.4.0", "name": "n", "type": "bridge" });
        fs::write(at("net.d/20-b.conflist"), "later").unwrap();
        fs::write(at("net.d/10-a.conf"), single.to_string()).unwrap();
        fs::write(at("net.d/05-note.txt"), "").unwrap();
        assert_eq!(sync(&config).unwrap(), None);
        assert_eq!(names("conf"), ["10-a.conflist"]);
        let read = || fs::read_to_string(at("conf/10-a.conflist")).unwrap();
        let first = read();
        assert!(
            first.contains("policySocket") && first.contains("bridge"),
            "{first}"
        );
        // Half of it changes nothing, and is named.
        fs::write(at("net.d/10-a.conf"), "{").unwrap();
        let problem = sync(&config).unwrap().expect("a problem");
        assert!(problem.contains("10-a.conf"), "{problem}");
        assert_eq!(read(), first);
        // One that nothing can be added to is as it was, and that is named, too.
        let old = json!({ "cniVersion": "0.2.0", "name": "n", "type": "bridge" });
        fs::write(at("net.d/10-a.conf"), old.to_string()).unwrap();
        let problem = sync(&config).unwrap().expect("a problem");
        assert!(problem.contains("0.2.0"), "{problem}");
        assert!(!read().contains("policySocket"));
        // Without theirs there is none; a plugin of theirs goes with it.
        for file in ["net.d/10-a.conf", "net.d/20-b.conflist", "theirs/bridge"] {
            fs::remove_file(at(file)).unwrap();
        }
        assert_eq!(sync(&config).unwrap(), None);
        assert_eq!(names("conf"), Vec::<String>::new());
        assert_eq!(names("plugins"), ["loopback", "ours"]);
    }
}
