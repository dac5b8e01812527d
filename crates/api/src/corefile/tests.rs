//! Corefiles as people have them, and what is said of each.

use super::*;

/// What CoreDNS' own manifests have.
const USUAL: &str = "
.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30 {
       disable success cluster.local
       disable denial cluster.local
    }
    loop
    reload
    loadbalance
}
";

fn parsed(text: &str) -> Corefile {
    Corefile::parse(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn zones(all: &[&str]) -> Vec<String> {
    all.iter().map(ToString::to_string).collect()
}

#[test]
fn the_usual_file_is_understood() {
    let file = parsed(USUAL);
    let [block] = file.blocks.as_slice() else {
        panic!("{file:?}");
    };
    assert_eq!(block.zones, [""]);
    let cluster = block.cluster.clone().unwrap();
    let arpa = zones(&["in-addr.arpa", "ip6.arpa"]);
    assert_eq!(
        cluster.zones,
        zones(&["cluster.local", "in-addr.arpa", "ip6.arpa"])
    );
    assert_eq!(cluster.falls, Falls::Within(arpa));
    assert_eq!((cluster.ttl_seconds, cluster.pods), (30, true));
    let [forward] = block.forwards.as_slice() else {
        panic!("{block:?}");
    };
    assert_eq!(
        (forward.to.as_slice(), forward.most),
        ([Upstream::Node].as_slice(), Some(1000))
    );
    let cache = block.cache.clone().unwrap();
    assert_eq!((cache.success_seconds, cache.denial_seconds), (30, 30));
    assert_eq!(cache.denial_off, Falls::Within(zones(&["cluster.local"])));
    assert_eq!(cache.stale_seconds, 0);
    // Three pages that are elsewhere, and nothing else.
    let named: Vec<&str> = file
        .warnings
        .iter()
        .filter_map(|w| w.split(": ").nth(1))
        .collect();
    assert_eq!(named, ["health", "ready", "prometheus"]);
}

#[test]
fn stub_domains_and_hosts() {
    let file = parsed(
        "corp.example:53 Other.Example. 10.1.0.0/16, # a comment
         2001:db8::/32 {
           forward . 192.0.2.1 192.0.2.2:5353 [2001:db8::1]:53 {
             policy sequential
             except public.corp.example
             force_tcp
           }
           hosts {
             192.0.2.7 DB.corp.example db
             2001:db8::7 db.corp.example
             ttl 60
             no_reverse
             fallthrough
           }
           cache {
             serve_stale 1m
             success 100 20 10
             servfail 1h
           }
         }",
    );
    assert_eq!(file.warnings, Vec::<String>::new());
    let [block] = file.blocks.as_slice() else {
        panic!("{file:?}");
    };
    let expected = [
        "corp.example",
        "other.example",
        "1.10.in-addr.arpa",
        "8.b.d.0.1.0.0.2.ip6.arpa",
    ];
    assert_eq!(block.zones, expected);
    let servers = ["192.0.2.1:53", "192.0.2.2:5353", "[2001:db8::1]:53"];
    let servers = servers.map(|s| Upstream::Server(s.parse().unwrap()));
    let [forward] = block.forwards.as_slice() else {
        panic!("{block:?}");
    };
    assert_eq!(forward.to, servers);
    assert_eq!((forward.order, forward.by_tcp), (Order::First, true));
    assert_eq!(forward.except, ["public.corp.example"]);
    let hosts = block.hosts.clone().unwrap();
    let names = zones(&["db.corp.example", "db"]);
    assert_eq!(hosts.entries[0], ("192.0.2.7".parse().unwrap(), names));
    assert_eq!(
        (hosts.entries.len(), hosts.ttl_seconds, hosts.reverse),
        (2, 60, false)
    );
    assert_eq!(hosts.falls, Falls::Always);
    let cache = block.cache.clone().unwrap();
    assert_eq!(
        (cache.success_seconds, cache.success_least_seconds),
        (20, 10)
    );
    assert_eq!((cache.stale_seconds, cache.failure_seconds), (60, 300));
}

/// A line in a block for all names, and what is said of it.
fn warned(line: &str, expected: &str) {
    let file = parsed(&format!(". {{\n{line}\n}}"));
    assert!(
        file.warnings.iter().any(|w| w.contains(expected)),
        "{line}: {:?}",
        file.warnings
    );
}

#[test]
fn what_nobody_acts_on_is_said() {
    for (line, expected) in [
        (
            "rewrite ttl a.example 30",
            "line 2: rewrite: ttl: nobody acts on it, only on names; the rule is left out",
        ),
        (
            "rewrite stop {\nname regex ( b\n}",
            "line 2: rewrite: (: not a regular expression",
        ),
        ("template CH ANY", "line 2: template: class CH"),
        (
            "template IN A example {\nexpr true\n}",
            "line 3: template: expr: nobody acts on it; the rule is left out",
        ),
        (
            "loadbalance weighted /w",
            "loadbalance weighted /w: nobody acts on it",
        ),
        (
            "import /etc/coredns/*.override",
            "neither files nor snippets are read",
        ),
        ("log", "log: nobody acts on it"),
        (
            "autopath /etc/resolv.conf",
            "line 2: autopath /etc/resolv.conf: only @kubernetes and off are acted on",
        ),
        ("autopath", "line 2: autopath: only @kubernetes"),
        ("hosts /etc/hosts", "/etc/hosts is not read"),
        ("hosts {\nnonsense\n}", "line 3: hosts: nonsense"),
        ("forward . https://192.0.2.1", "https is not spoken"),
        ("forward . tls://192.0.2.1%a:x", "x: not a port"),
        (
            "forward . tls://192.0.2.1 {\ntls /ca.crt\n}",
            "tls /ca.crt: nobody acts on it",
        ),
        ("forward . /etc/other.conf", "no file but /etc/resolv.conf"),
        ("forward . dns.example", "not an address"),
        (
            "forward . 192.0.2.1 {\nmax_fails 3\n}",
            "max_fails 3: there is nothing to set",
        ),
        (
            "forward . tls://192.0.2.1 {\ntls_servername\n}",
            "tls_servername: nobody acts on it",
        ),
        ("cache 30 example.com", "for all its zones"),
        ("cache {\nprefetch 10\n}", "prefetch 10"),
        (
            "cache {\nserve_stale 1h immediate\n}",
            "serve_stale 1h immediate",
        ),
        (
            "kubernetes cluster.local {\npods verified\n}",
            "not verified",
        ),
        (
            "kubernetes cluster.local {\nnamespaces a\n}",
            "namespaces a",
        ),
        (
            "kubernetes cluster.local {\nttl soon\n}",
            "soon: not a number",
        ),
    ] {
        warned(line, expected);
    }
    let file = parsed(
        "tls://example.com {\n}\nexample.com:1053 {\n}\n(snippet) {\n}\n10.0.0.0/9 {\n}\n\
         import /etc/coredns/custom/*.server\n",
    );
    assert!(file.blocks.is_empty());
    assert_eq!(file.warnings.len(), 5, "{:?}", file.warnings);
}

#[test]
fn search_paths_are_answered_or_not() {
    for (line, expected) in [
        ("errors", None),
        ("autopath @kubernetes", Some(Falls::Always)),
        ("autopath off", Some(Falls::Never)),
        (
            "autopath A.cluster.local. b.example @kubernetes",
            Some(Falls::Within(zones(&["a.cluster.local", "b.example"]))),
        ),
        (
            "autopath @kubernetes\nautopath /a.conf",
            Some(Falls::Always),
        ),
    ] {
        let file = parsed(&format!(". {{\n{line}\n}}"));
        assert_eq!(file.blocks[0].autopath, expected, "{line}");
        assert_eq!(file.warnings.len(), line.matches("/a.conf").count());
    }
}

#[test]
fn rules_about_names_stand_in_their_order() {
    let file = parsed(
        "example {
           rewrite name suffix .example .default.svc.cluster.local answer auto
           rewrite stop {
             name regex (.*)-x\\.example {1}.example
             answer name (.*)\\.example {1}-x.example
           }
           template IN A example invalid {
             match \"^ip-(?P<a>[0-9]+)[.]example[.]$\"
             answer \"{{ .Name }} 60 IN A 10.0.0.{{ .Group.a }}\"
             fallthrough
           }
           template ANY ANY {
             rcode NXDOMAIN
           }
           loadbalance round_robin
         }",
    );
    assert_eq!(file.warnings, Vec::<String>::new());
    let [block] = file.blocks.as_slice() else {
        panic!("{file:?}");
    };
    let [suffix, regex] = block.rewrites.as_slice() else {
        panic!("{block:?}");
    };
    assert!(suffix.auto && regex.answers.len() == 1);
    let [made, none] = block.templates.as_slice() else {
        panic!("{block:?}");
    };
    assert_eq!(made.zones, zones(&["example", "invalid"]));
    assert_eq!((made.falls.clone(), none.code), (Falls::Always, 3));
}

#[test]
fn servers_may_be_asked_over_tls() {
    let file = parsed(
        ". {
           forward . tls://192.0.2.1 tls://192.0.2.2%two.example:8853 tls://[2001:db8::1] {
             tls_servername one.example
           }
         }",
    );
    assert_eq!(file.warnings, Vec::<String>::new());
    let expected = [
        ("192.0.2.1:853", "one.example"),
        ("192.0.2.2:8853", "two.example"),
        ("[2001:db8::1]:853", "one.example"),
    ];
    let expected = expected.map(|(at, name)| Upstream::Tls(at.parse().unwrap(), Some(name.into())));
    assert_eq!(file.blocks[0].forwards[0].to, expected);
}

#[test]
fn what_makes_no_sense_is_named_by_its_line() {
    for (text, line) in [
        (". {\nerrors\n", 2),
        ("}\n", 1),
        (". {\n}\n}\n", 3),
        ("errors\n", 1),
        (". {\nlog \"open\n}\n", 2),
        ("{\n}\n", 1),
        (". {\na {\nb {\nc {\nd {\n}\n}\n}\n}\n}\n", 5),
    ] {
        let error = Corefile::parse(text)
            .map(|file| format!("{file:?}"))
            .unwrap_err();
        assert_eq!(error.line, line, "{text:?}: {error}");
    }
    assert!(Corefile::parse(&"#".repeat(MOST_BYTES + 1)).is_err());
}

#[test]
fn additions_come_to_the_file() {
    let custom = [
        ("a.server", "corp.example {\nforward . 192.0.2.1\n}"),
        (
            "b.override",
            "hosts {\n192.0.2.9 nas.example\nfallthrough\n}\nlog",
        ),
        ("c.txt", ""),
    ];
    let file = Corefile::of_keys([(KEY, USUAL)], custom).unwrap();
    assert_eq!(file.blocks.len(), 2);
    assert!(file.blocks[0].hosts.is_some() && file.blocks[0].cluster.is_some());
    let said = file.warnings.join("\n");
    assert!(
        said.contains("b.override, line 5: log") || said.contains("b.override, line 4: log"),
        "{said}"
    );
    assert!(said.contains("c.txt"), "{said}");
    let alone = Corefile::of_keys([], custom).unwrap();
    assert_eq!(alone.blocks[1].zones, [""]);
    let (key, error) = Corefile::of_keys([], [("x.server", "}")]).unwrap_err();
    assert_eq!((key.as_str(), error.line), ("x.server", 1));
}

#[test]
fn a_name_is_in_a_zone_by_whole_labels() {
    for (name, zone, expected) in [
        ("a.example", "example", true),
        ("example", "example", true),
        ("badexample", "example", false),
        ("anything", "", true),
        ("example", "a.example", false),
    ] {
        assert_eq!(is_within(name, zone), expected, "{name} {zone}");
    }
}
