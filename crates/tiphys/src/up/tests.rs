//! What flags of `up` mean.

use super::*;

fn args(words: &[&str]) -> UpArgs {
    use clap::Parser;
    let mut line = vec!["tiphys", "up"];
    line.extend(words);
    match crate::cli::Cli::parse_from(line).command {
        crate::cli::Command::Up(args) => args,
        _ => panic!("not up"),
    }
}

#[test]
fn a_second_up_continues_with_the_same_cluster() {
    let first = configure(&args(&["--nodes=3", "--port=7000"]), None, true).expect("first");
    assert_eq!(first.nodes.len(), 3);
    let second = configure(&args(&[]), Some(first.clone()), false).expect("second");
    assert_eq!(second, first);
}

#[test]
fn a_dynamic_binary_is_refused_in_a_sentence() {
    assert!(runs_alone(true).is_ok());
    let said = runs_alone(false).expect_err("refused").to_string();
    assert!(said.contains("no pod would start"), "{said}");
    assert!(!said.contains('\n') && !said.contains("  "), "{said}");
    // The tests themselves are built as the binary is.
    const { assert!(cfg!(target_feature = "crt-static")) };
}

#[test]
fn several_servers_are_an_odd_number_that_stays() {
    let range: &Cidrs = &NODE_CIDR[0].parse().expect("range");
    let three = make_servers(Some(3), None, range).expect("three");
    let ips: Vec<String> = three.iter().map(|s| s.ip.to_string()).collect();
    assert_eq!(ips, ["10.245.0.2", "10.245.0.3", "10.245.0.4"]);
    assert_eq!(make_servers(None, None, range).expect("one"), []);
    for wrong in [0, 2, 9] {
        assert!(make_servers(Some(wrong), None, range).is_err(), "{wrong}");
    }
    let mut had = configure(&args(&[]), None, false).expect("first");
    assert!(make_servers(Some(3), Some(&had), range).is_err());
    had.servers = three;
    assert!(make_servers(Some(1), Some(&had), range).is_err());
    had.servers[0].stopped = true;
    let again = make_servers(Some(3), Some(&had), range).expect("again");
    assert!(again[0].stopped, "a majority is on");
    had.servers[1].stopped = true;
    let again = make_servers(None, Some(&had), range).expect("again");
    assert!(again.iter().all(|s| !s.stopped));
}

#[test]
fn ranges_of_a_cluster_are_fixed() {
    let first = configure(&args(&[]), None, false).expect("first");
    let error =
        configure(&args(&["--pod-cidr=10.1.0.0/16"]), Some(first), true).expect_err("fixed");
    assert!(error.to_string().contains("cannot change"));
}

#[test]
fn a_cluster_has_the_families_of_the_kernel_or_of_the_ranges_that_were_asked_for() {
    let shown = |words: &[&str], has_ipv6| -> Result<String> {
        let config = configure(&args(words), None, has_ipv6)?;
        let node = config.nodes.first().context("no node")?;
        let ranges = [&config.service_cidr, &config.pod_cidr, &config.node_cidr];
        let ranges: Vec<String> = ranges.iter().map(|r| r.to_string()).collect();
        Ok(format!("{} {}", ranges.join(" "), node.ip))
    };
    let both = "10.96.0.0/16,fd00:10:96::/112 10.244.0.0/16,fd00:10:244::/56 10.245.0.0/24,fd00:10:245::/64 10.245.0.10,fd00:10:245::a";
    assert_eq!(shown(&[], true).expect("both"), both);
    let four = "10.96.0.0/16 10.244.0.0/16 10.245.0.0/24 10.245.0.10";
    assert_eq!(shown(&[], false).expect("IPv4"), four);
    assert_eq!(
        shown(&["--node-cidr=10.245.0.0/24"], true).expect("IPv4"),
        four
    );
    let six = "fd00:10:96::/112 fd00:1::/56 fd00:10:245::/64 fd00:10:245::a";
    assert_eq!(shown(&["--pod-cidr=fd00:1::/56"], true).expect("IPv6"), six);
    assert!(shown(&["--pod-cidr=fd00:1::/56"], false).is_err());
    let mixed = ["--pod-cidr=fd00:1::/56", "--service-cidr=10.96.0.0/16"];
    let said = shown(&mixed, true).expect_err("mixed").to_string();
    assert!(said.contains("the same families"), "{said}");
}
