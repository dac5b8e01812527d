//! Parts in processes of their own: this program again, with a line that says what to measure.

use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{names, policies, services};

/// Names what a child is to measure.
const MEASURE: &str = "TIPHYS_BENCH_NETWORK";

/// What a child measured.
pub fn ask<T: DeserializeOwned>(what: &str) -> Result<T> {
    let output = command(what)?.output().context("starting a child")?;
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text)
        .with_context(|| format!("{what}: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// A child that measures or serves, to be started.
pub fn command(what: &str) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env(MEASURE, what);
    Ok(command)
}

/// What a child does. False when this is none.
pub async fn child() -> Result<bool> {
    let Ok(what) = std::env::var(MEASURE) else {
        return Ok(false);
    };
    let words: Vec<&str> = what.split(' ').collect();
    let number = |text: &str| text.parse::<u32>().with_context(|| what.clone());
    match words.as_slice() {
        ["services", count, endpoints, changes] => {
            let (count, endpoints) = (number(count)?, number(endpoints)?);
            say(&services::measure(count, endpoints, number(changes)?)?)?;
        }
        ["policies", policies, pods, times] => {
            let (policies, pods) = (number(policies)?, number(pods)?);
            say(&policies::measure(policies, pods, number(times)?)?)?;
        }
        ["names", listen, upstream, services] => {
            names::serve(listen.parse()?, upstream.parse()?, number(services)?).await?;
        }
        _ => bail!("{what}: nothing that is measured"),
    }
    Ok(true)
}

fn say(seen: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(seen)?);
    Ok(())
}
