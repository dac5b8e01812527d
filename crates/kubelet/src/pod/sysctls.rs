//! Which kernel parameters a pod may set: those that are safe, and those that the node's
//! operator allows beside them. Pure.

use std::str::FromStr;

/// Parameters that touch nobody beyond the pod. All are the network namespace's own in every
/// kernel since 4.15.
const SAFE: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];
/// Parameters of the IPC namespace; `kernel.shm*` and `kernel.msg*` are patterns of old times.
const IPC: [&str; 10] = [
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
    "kernel.shm",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.msg",
];

/// The namespace that a parameter belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Namespace {
    Ipc,
    Net,
}

fn namespace(name: &str) -> Option<Namespace> {
    if IPC.contains(&name) || name.starts_with("fs.mqueue.") {
        Some(Namespace::Ipc)
    } else {
        name.starts_with("net.").then_some(Namespace::Net)
    }
}

/// With dots between its parts: a name whose first separator is a slash has them swapped
/// (`net/ipv4/conf/eth0.1/forwarding`).
fn with_dots(name: &str) -> String {
    if name
        .find(['.', '/'])
        .is_none_or(|i| name[i..].starts_with('.'))
    {
        return name.to_owned();
    }
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    name.chars().map(swap).collect()
}

/// What the operator allows beside the safe ones: names, and prefixes that end in `*`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed(Vec<(String, bool, Namespace)>);

impl FromStr for Allowed {
    type Err = String;
    /// Reads `net.core.somaxconn,kernel.msg*`.
    fn from_str(text: &str) -> Result<Self, String> {
        let one = |pattern: &str| {
            let name = with_dots(pattern);
            let (name, prefix) = match name.split_once('*') {
                Some((before, "")) => (before.to_owned(), true),
                Some(_) => return Err(format!("{pattern:?}: only the end may be a *")),
                None => (name, false),
            };
            match namespace(&name) {
                Some(of) => Ok((name, prefix, of)),
                None => Err(format!(
                    "the sysctl {pattern:?} is not known to be namespaced"
                )),
            }
        };
        let words = text.split(',').map(str::trim).filter(|w| !w.is_empty());
        words.map(one).collect::<Result<_, _>>().map(Self)
    }
}

impl Allowed {
    /// Why a pod may not set a parameter.
    pub fn check(&self, name: &str, host_network: bool, host_ipc: bool) -> Result<(), String> {
        let name = with_dots(name);
        let safe = SAFE.contains(&name.as_str()).then(|| namespace(&name));
        let more = self.0.iter().find(|(n, prefix, _)| match prefix {
            true => name.starts_with(n.as_str()),
            false => *n == name,
        });
        match safe.flatten().or(more.map(|(_, _, of)| *of)) {
            None => Err(format!("{name:?} not allowlisted")),
            Some(Namespace::Net) if host_network => {
                Err(format!("{name:?} not allowed with host Net enabled"))
            }
            Some(Namespace::Ipc) if host_ipc => {
                Err(format!("{name:?} not allowed with host IPC enabled"))
            }
            Some(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn safe_ones_always_and_others_when_they_are_allowed() {
        let none = Allowed::default();
        let some: Allowed = "net.core.*,kernel/msgmax".parse().expect("names");
        for (name, net, ipc, without, with) in [
            ("kernel.shm_rmid_forced", false, false, true, true),
            ("kernel.shm_rmid_forced", false, true, false, false),
            ("net/ipv4/tcp_syncookies", false, false, true, true),
            ("net.ipv4.tcp_syncookies", true, false, false, false),
            ("net.core.somaxconn", false, false, false, true),
            ("net.core.somaxconn", true, false, false, false),
            ("kernel.msgmax", false, false, false, true),
            ("kernel.msgmnb", false, false, false, false),
            ("vm.swappiness", false, false, false, false),
        ] {
            assert_eq!(none.check(name, net, ipc).is_ok(), without, "{name}");
            assert_eq!(some.check(name, net, ipc).is_ok(), with, "{name}");
        }
        let text = none.check("net.core.somaxconn", false, false);
        assert_eq!(text, Err("\"net.core.somaxconn\" not allowlisted".into()));
    }

    #[test]
    fn what_belongs_to_the_whole_machine_cannot_be_allowed() {
        for bad in ["vm.swappiness", "kernel.pid_max", "*", "net.*.forwarding"] {
            assert!(bad.parse::<Allowed>().is_err(), "{bad}");
        }
    }
}
