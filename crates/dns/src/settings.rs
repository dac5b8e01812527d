//! How questions are led: what a Corefile says, made fit to be asked. Pure.
//!
//! Without a Corefile the cluster's names are answered here and all others by the node's resolvers.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use api::corefile::{
    self, Block, Corefile, Falls, Forward, Hosts, Order, Rewrite, Template, Upstream, is_within,
};
use hickory_proto::rr::RecordType;
use tokio::sync::Semaphore;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::answer::{Answer, Data, QueryType, Record, Zone, reverse_address};
use crate::cache::Terms;
use crate::rewrite::{RewrittenName, rewritten};
use crate::template::{self, TemplateOutcome};

/// So many questions at most wait for the servers of one `forward`; more are refused at once.
const WAITING: usize = 512;

/// What the node's own file says of resolving.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeResolvers {
    /// Who is asked.
    pub servers: Vec<SocketAddr>,
    /// Pods look for names in domains of it, too, when they have found none in the cluster's.
    pub has_searches: bool,
}

/// How questions are led.
#[derive(Debug)]
pub struct Settings {
    blocks: Vec<Ways>,
}

/// The way of questions about some zones.
#[derive(Debug)]
pub struct Ways {
    zones: Vec<String>,
    rewrites: Arc<[Rewrite]>,
    templates: Vec<Template>,
    hosts: Option<Table>,
    /// The cluster's own names, where they are answered; in others' zones they are not.
    cluster: Option<Names>,
    /// Of which of them that do not exist the whole search path is answered.
    path: Falls,
    /// How long answers of others are kept, if they are.
    pub terms: Option<Terms>,
    uncached: [Falls; 2],
    routes: Vec<Route>,
}

/// How the cluster's own names are answered.
#[derive(Debug)]
pub struct Names {
    /// The zone.
    pub zone: Zone,
    /// Which names are passed on when there is nothing.
    pub falls: Falls,
}

/// Who is asked.
#[derive(Debug)]
pub struct Route {
    from: String,
    except: Vec<String>,
    /// The servers.
    pub servers: Vec<Server>,
    /// Which of them first.
    pub order: Order,
    /// By TCP alone.
    pub by_tcp: bool,
    /// How many questions may wait.
    pub waiting: Arc<Semaphore>,
    most: usize,
}

/// A server that is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Where.
    pub address: SocketAddr,
    /// The name that its certificate must have, where it is asked over TLS.
    pub tls: Option<ServerName<'static>>,
}

impl Server {
    fn plain(address: SocketAddr) -> Self {
        Self { address, tls: None }
    }

    /// Whose certificate has this name, or that of its address.
    fn with_tls(address: SocketAddr, name: Option<String>) -> Result<Self, String> {
        let tls = match name {
            None => ServerName::from(address.ip()),
            Some(name) => ServerName::try_from(name.clone()).map_err(|_| {
                format!("forward: {name}: not a name of a server; {address} is not asked")
            })?,
        };
        let tls = Some(tls);
        Ok(Self { address, tls })
    }
}

/// The names and addresses of `hosts`.
#[derive(Debug)]
struct Table {
    zones: Vec<String>,
    falls: Falls,
    ttl_seconds: u32,
    by_name: HashMap<String, Vec<IpAddr>>,
    by_address: HashMap<IpAddr, Vec<String>>,
}

/// What is done about a question before anybody else is asked.
pub enum Led {
    /// It is answered from a list.
    Listed(Answer),
    /// Only a list could answer it, and has nothing.
    Unlisted,
    /// It is for others.
    On,
}

impl Settings {
    /// Of a configuration; `has_main` when there is a Corefile and not only additions. Gives what
    /// is to be said of it, too.
    pub fn of(
        corefile: &Corefile,
        has_main: bool,
        zone: &Zone,
        node: &NodeResolvers,
    ) -> (Self, Vec<String>) {
        let mut warnings = Vec::new();
        let mut blocks = corefile.blocks.clone();
        if !has_main {
            add_defaults(&mut blocks);
        }
        let named = |b: &Block| {
            b.cluster
                .as_ref()
                .is_some_and(|c| c.zones.contains(&zone.domain))
        };
        if has_main && !blocks.iter().any(named) {
            warnings.push(format!(
                "no block has `kubernetes` for {}: names of the cluster are answered all the same",
                zone.domain
            ));
        }
        let leads = |b: &Block| b.zones.iter().any(|z| is_within(&zone.domain, z));
        if !blocks.iter().any(leads) {
            blocks.push(Block {
                zones: vec![zone.domain.clone()],
                ..Block::default()
            });
        }
        let blocks = blocks.into_iter();
        let blocks = blocks.map(|b| Ways::of(b, zone, node, &mut warnings));
        let blocks = blocks.collect();
        (Self { blocks }, warnings)
    }

    /// What acts on questions, in the words of a Corefile: a zone and a plugin's name.
    pub fn plugins(&self) -> Vec<(String, &'static str)> {
        let mut all = Vec::new();
        for ways in &self.blocks {
            let acts = [
                ("rewrite", !ways.rewrites.is_empty()),
                ("template", !ways.templates.is_empty()),
                ("hosts", ways.hosts.is_some()),
                ("kubernetes", ways.cluster.is_some()),
                (
                    "autopath",
                    ways.cluster.is_some() && ways.path != Falls::Never,
                ),
                ("cache", ways.terms.is_some()),
                ("forward", !ways.routes.is_empty()),
            ];
            for zone in &ways.zones {
                let names = acts.iter().filter(|(_, acts)| *acts);
                all.extend(names.map(|(name, _)| (format!("{zone}."), *name)));
            }
        }
        all
    }

    /// The way of a question, and its number; `None` when it is nobody's. The name is in lower
    /// case, without its final dot. Names of the cluster are always led.
    pub fn ways(&self, name: &str) -> Option<(usize, &Ways, &str)> {
        let mut best: Option<(usize, &Ways, &str)> = None;
        for (number, ways) in self.blocks.iter().enumerate() {
            for zone in ways.zones.iter().filter(|zone| is_within(name, zone)) {
                if best.is_none_or(|(_, _, other)| zone.len() > other.len()) {
                    best = Some((number, ways, zone));
                }
            }
        }
        best
    }
}

/// What holds where no Corefile says something else.
fn add_defaults(blocks: &mut Vec<Block>) {
    let all = |b: &Block| b.zones.iter().any(String::is_empty);
    if !blocks.iter().any(all) {
        blocks.push(Block {
            zones: vec![String::new()],
            ..Block::default()
        });
    }
    for block in blocks.iter_mut().filter(|b| all(b)) {
        block.cache.get_or_insert_default();
        if block.forwards.is_empty() {
            block.forwards.push(Forward {
                from: String::new(),
                to: vec![Upstream::Node],
                except: Vec::new(),
                order: Order::First,
                by_tcp: false,
                most: None,
            });
        }
    }
}

impl Ways {
    fn of(block: Block, zone: &Zone, node: &NodeResolvers, warnings: &mut Vec<String>) -> Self {
        let wished = block
            .autopath
            .as_ref()
            .is_some_and(|path| *path != Falls::Never);
        if wished && node.has_searches {
            warnings.push(
                "autopath: the node's resolv.conf has search domains for pods, so each name is asked for"
                    .to_owned(),
            );
        }
        let path = match node.has_searches {
            true => Falls::Never,
            false => block.autopath.unwrap_or(Falls::Always),
        };
        let everything = block.zones.iter().any(String::is_empty);
        let cluster = match block.cluster {
            Some(said) => Some(Names {
                zone: Zone {
                    ttl_seconds: said.ttl_seconds,
                    negative_ttl_seconds: said.ttl_seconds.min(zone.negative_ttl_seconds),
                    pods: said.pods,
                    pod_names: said.pod_names,
                    ignore_empty_service: said.ignore_empty_service,
                    ..zone.clone()
                },
                falls: said.falls,
            }),
            None => (everything || block.zones.contains(&zone.domain)).then(|| Names {
                zone: zone.clone(),
                falls: Falls::Never,
            }),
        };
        let (terms, uncached) = match block.cache {
            None => (None, [Falls::Never, Falls::Never]),
            Some(cache) => (Some(terms(&cache)), [cache.success_off, cache.denial_off]),
        };
        let routes = block.forwards.into_iter();
        Self {
            zones: block.zones,
            rewrites: block.rewrites.into(),
            templates: block.templates,
            hosts: block.hosts.map(Table::of),
            cluster,
            path,
            terms,
            uncached,
            routes: routes
                .map(|f| Route::of(f, &node.servers, warnings))
                .collect(),
        }
    }

    /// What is asked for in place of a name; none when it stays.
    pub fn rewritten(&self, name: &str) -> Option<RewrittenName> {
        match self.rewrites.is_empty() {
            true => None,
            false => rewritten(&self.rewrites, name),
        }
    }

    /// What templates make of a question.
    pub fn made(&self, name: &str, kind: RecordType) -> TemplateOutcome {
        template::make(&self.templates, &self.zones, name, kind)
    }

    /// How the cluster's names are answered for a question that came by this zone.
    pub fn cluster(&self) -> Option<&Names> {
        self.cluster.as_ref()
    }

    /// Whether the search path behind a name of the cluster is answered with it. While pods have search
    /// domains of the node, too, it is not: only they know what stands where in theirs.
    pub fn has_path(&self, name: &str) -> bool {
        self.path.has(name)
    }

    /// Who is asked about a name.
    pub fn route(&self, name: &str) -> Option<&Route> {
        self.routes.iter().find(|route| {
            is_within(name, &route.from) && !route.except.iter().any(|z| is_within(name, z))
        })
    }

    /// How long answers about a name are kept.
    pub fn terms_of(&self, name: &str) -> Option<Terms> {
        let mut terms = self.terms.clone()?;
        let [success, denial] = &self.uncached;
        if success.has(name) {
            terms.success_seconds = (0, 0);
        }
        if denial.has(name) {
            terms.denial_seconds = (0, 0);
        }
        Some(terms)
    }

    /// What the list of this block says.
    pub fn lead(&self, name: &str, kind: QueryType) -> Led {
        let Some(table) = &self.hosts else {
            return Led::On;
        };
        let inside = table.zones.is_empty() || table.zones.iter().any(|z| is_within(name, z));
        match table.answer(name, kind) {
            Some(answer) if inside => Led::Listed(answer),
            None if inside && !table.falls.has(name) => Led::Unlisted,
            _ => Led::On,
        }
    }
}

fn terms(cache: &corefile::Cache) -> Terms {
    Terms {
        success_seconds: (cache.success_least_seconds, cache.success_seconds),
        denial_seconds: (cache.denial_least_seconds, cache.denial_seconds),
        failure_seconds: cache.failure_seconds,
        stale_seconds: cache.stale_seconds,
        entries: cache.entries,
    }
}

impl Route {
    /// How many questions wait.
    pub fn waits(&self) -> usize {
        self.most.saturating_sub(self.waiting.available_permits())
    }

    fn of(forward: Forward, node: &[SocketAddr], warnings: &mut Vec<String>) -> Self {
        let mut servers = Vec::new();
        for to in forward.to {
            match to {
                Upstream::Server(address) => servers.push(Server::plain(address)),
                Upstream::Tls(address, name) => match Server::with_tls(address, name) {
                    Ok(server) => servers.push(server),
                    Err(why) => warnings.push(why),
                },
                Upstream::Node => servers.extend(node.iter().copied().map(Server::plain)),
            }
        }
        // None at all is what zero says.
        let most = forward.most.filter(|most| *most > 0).unwrap_or(WAITING);
        if most > WAITING {
            warnings.push(format!(
                "forward: max_concurrent {most}: no more than {WAITING} questions wait for others"
            ));
        }
        let waiting = most.min(WAITING);
        Self {
            from: forward.from,
            except: forward.except,
            servers,
            order: forward.order,
            by_tcp: forward.by_tcp,
            waiting: Arc::new(Semaphore::new(waiting)),
            most: waiting,
        }
    }
}

impl Table {
    fn of(hosts: Hosts) -> Self {
        let mut table = Self {
            zones: hosts.zones,
            falls: hosts.falls,
            ttl_seconds: hosts.ttl_seconds,
            by_name: HashMap::new(),
            by_address: HashMap::new(),
        };
        for (address, names) in hosts.entries {
            for name in names {
                if hosts.reverse {
                    let named = table.by_address.entry(address).or_default();
                    named.push(name.clone());
                }
                let addresses = table.by_name.entry(name).or_default();
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        table
    }

    /// The answer; empty for a name that is listed with other records.
    fn answer(&self, name: &str, kind: QueryType) -> Option<Answer> {
        let record = |data| Record {
            name: format!("{name}."),
            ttl_seconds: self.ttl_seconds,
            data,
        };
        let answers: Vec<Record> = if let Some(address) = reverse_address(name) {
            let names = self.by_address.get(&address)?.iter();
            let asked = matches!(kind, QueryType::Ptr | QueryType::Any);
            let names = names.filter(|_| asked);
            names.map(|n| record(Data::Ptr(format!("{n}.")))).collect()
        } else {
            let asked = |ip: &&IpAddr| match kind {
                QueryType::A => ip.is_ipv4(),
                QueryType::Aaaa => ip.is_ipv6(),
                QueryType::Any => true,
                _ => false,
            };
            let addresses = self.by_name.get(name)?.iter().filter(asked);
            addresses.map(|ip| record(Data::Address(*ip))).collect()
        };
        Some(Answer {
            answers,
            ..Answer::default()
        })
    }
}

#[cfg(test)]
mod tests;
