//! What a Corefile says, and what comes of it.

use super::*;

fn zone() -> Zone {
    Zone::new("cluster.local", 30, 5)
}

fn settings(text: &str) -> (Settings, Vec<String>) {
    let file = Corefile::parse(text).expect("a Corefile");
    Settings::of(&file, true, &zone(), &node())
}

fn node() -> NodeResolvers {
    NodeResolvers {
        servers: vec!["192.0.2.53:53".parse().expect("an address")],
        has_searches: false,
    }
}

/// Who is asked about a name; `-` for nobody, `cluster` for this server.
fn asked(settings: &Settings, name: &str) -> String {
    let Some((_, ways, _)) = settings.ways(name) else {
        return "-".into();
    };
    if is_within(name, "cluster.local") && ways.cluster().is_some() {
        return "cluster".into();
    }
    let servers = |route: &Route| -> Vec<String> {
        let word = |server: &Server| match &server.tls {
            Some(name) => format!("{} as {}", server.address, name.to_str()),
            None => server.address.to_string(),
        };
        route.servers.iter().map(word).collect()
    };
    ways.route(name)
        .map_or("-".into(), |r| servers(r).join(" "))
}

#[test]
fn questions_go_the_way_of_the_longest_zone() {
    let (settings, warnings) = settings(
        ".:53 {
               kubernetes cluster.local {
                 pods insecure
               }
               forward corp.example 192.0.2.2
               forward . /etc/resolv.conf {
                 except secret.example
               }
             }
             consul.local:53 {
               forward . 192.0.2.8:8600
             }
             old.cluster.local {
               forward . 192.0.2.9
             }",
    );
    assert_eq!(warnings, Vec::<String>::new());
    for (name, expected) in [
        ("example.com", "192.0.2.53:53"),
        ("a.corp.example", "192.0.2.2:53"),
        ("a.secret.example", "-"),
        ("web.consul.local", "192.0.2.8:8600"),
        ("consul.local", "192.0.2.8:8600"),
        ("notconsul.local", "192.0.2.53:53"),
        ("web.default.svc.cluster.local", "cluster"),
        ("web.old.cluster.local", "192.0.2.9:53"),
    ] {
        assert_eq!(asked(&settings, name), expected, "{name}");
    }
}

#[test]
fn without_a_file_the_nodes_resolvers_are_asked_and_additions_are_added() {
    let file = Corefile::default();
    let (alone, _) = Settings::of(&file, false, &zone(), &node());
    assert_eq!(asked(&alone, "example.com"), "192.0.2.53:53");
    assert_eq!(asked(&alone, "x.cluster.local"), "cluster");
    let custom = [("a.server", "corp.example {\nforward . 192.0.2.1\n}")];
    let file = Corefile::of_keys([], custom).expect("good");
    let (added, warnings) = Settings::of(&file, false, &zone(), &node());
    assert_eq!(asked(&added, "a.corp.example"), "192.0.2.1:53");
    assert_eq!(asked(&added, "example.com"), "192.0.2.53:53");
    assert!(warnings.is_empty());
}

#[test]
fn so_many_questions_wait_as_a_file_says_within_bounds() {
    for (said, expected, is_warned) in [
        ("", WAITING, false),
        ("max_concurrent 20", 20, false),
        ("max_concurrent 0", WAITING, false),
        ("max_concurrent 1000", WAITING, true),
    ] {
        let file =
            format!(". {{\nkubernetes cluster.local\nforward . 192.0.2.1 {{\n{said}\n}}\n}}");
        let (settings, warnings) = settings(&file);
        let (_, ways, _) = settings.ways("example.com").expect("a way");
        let route = ways.route("example.com").expect("a route");
        assert_eq!(route.waiting.available_permits(), expected, "{said}");
        assert_eq!(!warnings.is_empty(), is_warned, "{said}");
        let _one = route.waiting.try_acquire().expect("a place");
        assert_eq!(route.waits(), 1, "{said}");
    }
}

#[test]
fn search_paths_are_answered_but_where_pods_have_more_of_it() {
    let name = "www.example.com.default.svc.cluster.local";
    for (line, has_searches, expected, warned) in [
        ("errors", false, true, 0),
        ("autopath @kubernetes", false, true, 0),
        ("autopath off", false, false, 0),
        ("autopath other.cluster.local @kubernetes", false, false, 0),
        ("autopath svc.cluster.local @kubernetes", false, true, 0),
        ("errors", true, false, 0),
        ("autopath @kubernetes", true, false, 1),
        ("autopath off", true, false, 0),
    ] {
        let text = format!(". {{\nkubernetes cluster.local\n{line}\n}}");
        let file = Corefile::parse(&text).expect("a Corefile");
        let node = NodeResolvers {
            has_searches,
            ..node()
        };
        let (settings, warnings) = Settings::of(&file, true, &zone(), &node);
        let (_, ways, _) = settings.ways(name).expect("a way");
        assert_eq!(ways.has_path(name), expected, "{line} {has_searches}");
        assert_eq!(warnings.len(), warned, "{warnings:?}");
        let shown = settings.plugins().iter().any(|(_, p)| *p == "autopath");
        assert!(shown || !expected, "{line} {has_searches}");
    }
}

#[test]
fn servers_over_tls_have_names() {
    let (settings, warnings) = settings(
        ". {
               kubernetes cluster.local
               forward a.example tls://192.0.2.1
               forward b.example tls://192.0.2.2%dns.example
               forward c.example tls://192.0.2.3 {
                 tls_servername not/a/name
               }
             }",
    );
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    for (name, expected) in [
        ("a.example", "192.0.2.1:853 as 192.0.2.1"),
        ("b.example", "192.0.2.2:853 as dns.example"),
        ("c.example", ""),
    ] {
        assert_eq!(asked(&settings, name), expected, "{name}");
    }
}

#[test]
fn a_file_that_forgets_the_cluster_is_warned_of() {
    let (settings, warnings) = settings(". {\nforward . 192.0.2.1\n}");
    assert!(warnings[0].contains("kubernetes"), "{warnings:?}");
    assert_eq!(asked(&settings, "web.default.svc.cluster.local"), "cluster");
    let (narrow, _) = self::settings("corp.example {\nforward . 192.0.2.1\n}");
    assert_eq!(asked(&narrow, "example.com"), "-");
    assert_eq!(asked(&narrow, "web.default.svc.cluster.local"), "cluster");
}

#[test]
fn lists_answer_before_others() {
    let list = |falls: &str| {
        let hosts =
            "192.0.2.7 db.corp.example db\n2001:db8::7 db.corp.example\n192.0.2.8 db.corp.example";
        settings(&format!(". {{\nhosts {{\n{hosts}\n{falls}\n}}\n}}")).0
    };
    let say = |settings: &Settings, name: &str, kind| match settings.ways(name) {
        None => "nobody".to_owned(),
        Some((_, ways, _)) => match ways.lead(name, kind) {
            Led::Listed(answer) => answer.to_string(),
            Led::Unlisted => "unlisted".into(),
            Led::On => "on".into(),
        },
    };
    let open = list("fallthrough example");
    let (a, aaaa, ptr, mx) = (
        QueryType::A,
        QueryType::Aaaa,
        QueryType::Ptr,
        QueryType::Other,
    );
    for (name, kind, expected) in [
        (
            "db.corp.example",
            a,
            "db.corp.example. 3600 A 192.0.2.7\ndb.corp.example. 3600 A 192.0.2.8\n",
        ),
        (
            "db.corp.example",
            aaaa,
            "db.corp.example. 3600 AAAA 2001:db8::7\n",
        ),
        ("db", aaaa, ""),
        ("db.corp.example", mx, ""),
        (
            "7.2.0.192.in-addr.arpa",
            ptr,
            "7.2.0.192.in-addr.arpa. 3600 PTR db.corp.example.\n7.2.0.192.in-addr.arpa. 3600 PTR db.\n",
        ),
        ("other.example", a, "on"),
        ("other.test", a, "unlisted"),
    ] {
        assert_eq!(say(&open, name, kind), expected, "{name}");
    }
    assert_eq!(say(&list("fallthrough"), "other.test", a), "on");
    assert_eq!(say(&list(""), "other.test", a), "unlisted");
}
