//! The operator of sites, as a program: `operator NAMESPACE IDENTITY IMAGE`. It finds the cluster by
//! KUBECONFIG, waits until it leads, runs its controller, and ends when another one leads.

use anyhow::{Context as _, Result};
use kube::{Api, Client};
use tests::operator::{controller, election};

#[tokio::main]
async fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let mut next = move || words.next().context("a word is missing");
    let (namespace, identity, image) = (next()?, next()?, next()?);
    let client = Client::try_default().await?;
    let candidate = election::Candidate {
        leases: Api::namespaced(client.clone(), &namespace),
        lease: controller::MANAGER.into(),
        identity: identity.clone(),
    };
    println!("{identity} waits");
    candidate.lead().await?;
    println!("{identity} leads");
    tokio::select! {
        biased;
        lost = candidate.stay() => lost,
        () = controller::run(client, &namespace, &identity, &image) => {
            println!("{identity} ends");
            Ok(())
        }
    }
}
