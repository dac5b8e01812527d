//! Writes down on what day a token was last used, on the Secret in which it lies: so that somebody
//! can remove those that nobody uses.

use api::Status;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::Loopback;
use crate::object::label;
use crate::state::TokenUse;

/// On a token's Secret: the day of its last use.
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const DAY_SECONDS: i64 = 86_400;

/// Writes down what rules note, one after the other, until the server stops. What fails is tried
/// at the token's first use after the next start.
pub async fn keep(loopback: Loopback, mut noted: mpsc::Receiver<TokenUse>) {
    loop {
        let seen = tokio::select! {
            biased;
            () = loopback.state.stop().cancelled() => return,
            seen = noted.recv() => seen,
        };
        let Some(seen) = seen else { return };
        if let Err(e) = write(&loopback, &seen).await {
            let TokenUse {
                namespace, secret, ..
            } = &seen;
            tracing::warn!("noting the use of the Secret {namespace}/{secret}: {e}");
        }
    }
}

async fn write(loopback: &Loopback, seen: &TokenUse) -> Result<(), Status> {
    // Clocks of servers differ: another one's tomorrow is as good.
    let (today, tomorrow) = (date(seen.day), date(seen.day + 1));
    let (namespace, name) = (&seen.namespace, &seen.secret);
    let Some(secret) = loopback.state.lookup("", "secrets", namespace, name) else {
        return Ok(());
    };
    let shown = secret.to_value();
    let shown = label(&shown, LAST_USED).unwrap_or_default();
    if shown == today || shown == tomorrow {
        return Ok(());
    }
    let make = |old: &Value| {
        let mut new = old.clone();
        if !new["metadata"]["labels"].is_object() {
            new["metadata"]["labels"] = json!({});
        }
        new["metadata"]["labels"][LAST_USED] = today.clone().into();
        new
    };
    let done = loopback.change("", "secrets", namespace, name, make).await;
    done.map(drop)
}

/// A day as `2026-01-02`.
fn date(day: i64) -> String {
    let text = api::time::format_seconds(day * DAY_SECONDS);
    text.split('T').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_upstreams_form() {
        assert_eq!(date(20_000), "2024-10-04");
    }
}
