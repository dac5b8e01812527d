//! Which server the next connection goes to, given what is known of each. Pure: no sockets, no
//! clock.

/// What is known of a server's health.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Health {
    /// Nothing yet: as good as any.
    Unknown,
    Good,
    Bad,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Server {
    /// `host:port`.
    address: String,
    /// Only given by the user, not (any more) by the cluster: used when none of the others is
    /// good. The cluster's own word is newer.
    spare: bool,
    health: Health,
    connections: usize,
}

/// The servers of a cluster as one client sees them.
#[derive(Clone, Debug, Default)]
pub struct Servers {
    all: Vec<Server>,
    configured: Vec<String>,
    /// Where the search for the least loaded starts, so that equals take turns.
    turn: usize,
}

impl Servers {
    /// `configured`: what the user gave. `listed`: what the cluster said last, if anything.
    pub fn new(configured: &[String], listed: &[String]) -> Self {
        let mut servers = Self {
            configured: configured.to_vec(),
            ..Self::default()
        };
        servers.set_listed(listed);
        servers
    }

    /// The cluster names its servers. An empty list says nothing and changes nothing, since a
    /// cluster without servers could not have said so.
    /// Returns the addresses that are no longer among the servers.
    pub fn set_listed(&mut self, listed: &[String]) -> Vec<String> {
        if listed.is_empty() && !self.all.is_empty() {
            return Vec::new();
        }
        let before = std::mem::take(&mut self.all);
        let spare = self.configured.iter().filter(|c| !listed.contains(c));
        let wanted = listed.iter().map(|a| (a, false));
        let wanted = wanted.chain(spare.map(|a| (a, !listed.is_empty())));
        for (address, spare) in wanted {
            let known = before.iter().find(|s| s.address == *address);
            if self.all.iter().any(|s| s.address == *address) {
                continue;
            }
            self.all.push(Server {
                address: address.clone(),
                spare,
                health: known.map_or(Health::Unknown, |s| s.health),
                connections: known.map_or(0, |s| s.connections),
            });
        }
        let gone = before.into_iter().map(|s| s.address);
        gone.filter(|a| self.find(a).is_none()).collect()
    }

    pub fn addresses(&self) -> Vec<String> {
        self.all.iter().map(|s| s.address.clone()).collect()
    }

    fn find(&self, address: &str) -> Option<&Server> {
        self.all.iter().find(|s| s.address == address)
    }

    fn find_mut(&mut self, address: &str) -> Option<&mut Server> {
        self.all.iter_mut().find(|s| s.address == address)
    }

    /// The server for a new connection that was not refused by any of `tried`: one that is not
    /// known to be bad, with the fewest connections; when all are bad, each once all the same.
    pub fn choose(&mut self, tried: &[String]) -> Option<String> {
        let count = self.all.len();
        let start = self.turn;
        let order = |i: usize| (i + count - start % count) % count;
        let (i, server) = self
            .all
            .iter()
            .enumerate()
            .filter(|(_, s)| !tried.contains(&s.address))
            .min_by_key(|(i, s)| (s.health == Health::Bad, s.spare, s.connections, order(*i)))?;
        self.turn = i + 1;
        Some(server.address.clone())
    }

    pub fn opened(&mut self, address: &str) {
        if let Some(server) = self.find_mut(address) {
            server.connections += 1;
        }
    }

    pub fn closed(&mut self, address: &str) {
        if let Some(server) = self.find_mut(address) {
            server.connections = server.connections.saturating_sub(1);
        }
    }

    /// The server answered.
    pub fn answered(&mut self, address: &str) {
        if let Some(server) = self.find_mut(address) {
            server.health = Health::Good;
        }
    }

    /// The server did not answer, or said that it cannot serve. `true` when its connections are
    /// to be closed: there is another to go to.
    pub fn failed(&mut self, address: &str) -> bool {
        if let Some(server) = self.find_mut(address) {
            server.health = Health::Bad;
        }
        self.all.iter().any(|s| s.health != Health::Bad)
    }

    /// There is a choice: looking after each server's health is worth its price.
    pub fn has_choice(&self) -> bool {
        self.all.len() > 1
    }

    /// A server that is in use, or is waited for to come back, is looked after closely.
    pub fn is_close(&self, address: &str) -> bool {
        self.find(address)
            .is_some_and(|s| s.connections > 0 || s.health != Health::Good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    fn connect(servers: &mut Servers) -> String {
        let chosen = servers.choose(&[]).expect("a server");
        servers.opened(&chosen);
        chosen
    }

    #[test]
    fn connections_spread_evenly() {
        let mut servers = Servers::new(&names(&["a", "b", "c"]), &[]);
        let mut chosen: Vec<String> = (0..6).map(|_| connect(&mut servers)).collect();
        chosen.sort();
        assert_eq!(chosen, ["a", "a", "b", "b", "c", "c"]);
        servers.closed("b");
        assert_eq!(connect(&mut servers), "b");
    }

    #[test]
    fn a_bad_server_is_left_until_it_answers() {
        let mut servers = Servers::new(&names(&["a", "b"]), &[]);
        assert!(servers.failed("a"));
        for _ in 0..4 {
            assert_eq!(connect(&mut servers), "b");
        }
        servers.answered("a");
        assert_eq!(connect(&mut servers), "a");
    }

    #[test]
    fn the_last_one_is_not_left() {
        let mut servers = Servers::new(&names(&["a", "b"]), &[]);
        assert!(servers.failed("a"));
        assert!(!servers.failed("b"), "there is nobody to go to");
        // All are bad: each is tried once, since what is known may be old.
        let first = servers.choose(&[]).expect("one");
        let second = servers.choose(std::slice::from_ref(&first)).expect("other");
        assert_ne!(first, second);
        assert_eq!(servers.choose(&[first, second]), None);
    }

    #[test]
    fn the_clusters_list_goes_before_what_was_configured() {
        let mut servers = Servers::new(&names(&["vip"]), &[]);
        assert_eq!(connect(&mut servers), "vip");
        assert!(servers.set_listed(&names(&["a", "b"])).is_empty());
        let chosen = [connect(&mut servers), connect(&mut servers)];
        assert!(!chosen.contains(&"vip".to_owned()), "{chosen:?}");
        servers.failed("a");
        servers.failed("b");
        assert_eq!(servers.choose(&[]).as_deref(), Some("vip"));
    }

    #[test]
    fn the_list_is_followed_and_never_emptied() {
        let mut servers = Servers::new(&[], &names(&["a", "b"]));
        servers.opened("b");
        assert_eq!(servers.set_listed(&names(&["b", "c"])), ["a"]);
        assert_eq!(servers.choose(&[]).as_deref(), Some("c"), "b is in use");
        assert!(servers.set_listed(&[]).is_empty());
        assert_eq!(servers.addresses(), ["b", "c"]);
    }

    #[test]
    fn nobody_is_chosen_of_none() {
        assert_eq!(Servers::default().choose(&[]), None);
    }
}
