//! Which children a cluster has, and with what each is started: from the layout and the
//! configuration alone.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::bridge;
use crate::config::{Addresses, ClusterConfig, NodeConfig, ServerConfig};
use crate::layout::Layout;
use crate::members;

/// A child of the supervisor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Child {
    /// A process among the machine's own.
    Process {
        name: String,
        args: Vec<String>,
        /// Written by the process once it answers; removed before it starts.
        ready: Option<PathBuf>,
    },
    /// Namespaces under an init, which behave as a machine.
    Machine(Machine),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    pub name: String,
    /// Its own folder.
    pub dir: PathBuf,
    pub ip: Addresses,
    /// The host's end of its link.
    pub port: String,
    pub cgroup: String,
    /// Limit of its cgroup in bytes.
    pub memory_bytes: Option<u64>,
    /// What its init runs, each with the path of its binary.
    pub programs: Vec<Vec<String>>,
    /// As of a process.
    pub ready: Option<PathBuf>,
}

impl Child {
    pub fn name(&self) -> &str {
        match self {
            Self::Process { name, .. } => name,
            Self::Machine(machine) => &machine.name,
        }
    }
    pub fn ready(&self) -> Option<&PathBuf> {
        match self {
            Self::Process { ready, .. } => ready.as_ref(),
            Self::Machine(machine) => machine.ready.as_ref(),
        }
    }
}

/// Name of the one server that runs among the machine's own processes.
pub const SERVER: &str = "server";
/// Name of the process through which the administrator reaches one of several servers.
pub const BALANCER: &str = "balancer";

/// Nodes that `up` makes share the machine's disk with all that its owner keeps there: a share of
/// it says nothing, so they need room to work in, and images that no registry could give back
/// stay.
const SHARED_DISK: [&str; 2] = [
    "--eviction-hard=memory.available<100Mi,nodefs.available<1Gi,nodefs.inodesFree<1%,imagefs.available<1Gi,pid.available<3%",
    "--image-gc-high-threshold=100",
];

/// Makes children of a configuration.
pub struct Recipe<'a> {
    pub layout: &'a Layout,
    pub config: &'a ClusterConfig,
}

impl Recipe<'_> {
    /// The control plane, each with whether it was switched off.
    pub fn servers(&self) -> Vec<(Child, bool)> {
        let servers = &self.config.servers;
        if servers.is_empty() {
            return vec![(self.single_server(), false)];
        }
        let child = |(i, s)| (Child::Machine(self.server(i, s)), s.stopped);
        servers.iter().enumerate().map(child).collect()
    }

    /// What is started when a server answers, and ended before the servers.
    pub fn balancer(&self) -> Option<Child> {
        let first = self.config.servers.first()?;
        let args = vec![
            "balancer".to_owned(),
            format!("--listen=127.0.0.1:{}", self.config.port),
            format!("--server={}", self.server_urls()),
            format!(
                "--ca-file={}",
                self.server_data(first).join("pki/ca.crt").display()
            ),
        ];
        Some(Child::Process {
            name: BALANCER.into(),
            args,
            ready: None,
        })
    }

    pub fn nodes(&self) -> Vec<(Child, bool)> {
        let nodes = self.config.nodes.iter().enumerate();
        let child = |(i, n)| (Child::Machine(self.node(i, n)), n.stopped);
        nodes.map(child).collect()
    }

    /// All of them, in the order in which they are ended.
    pub fn all(&self) -> Vec<Child> {
        let names = |list: Vec<(Child, bool)>| list.into_iter().map(|(child, _)| child);
        names(self.nodes())
            .chain(self.balancer())
            .chain(names(self.servers()))
            .collect()
    }

    /// Where clients reach the servers.
    fn server_urls(&self) -> String {
        let c = self.config;
        let ips: Vec<IpAddr> = match c.servers.as_slice() {
            [] => c.bridge_ip().iter().map(Addresses::primary).collect(),
            servers => servers.iter().map(|s| s.ip.primary()).collect(),
        };
        let urls = ips.into_iter().map(|ip| url(ip, c.port));
        urls.collect::<Vec<_>>().join(",")
    }

    /// The data directory of one of several servers.
    pub fn server_data(&self, server: &ServerConfig) -> PathBuf {
        self.layout.server_machine(&server.name).join("server")
    }

    /// The tokens with which this machine's nodes join, written by each server and exchanged while
    /// it runs: those of a server that is away end, so nodes know all of them.
    fn node_tokens(&self) -> Vec<PathBuf> {
        let all = match self.config.servers.as_slice() {
            [] => vec![self.layout.server()],
            several => several.iter().map(|s| self.server_data(s)).collect(),
        };
        all.iter().map(|dir| dir.join("node-token")).collect()
    }

    /// The administrator's kubeconfig as a server writes it.
    pub fn kubeconfig_of(&self, server: &ServerConfig) -> PathBuf {
        self.server_data(server).join("admin.kubeconfig")
    }

    fn cgroup(&self, name: &str) -> String {
        format!("/tiphys-{}/{name}", self.layout.id())
    }

    fn single_server(&self) -> Child {
        let ip = self.config.bridge_ip();
        let mut args = self.server_args(&self.layout.server(), ip.as_ref(), SERVER);
        args.push(format!(
            "--kubeconfig-out={}",
            self.layout.admin_kubeconfig().display()
        ));
        args.extend(self.config.server_args.iter().cloned());
        Child::Process {
            name: SERVER.into(),
            args,
            ready: Some(self.layout.ready(SERVER)),
        }
    }

    fn server_args(
        &self,
        data: &std::path::Path,
        ip: Option<&Addresses>,
        name: &str,
    ) -> Vec<String> {
        let c = self.config;
        let mut args = vec![
            "server".to_owned(),
            format!("--data-dir={}", data.display()),
            format!("--port={}", c.port),
            format!("--service-cidr={}", c.service_cidr),
            format!("--pod-cidr={}", c.pod_cidr),
            format!("--cluster-domain={}", c.cluster_domain),
            format!("--ready-file={}", self.layout.ready(name).display()),
        ];
        if let Some(ip) = ip.map(Addresses::primary) {
            args.push(format!("--advertise-address={ip}"));
            // All addresses of both families; of IPv4 they are all by themselves.
            args.extend(ip.is_ipv6().then(|| "--bind-address=::".to_owned()));
        }
        args
    }

    fn server(&self, i: usize, server: &ServerConfig) -> Machine {
        let data = self.server_data(server);
        let mut program = vec![self.layout.binary().display().to_string()];
        program.extend(self.server_args(&data, Some(&server.ip), &server.name));
        program.push("--datastore=etcd".into());
        program.push(format!(
            "--server-token-file={}",
            self.layout.server_token().display()
        ));
        program.extend(members::client_args(self.layout, self.config, i));
        program.extend(self.config.server_args.iter().cloned());
        let member = members::member_command(self.layout, self.config, server);
        Machine {
            name: server.name.clone(),
            dir: self.layout.server_machine(&server.name),
            ip: server.ip.clone(),
            port: bridge::server_port_name(&self.layout.id(), i),
            cgroup: self.cgroup(&server.name),
            memory_bytes: None,
            programs: vec![member, program],
            ready: Some(self.layout.ready(&server.name)),
        }
    }

    fn node(&self, i: usize, node: &NodeConfig) -> Machine {
        let mut program = vec![self.layout.binary().display().to_string()];
        program.extend(self.agent_args(node));
        Machine {
            name: node.name.clone(),
            dir: self.layout.node(&node.name),
            ip: node.ip.clone(),
            port: bridge::port_name(&self.layout.id(), i),
            cgroup: self.cgroup(&node.name),
            memory_bytes: Some(node.memory_bytes),
            programs: vec![program],
            ready: None,
        }
    }

    fn agent_args(&self, node: &NodeConfig) -> Vec<String> {
        let c = self.config;
        let mut args = vec![
            "node".to_owned(),
            format!("--server={}", self.server_urls()),
            format!("--name={}", node.name),
            format!("--node-ip={}", node.ip),
            format!("--data-dir={}", self.layout.node(&node.name).display()),
            format!("--images={}", self.layout.images().display()),
            format!("--cgroup={}", self.cgroup(&node.name)),
            format!("--capacity-cpu={}m", node.cpu_millis),
            format!("--capacity-memory={}", node.memory_bytes),
            format!("--max-pods={}", node.pods),
            format!("--service-cidr={}", c.service_cidr),
            format!("--pod-cidr={}", c.pod_cidr),
            format!("--cluster-domain={}", c.cluster_domain),
        ];
        let tokens = self.node_tokens();
        args.extend(
            tokens
                .iter()
                .map(|t| format!("--token-file={}", t.display())),
        );
        args.extend(SHARED_DISK.map(str::to_owned));
        args.extend(c.node_args.iter().cloned());
        args
    }

    /// The command that makes a machine's namespaces, without the binary.
    pub fn boot_args(&self, machine: &Machine) -> Vec<String> {
        let c = self.config;
        let mut args = vec![
            "node-boot".to_owned(),
            format!("--name={}", machine.name),
            format!("--dir={}", machine.dir.display()),
            format!("--ip={}", machine.ip.within(&c.node_cidr)),
            format!("--cgroup={}", machine.cgroup),
        ];
        let bridge = c.bridge_ip();
        // The machine translates what leaves it by IPv4, if it is set up to. Nobody would translate
        // these addresses of IPv6: pods hear at once that there is no way.
        let gateway = bridge
            .iter()
            .flat_map(Addresses::iter)
            .find(IpAddr::is_ipv4);
        args.extend(gateway.map(|ip| format!("--gateway={ip}")));
        args.push("--".to_owned());
        for (i, program) in machine.programs.iter().enumerate() {
            args.extend((i > 0).then(|| AND.to_owned()));
            args.extend(program.iter().cloned());
        }
        args
    }
}

/// Where a server or member answers.
pub(crate) fn url(ip: IpAddr, port: u16) -> String {
    format!("https://{}", SocketAddr::new(ip, port))
}

/// Stands between two programs of a machine on the command line of its boot.
pub const AND: &str = "--and--";

/// The programs of a command line that [`Recipe::boot_args`] made.
pub fn programs_of(words: &[String]) -> Vec<Vec<String>> {
    let programs = words.split(|word| word == AND).map(<[String]>::to_vec);
    programs.filter(|p| !p.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(servers: u32) -> ClusterConfig {
        let mut config = ClusterConfig::example();
        config.servers = (0..servers)
            .map(|i| ServerConfig {
                name: format!("server-{}", i + 1),
                ip: ClusterConfig::server_ip(&config.node_cidr, i).expect("address"),
                stopped: i == 1,
            })
            .collect();
        config
    }

    fn words(child: &Child) -> Vec<String> {
        match child {
            Child::Process { args, .. } => args.clone(),
            Child::Machine(machine) => machine.programs.concat(),
        }
    }

    #[test]
    fn one_server_is_a_process_without_balancer() {
        let (layout, config) = (Layout::new("/data".as_ref()), config(0));
        let recipe = Recipe {
            layout: &layout,
            config: &config,
        };
        let servers = recipe.servers();
        assert_eq!(servers.len(), 1);
        assert_eq!(servers[0].0.name(), SERVER);
        assert!(!words(&servers[0].0).iter().any(|w| w.contains("etcd")));
        assert_eq!(recipe.balancer(), None);
    }

    #[test]
    fn each_of_several_servers_has_a_member_and_knows_all_of_them() {
        let (layout, config) = (Layout::new("/data".as_ref()), config(3));
        let recipe = Recipe {
            layout: &layout,
            config: &config,
        };
        let servers = recipe.servers();
        let off: Vec<bool> = servers.iter().map(|(_, stopped)| *stopped).collect();
        assert_eq!(off, [false, true, false]);
        let Child::Machine(second) = &servers[1].0 else {
            panic!("not a machine")
        };
        assert_eq!(second.ip.to_string(), "10.245.0.3");
        let endpoints = "--etcd-endpoints=https://10.245.0.3:2379,https://10.245.0.4:2379,https://10.245.0.2:2379";
        assert!(
            words(&servers[1].0).contains(&endpoints.to_owned()),
            "its own member goes first: {:?}",
            second.programs
        );
        let all = "https://10.245.0.2:6443,https://10.245.0.3:6443,https://10.245.0.4:6443";
        let balancer = recipe.balancer().expect("balancer");
        assert!(words(&balancer).contains(&format!("--server={all}")));
        let ports: std::collections::BTreeSet<_> = servers
            .iter()
            .filter_map(|(child, _)| match child {
                Child::Machine(machine) => Some(machine.port.clone()),
                Child::Process { .. } => None,
            })
            .collect();
        assert_eq!(ports.len(), 3);
        assert!(ports.iter().all(|p| p.len() <= 15), "{ports:?}");
    }

    #[test]
    fn machines_of_both_families_are_told_all_their_addresses() {
        let (layout, mut config) = (Layout::new("/data".as_ref()), config(0));
        let node = |config: &ClusterConfig| NodeConfig {
            name: "node-1".into(),
            ip: ClusterConfig::node_ip(&config.node_cidr, 0).expect("addresses"),
            cpu_millis: 1000,
            memory_bytes: 1 << 30,
            pods: 110,
            stopped: false,
        };
        let told = |config: &ClusterConfig| {
            let (layout, config) = (&layout, config);
            let recipe = Recipe { layout, config };
            let (child, _) = recipe.nodes().remove(0);
            let Child::Machine(machine) = &child else {
                panic!("not a machine")
            };
            let mut all = words(&recipe.servers().remove(0).0);
            all.extend(recipe.boot_args(machine));
            all
        };
        config.node_cidr = "10.245.0.0/24,fd00:10:245::/64".parse().expect("ranges");
        config.nodes = vec![node(&config)];
        let both = told(&config);
        for word in [
            "--advertise-address=10.245.0.1",
            "--ip=10.245.0.10/24,fd00:10:245::a/64",
            "--node-ip=10.245.0.10,fd00:10:245::a",
            "--gateway=10.245.0.1",
        ] {
            assert!(both.contains(&word.to_owned()), "{word}: {both:?}");
        }
        config.node_cidr = "fd00:10:245::/64".parse().expect("range");
        config.nodes = vec![node(&config)];
        let six = told(&config);
        for word in [
            "--advertise-address=fd00:10:245::1",
            "--bind-address=::",
            "--ip=fd00:10:245::a/64",
            "--server=https://[fd00:10:245::1]:6443",
        ] {
            assert!(six.contains(&word.to_owned()), "{word}: {six:?}");
        }
        assert!(!six.iter().any(|w| w.starts_with("--gateway")), "{six:?}");
    }

    #[test]
    fn programs_survive_the_command_line() {
        let (layout, config) = (Layout::new("/data".as_ref()), config(3));
        let recipe = Recipe {
            layout: &layout,
            config: &config,
        };
        let Child::Machine(machine) = recipe.servers().remove(0).0 else {
            panic!("not a machine")
        };
        let args = recipe.boot_args(&machine);
        let at = args.iter().position(|a| a == "--").expect("--");
        assert_eq!(programs_of(&args[at + 1..]), machine.programs);
        assert_eq!(machine.programs.len(), 2);
    }
}
