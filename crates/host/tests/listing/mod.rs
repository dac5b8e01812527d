//! What people see of tables: nft's own listing.

use std::process::Command;

use host::netns::NetNs;

/// All tables of a network namespace as nft shows them, once as text and once as JSON. nft 1.0.6,
/// which is Debian 12's, aborts over what it cannot read.
pub fn listing(netns: &NetNs) -> String {
    let nft = |words: &[&str]| {
        let shown = netns.run(|| Command::new("nft").args(words).output());
        let shown = shown
            .expect("enter the namespace")
            .expect("nft: apt-get install nftables");
        let said = String::from_utf8_lossy(&shown.stderr).into_owned();
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(shown.status.success(), "{words:?}: {said}{text}");
        // A map that rules fill has no form in JSON; that is all that may be missing.
        let known = |line: &str| line == "warning: stmt ops map have no json callback";
        assert!(said.lines().all(known), "{words:?}: {said}");
        text
    };
    let json = nft(&["-j", "list", "ruleset"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert!(json["nftables"].is_array(), "{json}");
    nft(&["list", "ruleset"])
}
