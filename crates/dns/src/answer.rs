//! From a question to an answer by the Kubernetes DNS specification (1.1.0): pure.
//!
//! A name that exists without records of the asked type gets an empty answer, one that does not
//! exist gets NXDOMAIN; both carry the zone's SOA, so that resolvers know how long to believe it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::index::{Endpoint, Index, Key, Port, Service};

/// The type of records that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryType {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Ports and hosts.
    Srv,
    /// Names of addresses.
    Ptr,
    /// Another name.
    Cname,
    /// Servers of the zone.
    Ns,
    /// Text.
    Txt,
    /// The zone.
    Soa,
    /// All of them.
    Any,
    /// Some other type, of which there are no records.
    Other,
}

impl QueryType {
    /// As zone files write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Srv => "SRV",
            Self::Ptr => "PTR",
            Self::Cname => "CNAME",
            Self::Ns => "NS",
            Self::Txt => "TXT",
            Self::Soa => "SOA",
            Self::Any => "ANY",
            Self::Other => "other",
        }
    }
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Whose it is, with its final dot.
    pub name: String,
    /// How long it may be believed.
    pub ttl_seconds: u32,
    /// What it says.
    pub data: Data,
}

/// A record's content. Names end with a dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// An address.
    Address(IpAddr),
    /// Another name.
    Cname(String),
    /// A port at a host.
    Srv {
        weight: u16,
        port: u16,
        target: String,
    },
    /// The name of an address.
    Ptr(String),
    /// A server of the zone.
    Ns(String),
    /// Text.
    Txt(String),
    /// The zone.
    Soa {
        primary: String,
        contact: String,
        serial: u32,
        minimum_seconds: u32,
    },
}

/// What is answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The name does not exist.
    pub nonexistent: bool,
    /// What was asked for.
    pub answers: Vec<Record>,
    /// The zone, where there is nothing.
    pub authority: Vec<Record>,
    /// What will be asked next.
    pub additional: Vec<Record>,
}

/// How the zone is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// The cluster's domain in lower case, without a final dot.
    pub domain: String,
    /// How long answers may be believed.
    pub ttl_seconds: u32,
    /// How long the absence of a name may be believed.
    pub negative_ttl_seconds: u32,
    /// Names of pods by their addresses are answered.
    pub pods: bool,
    /// Endpoints without a host name have their pods' names.
    pub pod_names: bool,
    /// Services without ready endpoints do not exist.
    pub ignore_empty_service: bool,
}

impl Zone {
    /// As it is where nobody says something else.
    pub fn new(domain: &str, ttl_seconds: u32, negative_ttl_seconds: u32) -> Self {
        Self {
            domain: domain.trim_end_matches('.').to_lowercase(),
            ttl_seconds,
            negative_ttl_seconds,
            pods: true,
            pod_names: false,
            ignore_empty_service: false,
        }
    }
}

/// The version of the specification, as `dns-version` says it.
const SPECIFICATION: &str = "1.1.0";
/// A chain of aliases is followed so far.
const ALIASES: usize = 8;

/// What was found of a name.
enum Resolution {
    /// It does not exist.
    Nothing,
    /// It exists; these are its records of the asked type, and others that help.
    Records(Vec<Record>, Vec<Record>),
}

impl Resolution {
    fn records(records: Vec<Record>) -> Self {
        Self::Records(records, Vec::new())
    }

    /// It exists and has no records of its own.
    fn empty() -> Self {
        Self::records(Vec::new())
    }
}

/// Answers a question; `None` if the name is somebody else's to answer.
///
/// `name` is in lower case, with or without its final dot.
pub fn answer(index: &Index, zone: &Zone, name: &str, kind: QueryType) -> Option<Answer> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let lookup = Lookup { index, zone, kind };
    if let Some(ip) = reverse_address(name) {
        // Other addresses' names are known elsewhere.
        let records = lookup.pointers(name, ip);
        return (!records.is_empty()).then(|| {
            let asked = matches!(kind, QueryType::Ptr | QueryType::Any);
            lookup.finish(Resolution::records(if asked {
                records
            } else {
                Vec::new()
            }))
        });
    }
    let labels = lookup.labels(name)?;
    let mut found = lookup.find(name, &labels);
    if let Resolution::Records(records, _) = &mut found {
        lookup.follow(records);
    }
    Some(lookup.finish(found))
}

struct Lookup<'a> {
    index: &'a Index,
    zone: &'a Zone,
    kind: QueryType,
}

impl Lookup<'_> {
    /// The labels before the domain; `None` if the name is not in it.
    fn labels<'n>(&self, name: &'n str) -> Option<Vec<&'n str>> {
        if name == self.zone.domain {
            return Some(Vec::new());
        }
        let inner = name
            .strip_suffix(self.zone.domain.as_str())?
            .strip_suffix('.')?;
        Some(inner.split('.').collect())
    }

    fn find(&self, name: &str, labels: &[&str]) -> Resolution {
        match labels {
            [] => self.apex(name),
            ["dns-version"] => {
                Resolution::records(if matches!(self.kind, QueryType::Txt | QueryType::Any) {
                    vec![self.record(name, Data::Txt(SPECIFICATION.into()))]
                } else {
                    Vec::new()
                })
            }
            ["svc" | "pod" | "dns"] => Resolution::empty(),
            ["ns", "dns"] => {
                let ips = self.dns_addresses().iter().copied();
                Resolution::records(self.addresses(name, ips))
            }
            [namespace, "svc" | "pod"] => {
                let namespace_lives =
                    self.index.has_namespace(namespace) || self.index.has_service_in(namespace);
                if namespace_lives {
                    Resolution::empty()
                } else {
                    Resolution::Nothing
                }
            }
            [pod, namespace, "pod"] => self.pod(name, pod, namespace),
            [rest @ .., service, namespace, "svc"] => {
                let key = Key::new(namespace, service);
                match self.index.service(&key) {
                    Some(Service::Addressed { .. })
                        if self.zone.ignore_empty_service
                            && self.index.endpoints(&key).is_empty() =>
                    {
                        Resolution::Nothing
                    }
                    Some(service) => self.service(name, rest, &key, service),
                    None => Resolution::Nothing,
                }
            }
            _ => Resolution::Nothing,
        }
    }

    /// The zone itself: who serves it is the Service that all ask.
    fn apex(&self, name: &str) -> Resolution {
        let server = format!("ns.dns.{}.", self.zone.domain);
        let is_asked = |kind| self.kind == kind || self.kind == QueryType::Any;
        let mut records = Vec::new();
        let mut additional = Vec::new();
        if is_asked(QueryType::Soa) {
            records.push(self.soa());
        }
        if is_asked(QueryType::Ns) {
            records.push(self.record(name, Data::Ns(server.clone())));
            let ips = self.dns_addresses().iter();
            additional.extend(ips.map(|ip| self.record(&server, Data::Address(*ip))));
        }
        Resolution::Records(records, additional)
    }

    fn dns_addresses(&self) -> &[IpAddr] {
        match self.index.service(&Key::new("kube-system", "kube-dns")) {
            Some(Service::Addressed { ips, .. }) => ips,
            _ => &[],
        }
    }

    fn service(&self, name: &str, rest: &[&str], key: &Key, service: &Service) -> Resolution {
        match (rest, service) {
            ([], Service::External(target)) => {
                let target = format!("{}.", target.trim_end_matches('.').to_lowercase());
                Resolution::records(vec![self.record(name, Data::Cname(target))])
            }
            (_, Service::External(_)) => Resolution::Nothing,
            ([], Service::Addressed { ips, ports }) => match self.kind {
                QueryType::Srv => self.service_srv(name, key, ips, ports.iter()),
                _ => Resolution::records(self.addresses(name, ips.iter().copied())),
            },
            ([], Service::Headless) => {
                let endpoints = self.index.endpoints(key);
                if endpoints.is_empty() {
                    return Resolution::Nothing;
                }
                match self.kind {
                    QueryType::Srv => self.endpoint_srv(name, key, &endpoints, |_| true),
                    _ => {
                        let mut ips: Vec<IpAddr> = endpoints.iter().map(|e| e.ip).collect();
                        ips.sort();
                        ips.dedup();
                        Resolution::records(self.addresses(name, ips.into_iter()))
                    }
                }
            }
            ([only], service) if only.starts_with('_') => self.protocol(key, service, only),
            ([endpoint], _) => self.endpoint(name, key, endpoint),
            ([port, protocol], service) => self.port(name, key, service, port, protocol),
            _ => Resolution::Nothing,
        }
    }

    /// `_tcp.service`: exists if a port below it does.
    fn protocol(&self, key: &Key, service: &Service, label: &str) -> Resolution {
        let fits =
            |port: &Port| !port.name.is_empty() && label.strip_prefix('_') == Some(port.protocol);
        let exists = match service {
            Service::Addressed { ports, .. } => ports.iter().any(fits),
            _ => self
                .index
                .endpoints(key)
                .iter()
                .any(|e| e.ports.iter().any(fits)),
        };
        if exists {
            Resolution::empty()
        } else {
            Resolution::Nothing
        }
    }

    fn endpoint(&self, name: &str, key: &Key, label: &str) -> Resolution {
        let endpoints = self.index.endpoints(key);
        let named = |e: &&Endpoint| self.label(e) == label;
        let named: Vec<_> = endpoints.into_iter().filter(named).collect();
        if named.is_empty() {
            return Resolution::Nothing;
        }
        match self.kind {
            QueryType::Srv => self.endpoint_srv(name, key, &named, |_| true),
            _ => {
                let mut ips: Vec<IpAddr> = named.iter().map(|e| e.ip).collect();
                ips.dedup();
                Resolution::records(self.addresses(name, ips.into_iter()))
            }
        }
    }

    fn port(
        &self,
        name: &str,
        key: &Key,
        service: &Service,
        port: &str,
        protocol: &str,
    ) -> Resolution {
        let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_'))
        else {
            return Resolution::Nothing;
        };
        let fits = |p: &Port| !port.is_empty() && p.name == port && p.protocol == protocol;
        let found = match service {
            Service::Addressed { ips, ports } => {
                if !ports.iter().any(fits) {
                    return Resolution::Nothing;
                }
                self.service_srv(name, key, ips, ports.iter().filter(|p| fits(p)))
            }
            _ => {
                let endpoints = self.index.endpoints(key);
                if !endpoints.iter().any(|e| e.ports.iter().any(fits)) {
                    return Resolution::Nothing;
                }
                self.endpoint_srv(name, key, &endpoints, fits)
            }
        };
        if matches!(self.kind, QueryType::Srv | QueryType::Any) {
            found
        } else {
            Resolution::empty()
        }
    }

    fn service_srv<'p>(
        &self,
        name: &str,
        key: &Key,
        ips: &[IpAddr],
        ports: impl Iterator<Item = &'p Port>,
    ) -> Resolution {
        let target = self.service_name(key);
        let srv = |port: &Port| {
            let data = Data::Srv {
                weight: 100,
                port: port.number,
                target: target.clone(),
            };
            self.record(name, data)
        };
        let records: Vec<_> = ports.map(srv).collect();
        let helping = ips
            .iter()
            .map(|ip| self.record(&target, Data::Address(*ip)));
        let additional = if records.is_empty() {
            Vec::new()
        } else {
            helping.collect()
        };
        Resolution::Records(records, additional)
    }

    fn endpoint_srv(
        &self,
        name: &str,
        key: &Key,
        endpoints: &[&Endpoint],
        fits: impl Fn(&Port) -> bool,
    ) -> Resolution {
        let (mut records, mut additional) = (Vec::new(), Vec::new());
        // The weights of all together are about a hundred.
        let weight = u16::try_from((100 / endpoints.len().max(1)).max(1)).unwrap_or(1);
        let service = self.service_name(key);
        // A thousand endpoints are looked up here, not compared with one another.
        let (mut ports, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        for endpoint in endpoints {
            let label = self.label(endpoint);
            let target = format!("{label}.{service}");
            for port in endpoint.ports.iter().filter(|port| fits(port)) {
                if ports.insert((label, port.number)) {
                    let data = Data::Srv {
                        weight,
                        port: port.number,
                        target: target.clone(),
                    };
                    records.push(self.record(name, data));
                }
            }
            if addresses.insert((label, endpoint.ip)) {
                additional.push(self.record(&target, Data::Address(endpoint.ip)));
            }
        }
        Resolution::Records(records, additional)
    }

    /// `1-2-3-4.namespace.pod`: the address is in the name; only the namespace is checked.
    fn pod(&self, name: &str, pod: &str, namespace: &str) -> Resolution {
        let ip = pod
            .replace('-', ".")
            .parse::<Ipv4Addr>()
            .map(IpAddr::V4)
            .or_else(|_| pod.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6));
        match ip {
            Ok(ip) if self.zone.pods && self.index.has_namespace(namespace) => {
                Resolution::records(self.addresses(name, [ip].into_iter()))
            }
            _ => Resolution::Nothing,
        }
    }

    /// The addresses of the asked family.
    fn addresses(&self, name: &str, ips: impl Iterator<Item = IpAddr>) -> Vec<Record> {
        let asked = |ip: &IpAddr| match self.kind {
            QueryType::A => ip.is_ipv4(),
            QueryType::Aaaa => ip.is_ipv6(),
            QueryType::Any => true,
            _ => false,
        };
        ips.filter(asked)
            .map(|ip| self.record(name, Data::Address(ip)))
            .collect()
    }

    /// Adds what an alias within the cluster stands for; others are followed by the client's
    /// resolver.
    fn follow(&self, records: &mut Vec<Record>) {
        if matches!(self.kind, QueryType::Cname | QueryType::Any) {
            return;
        }
        for _ in 0..ALIASES {
            let Some(Record {
                data: Data::Cname(target),
                ..
            }) = records.last()
            else {
                return;
            };
            let name = target.trim_end_matches('.').to_owned();
            let Some(labels) = self.labels(&name) else {
                return;
            };
            let Resolution::Records(more, _) = self.find(&name, &labels) else {
                return;
            };
            if more.is_empty() {
                return;
            }
            records.extend(more);
        }
    }

    fn pointers(&self, name: &str, ip: IpAddr) -> Vec<Record> {
        let services = self.index.services_at(ip).map(|key| self.service_name(key));
        let endpoints = self
            .index
            .endpoints_at(ip)
            .into_iter()
            .map(|(key, e)| format!("{}.{}", self.label(e), self.service_name(key)));
        services
            .chain(endpoints)
            .map(|target| self.record(name, Data::Ptr(target)))
            .collect()
    }

    fn finish(&self, found: Resolution) -> Answer {
        match found {
            Resolution::Nothing => Answer {
                nonexistent: true,
                authority: vec![self.soa()],
                ..Answer::default()
            },
            Resolution::Records(answers, additional) => Answer {
                authority: if answers.is_empty() {
                    vec![self.soa()]
                } else {
                    Vec::new()
                },
                nonexistent: false,
                answers,
                additional,
            },
        }
    }

    fn label<'e>(&self, endpoint: &'e Endpoint) -> &'e str {
        let pod = endpoint.pod.as_deref().filter(|_| self.zone.pod_names);
        pod.unwrap_or(&endpoint.label)
    }

    fn service_name(&self, key: &Key) -> String {
        format!("{}.{}.svc.{}.", key.name, key.namespace, self.zone.domain)
    }

    fn record(&self, name: &str, data: Data) -> Record {
        let name = format!("{}.", name.trim_end_matches('.'));
        Record {
            name,
            ttl_seconds: self.zone.ttl_seconds,
            data,
        }
    }

    fn soa(&self) -> Record {
        let domain = &self.zone.domain;
        Record {
            name: format!("{domain}."),
            ttl_seconds: self.zone.negative_ttl_seconds,
            data: Data::Soa {
                primary: format!("ns.dns.{domain}."),
                contact: format!("hostmaster.{domain}."),
                serial: self.index.version(),
                minimum_seconds: self.zone.negative_ttl_seconds,
            },
        }
    }
}

/// The address that a name below in-addr.arpa or ip6.arpa stands for.
pub(crate) fn reverse_address(name: &str) -> Option<IpAddr> {
    if let Some(rest) = name.strip_suffix(".in-addr.arpa") {
        let parts: Vec<u8> = rest
            .rsplit('.')
            .map(|part| part.parse().ok())
            .collect::<Option<_>>()?;
        return Some(IpAddr::from(<[u8; 4]>::try_from(parts).ok()?));
    }
    let rest = name.strip_suffix(".ip6.arpa")?;
    let mut bits = 0u128;
    let mut count = 0;
    for part in rest.rsplit('.') {
        let digit = (part.len() == 1).then(|| u128::from_str_radix(part, 16).ok())??;
        bits = (bits << 4) | digit;
        count += 1;
    }
    (count == 32).then(|| IpAddr::V6(Ipv6Addr::from(bits)))
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.name, self.ttl_seconds)?;
        match &self.data {
            Data::Address(IpAddr::V4(ip)) => write!(f, "A {ip}"),
            Data::Address(IpAddr::V6(ip)) => write!(f, "AAAA {ip}"),
            Data::Cname(target) => write!(f, "CNAME {target}"),
            Data::Srv {
                weight,
                port,
                target,
            } => write!(f, "SRV 0 {weight} {port} {target}"),
            Data::Ptr(target) => write!(f, "PTR {target}"),
            Data::Ns(target) => write!(f, "NS {target}"),
            Data::Txt(text) => write!(f, "TXT {text:?}"),
            Data::Soa {
                primary,
                contact,
                minimum_seconds,
                ..
            } => {
                write!(f, "SOA {primary} {contact} {minimum_seconds}")
            }
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nonexistent {
            writeln!(f, "NXDOMAIN")?;
        }
        for (mark, records) in [
            ("", &self.answers),
            ("authority ", &self.authority),
            ("additional ", &self.additional),
        ] {
            for record in records {
                writeln!(f, "{mark}{record}")?;
            }
        }
        Ok(())
    }
}
