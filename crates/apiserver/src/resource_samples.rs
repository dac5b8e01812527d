//! What kubelets say that their pods and they themselves have used, at a moment. CPU is a counter,
//! so it takes two samples to know what is used now; each node's last two are kept while somebody
//! asks. Read from `/metrics/resource`, which every kubelet has.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;

/// Samples closer together than this say little of the CPU.
pub const APART_SECONDS: i64 = 5;
/// An older sample would make an average of long ago: metrics-server looks every 15 s, and gives up
/// what is older than four of them.
const FRESH_SECONDS: i64 = 60;
/// For how long a node that did not answer in time is not asked again; metrics-server looks as often.
const SILENT_SECONDS: i64 = 15;
/// The most nodes of which samples are kept; a sample of a full node takes some 30 KB.
const MOST_NODES: usize = 10_000;

/// Use of one thing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Use {
    /// When it was measured, in milliseconds since the epoch.
    pub at_millis: i64,
    /// Since its start.
    pub cpu_seconds: f64,
    pub memory_bytes: f64,
}

/// Use between two moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// When the measuring ended, in milliseconds since the epoch.
    pub at_millis: i64,
    pub window_millis: i64,
    /// In thousand-millionths of a CPU.
    pub nano_cores: i64,
    pub memory_bytes: i64,
}

/// Namespace and name.
type PodKey = (String, String);

/// All that a kubelet says at a moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    pub node: Use,
    /// By container.
    pub pods: HashMap<PodKey, BTreeMap<String, Use>>,
}

impl Sample {
    fn container(&self, pod: &PodKey, name: &str) -> Option<Use> {
        self.pods.get(pod)?.get(name).copied()
    }
}

/// A node's last two samples.
#[derive(Clone, Debug)]
pub struct Pair {
    pub before: Arc<Sample>,
    pub now: Arc<Sample>,
    /// When the later one was taken, by this server's clock, in seconds since the epoch.
    pub taken: i64,
}

/// What there is to do before a node's use is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The pair is of now.
    Nothing,
    /// One more sample.
    One,
    /// There is no earlier one that is of use.
    Two,
}

impl Pair {
    /// `now` in seconds since the epoch.
    pub fn next(pair: Option<&Self>, now: i64) -> Next {
        // A clock that was set back says nothing.
        match pair.map(|p| now - p.taken) {
            Some(age) if (0..APART_SECONDS).contains(&age) => Next::Nothing,
            Some(age) if (APART_SECONDS..=FRESH_SECONDS).contains(&age) => Next::One,
            _ => Next::Two,
        }
    }

    /// The pair when one more sample was taken. Kubelets may measure less often than they are asked, each
    /// thing at a time of its own, as upstream's every 10 s and more: of what was not measured again
    /// meanwhile the two measurements stay that are known, as long as they say something of now.
    pub fn followed(&self, now: Sample, taken: i64) -> Self {
        let is_fresh = |measured: &Use| taken - measured.at_millis / 1_000 <= FRESH_SECONDS;
        let mut before = self.now.clone();
        if before.node.at_millis == now.node.at_millis && is_fresh(&now.node) {
            Arc::make_mut(&mut before).node = self.before.node;
        }
        for (key, containers) in &now.pods {
            for (name, measured) in containers {
                let last = self.now.container(key, name);
                let is_same = last.is_some_and(|last| last.at_millis == measured.at_millis);
                if is_same
                    && is_fresh(measured)
                    && let Some(earlier) = self.before.container(key, name)
                    && let Some(pod) = Arc::make_mut(&mut before).pods.get_mut(key)
                {
                    pod.insert(name.clone(), earlier);
                }
            }
        }
        let now = Arc::new(now);
        Self { before, now, taken }
    }

    /// What the node itself uses.
    pub fn node(&self) -> Option<Used> {
        used(&self.before.node, &self.now.node)
    }

    /// What the containers of a pod use; none unless all of it is known, as a part would look like
    /// less.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<Vec<(String, Used)>> {
        let key = (namespace.to_owned(), name.to_owned());
        let (before, now) = (self.before.pods.get(&key)?, self.now.pods.get(&key)?);
        let one =
            |(name, now): (&String, &Use)| Some((name.clone(), used(before.get(name)?, now)?));
        let all: Option<Vec<_>> = now.iter().map(one).collect();
        all.filter(|all| !all.is_empty())
    }
}

/// None when nothing was measured between the two, or the counter began again.
fn used(before: &Use, now: &Use) -> Option<Used> {
    let window_millis = now.at_millis.checked_sub(before.at_millis)?;
    let cpu = now.cpu_seconds - before.cpu_seconds;
    if window_millis <= 0 || cpu < 0.0 || now.memory_bytes <= 0.0 {
        return None;
    }
    Some(Used {
        at_millis: now.at_millis,
        window_millis,
        // Casts from float saturate.
        nano_cores: (cpu * 1e12 / window_millis as f64).round() as i64,
        memory_bytes: now.memory_bytes as i64,
    })
}

/// Reads the text of `/metrics/resource`; lines of other series, or that cannot be read, are left
/// out. None if the kubelet says that it could not read its own figures.
pub fn read(text: &str) -> Option<Sample> {
    let mut sample = Sample::default();
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        if let Some(series) = Series::read(line) {
            if series.name == "resource_scrape_error" && series.value != 0.0 {
                return None;
            }
            note(&mut sample, &series);
        }
    }
    Some(sample)
}

fn note(sample: &mut Sample, series: &Series<'_>) {
    let field = |of: &mut Use| {
        let at = series.at_millis.unwrap_or(of.at_millis);
        of.at_millis = of.at_millis.max(at);
        match series.name.ends_with("_seconds_total") {
            true => of.cpu_seconds = series.value,
            false => of.memory_bytes = series.value,
        }
    };
    match series.name {
        "node_cpu_usage_seconds_total" | "node_memory_working_set_bytes" => field(&mut sample.node),
        "container_cpu_usage_seconds_total" | "container_memory_working_set_bytes" => {
            let [container, namespace, pod] =
                ["container", "namespace", "pod"].map(|l| series.labels.get(l).copied());
            if let (Some(container), Some(namespace), Some(pod)) = (container, namespace, pod) {
                let key = (namespace.to_owned(), pod.to_owned());
                let of = sample.pods.entry(key).or_default();
                field(of.entry(container.to_owned()).or_default());
            }
        }
        _ => {}
    }
}

/// One line.
struct Series<'t> {
    name: &'t str,
    labels: BTreeMap<&'t str, &'t str>,
    value: f64,
    at_millis: Option<i64>,
}

impl<'t> Series<'t> {
    fn read(line: &'t str) -> Option<Self> {
        let (head, tail) = match line.split_once('{') {
            Some((name, rest)) => {
                // Names of the API have neither quotes nor braces, so no value is escaped.
                let (labels, tail) = rest.split_once('}')?;
                ((name, labels), tail)
            }
            None => {
                let (name, tail) = line.split_once(' ')?;
                ((name, ""), tail)
            }
        };
        let pair = |pair: &'t str| {
            let (name, value) = pair.split_once('=')?;
            Some((
                name.trim(),
                value.trim().strip_prefix('"')?.strip_suffix('"')?,
            ))
        };
        let mut words = tail.split_ascii_whitespace();
        Some(Self {
            name: head.0.trim(),
            labels: head.1.split(',').filter_map(pair).collect(),
            value: words.next()?.parse().ok().filter(|v: &f64| v.is_finite())?,
            at_millis: words.next().and_then(|at| at.parse().ok()),
        })
    }
}

/// The last two samples of each node.
#[derive(Default)]
pub struct Samples(Mutex<HashMap<String, Slot>>);

/// Held by who asks the node, so that it is asked once for all who want to know.
pub type Slot = Arc<tokio::sync::Mutex<NodeSamples>>;

/// What is known of a node.
#[derive(Debug, Default)]
pub struct NodeSamples {
    pub pair: Option<Pair>,
    /// When it was last waited for in vain, in seconds since the epoch.
    pub in_vain: Option<i64>,
}

impl NodeSamples {
    /// Whether it is not worth waiting for the node: it was, lately, and in vain. `now` in seconds
    /// since the epoch.
    pub fn is_silent(&self, now: i64) -> bool {
        let age = self.in_vain.map(|at| now - at);
        age.is_some_and(|age| (0..SILENT_SECONDS).contains(&age))
    }
}

impl Samples {
    pub fn of(&self, node: &str) -> Slot {
        let mut all = self.0.lock();
        if all.len() >= MOST_NODES && !all.contains_key(node) {
            all.clear();
        }
        all.entry(node.to_owned()).or_default().clone()
    }

    /// Forgets nodes of which nobody has asked for long.
    pub fn forget_old(&self, now: i64) {
        self.0.lock().retain(|_, slot| {
            slot.try_lock().map_or(true, |known| {
                known.is_silent(now) || Pair::next(known.pair.as_ref(), now) != Next::Two
            })
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(seconds: &str, at: i64) -> String {
        format!(
            "# HELP x y\n# TYPE x counter\n\
             container_cpu_usage_seconds_total{{container=\"c\",namespace=\"a\",pod=\"p\"}} {seconds} {at}\n\
             container_memory_working_set_bytes{{container=\"c\",namespace=\"a\",pod=\"p\"}} 1.048576e+06 {at}\n\
             container_start_time_seconds{{container=\"c\",namespace=\"a\",pod=\"p\"}} 1.7e+09\n\
             node_cpu_usage_seconds_total {seconds} {at}\nnode_memory_working_set_bytes 4096 {at}\n\
             pod_cpu_usage_seconds_total{{namespace=\"a\",pod=\"p\"}} 9 {at}\n\
             broken{{ 7\nnode_cpu_usage_seconds_total nonsense\n"
        )
    }

    fn pair(first: &str, second: &str) -> Pair {
        Pair {
            before: Arc::new(read(&text(first, 1_000)).unwrap()),
            now: Arc::new(read(&text(second, 3_000)).unwrap()),
            taken: 1_000,
        }
    }

    #[test]
    fn use_is_what_was_added_between_two_samples() {
        let pair = pair("10.5", "11.5");
        let used = Used {
            at_millis: 3_000,
            window_millis: 2_000,
            nano_cores: 500_000_000,
            memory_bytes: 1 << 20,
        };
        assert_eq!(pair.pod("a", "p"), Some(vec![("c".to_owned(), used)]));
        assert_eq!(
            pair.node().map(|n| (n.nano_cores, n.memory_bytes)),
            Some((500_000_000, 4096))
        );
        assert_eq!(pair.pod("a", "other"), None);
    }

    #[test]
    fn a_kubelet_that_could_not_read_says_nothing() {
        let text = text("1", 1);
        assert!(read(&format!("{text}resource_scrape_error 0\n")).is_some());
        assert_eq!(read("resource_scrape_error 1\n"), None);
    }

    #[test]
    fn a_node_that_was_waited_for_in_vain_is_left_alone_for_a_while() {
        let samples = Samples::default();
        let slot = samples.of("n");
        assert!(!slot.try_lock().unwrap().is_silent(100));
        slot.try_lock().unwrap().in_vain = Some(100);
        let is_silent = |now| samples.of("n").try_lock().unwrap().is_silent(now);
        samples.forget_old(114);
        assert!(is_silent(100) && is_silent(114) && !is_silent(115) && !is_silent(99));
        samples.forget_old(115);
        assert!(!is_silent(100), "it is forgotten");
    }

    #[test]
    fn a_container_that_began_again_is_not_known_yet() {
        assert_eq!(pair("10.5", "0.5").pod("a", "p"), None);
        let mut half = pair("1", "2");
        let mut now = (*half.now).clone();
        let pod = now.pods.get_mut(&("a".to_owned(), "p".to_owned())).unwrap();
        pod.insert("new".into(), Use::default());
        half.now = Arc::new(now);
        assert_eq!(half.pod("a", "p"), None);
    }

    #[test]
    fn what_is_measured_less_often_than_asked_for_stays_known() {
        let sample = |seconds, at| read(&text(seconds, at)).expect("sample");
        let first = pair("10.5", "11.5");
        // The container was measured meanwhile, the node was not.
        let mut now = sample("12.5", 5_000);
        now.node = first.now.node;
        let second = first.followed(now, 6);
        assert_eq!(second.node(), first.node());
        let container = |pair: &Pair| {
            let all = pair.pod("a", "p")?;
            all.first().map(|(_, used)| used.at_millis)
        };
        assert_eq!(container(&second), Some(5_000));
        // The other way round; the node's use is that since it was measured last.
        let mut now = sample("13.5", 8_000);
        now.pods = second.now.pods.clone();
        let third = second.followed(now, 9);
        assert_eq!(third.pod("a", "p"), second.pod("a", "p"));
        let node = third.node().map(|n| (n.at_millis, n.window_millis));
        assert_eq!(node, Some((8_000, 5_000)));
        // What is not measured at all any more is not known for ever.
        let same = Sample {
            node: third.now.node,
            ..Sample::default()
        };
        let at = |taken| third.followed(same.clone(), taken).node();
        assert_eq!((at(68), at(69)), (third.node(), None));
        // Of a container that is new, one measurement says nothing, however often it is read.
        let alone = |at| Pair {
            before: Arc::new(Sample::default()),
            now: Arc::new(sample("1", at)),
            taken: 1,
        };
        assert_eq!(alone(1).followed(sample("1", 1), 6).pod("a", "p"), None);
    }

    #[test]
    fn a_sample_serves_for_a_minute() {
        let pair = pair("1", "2");
        let next = |seconds: i64| Pair::next(Some(&pair), 1_000 + seconds);
        assert_eq!(
            (next(4), next(5), next(60)),
            (Next::Nothing, Next::One, Next::One)
        );
        assert_eq!(
            (next(61), next(-1), Pair::next(None, 0)),
            (Next::Two, Next::Two, Next::Two)
        );
    }
}
