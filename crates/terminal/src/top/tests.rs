//! Rows of each view, and the screen that is drawn of them.

use expect_test::expect;
use serde_json::json;

use super::*;

fn seen() -> UsageSnapshot {
    let pod = |ns: &str, name: &str, containers: serde_json::Value| {
        let status = |c: &serde_json::Value| {
            let restarts = if c["name"] == "main" { 2 } else { 0 };
            json!({ "name": c["name"], "image": "", "imageID": "", "ready": true,
                "restartCount": restarts })
        };
        let statuses: Vec<_> = containers
            .as_array()
            .expect("array")
            .iter()
            .map(status)
            .collect();
        json!({ "metadata": { "name": name, "namespace": ns },
            "spec": { "nodeName": "node-1", "containers": containers },
            "status": { "phase": "Running", "containerStatuses": statuses } })
    };
    let limited =
        json!({ "requests": { "cpu": "100m", "memory": "64Mi" }, "limits": { "memory": "200Mi" } });
    let use_ = |cpu, mib: i64| Use {
        cpu_millis: cpu,
        memory_bytes: mib << 20,
    };
    let key = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
    UsageSnapshot {
        now: "2026-01-01T00:00:00Z".parse().expect("time"),
        nodes: Ok(
            serde_json::from_value(json!([{ "metadata": { "name": "node-1" }, "status": {
            "allocatable": { "cpu": "2", "memory": "4Gi" },
            "conditions": [{ "type": "Ready", "status": "True" }] } }]))
            .expect("nodes"),
        ),
        pods: Ok(serde_json::from_value(json!([
            pod(
                "shop",
                "web",
                json!([{ "name": "main", "resources": limited }, { "name": "side" }])
            ),
            pod(
                "shop",
                "db",
                json!([{ "name": "main", "resources": limited }])
            ),
        ]))
        .expect("pods")),
        node_use: Ok([("node-1".to_owned(), use_(1_930, 1024))].into()),
        container_use: Ok([
            (key("shop", "web", "main"), use_(30, 10)),
            (key("shop", "web", "side"), use_(5, 300)),
            (key("shop", "db", "main"), use_(25, 170)),
        ]
        .into()),
    }
}

fn shown(view: View, sort: Sort, many: bool) -> String {
    let (rows, lacks) = rows(&seen(), view, sort, "");
    assert_eq!(lacks, Vec::<String>::new());
    table(&rows, view, many, None, Style::PLAIN).join("\n")
}

#[test]
fn each_view_shows_use_beside_what_was_asked_for() {
    expect![[r#"
        NODE     STATE    CPU   CPU%   REQUESTED   MEMORY   MEMORY%   REQUESTED   PODS   RESTARTS
        node-1   Ready   1.93    96%        200m    1 GiB       25%     128 MiB      2          4"#]]
    .assert_eq(&shown(View::Nodes, Sort::Cpu, true));
    expect![[r#"
        POD   STATE     CPU   CPU%   REQUESTED    MEMORY   MEMORY%   REQUESTED   RESTARTS   NODE
        web   Running   35m               100m   310 MiB                64 MiB          2   node-1
        db    Running   25m               100m   170 MiB       85%      64 MiB          2   node-1"#]]
    .assert_eq(&shown(View::Pods, Sort::Cpu, false));
    expect![[r#"
        NAMESPACE   POD   CONTAINER   STATE     CPU   CPU%   REQUESTED    MEMORY   MEMORY%   REQUESTED   RESTARTS   NODE
        shop        web   side        Running    5m                  -   300 MiB                     -          0   node-1
        shop        db    main        Running   25m               100m   170 MiB       85%      64 MiB          2   node-1
        shop        web   main        Running   30m               100m    10 MiB        5%      64 MiB          2   node-1"#]]
    .assert_eq(&shown(View::Containers, Sort::Memory, true));
}

#[test]
fn what_is_not_measured_is_said_and_comes_last() {
    let mut seen = seen();
    if let Ok(all) = &mut seen.container_use {
        all.retain(|k, _| k.1 == "db");
    }
    let (all, _) = rows(&seen, View::Pods, Sort::Cpu, "");
    assert_eq!(
        all.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(),
        ["db", "web"]
    );
    seen.container_use = Err("metrics are not served".to_owned());
    let (all, lacks) = rows(&seen, View::Pods, Sort::Cpu, "");
    assert!(all.iter().all(|r| r.usage.is_none()));
    assert_eq!(lacks, ["metrics are not served"]);
}

fn pressed(screen: &mut Screen, bytes: &[u8]) -> Next {
    let mut next = Next::Draw;
    for key in keys(bytes) {
        next = screen.press(key, 10);
    }
    next
}

#[test]
fn keys_choose_view_order_and_filter() {
    let mut screen = Screen::new(View::Pods, Sort::Cpu, String::new(), true);
    assert_eq!(pressed(&mut screen, b"c"), Next::Draw);
    assert_eq!(screen.view, View::Containers);
    pressed(&mut screen, b"ss");
    assert_eq!(screen.sort, Sort::Name);
    // While a filter is written, letters are its own.
    assert_eq!(pressed(&mut screen, b"/quxx\x7f"), Next::Draw);
    assert_eq!(screen.filter, "qux");
    pressed(&mut screen, b"\r");
    assert_eq!(pressed(&mut screen, b"q"), Next::Quit);
    pressed(&mut screen, b"\x1b");
    assert_eq!(screen.filter, "");
    // Unknown sequences are none of the letters that they end with.
    assert_eq!(
        keys(b"\x1b[200~\x1b[1;5Cj\x1b[B"),
        [Key::Char('j'), Key::Down]
    );
}

#[test]
fn the_screen_has_its_lines_and_no_more() {
    let mut screen = Screen::new(View::Pods, Sort::Cpu, String::new(), false);
    let lines = screen.draw(&seen(), 60, 8, Style::PLAIN);
    expect![[r#"
        2 pods by CPU

        POD   STATE     CPU   CPU%   REQUESTED    MEMORY   MEMORY%   REQUESTED   RESTARTS   NODE
        web   Running   35m               100m   310 MiB                64 MiB          2   node-1
        db    Running   25m               100m   170 MiB       85%      64 MiB          2   node-1


        n nodes  p pods  c containers  s sort  / filter  q quit"#]]
    .assert_eq(&lines.join("\n"));
    // One row fits; down shows the second, and not beyond.
    pressed(&mut screen, b"jjj");
    let lines = screen.draw(&seen(), 100, 6, Style::PLAIN);
    assert_eq!(lines.len(), 6);
    assert!(lines[3].starts_with("db"), "{lines:#?}");
}
