//! The plugins of a server block: those that are acted on become values, those that need nothing
//! are known to, and all others are warned of.

use std::net::{IpAddr, SocketAddr};

use super::tokens::{Directive, IMPORT};
use super::{
    Block, Cache, Cluster, Falls, Forward, Hosts, Order, Reader, Rewrite, Template, Upstream,
    zone_of,
};

/// Entries of `hosts` at most: what one ConfigMap can hold.
const HOSTS: usize = 50_000;
/// Servers of one `forward` at most, as CoreDNS.
const UPSTREAMS: usize = 15;

/// Rules of `rewrite` and of `template` in a block at most: each is asked about every name.
const RULES: usize = 256;

/// The search path that `autopath` looks through: the one that pods have.
const PODS_PATH: &str = "@kubernetes";

/// Plugins that say what is always so here.
const ALWAYS: &[&str] = &["errors", "loop", "reload"];
/// Plugins whose pages are elsewhere, and where.
const ELSEWHERE: &[(&str, &str)] = &[
    ("health", "whether a node's DNS lives is seen in its Node"),
    ("ready", "whether a node's DNS lives is seen in its Node"),
    (
        "prometheus",
        "metrics are on the node's page for the proxy, at port 10249",
    ),
];

impl Reader {
    /// Reads one plugin of a block.
    pub(super) fn plugin(&mut self, block: &mut Block, directive: &Directive) {
        let name = directive.name();
        match name {
            "hosts" => block.hosts = Some(self.hosts(directive)),
            "kubernetes" => block.cluster = Some(self.cluster(directive)),
            "autopath" => self.autopath(block, directive),
            "cache" => block.cache = Some(self.cache(directive)),
            "forward" => block.forwards.extend(self.forward(directive)),
            "rewrite" => self.rule(&mut block.rewrites, directive, Self::rewrite),
            "template" => self.rule(&mut block.templates, directive, Self::template),
            "loadbalance" => self.balance(directive),
            IMPORT => self.import(directive),
            name if ALWAYS.contains(&name) => {}
            name => match ELSEWHERE.iter().find(|(known, _)| *known == name) {
                Some((_, why)) => self.warn(directive.line, format!("{name}: {why}")),
                None => self.warn(directive.line, format!("{name}: nobody acts on it")),
            },
        }
    }

    /// Reads a rule of which a block may have several; one that says what nobody acts on is left out,
    /// so that it does nothing else than it says.
    fn rule<T>(
        &mut self,
        rules: &mut Vec<T>,
        directive: &Directive,
        read: impl Fn(&mut Self, &Directive) -> Result<T, (usize, String)>,
    ) {
        let name = directive.name();
        let read = match rules.len() < RULES {
            true => read(self, directive),
            false => Err((directive.line, format!("more than {RULES} of them"))),
        };
        match read {
            Ok(rule) => rules.push(rule),
            Err((line, why)) => self.warn(line, format!("{name}: {why}; the rule is left out")),
        }
    }

    fn rewrite(&mut self, directive: &Directive) -> Result<Rewrite, (usize, String)> {
        let lines = directive.inner.iter().flat_map(|line| &line.words);
        let words = directive.arguments().iter().chain(lines);
        let words: Vec<&str> = words.map(String::as_str).collect();
        Rewrite::of(&words).map_err(|why| (directive.line, why))
    }

    fn template(&mut self, directive: &Directive) -> Result<Template, (usize, String)> {
        let here = |why| (directive.line, why);
        let [class, kind, zones @ ..] = directive.arguments() else {
            return Err(here("of which class and type?".to_owned()));
        };
        let mut template = Template::of(class, kind).map_err(here)?;
        template.zones = self.zones(directive.line, zones);
        for line in &directive.inner {
            match line.name() {
                "fallthrough" => template.falls = self.falls(line),
                name => {
                    let taken = template.line(name, line.arguments());
                    taken.map_err(|why| (line.line, why))?;
                }
            }
        }
        Ok(template)
    }

    /// Addresses go round in every answer; nothing else is chosen.
    fn balance(&mut self, directive: &Directive) {
        if !matches!(directive.arguments(), [] | [_]) || !directive.inner.is_empty() {
            self.unknown("loadbalance", directive);
            return;
        }
        match directive.arguments().first().map(String::as_str) {
            None | Some("round_robin") => {}
            Some(_) => self.unknown("loadbalance", directive),
        }
    }

    /// The path is that of pods; `off` is a word of our own.
    fn autopath(&mut self, block: &mut Block, directive: &Directive) {
        let line = directive.line;
        let path = match directive.arguments() {
            [word] if word == "off" => Falls::Never,
            [word] if word == PODS_PATH => Falls::Always,
            [zones @ .., word] if word == PODS_PATH => Falls::Within(self.zones(line, zones)),
            _ => {
                let what = format!(
                    "{}: only {PODS_PATH} and off are acted on; it is as without this line",
                    directive.words.join(" ")
                );
                self.warn(line, what);
                return;
            }
        };
        block.autopath = Some(path);
    }

    fn unknown(&mut self, plugin: &str, property: &Directive) {
        let what = format!("{plugin}: {}: nobody acts on it", property.words.join(" "));
        self.warn(property.line, what);
    }

    fn number<T: std::str::FromStr>(&mut self, line: usize, text: Option<&String>) -> Option<T> {
        let text = text?;
        let number = text.parse().ok();
        if number.is_none() {
            self.warn(line, format!("{text}: not a number that is possible here"));
        }
        number
    }

    /// A duration such as `30s`, in seconds; a number alone is seconds.
    fn seconds(&mut self, line: usize, text: Option<&String>) -> Option<u32> {
        let text = text?;
        if let Ok(number) = text.parse() {
            return Some(number);
        }
        let nanos = crate::duration::parse(text).ok();
        let seconds = nanos.and_then(|nanos| u32::try_from(nanos / 1_000_000_000).ok());
        if seconds.is_none() {
            self.warn(
                line,
                format!("{text}: not a duration that is possible here"),
            );
        }
        seconds
    }

    fn zones(&mut self, line: usize, texts: &[String]) -> Vec<String> {
        let mut zones = Vec::new();
        for text in texts {
            match zone_of(text) {
                Ok(zone) => zones.push(zone),
                Err(why) => self.warn(line, format!("{text}: {why}; it is left out")),
            }
        }
        zones
    }

    fn falls(&mut self, property: &Directive) -> Falls {
        match property.arguments() {
            [] => Falls::Always,
            zones => Falls::Within(self.zones(property.line, zones)),
        }
    }

    fn hosts(&mut self, directive: &Directive) -> Hosts {
        let mut hosts = Hosts {
            entries: Vec::new(),
            zones: Vec::new(),
            ttl_seconds: 3600,
            reverse: true,
            falls: Falls::Never,
        };
        // The first word is a file, if there is any.
        if let [file, zones @ ..] = directive.arguments() {
            let what = format!("hosts: {file} is not read, only the entries here");
            self.warn(directive.line, what);
            hosts.zones = self.zones(directive.line, zones);
        }
        for line in &directive.inner {
            match line.name() {
                "ttl" => {
                    let ttl = self.number(line.line, line.arguments().first());
                    hosts.ttl_seconds = ttl.unwrap_or(hosts.ttl_seconds);
                }
                "no_reverse" => hosts.reverse = false,
                "fallthrough" => hosts.falls = self.falls(line),
                // There is no file to read again.
                "reload" => {}
                first => match first.parse::<IpAddr>() {
                    Ok(_) if hosts.entries.len() >= HOSTS => {
                        self.warn(line.line, format!("hosts: more than {HOSTS} entries"));
                        break;
                    }
                    Ok(ip) => {
                        let names = line.arguments().iter();
                        let names = names.map(|n| n.trim_end_matches('.').to_lowercase());
                        hosts.entries.push((ip, names.collect()));
                    }
                    Err(_) => self.unknown("hosts", line),
                },
            }
        }
        hosts
    }

    fn cluster(&mut self, directive: &Directive) -> Cluster {
        let mut cluster = Cluster {
            zones: self.zones(directive.line, directive.arguments()),
            ttl_seconds: 5,
            pods: false,
            pod_names: false,
            falls: Falls::Never,
            ignore_empty_service: false,
        };
        for property in &directive.inner {
            match property.name() {
                "ttl" => {
                    let ttl = self.number(property.line, property.arguments().first());
                    cluster.ttl_seconds = ttl.unwrap_or(cluster.ttl_seconds).min(3600);
                }
                "pods" => {
                    let mode = property.arguments().first().map(String::as_str);
                    cluster.pods = mode != Some("disabled");
                    if mode == Some("verified") {
                        let what = "kubernetes: pods verified: not verified, as by pods insecure";
                        self.warn(property.line, what);
                    }
                }
                "endpoint_pod_names" => cluster.pod_names = true,
                "fallthrough" => cluster.falls = self.falls(property),
                "ignore" if property.arguments() == ["empty_service"] => {
                    cluster.ignore_empty_service = true;
                }
                _ => self.unknown("kubernetes", property),
            }
        }
        cluster
    }

    fn cache(&mut self, directive: &Directive) -> Cache {
        let mut cache = Cache {
            // Only a Corefile that asks for it has it.
            stale_seconds: 0,
            ..Cache::default()
        };
        if let Some(ttl) = directive.arguments().first() {
            match ttl.parse::<u32>() {
                Ok(ttl) => {
                    cache.success_seconds = ttl;
                    cache.denial_seconds = ttl;
                }
                // Zones alone.
                Err(_) => self.warn(
                    directive.line,
                    format!("cache: {ttl}: a block's cache is for all its zones"),
                ),
            }
            if directive.arguments().len() > 1 {
                self.warn(
                    directive.line,
                    "cache: a block's cache is for all its zones",
                );
            }
        }
        for property in &directive.inner {
            self.cache_property(&mut cache, property);
        }
        cache
    }

    fn cache_property(&mut self, cache: &mut Cache, property: &Directive) {
        let (line, arguments) = (property.line, property.arguments());
        match property.name() {
            kind @ ("success" | "denial") => {
                // One bound holds for both kinds together: the larger.
                let entries: Option<usize> = self.number(line, arguments.first());
                cache.entries = cache.entries.max(entries.unwrap_or(0));
                let most = self.number(line, arguments.get(1));
                let least = self.number(line, arguments.get(2));
                let (to_most, to_least) = match kind {
                    "success" => (&mut cache.success_seconds, &mut cache.success_least_seconds),
                    _ => (&mut cache.denial_seconds, &mut cache.denial_least_seconds),
                };
                *to_most = most.unwrap_or(*to_most);
                *to_least = least.unwrap_or(*to_least);
            }
            "servfail" => {
                let seconds = self.seconds(line, arguments.first());
                // Longer than five minutes is against RFC 2308.
                cache.failure_seconds = seconds.unwrap_or(cache.failure_seconds).min(300);
            }
            "serve_stale" => {
                let seconds = match arguments.first() {
                    None => Some(3600),
                    some => self.seconds(line, some),
                };
                cache.stale_seconds = seconds.unwrap_or(3600);
                // That the upstream is asked first is what `verify` says.
                if arguments.get(1).is_some_and(|mode| mode != "verify") {
                    self.unknown("cache", property);
                }
            }
            "disable" => {
                let zones = match arguments.get(1..).unwrap_or_default() {
                    [] => Falls::Always,
                    zones => Falls::Within(self.zones(line, zones)),
                };
                match arguments.first().map(String::as_str) {
                    Some("success") => cache.success_off = zones,
                    Some("denial") => cache.denial_off = zones,
                    _ => self.unknown("cache", property),
                }
            }
            _ => self.unknown("cache", property),
        }
    }

    fn forward(&mut self, directive: &Directive) -> Option<Forward> {
        let line = directive.line;
        let [from, to @ ..] = directive.arguments() else {
            self.warn(
                line,
                "forward: says neither whose names nor to whom; it is left out",
            );
            return None;
        };
        let from = match zone_of(from) {
            Ok(zone) => zone,
            Err(why) => {
                self.warn(line, format!("forward: {from}: {why}; it is left out"));
                return None;
            }
        };
        let mut forward = Forward {
            from,
            to: Vec::new(),
            except: Vec::new(),
            order: Order::Random,
            by_tcp: false,
            most: None,
        };
        for text in to {
            match upstream(text) {
                Ok(upstream) if forward.to.len() < UPSTREAMS => forward.to.push(upstream),
                Ok(_) => self.warn(
                    line,
                    format!("forward: {text}: more than {UPSTREAMS} servers"),
                ),
                Err(why) => self.warn(line, format!("forward: {text}: {why}; it is not asked")),
            }
        }
        for property in &directive.inner {
            self.forward_property(&mut forward, property);
        }
        if forward.by_tcp && forward.to.iter().any(|to| matches!(to, Upstream::Tls(..))) {
            self.warn(
                line,
                "forward: force_tcp: whoever speaks TLS is asked by nothing else",
            );
        }
        if forward.to.is_empty() {
            self.warn(
                line,
                "forward: nobody can be asked; such questions are refused",
            );
        }
        Some(forward)
    }

    fn forward_property(&mut self, forward: &mut Forward, property: &Directive) {
        let (line, arguments) = (property.line, property.arguments());
        match property.name() {
            "except" => forward.except = self.zones(line, arguments),
            "force_tcp" => forward.by_tcp = true,
            "policy" => match arguments.first().map(String::as_str) {
                Some("random") => forward.order = Order::Random,
                Some("round_robin") => forward.order = Order::InTurn,
                Some("sequential") => forward.order = Order::First,
                _ => self.unknown("forward", property),
            },
            "tls_servername" => match arguments {
                [name] => {
                    for to in &mut forward.to {
                        if let Upstream::Tls(_, of_server) = to {
                            of_server.get_or_insert_with(|| name.clone());
                        }
                    }
                }
                _ => self.unknown("forward", property),
            },
            // The node's authorities are believed, and no certificate is shown.
            "tls" if arguments.is_empty() => {}
            "max_concurrent" => forward.most = self.number(line, arguments.first()),
            // Who does not answer is asked last for a while, and each question has a connection of
            // its own.
            "expire" | "max_fails" | "health_check" => {
                let what = format!(
                    "forward: {}: there is nothing to set",
                    property.words.join(" ")
                );
                self.warn(line, what);
            }
            _ => self.unknown("forward", property),
        }
    }
}

fn upstream(text: &str) -> Result<Upstream, String> {
    if text.starts_with('/') {
        return match text {
            "/etc/resolv.conf" => Ok(Upstream::Node),
            _ => Err("no file but /etc/resolv.conf is read".into()),
        };
    }
    let (scheme, rest) = text.split_once("://").unwrap_or(("dns", text));
    match scheme {
        "dns" => address(rest, 53).map(Upstream::Server),
        "tls" => {
            // A name may stand behind the address, before the port.
            let (ip, named) = match rest.split_once('%') {
                Some((ip, named)) => (ip, Some(named)),
                None => (rest, None),
            };
            let (name, port) = match named.and_then(|named| named.split_once(':')) {
                Some((name, port)) => (Some(name), Some(port)),
                None => (named, None),
            };
            let port = port.map_or(Ok(TLS_PORT), |port| {
                port.parse().map_err(|_| format!("{port}: not a port"))
            });
            let at = address(ip, port?)?;
            Ok(Upstream::Tls(at, name.map(str::to_owned)))
        }
        _ => Err(format!("{scheme} is not spoken")),
    }
}

/// Where DNS over TLS is taken.
const TLS_PORT: u16 = 853;

fn address(text: &str, port: u16) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>()
        .map(|ip| SocketAddr::new(ip, port))
        .map_err(|_| "not an address".into())
}
