//! A disk behind iSCSI as a volume names it: what the host's tool is asked for it, where its device
//! appears, and the tool's records, as text.

use crate::volumes::file_system::FileSystemSpec;
use k8s_openapi::api::core::v1::{ISCSIPersistentVolumeSource, ISCSIVolumeSource};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The port of a portal that names none.
const PORT: u16 = 3260;
/// The tool's own interface, if a volume names none.
const USUAL_INTERFACE: &str = "default";

/// Which disk, and how it is reached. Kept on the node's disk while a pod has it: it has no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Addresses with ports; the first one is the target's main one.
    pub portals: Vec<String>,
    /// The target.
    pub iqn: String,
    /// Which of its disks.
    pub lun: i32,
    /// The tool's interface that sessions are opened by.
    pub interface: String,
    /// The name by which this node logs in, and the interface that its own one is made from.
    pub initiator: Option<(String, String)>,
}

/// What a volume asks for beside its disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IscsiOptions {
    /// The kind of its file system.
    pub kind: Option<String>,
    /// It may not be written.
    pub read_only: bool,
    /// Discovery is authenticated.
    pub discovery_chap: bool,
    /// Sessions are.
    pub session_chap: bool,
}

impl IscsiOptions {
    /// What is mounted of it, with these options.
    pub fn file_system<'a>(&'a self, options: &'a [String]) -> FileSystemSpec<'a> {
        FileSystemSpec {
            kind: self.kind.as_deref(),
            options,
            read_only: self.read_only,
        }
    }
}

/// `volume` names the interface that is made for an initiator's name.
pub fn of_volume(source: &ISCSIVolumeSource, volume: &str) -> (Disk, IscsiOptions) {
    let disk = Disk::of(
        &source.target_portal,
        source.portals.as_deref().unwrap_or_default(),
        (&source.iqn, source.lun),
        source.iscsi_interface.as_deref(),
        source.initiator_name.as_deref(),
        volume,
    );
    let asked = IscsiOptions {
        kind: source.fs_type.clone(),
        read_only: source.read_only == Some(true),
        discovery_chap: source.chap_auth_discovery == Some(true),
        session_chap: source.chap_auth_session == Some(true),
    };
    (disk, asked)
}

/// The same of a persistent volume, whose type has the same fields.
pub fn of_persistent(source: &ISCSIPersistentVolumeSource, volume: &str) -> (Disk, IscsiOptions) {
    let same = ISCSIVolumeSource {
        target_portal: source.target_portal.clone(),
        portals: source.portals.clone(),
        iqn: source.iqn.clone(),
        lun: source.lun,
        iscsi_interface: source.iscsi_interface.clone(),
        initiator_name: source.initiator_name.clone(),
        fs_type: source.fs_type.clone(),
        read_only: source.read_only,
        chap_auth_discovery: source.chap_auth_discovery,
        chap_auth_session: source.chap_auth_session,
        secret_ref: None,
    };
    of_volume(&same, volume)
}

impl Disk {
    fn of(
        first: &str,
        more: &[String],
        (iqn, lun): (&str, i32),
        interface: Option<&str>,
        initiator: Option<&str>,
        volume: &str,
    ) -> Self {
        let mut portals: Vec<String> = Vec::new();
        for portal in std::iter::once(first).chain(more.iter().map(String::as_str)) {
            let portal = with_port(portal);
            if !portals.contains(&portal) {
                portals.push(portal);
            }
        }
        let base = interface.filter(|name| !name.is_empty());
        let base = base.unwrap_or(USUAL_INTERFACE).to_owned();
        let main = portals.first().cloned().unwrap_or_default();
        let initiator = initiator.map(|name| (name.to_owned(), base.clone()));
        Self {
            interface: match &initiator {
                Some(_) => format!("{main}:{volume}"),
                None => base,
            },
            portals,
            iqn: iqn.to_owned(),
            lun,
            initiator,
        }
    }

    /// What is asked of the tool about a portal's targets.
    pub fn discovery(&self, portal: &str, what: &[&str]) -> Vec<String> {
        let of = ["-m", "discoverydb", "-t", "sendtargets", "-p", portal, "-I"];
        let all = of.into_iter().chain([self.interface.as_str()]);
        all.chain(what.iter().copied()).map(str::to_owned).collect()
    }

    /// What is asked of the tool about the target at a portal.
    pub fn node(&self, portal: &str, what: &[&str]) -> Vec<String> {
        let of = [
            "-m",
            "node",
            "-p",
            portal,
            "-T",
            &self.iqn,
            "-I",
            &self.interface,
        ];
        let all = of.into_iter().chain(what.iter().copied());
        all.map(str::to_owned).collect()
    }

    /// Whether a name below `/dev/disk/by-path` is this disk's by that portal. Adapters with an
    /// engine of their own have a name of the bus before it.
    pub fn is_at(&self, portal: &str, name: &str) -> bool {
        let portal = portal.replace(['[', ']'], "");
        let own = format!("ip-{portal}-iscsi-{}-lun-{}", self.iqn, self.lun);
        let before = name.strip_suffix(&own);
        before.is_some_and(|before| {
            before.is_empty() || (before.starts_with("pci-") && before.ends_with('-'))
        })
    }

    /// Whether another volume's disk keeps the session open.
    pub fn shares_sessions(&self, other: &Self) -> bool {
        (&self.iqn, &self.interface) == (&other.iqn, &other.interface)
    }
}

/// `192.0.2.1`, `[2001:db8::1]` or a name, with a port after it.
fn with_port(portal: &str) -> String {
    let has_port = match portal.rsplit_once(':') {
        Some((before, port)) => {
            let is_address = before.ends_with(']') || !before.contains(':');
            is_address && port.parse::<u16>().is_ok()
        }
        None => false,
    };
    if has_port {
        return portal.to_owned();
    }
    let is_bare = portal.contains(':') && !portal.starts_with('[');
    if is_bare {
        format!("[{portal}]:{PORT}")
    } else {
        format!("{portal}:{PORT}")
    }
}

/// Values that the tool's interface of this text has, but its name.
pub fn interface_values(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| line.split_once(" = "));
    lines
        .filter(|(key, value)| key.starts_with("iface.") && *value != "<empty>")
        .filter(|(key, _)| *key != "iface.iscsi_ifacename")
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// How the keys of a Secret begin that are for discovery, and those for sessions; the tool's own
/// names.
pub const DISCOVERY_AUTH: &str = "discovery.sendtargets.auth.";
/// See [`DISCOVERY_AUTH`].
pub const SESSION_AUTH: &str = "node.session.auth.";

/// A record of the tool with the names and passwords of a Secret. They are written to the tool's
/// file by hand, as its arguments would show them to everybody on the machine.
///
/// # Errors
/// A value that would be more than one line.
pub fn with_secret(
    record: &str,
    prefix: &str,
    secret: &BTreeMap<String, Vec<u8>>,
) -> Result<String, String> {
    let known = ["username", "password", "username_in", "password_in"];
    let mut set = vec![(format!("{prefix}authmethod"), "CHAP".to_owned())];
    for name in known {
        let key = format!("{prefix}{name}");
        let Some(value) = secret.get(&key).filter(|value| !value.is_empty()) else {
            continue;
        };
        let value = std::str::from_utf8(value).ok();
        let value = value.filter(|v| !v.contains(['\n', '\r', '\0']));
        let value = value.ok_or_else(|| format!("{key} of the secret is not one line of text"))?;
        set.push((key, value.to_owned()));
    }
    let is_set = |line: &str| {
        let key = line.split_once('=').map(|(key, _)| key.trim());
        set.iter().any(|(name, _)| key == Some(name.as_str()))
    };
    let is_end = |line: &str| line.starts_with("# END RECORD");
    let mut lines: Vec<String> = Vec::new();
    let kept = record.lines().filter(|line| !is_set(line) && !is_end(line));
    lines.extend(kept.map(str::to_owned));
    lines.extend(set.iter().map(|(key, value)| format!("{key} = {value}")));
    lines.extend(record.lines().filter(|l| is_end(l)).map(str::to_owned));
    Ok(lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(portal: &str, initiator: Option<&str>) -> Disk {
        let source = ISCSIVolumeSource {
            target_portal: portal.into(),
            portals: Some(vec!["192.0.2.2:3261".into(), portal.into()]),
            iqn: "iqn.2003-01.example:t".into(),
            lun: 3,
            initiator_name: initiator.map(str::to_owned),
            ..ISCSIVolumeSource::default()
        };
        of_volume(&source, "v").0
    }

    #[test]
    fn portals_have_ports() {
        assert_eq!(
            disk("192.0.2.1", None).portals,
            ["192.0.2.1:3260", "192.0.2.2:3261"]
        );
        for (portal, want) in [
            ("host.example", "host.example:3260"),
            ("host.example:9", "host.example:9"),
            ("2001:db8::1", "[2001:db8::1]:3260"),
            ("[2001:db8::1]", "[2001:db8::1]:3260"),
            ("[2001:db8::1]:9", "[2001:db8::1]:9"),
        ] {
            assert_eq!(with_port(portal), want);
        }
    }

    #[test]
    fn the_device_is_found_by_its_path() {
        let disk = disk("[2001:db8::1]", None);
        let path = "ip-2001:db8::1:3260-iscsi-iqn.2003-01.example:t-lun-3";
        let is_at = |name: &str| disk.is_at("[2001:db8::1]:3260", name);
        assert!(is_at(path) && is_at(&format!("pci-0000:04:00.0-{path}")));
        assert!(!is_at(&format!("{path}0")) && !is_at(&format!("x{path}")));
        assert!(!is_at(&format!("{path}-part1")));
    }

    #[test]
    fn an_initiators_name_has_an_interface_of_its_own() {
        assert_eq!(disk("192.0.2.1", None).interface, "default");
        let own = disk("192.0.2.1", Some("iqn.1993-08.example:n"));
        assert_eq!(own.interface, "192.0.2.1:3260:v");
        let shown = "iface.iscsi_ifacename = default\niface.transport_name = tcp\n\
                     iface.mtu = 0\niface.hwaddress = <empty>\n# END RECORD\n";
        let values = interface_values(shown);
        let keys: Vec<_> = values.keys().map(String::as_str).collect();
        assert_eq!(keys, ["iface.mtu", "iface.transport_name"]);
    }

    #[test]
    fn secrets_go_into_the_record() {
        let record = "# BEGIN RECORD\nnode.name = t\nnode.session.auth.authmethod = None\n\
                      # END RECORD\n";
        let secret = |password: &str| {
            let key = |name: &str| format!("{SESSION_AUTH}{name}");
            BTreeMap::from([
                (key("username"), b"me".to_vec()),
                (key("password"), password.as_bytes().to_vec()),
                ("other".to_owned(), b"x".to_vec()),
            ])
        };
        let done = with_secret(record, SESSION_AUTH, &secret("p = 1")).unwrap();
        let want = "# BEGIN RECORD\nnode.name = t\nnode.session.auth.authmethod = CHAP\n\
                    node.session.auth.username = me\nnode.session.auth.password = p = 1\n\
                    # END RECORD\n";
        assert_eq!(done, want);
        assert_eq!(
            with_secret(&done, SESSION_AUTH, &secret("p = 1")).unwrap(),
            want
        );
        assert!(with_secret(record, SESSION_AUTH, &secret("a\nnode.name = u")).is_err());
    }
}
