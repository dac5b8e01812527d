//! The network of a node, without control plane: Services in the kernel, network policies, names.
//! Each part is measured in a process of its own, which holds nothing else; those that make rules
//! do so in network namespaces of their own, and need root.

mod child;
mod objects;
mod packets;
mod policies;
mod services;
mod times;

pub mod names;

use anyhow::{Context, Result, bail, ensure};

use crate::plan::Plan;
use crate::report::Report;

fn must_be_root() -> Result<()> {
    let root = rustix::process::geteuid().is_root();
    ensure!(root, "network namespaces are made for this: run it as root");
    Ok(())
}

fn thousands(count: u32) -> String {
    match (count / 1000, count % 1000) {
        (0, rest) => rest.to_string(),
        (thousands, rest) => format!("{thousands},{rest:03}"),
    }
}

/// Services by number, and endpoints of each; then so many times one of them changes.
pub fn services(plan: &Plan, report: &mut Report) -> Result<()> {
    must_be_root()?;
    let sizes: &[(u32, u32)] = match plan.quick {
        true => &[(1, 10), (2_000, 10)],
        // Upstream was measured with 2,000.
        false => &[(1, 10), (2_000, 10), (5_000, 10), (30_000, 2)],
    };
    let changes = if plan.quick { 60 } else { 300 };
    let mut one: Option<packets::Packets> = None;
    for (count, endpoints) in sizes {
        let asked = format!("services {count} {endpoints} {changes}");
        let seen: services::Figures = child::ask(&asked)?;
        let case = match count {
            1 => format!("1 Service × {endpoints} endpoints"),
            _ => format!("{} Services × {endpoints} endpoints", thousands(*count)),
        };
        if *count > 1 {
            for row in seen.rows(&case) {
                report.add(row);
            }
        }
        for row in seen.packets.rows(&case, one.as_ref()) {
            report.add(row);
        }
        if let Some(unallocated) = seen.unallocated {
            let case = "2 ranges of Services' addresses, against none";
            for row in unallocated.rows(case, &seen.packets) {
                report.add(row);
            }
        }
        one.get_or_insert(seen.packets);
    }
    Ok(())
}

/// Policies over the pods of a cluster, of which one node has its share.
pub fn policies(plan: &Plan, report: &mut Report) -> Result<()> {
    must_be_root()?;
    let (policies, pods, times) = match plan.quick {
        true => (200, 400, 50),
        false => (1_000, 2_000, 300),
    };
    let seen: policies::Figures = child::ask(&format!("policies {policies} {pods} {times}"))?;
    let case = format!(
        "{} policies over {} pods",
        thousands(policies),
        thousands(pods)
    );
    for row in seen.rows(&case) {
        report.add(row);
    }
    // As many rules of administrators.
    let wide = policies / policies::WIDE_RULES;
    let seen: policies::Figures = child::ask(&format!("administrators {wide} {pods} {times}"))?;
    let case = format!(
        "{} rules of ClusterNetworkPolicies in two tiers over {} pods",
        thousands(wide * policies::WIDE_RULES),
        thousands(pods)
    );
    for row in seen.rows(&case) {
        report.add(row);
    }
    Ok(())
}

/// What a child does. False when this is none.
pub async fn child() -> Result<bool> {
    let Some(what) = child::asked() else {
        return Ok(false);
    };
    let words: Vec<&str> = what.split(' ').collect();
    let number = |text: &str| text.parse::<u32>().with_context(|| what.clone());
    match words.as_slice() {
        ["services", count, endpoints, changes] => {
            let (count, endpoints) = (number(count)?, number(endpoints)?);
            say(&services::measure(count, endpoints, number(changes)?)?)?;
        }
        [
            kind @ ("policies" | "administrators"),
            policies,
            pods,
            times,
        ] => {
            let make: policies::Make = match *kind {
                "policies" => policies::policy,
                _ => policies::wide_policy,
            };
            let (policies, pods) = (number(policies)?, number(pods)?);
            say(&policies::measure(make, policies, pods, number(times)?)?)?;
        }
        ["names", listen, upstream, services] => {
            names::serve(listen.parse()?, upstream.parse()?, number(services)?).await?;
        }
        _ => bail!("{what}: nothing that is measured"),
    }
    Ok(true)
}

fn say(seen: &impl serde::Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(seen)?);
    Ok(())
}
