//! Files that the kubelet makes for a container: one for its termination message, and the hosts file.

use super::{sandbox, spec};
use crate::config::Config;
use crate::volumes::{atomic, private_folder};
use k8s_openapi::api::core::v1::{Container, Pod};
use std::io;
use std::path::{Path, PathBuf};

/// The hosts file of the node.
pub(super) const HOSTS: &str = "/etc/hosts";

/// Makes them; where they are. `of_node`: the node's own hosts file, which pods on its network have.
///
/// # Errors
/// One cannot be written, or that of the node cannot be read.
pub(super) fn make(
    (config, of_node): (&Config, &Path),
    pod: &Pod,
    c: &Container,
    attempt: u32,
    ips: &[String],
) -> io::Result<(PathBuf, PathBuf)> {
    let dir = config.pod_dir(spec::uid(pod));
    let own = dir.join("containers").join(&c.name);
    private_folder(&own)?;
    let message = own.join(format!("{attempt}-message"));
    std::fs::write(&message, b"")?;
    // Whatever user the container runs as must be able to write its termination message.
    atomic::set_mode(&message, 0o666)?;
    let hosts = dir.join("etc-hosts");
    let of_node = match spec::host_network(pod) {
        true => Some(read(of_node)?),
        false => None,
    };
    let text = sandbox::hosts(pod, ips, &config.cluster_domain, of_node.as_deref());
    std::fs::write(&hosts, text)?;
    atomic::set_mode(&hosts, 0o644)?;
    Ok((message, hosts))
}

fn read(path: &Path) -> io::Result<String> {
    let text = std::fs::read_to_string(path);
    text.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_on_the_nodes_network_have_its_hosts_or_do_not_start() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new("n", "10.0.0.1".parse().unwrap());
        config.root_dir = dir.path().to_owned();
        let of_node = dir.path().join("hosts");
        let of = |on_node: bool, attempt| {
            let spec = json!({"hostNetwork": on_node, "containers": [{"name": "c"}]});
            let pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": spec});
            let pod: Pod = serde_json::from_value(pod).unwrap();
            let c = &spec::containers(&pod)[0];
            let made = make((&config, &of_node), &pod, c, attempt, &["10.1.0.2".into()]);
            made.map(|(message, hosts)| {
                assert!(message.ends_with(format!("containers/c/{attempt}-message")));
                assert_eq!(std::fs::read(message).unwrap(), b"");
                std::fs::read_to_string(hosts).unwrap()
            })
        };
        assert!(of(false, 0).unwrap().contains("10.1.0.2\tp\n"));
        let why = of(true, 0).unwrap_err().to_string();
        assert!(why.contains("/hosts: "), "{why}");
        std::fs::write(&of_node, "10.9.9.9 other\n").unwrap();
        assert!(of(true, 1).unwrap().contains("10.9.9.9 other\n"));
    }
}
