//! Clients write and read through API servers that are killed and paused, and what they were told
//! is held against a model: linearizable registers, watches that tell every revision once and in
//! order, lists that are of their revision. On the embedded store, and on an etcd with two servers.
//! It needs no root.
#![forbid(unsafe_code)]

mod clients;
mod rounds;
mod servers;
mod watcher;

use anyhow::Result;

use crate::rounds::{Fault, play};
use crate::servers::Control;

/// Rounds of every day and of the soak; in each a fault strikes while clients write.
fn rounds(short: usize, soak: usize) -> usize {
    match std::env::var_os("TIPHYS_SOAK") {
        Some(_) => soak,
        None => short,
    }
}

#[test]
fn the_embedded_store_is_linearizable() -> Result<()> {
    let control = Control::embedded()?;
    let faults = [Fault::KillServer(0), Fault::PauseServer(0)];
    play("embedded", control, &faults, rounds(8, 600))
}

#[test]
fn two_servers_on_an_etcd_are_linearizable() -> Result<()> {
    let control = Control::etcd()?;
    let faults = [
        Fault::KillServer(0),
        Fault::PauseServer(1),
        Fault::KillEtcd,
        Fault::PauseServer(0),
        Fault::PauseEtcd,
        Fault::KillServer(1),
    ];
    play("etcd, two servers", control, &faults, rounds(6, 120))
}
