//! Corefiles, which say how CoreDNS answers, as the cluster's DNS reads them: what it
//! acts on as values, and the rest in words, so that nothing is ignored in silence.
//!
//! Pure, and shared: the API server warns whoever writes such a ConfigMap, the nodes act on it.

mod pattern;
mod plugins;
mod rewrite;
mod template;
mod tokens;
mod zones;

use std::net::{IpAddr, SocketAddr};

use thiserror::Error;

pub use pattern::Pattern;
pub use rewrite::{AnswerPart, AnswerRule, NameMatch, Rewrite};
pub use template::{Piece, RecordText, Template};
pub use zones::{Falls, is_within};

use tokens::{Directive, IMPORT, Server, directives, servers};

/// The namespace of the ConfigMaps that are read.
pub const NAMESPACE: &str = "kube-system";
/// The ConfigMap whose key `Corefile` is read, as clusters with CoreDNS have it.
pub const CONFIG_MAP: &str = "coredns";
/// The key in it.
pub const KEY: &str = "Corefile";
/// The ConfigMap of additions that several distributions have: keys that end in `.server` are
/// server blocks, those in `.override` directives of the block for all names.
pub const CUSTOM_CONFIG_MAP: &str = "coredns-custom";
/// No text of a ConfigMap is longer; a stated bound for who reads it anyhow.
const MOST_BYTES: usize = 1 << 20;

/// Why a text is no Corefile.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {line}: {what}")]
pub struct CorefileError {
    /// The first line is 1.
    pub line: usize,
    /// What is wrong there.
    pub what: String,
}

/// What a Corefile says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Corefile {
    /// Server blocks, in their order.
    pub blocks: Vec<Block>,
    /// What nobody acts on, each with its line.
    pub warnings: Vec<String>,
}

/// How names of some zones are answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Block {
    /// In lower case, without a final dot; empty for all names.
    pub zones: Vec<String>,
    /// Names that are asked for in place of others, by rules in their order.
    pub rewrites: Vec<Rewrite>,
    /// Answers that are made of the names, in their order.
    pub templates: Vec<Template>,
    /// Names that are listed here.
    pub hosts: Option<Hosts>,
    /// Names of Services and pods.
    pub cluster: Option<Cluster>,
    /// Of which names of the cluster that do not exist the whole search path is answered at once, where
    /// that is said.
    pub autopath: Option<Falls>,
    /// How long answers of others are kept.
    pub cache: Option<Cache>,
    /// Who is asked for the rest; the first whose zone fits.
    pub forwards: Vec<Forward>,
}

/// The plugin `hosts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hosts {
    /// Addresses with their names, in lower case.
    pub entries: Vec<(IpAddr, Vec<String>)>,
    /// The zones that it answers for; empty for those of its block.
    pub zones: Vec<String>,
    /// How long answers may be believed.
    pub ttl_seconds: u32,
    /// Addresses have names, too.
    pub reverse: bool,
    /// Which names it passes on.
    pub falls: Falls,
}

/// The plugin `kubernetes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The zones that it is to answer for.
    pub zones: Vec<String>,
    /// How long answers may be believed.
    pub ttl_seconds: u32,
    /// Names of pods by their addresses are answered.
    pub pods: bool,
    /// Endpoints without a host name have their pods' names.
    pub pod_names: bool,
    /// Which names it passes on.
    pub falls: Falls,
    /// Services without endpoints do not exist.
    pub ignore_empty_service: bool,
}

/// The plugin `cache`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// Answers are kept so long at most.
    pub success_seconds: u32,
    /// That there is nothing is believed so long at most.
    pub denial_seconds: u32,
    /// Answers are kept so long at least.
    pub success_least_seconds: u32,
    /// That there is nothing is believed so long at least.
    pub denial_least_seconds: u32,
    /// That somebody could not answer is remembered so long.
    pub failure_seconds: u32,
    /// Zones whose answers are not kept.
    pub success_off: Falls,
    /// Zones of which it is not kept that there is nothing.
    pub denial_off: Falls,
    /// So many answers are kept.
    pub entries: usize,
    /// For so long behind its end an answer is given while nobody else answers; zero for never.
    pub stale_seconds: u32,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            success_seconds: 3600,
            denial_seconds: 1800,
            success_least_seconds: 5,
            denial_least_seconds: 5,
            failure_seconds: 5,
            success_off: Falls::Never,
            denial_off: Falls::Never,
            entries: 9984,
            stale_seconds: 3600,
        }
    }
}

/// The plugin `forward`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// The zone whose names are passed on.
    pub from: String,
    /// To whom.
    pub to: Vec<Upstream>,
    /// Zones whose names are not.
    pub except: Vec<String>,
    /// Who of them is asked first.
    pub order: Order,
    /// By TCP alone.
    pub by_tcp: bool,
    /// So many questions may wait at once.
    pub most: Option<usize>,
}

/// Somebody who is asked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Upstream {
    /// A server.
    Server(SocketAddr),
    /// A server that is asked over TLS, and the name that its certificate must have where that is not
    /// its address.
    Tls(SocketAddr, Option<String>),
    /// The servers of the node's resolv.conf.
    Node,
}

/// Who of several is asked first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// By lot.
    #[default]
    Random,
    /// Each in turn.
    InTurn,
    /// The first as long as it answers.
    First,
}

impl Corefile {
    /// Reads a Corefile.
    ///
    /// # Errors
    /// When its braces and words make no sense. What makes sense and is not acted on is not an error:
    /// see `warnings`.
    pub fn parse(text: &str) -> Result<Self, CorefileError> {
        let mut corefile = Self::default();
        corefile.add_servers(text, "")?;
        Ok(corefile)
    }

    /// Adds server blocks of another text; `what` names it in warnings.
    pub fn add_servers(&mut self, text: &str, what: &str) -> Result<(), CorefileError> {
        check_length(text)?;
        for server in servers(text)? {
            let mut reader = Reader::new(what);
            if server.name() == IMPORT {
                reader.import(&server);
                self.warnings.append(&mut reader.warnings);
                continue;
            }
            if let Some(block) = reader.block(&server) {
                self.blocks.push(block);
            }
            self.warnings.append(&mut reader.warnings);
        }
        Ok(())
    }

    /// Adds directives of another text to the block for all names.
    pub fn add_directives(&mut self, text: &str, what: &str) -> Result<(), CorefileError> {
        check_length(text)?;
        let mut reader = Reader::new(what);
        let all = directives(text)?;
        let index = match self
            .blocks
            .iter()
            .position(|b| b.zones.iter().any(String::is_empty))
        {
            Some(index) => index,
            None => {
                let zones = vec![String::new()];
                self.blocks.push(Block {
                    zones,
                    ..Block::default()
                });
                self.blocks.len() - 1
            }
        };
        if let Some(block) = self.blocks.get_mut(index) {
            all.iter()
                .for_each(|directive| reader.plugin(block, directive));
        }
        self.warnings.append(&mut reader.warnings);
        Ok(())
    }

    /// Reads what the ConfigMaps hold, by their keys: first those of `coredns`, then those of
    /// `coredns-custom`. Without a Corefile it is empty but for what is added.
    ///
    /// # Errors
    /// See [`Corefile::parse`]; with the key.
    pub fn of_keys<'a>(
        main: impl IntoIterator<Item = (&'a str, &'a str)>,
        custom: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, (String, CorefileError)> {
        let mut corefile = Self::default();
        for (key, text) in main {
            let with_key = |error| (key.to_owned(), error);
            if key == KEY {
                corefile.add_servers(text, "").map_err(with_key)?;
            } else {
                let warning = format!("{key}: nobody reads this key");
                corefile.warnings.push(warning);
            }
        }
        for (key, text) in custom {
            let with_key = |error| (key.to_owned(), error);
            if key.ends_with(".server") {
                corefile.add_servers(text, key).map_err(with_key)?;
            } else if key.ends_with(".override") {
                corefile.add_directives(text, key).map_err(with_key)?;
            } else {
                let warning =
                    format!("{key}: nobody reads a key that does not end in .server or .override");
                corefile.warnings.push(warning);
            }
        }
        Ok(corefile)
    }
}

fn check_length(text: &str) -> Result<(), CorefileError> {
    let error = || CorefileError {
        line: 1,
        what: format!("longer than {MOST_BYTES} bytes"),
    };
    (text.len() <= MOST_BYTES).then_some(()).ok_or_else(error)
}

/// Reads server blocks, and notes what it cannot act on.
struct Reader {
    what: String,
    warnings: Vec<String>,
}

impl Reader {
    fn new(what: &str) -> Self {
        Self {
            what: what.to_owned(),
            warnings: Vec::new(),
        }
    }

    fn warn(&mut self, line: usize, text: impl AsRef<str>) {
        let place = match self.what.as_str() {
            "" => String::new(),
            what => format!("{what}, "),
        };
        self.warnings
            .push(format!("{place}line {line}: {}", text.as_ref()));
    }

    /// There is nothing to import: no file is read, and no snippet.
    fn import(&mut self, directive: &Directive) {
        let what = directive.words.join(" ");
        let why = format!(
            "{what}: neither files nor snippets are read; keys of the ConfigMap {CUSTOM_CONFIG_MAP} \
             that end in .server and .override are added without it"
        );
        self.warn(directive.line, why);
    }

    fn block(&mut self, server: &Server) -> Option<Block> {
        let mut block = Block::default();
        if server.words.len() == 1 && server.name().starts_with('(') {
            self.warn(
                server.line,
                "a snippet: it is not read, and nothing is imported from it",
            );
            return None;
        }
        for word in &server.words {
            for key in word.split(',').filter(|key| !key.is_empty()) {
                match zone_of_key(key) {
                    Ok(zone) => block.zones.push(zone),
                    Err(why) => self.warn(server.line, format!("{key}: {why}; it is left out")),
                }
            }
        }
        if block.zones.is_empty() {
            return None;
        }
        for directive in &server.inner {
            self.plugin(&mut block, directive);
        }
        Some(block)
    }
}

/// The zone of a server block's key, such as `dns://example.com:53`.
fn zone_of_key(key: &str) -> Result<String, String> {
    let (scheme, rest) = key.split_once("://").unwrap_or(("dns", key));
    if scheme != "dns" {
        return Err(format!("there is no server for {scheme}"));
    }
    // A network may stand for the names of its addresses; then a colon may belong to it.
    let (zone, port) = match rest.rsplit_once(':') {
        Some((zone, port)) if !zone.contains(':') => (zone, Some(port)),
        _ => (rest, None),
    };
    if port.is_some_and(|port| port != "53") {
        return Err("questions come to port 53 alone".into());
    }
    zone_of(zone)
}

/// A zone in lower case without its final dot; a network becomes the zone of its addresses.
fn zone_of(text: &str) -> Result<String, String> {
    if let Some((address, length)) = text.split_once('/') {
        return reverse_zone(address, length).ok_or_else(|| {
            "only networks whose length is a multiple of 8 (IPv4) or 4 (IPv6)".into()
        });
    }
    Ok(text.trim_end_matches('.').to_lowercase())
}

fn reverse_zone(address: &str, length: &str) -> Option<String> {
    let length: usize = length.parse().ok()?;
    let (digits, per_digit, end): (Vec<String>, usize, &str) = match address.parse().ok()? {
        IpAddr::V4(ip) => {
            let octets = ip.octets().iter().map(ToString::to_string).collect();
            (octets, 8, "in-addr.arpa")
        }
        IpAddr::V6(ip) => {
            let text = format!("{:032x}", ip.to_bits());
            (text.chars().map(String::from).collect(), 4, "ip6.arpa")
        }
    };
    if !length.is_multiple_of(per_digit) || length / per_digit > digits.len() {
        return None;
    }
    let kept = digits.get(..length / per_digit)?;
    let mut labels: Vec<&str> = kept.iter().rev().map(String::as_str).collect();
    labels.push(end);
    Some(labels.join("."))
}

#[cfg(test)]
mod tests;
