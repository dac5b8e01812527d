//! What the plugin waits for: that the kernel has what network policies say of a pod.

use std::net::IpAddr;

use super::conf::NetConf;
use super::protocol::{CniError, Invocation, code};
use crate::policy::door::{self, Notice};

/// Waits until the kernel has what network policies say of the pod: no process of it runs before.
pub fn protect(call: &Invocation, conf: &NetConf, addresses: &[IpAddr]) -> Result<(), CniError> {
    let (Some(socket), Some(pod)) = (conf.policy_socket()?, call.pod.clone()) else {
        return Ok(());
    };
    let notice = Notice::Added {
        namespace: pod.namespace,
        name: pod.name,
        uid: pod.uid,
        sandbox: call.key(),
        addresses: addresses.to_vec(),
    };
    door::tell(&socket, &notice)
        .map_err(|e| CniError::new(code::POLICY, "apply the pod's network policies", e))
}

/// Nobody has these addresses any more.
pub fn give_up(call: &Invocation, conf: &NetConf, addresses: Vec<IpAddr>) {
    let Ok(Some(socket)) = conf.policy_socket() else {
        return;
    };
    let sandbox = call.key();
    // Rules of an address that nobody has do no harm; whoever gets it next reports again.
    if let Err(error) = door::mention(&socket, &Notice::Removed { sandbox, addresses }) {
        tracing::debug!(%error, "the agent of network policies did not hear of it");
    }
}
