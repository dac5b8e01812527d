//! Questions of policies that pods or nodes answer, and what each of these adds to the set that holds the
//! answer.

use std::fmt::Write;
use std::net::IpAddr;

use api::selector::LabelSelector;
use host::nft::{Field, Key, KeyPart};

use super::blocks::blocks_text;
use super::model::{Block, Namespaces, Node, Pod, Pods};
use super::text::{digest, text_of};

/// A question that pods or nodes answer: a set in the kernel holds the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Which of them.
    pub whom: Whom,
    /// Their ports of this protocol and name alone.
    pub port: Option<(u8, String)>,
}

/// Some pods, or nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whom {
    /// All pods.
    Anyone,
    /// By labels.
    Pods(Pods),
    /// By addresses.
    Blocks(Vec<Block>),
    /// Nodes, by labels. None of their ports has a name.
    Nodes(LabelSelector),
}

impl Query {
    /// The name of its set.
    pub fn set_name(&self) -> String {
        let mut word = "pods";
        let mut text = match &self.whom {
            Whom::Anyone => "anyone".to_owned(),
            Whom::Blocks(blocks) => blocks_text(blocks),
            Whom::Nodes(labels) => {
                word = "nodes";
                text_of(labels)
            }
            Whom::Pods(pods) => {
                let namespaces = match &pods.namespaces {
                    Namespaces::Of(name) => format!("in {name}"),
                    Namespaces::With(labels) => format!("in those with {}", text_of(labels)),
                };
                format!("{namespaces} pods {}", text_of(&pods.pods))
            }
        };
        if let Some((protocol, name)) = &self.port {
            let _ = write!(text, " port {protocol}/{name}");
        }
        digest(word, &text)
    }

    /// What its set holds keys of.
    pub fn fields(&self) -> Vec<Field> {
        match self.port {
            None => vec![Field::Client],
            Some(_) => vec![Field::Server, Field::ConnectionProtocol, Field::ServerPort],
        }
    }

    /// What a pod in a namespace with these labels adds to its set.
    pub fn keys(
        &self,
        namespace: &str,
        labels: Option<&[(String, String)]>,
        pod: &Pod,
    ) -> Vec<Key> {
        let in_block = |address: &IpAddr| match &self.whom {
            Whom::Blocks(blocks) => blocks.iter().any(|b| b.contains(*address)),
            Whom::Anyone | Whom::Pods(_) => true,
            Whom::Nodes(_) => false,
        };
        if let Whom::Pods(pods) = &self.whom {
            let there = match &pods.namespaces {
                Namespaces::Of(name) => name == namespace,
                // A namespace that is not known yet is none that is meant.
                Namespaces::With(wanted) => labels.is_some_and(|labels| wanted.matches(labels)),
            };
            if !there || !pods.pods.matches(&*pod.labels) {
                return Vec::new();
            }
        }
        let addresses = pod.addresses.iter().filter(|a| in_block(a));
        match &self.port {
            None => addresses.map(|a| vec![KeyPart::Address(*a)]).collect(),
            Some((protocol, name)) => {
                let named =
                    |p: &&super::model::NamedPort| p.protocol == *protocol && p.name == *name;
                let key = |a: &IpAddr, port: u16| {
                    vec![
                        KeyPart::Address(*a),
                        KeyPart::Protocol(*protocol),
                        KeyPart::Port(port),
                    ]
                };
                addresses
                    .flat_map(|a| pod.ports.iter().filter(named).map(move |p| key(a, p.port)))
                    .collect()
            }
        }
    }

    /// What a node adds to its set.
    pub fn keys_of_node(&self, node: &Node) -> Vec<Key> {
        match (&self.whom, &self.port) {
            (Whom::Nodes(wanted), None) if wanted.matches(&*node.labels) => {
                let addresses = node.addresses.iter();
                addresses.map(|a| vec![KeyPart::Address(*a)]).collect()
            }
            _ => Vec::new(),
        }
    }
}
