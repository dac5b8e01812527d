//! The sandbox of a pod in the runtime's words: names, host name, DNS, ports, groups, namespaces.

use super::runtime_state::label;
use super::spec;
use crate::config::Config;
use host::runtime::{
    Condition, Dns, Health, Namespace, Namespaces, PodName, PortMapping, Profile, Protocol,
    SandboxSpec, Security, Texts,
};
use k8s_openapi::api::core::v1::{Container, Pod};
use std::net::IpAddr;

/// The domain of all names.
const ROOT: &str = ".";

/// What the node's own resolver file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    /// Name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

impl Resolver {
    /// Reads the text of a resolver file.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut out = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let key = words.next();
            let mut rest = words.map(str::to_owned);
            match key {
                Some("nameserver") => {
                    let server = rest.next().ok_or("nameserver list is empty")?;
                    out.servers.push(server);
                }
                Some("search" | "domain") => {
                    // The root adds nothing to a name, and a domain is the same with its dot.
                    let domains = rest.filter(|domain| domain != ROOT);
                    let plain = |domain: String| domain.trim_end_matches('.').to_owned();
                    out.searches = domains.map(plain).collect();
                }
                Some("options") => out.options.extend(rest),
                _ => {}
            }
        }
        Ok(out)
    }

    /// A node without a resolver file, of these addresses, is its own name server.
    #[must_use]
    pub fn local(node_ips: &[String]) -> Self {
        let of = |ip: &String| if ip.contains(':') { "::1" } else { "127.0.0.1" };
        Self {
            servers: node_ips.iter().map(|ip| of(ip).to_owned()).collect(),
            searches: vec![ROOT.to_owned()],
            options: Vec::new(),
        }
    }
}

/// How a pod asks for names.
fn policy(pod: &Pod) -> &str {
    let policy = spec::of(pod).dns_policy.as_deref();
    policy.unwrap_or("ClusterFirst")
}

/// Whether a pod asks the cluster's name servers.
#[must_use]
pub fn asks_cluster(pod: &Pod) -> bool {
    match policy(pod) {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !spec::host_network(pod),
        _ => false,
    }
}

/// Name servers and search list of a pod.
#[must_use]
pub fn dns(pod: &Pod, cluster: &[IpAddr], domain: &str, node: &Resolver) -> Dns {
    let s = spec::of(pod);
    let mut out = match policy(pod) {
        "None" => Resolver::default(),
        _ if asks_cluster(pod) && !cluster.is_empty() => {
            let namespace = spec::namespace(pod);
            let mut searches = vec![
                format!("{namespace}.svc.{domain}"),
                format!("svc.{domain}"),
                domain.to_owned(),
            ];
            let of_node = node.searches.iter().filter(|domain| *domain != ROOT);
            searches.extend(of_node.cloned());
            Resolver {
                servers: cluster.iter().map(ToString::to_string).collect(),
                searches,
                options: vec!["ndots:5".into()],
            }
        }
        _ => node.clone(),
    };
    if let Some(own) = &s.dns_config {
        out.servers
            .extend(own.nameservers.iter().flatten().cloned());
        out.searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            let text = option
                .value
                .as_ref()
                .map_or(name.clone(), |v| format!("{name}:{v}"));
            out.options
                .retain(|o| o.split(':').next() != Some(name.as_str()));
            out.options.push(text);
        }
    }
    let unique = |list: Vec<String>| {
        let mut seen = std::collections::HashSet::new();
        list.into_iter()
            .filter(|s| seen.insert(s.clone()))
            .collect::<Vec<_>>()
    };
    Dns {
        servers: unique(out.servers),
        searches: unique(out.searches),
        options: out.options,
    }
}

/// The most name servers of a pod, as many as the C library asks.
const SERVERS: usize = 3;
/// The most search domains; upstream's.
pub const SEARCHES: usize = 32;
/// The most characters of a search domain: longer ones end some C libraries.
pub const SEARCH_DOMAIN: usize = 253;
/// The most characters of all of them; upstream's.
pub const SEARCH_LINE: usize = 2048;

/// What a pod gets of its lists, and what must be said, in upstream's words, where that is not all.
#[must_use]
pub fn within_limits(all: Dns) -> (Dns, Vec<String>) {
    let (mut out, mut said) = (all, Vec::new());
    if out.servers.len() > SERVERS {
        out.servers.truncate(SERVERS);
        said.push(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            out.servers.join(" ")
        ));
    }
    let count = out.searches.len();
    out.searches.truncate(SEARCHES);
    out.searches.retain(|domain| domain.len() <= SEARCH_DOMAIN);
    while out.searches.join(" ").len() > SEARCH_LINE {
        out.searches.pop();
    }
    if out.searches.len() < count {
        said.push(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            out.searches.join(" ")
        ));
    }
    (out, said)
}

/// Host name and full domain name of a pod.
#[must_use]
pub fn hostname(pod: &Pod, domain: &str) -> (String, Option<String>) {
    let s = spec::of(pod);
    let base = s
        .hostname_override
        .as_ref()
        .or(s.hostname.as_ref())
        .filter(|h| !h.is_empty());
    let name = base.cloned().unwrap_or_else(|| spec::name(pod).to_owned());
    // A host name has at most 63 bytes and does not end with a dash or a dot.
    let short: String = name
        .chars()
        .take(63)
        .collect::<String>()
        .trim_end_matches(['-', '.'])
        .to_owned();
    let full = s
        .subdomain
        .as_ref()
        .filter(|d| !d.is_empty() && s.hostname_override.is_none())
        .map(|sub| format!("{short}.{sub}.{}.svc.{domain}", spec::namespace(pod)));
    (short, full)
}

/// The most characters of a host name that the kernel takes.
const HOSTNAME: usize = 64;

/// What the kernel of a pod is to call its host; empty for the node's name.
fn name_for_kernel(pod: &Pod, domain: &str) -> Result<String, String> {
    let s = spec::of(pod);
    if spec::host_network(pod) && s.hostname_override.is_none() {
        return Ok(String::new());
    }
    match hostname(pod, domain) {
        (_, Some(full)) if s.set_hostname_as_fqdn == Some(true) => {
            let long = full.len();
            if long > HOSTNAME {
                return Err(format!(
                    "failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long ({HOSTNAME} characters is the max, {long} characters requested)"
                ));
            }
            Ok(full)
        }
        (short, _) => Ok(short),
    }
}

/// The sandbox to ask for, and what must be said of it.
///
/// # Errors
/// No kernel takes the host name that the pod wants.
pub fn config(
    pod: &Pod,
    config: &Config,
    attempt: u32,
    group: &str,
    node_dns: &Resolver,
) -> Result<(SandboxSpec, Vec<String>), String> {
    let hostname = name_for_kernel(pod, &config.cluster_domain)?;
    let mut labels: Texts = pod
        .metadata
        .labels
        .iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    labels.insert(label::POD_NAME.into(), spec::name(pod).into());
    labels.insert(label::POD_NAMESPACE.into(), spec::namespace(pod).into());
    labels.insert(label::POD_UID.into(), spec::uid(pod).into());
    let of_config =
        |c: &Config| c.pod_log_dir(spec::namespace(pod), spec::name(pod), spec::uid(pod));
    let all = dns(pod, &config.cluster_dns, &config.cluster_domain, node_dns);
    let (dns, said) = within_limits(all);
    let (resources, overhead) = super::resources::of_sandbox(pod);
    let made = SandboxSpec {
        pod: PodName {
            name: spec::name(pod).into(),
            uid: spec::uid(pod).into(),
            namespace: spec::namespace(pod).into(),
        },
        attempt,
        hostname,
        log_directory: of_config(config).to_string_lossy().into_owned(),
        dns,
        ports: spec::containers(pod)
            .iter()
            .chain(
                spec::init_containers(pod)
                    .iter()
                    .filter(|c| spec::is_sidecar(c)),
            )
            .flat_map(ports)
            .filter(|_| !spec::host_network(pod))
            .collect(),
        labels,
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        group: group.to_owned(),
        resources,
        overhead,
        security: security(pod),
        sysctls: sysctls(pod),
    };
    Ok((made, said))
}

fn ports(container: &Container) -> Vec<PortMapping> {
    let protocol = |p: Option<&str>| match p {
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        _ => Protocol::Tcp,
    };
    container
        .ports
        .iter()
        .flatten()
        .map(|p| PortMapping {
            protocol: protocol(p.protocol.as_deref()),
            container_port: p.container_port,
            host_port: p.host_port.unwrap_or(0),
            host_ip: p.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}

fn sysctls(pod: &Pod) -> Texts {
    let security = spec::of(pod).security_context.as_ref();
    let all = security.and_then(|s| s.sysctls.as_ref());
    let all = all.into_iter().flatten();
    all.map(|s| (s.name.clone(), s.value.clone())).collect()
}

fn security(pod: &Pod) -> Security {
    let security = spec::of(pod).security_context.clone().unwrap_or_default();
    let is_privileged = |c: &Container| {
        let own = c.security_context.as_ref();
        own.and_then(|s| s.privileged).unwrap_or(false)
    };
    let mut all = spec::containers(pod)
        .iter()
        .chain(spec::init_containers(pod));
    Security {
        namespaces: namespaces(pod),
        privileged: all.any(is_privileged),
        user: security.run_as_user,
        group: security
            .run_as_group
            .filter(|_| security.run_as_user.is_some()),
        more_groups: groups(pod),
        strict_groups: strict_groups(pod),
        selinux: security
            .se_linux_options
            .as_ref()
            .map(super::security::selinux),
        // Never the pod's: one that allows what its containers need may not allow what a sandbox needs.
        // As upstream.
        seccomp: Profile::RuntimeDefault,
    }
}

/// Which namespaces are shared with whom.
#[must_use]
pub fn namespaces(pod: &Pod) -> Namespaces {
    let s = spec::of(pod);
    let node_or_pod = |node: bool| {
        if node {
            Namespace::Node
        } else {
            Namespace::Pod
        }
    };
    Namespaces {
        network: node_or_pod(spec::host_network(pod)),
        pid: match (s.host_pid, s.share_process_namespace) {
            (Some(true), _) => Namespace::Node,
            (_, Some(true)) => Namespace::Pod,
            _ => Namespace::Container,
        },
        ipc: node_or_pod(s.host_ipc.unwrap_or(false)),
        // Which users those of the pod are is given to it, and not said by its spec.
        users: None,
    }
}

/// Extra groups of all processes, that of the volumes included.
#[must_use]
pub fn groups(pod: &Pod) -> Vec<i64> {
    let security = spec::of(pod).security_context.as_ref();
    let extra = security
        .and_then(|s| s.supplemental_groups.clone())
        .unwrap_or_default();
    extra
        .into_iter()
        .chain(security.and_then(|s| s.fs_group))
        .collect()
}

/// Whether the groups that the image gives to the user are left out.
#[must_use]
pub fn strict_groups(pod: &Pod) -> bool {
    let security = spec::of(pod).security_context.as_ref();
    security.and_then(|s| s.supplemental_groups_policy.as_deref()) == Some("Strict")
}

/// Why a pod cannot have a user namespace of its own here. Without one its root would be the
/// machine's: then there is no pod. `runtime_can`: the runtime makes such namespaces.
pub fn user_namespace(handler: &str, runtime_can: bool) -> Result<(), String> {
    let why = match (runtime_can, handler) {
        (true, _) => return Ok(()),
        (false, "") => "runtime does not support user namespaces".to_owned(),
        (false, name) => {
            format!("RuntimeClass handler {name:?} does not support user namespaces")
        }
    };
    Err(format!("can't set `spec.hostUsers: false`, {why}"))
}

/// What is said of a pod whose sandbox could not be made: that is for want of a network where it needs
/// one of its own and the runtime has none to give. A runtime that does not answer is not one that is well.
pub fn failed(
    pod: &Pod,
    health: Result<&Health, &host::runtime::Error>,
    error: &str,
) -> (&'static str, String) {
    let other = |text: String| {
        let text = format!("Failed to create pod sandbox: {text}");
        ("FailedCreatePodSandBox", text)
    };
    let health = match health {
        Ok(health) => health,
        Err(silent) => {
            let why = silent.message();
            return other(format!(
                "{error} (nor does the container runtime say how it is: {why})"
            ));
        }
    };
    let mut conditions = health.conditions.iter();
    let network = conditions.find(|c| c.kind == "NetworkReady" && !spec::host_network(pod));
    match network.and_then(Condition::problem) {
        Some(why) => ("NetworkNotReady", format!("network is not ready: {why}")),
        None => other(error.to_owned()),
    }
}

/// The text of `/etc/hosts` for a pod that has its own network.
#[must_use]
pub fn hosts(pod: &Pod, ips: &[String], domain: &str, of_node: Option<&str>) -> String {
    let mut text = String::from("# Kubernetes-managed hosts file");
    match of_node {
        Some(node) => {
            text.push_str(" (host network).\n");
            text.push_str(node);
        }
        None => {
            text.push_str(
                ".\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
                fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\n\
                fe00::2\tip6-allrouters\n",
            );
            let (short, full) = hostname(pod, domain);
            for ip in ips {
                let names = full
                    .as_ref()
                    .map_or(short.clone(), |f| format!("{f}\t{short}"));
                text.push_str(&format!("{ip}\t{names}\n"));
            }
        }
    }
    let aliases = spec::of(pod).host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
            text.push_str(&format!("{}\t{names}\n", alias.ip));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}),
        )
        .unwrap()
    }

    #[test]
    fn a_pod_that_waits_for_a_network_says_so() {
        let condition = |ok| Condition {
            kind: "NetworkReady".into(),
            ok,
            reason: "NetworkPluginNotReady".into(),
            message: "no plugin".into(),
        };
        let why = |spec, ok| {
            let health = Health {
                conditions: vec![condition(ok)],
                ..Health::default()
            };
            failed(&pod(spec), Ok(&health), "e")
        };
        let other = (
            "FailedCreatePodSandBox",
            "Failed to create pod sandbox: e".to_owned(),
        );
        let said = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:no plugin";
        let network = ("NetworkNotReady", format!("network is not ready: {said}"));
        assert_eq!(why(json!({}), false), network);
        assert_eq!(why(json!({}), true), other);
        assert_eq!(why(json!({ "hostNetwork": true }), false), other);
        let silent = host::runtime::Error::new(host::runtime::ErrorKind::Other, "no answer");
        let text = "Failed to create pod sandbox: e (nor does the container runtime say how it is: no answer)";
        assert_eq!(
            failed(&pod(json!({})), Err(&silent), "e"),
            ("FailedCreatePodSandBox", text.to_owned())
        );
    }

    #[test]
    fn a_pod_without_its_own_users_says_why() {
        assert_eq!(user_namespace("", true), Ok(()));
        let why = |handler| user_namespace(handler, false).unwrap_err();
        let begin = "can't set `spec.hostUsers: false`, ";
        assert_eq!(
            why(""),
            format!("{begin}runtime does not support user namespaces")
        );
        let end = "RuntimeClass handler \"gvisor\" does not support user namespaces";
        assert_eq!(why("gvisor"), format!("{begin}{end}"));
    }

    #[test]
    fn dns_follows_the_policy() {
        let node = Resolver::parse("# x\nsearch corp\nnameserver 9.9.9.9\noptions rotate\n");
        let node = node.unwrap();
        let cluster: Vec<IpAddr> = vec!["10.0.0.10".parse().unwrap()];
        let of = |v| dns(&pod(v), &cluster, "cluster.local", &node);
        let first = of(json!({"containers": []}));
        assert_eq!(first.servers, ["10.0.0.10"]);
        assert_eq!(
            first.searches,
            [
                "n.svc.cluster.local",
                "svc.cluster.local",
                "cluster.local",
                "corp"
            ]
        );
        assert_eq!(
            of(json!({"containers": [], "hostNetwork": true})).servers,
            ["9.9.9.9"]
        );
        let own = of(json!({"containers": [], "dnsPolicy": "None",
            "dnsConfig": {"nameservers": ["1.1.1.1"], "options": [{"name": "ndots", "value": "2"}]}}));
        assert_eq!(
            (own.servers, own.options),
            (vec!["1.1.1.1".to_owned()], vec!["ndots:2".to_owned()])
        );
    }

    #[test]
    fn what_a_pod_does_not_get_of_its_lists_is_said() {
        let texts = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let of = |servers: &[&str], searches: Vec<String>| {
            let (out, said) = within_limits(Dns {
                servers: texts(servers),
                searches,
                options: Vec::new(),
            });
            (out.servers.len(), out.searches.len(), said)
        };
        let three = ["1.1.1.1", "1.1.1.2", "1.1.1.3"];
        assert_eq!(of(&three, texts(&["a", "b"])), (3, 2, Vec::new()));
        let four = [three.as_slice(), &["1.1.1.4"]].concat();
        let servers = "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: 1.1.1.1 1.1.1.2 1.1.1.3";
        assert_eq!(of(&four, texts(&["a"])), (3, 1, texts(&[servers])));
        let searches = "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: a b";
        let long = "x".repeat(254);
        assert_eq!(
            of(&[], texts(&["a", long.as_str(), "b"])),
            (0, 2, texts(&[searches]))
        );
        let many: Vec<String> = (0..33).map(|n| format!("d{n}")).collect();
        let (_, count, said) = of(&[], many);
        assert_eq!((count, said.len()), (32, 1));
        assert!(said[0].ends_with(" d31"), "{said:?}");
        // Eight of 253 characters and the spaces between them are 2031.
        let wide: Vec<String> = (0..9).map(|n| n.to_string().repeat(253)).collect();
        let (_, count, said) = of(&[], wide);
        assert_eq!((count, said.len()), (8, 1));
    }

    #[test]
    fn a_node_without_a_resolver_file_is_asked_itself() {
        let node = Resolver::local(&["192.0.2.1".into(), "2001:db8::1".into()]);
        let cluster: Vec<IpAddr> = vec!["10.0.0.10".parse().unwrap()];
        let of = |policy: &str, cluster: &[IpAddr]| {
            let pod = pod(json!({"containers": [], "dnsPolicy": policy}));
            let dns = dns(&pod, cluster, "c.local", &node);
            (dns.servers.join(" "), dns.searches.join(" "))
        };
        let itself = ("127.0.0.1 ::1".to_owned(), ".".to_owned());
        assert_eq!(of("Default", &cluster), itself);
        assert_eq!(of("ClusterFirst", &[]), itself);
        let (servers, searches) = of("ClusterFirst", &cluster);
        assert_eq!(servers, "10.0.0.10");
        assert_eq!(searches, "n.svc.c.local svc.c.local c.local");
    }

    #[test]
    fn resolver_files_are_read_as_upstream_reads_them() {
        let read = Resolver::parse("nameserver 9.9.9.9 x\nsearch a\nsearch . corp. b\n").unwrap();
        assert_eq!(read.servers, ["9.9.9.9"]);
        assert_eq!(read.searches, ["corp", "b"]);
        assert!(Resolver::parse("nameserver\n").is_err());
        assert_eq!(Resolver::parse(""), Ok(Resolver::default()));
    }

    #[test]
    fn hosts_name_the_pod_in_its_subdomain() {
        let p = pod(json!({"containers": [], "hostname": "h", "subdomain": "s",
            "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}));
        let text = hosts(&p, &["10.1.0.2".into()], "cluster.local", None);
        assert!(
            text.contains("10.1.0.2\th.s.n.svc.cluster.local\th\n"),
            "{text}"
        );
        assert!(text.ends_with("1.2.3.4\ta\tb\n"), "{text}");
    }
}
