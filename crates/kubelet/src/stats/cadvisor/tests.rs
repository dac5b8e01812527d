//! Whole pages of statistics of one pod.

use super::*;
use crate::stats::{DiskActivity, DiskUsage, OfContainer, OfPod};
use host::cgroup::{HugePages, IoCost, Limits, Lost, Pressure, Pressures, Stats, TaskStates};
use k8s_openapi::api::core::v1::Pod;
use std::sync::Arc;

fn stats(cpu_nanos: u64) -> Stats {
    Stats {
        cpu_nanos,
        cpu_periods: 7,
        devices: vec![DeviceUse {
            major: 254,
            minor: 0,
            read_bytes: 5,
            reads: 2,
            cost: Some(IoCost {
                wait_micros: 500_000,
                ..IoCost::default()
            }),
            ..DeviceUse::default()
        }],
        ..Stats::default()
    }
}

fn all() -> All {
    let mut pod = Pod::default();
    pod.metadata.name = Some("p".into());
    pod.metadata.namespace = Some("ns".into());
    let container = OfContainer {
        name: "c".into(),
        id: "id".into(),
        image: "i".into(),
        group: "/g/id".into(),
        stats: stats(2_000_000_000),
        limits: Limits {
            cpu_quota: Some(50_000),
            cpu_period: Some(100_000),
            ..Limits::default()
        },
        layer: Some(DiskUsage {
            bytes: 11,
            inodes: 1,
        }),
        held: host::cgroup::Descriptors {
            processes: 1,
            open: 4,
            sockets: 1,
            soft_limit: Some(1024),
            tasks: TaskStates {
                running: 2,
                ..TaskStates::default()
            },
        },
        memory_reservation: Some(99),
        ..OfContainer::default()
    };
    let pod = OfPod {
        pod: Arc::new(pod),
        group: "/g".into(),
        sandbox_id: "box".into(),
        sandbox: Some(("/g/box".into(), stats(1))),
        stats: stats(3_000_000_000),
        containers: vec![container],
        ..OfPod::default()
    };
    All {
        node_name: "n".into(),
        pause_image: "pause".into(),
        device_names: [((254, 0), "/dev/vda".to_owned())].into(),
        disk_device: "/dev/vda".into(),
        disk_activity: Some(DiskActivity {
            busy_millis: 1_500,
            ..DiskActivity::default()
        }),
        pods: vec![pod],
        ..All::default()
    }
}

/// With something of everything that a page can have.
fn everything() -> All {
    let mut all = all();
    all.at = Timestamp::from_millisecond(1_500).unwrap();
    all.start_time = Timestamp::from_second(1).ok();
    all.cpu_millis = 1_500;
    all.memory_bytes = 4_096;
    all.machine.identity.kernel = "6".into();
    let interface = |rx_bytes| Interface {
        name: "eth0".into(),
        rx_bytes,
        tx_dropped: 3,
        ..Interface::default()
    };
    all.network = vec![interface(10)];
    let pod = &mut all.pods[0];
    pod.network = vec![interface(20)];
    pod.stats.devices[0].major = 7;
    let container = &mut pod.containers[0];
    container.image = "a\"b\\c\nd".into();
    container.started_at = Timestamp::from_second(1).ok();
    container.stats.cpu_throttled_nanos = 1_250_000_000;
    container.stats.huge_pages = vec![HugePages {
        size: "2MB".into(),
        bytes: 2_097_152,
        ..HugePages::default()
    }];
    let lost = Lost {
        total_micros: 1_250_000,
        ..Lost::default()
    };
    container.stats.pressure = Some(Pressures {
        io: Pressure {
            some: lost,
            ..Pressure::default()
        },
        ..Pressures::default()
    });
    all
}

/// However a page is made, it is these bytes.
#[test]
fn a_whole_page_is_as_it_was() {
    expect_test::expect_file!["./page.txt"].assert_eq(&page(&everything()));
}

#[test]
fn containers_pods_and_the_machine_have_their_samples() {
    let text = page(&all());
    for line in [
        r#"container_cpu_usage_seconds_total{container="c",id="/g/id",image="i",name="id",namespace="ns",pod="p",cpu="total"} 2 0"#,
        r#"container_cpu_usage_seconds_total{container="",id="/",image="",name="",namespace="",pod="",cpu="total"} 0 0"#,
        r#"container_cpu_cfs_periods_total{container="c",id="/g/id",image="i",name="id",namespace="ns",pod="p"} 7 0"#,
        r#"container_fs_reads_total{container="c",id="/g/id",image="i",name="id",namespace="ns",pod="p",device="/dev/vda"} 2 0"#,
        r#"container_fs_usage_bytes{container="c",id="/g/id",image="i",name="id",namespace="ns",pod="p",device="/dev/vda"} 11 0"#,
        r#"container_cpu_cfs_burst_periods_total{container="c",id="/g/id",image="i",name="id",namespace="ns",pod="p"} 0 0"#,
        r#"container_cpu_load_average_10s{container="c",id="/g/id",image="i",name="id",namespace="ns",pod="p"} 2000 0"#,
        r#"container_tasks_state{container="c",id="/g/id",image="i",name="id",namespace="ns",pod="p",state="running"} 2 0"#,
        r#"container_fs_io_cost_wait_seconds_total{container="c",id="/g/id",image="i",name="id",namespace="ns",pod="p",device="/dev/vda"} 0.5 0"#,
        r#"container_fs_io_time_seconds_total{container="",id="/",image="",name="",namespace="",pod="",device="/dev/vda"} 1.5 0"#,
        r#"container_spec_memory_reservation_limit_bytes{container="c",id="/g/id",image="i",name="id",namespace="ns",pod="p"} 99 0"#,
        r#"container_sockets{container="c",id="/g/id",image="i",name="id",namespace="ns",pod="p"} 1 0"#,
        r#"container_spec_cpu_quota{container="c",id="/g/id",image="i",name="id",namespace="ns",pod="p"} 50000 0"#,
        r#"container_threads{container="",id="/g/box",image="pause",name="box",namespace="ns",pod="p"} 0 0"#,
        r#"container_ulimits_soft{container="c",id="/g/id",image="i",name="id",namespace="ns",pod="p",ulimit="max_open_files"} 1024 0"#,
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in {text}");
    }
    // The pod's group has no quota of its own here.
    let periods = text
        .lines()
        .filter(|l| l.starts_with("container_cpu_cfs_periods_total{"));
    assert_eq!(periods.count(), 1, "{text}");
    // The kernel says nothing of pressure: there is no such family.
    assert!(!text.contains("container_pressure"), "{text}");
}

#[test]
fn each_family_is_declared_once_and_no_sample_comes_twice() {
    let text = page(&all());
    let mut declared = std::collections::BTreeSet::new();
    let mut samples = std::collections::BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert!(declared.insert(rest.split(' ').next()), "{line}");
        } else if !line.starts_with('#') {
            let series = line.rsplit_once('}').map_or(line, |(series, _)| series);
            assert!(samples.insert(series), "{line}");
        }
    }
}
