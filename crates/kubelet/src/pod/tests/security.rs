//! What a pod's security says to the runtime: of its sandbox and of its containers.

use super::super::container::{Parts, config};
use super::super::{sandbox, spec};
use crate::config::Config;
use crate::node::machine::KernelTraits;
use crate::volumes::{At, Mounted};
use host::runtime::{
    ContainerSecurity, ContainerSpec, Image, Mount, Namespace, Namespaces, Profile, Propagation,
    Resources, SandboxSpec,
};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use std::path::Path;

/// A pod of one container, with more in its spec and in that of the container.
fn pod(more: Value, own: Value) -> Pod {
    let mut container = own;
    container["name"] = "c".into();
    let mut spec = more;
    spec["containers"] = json!([container]);
    let pod = json!({ "metadata": { "name": "p", "namespace": "n", "uid": "u" }, "spec": spec });
    serde_json::from_value(pod).unwrap()
}

fn container_of(pod: &Pod, image: &Image) -> Result<ContainerSpec, String> {
    container_on(&KernelTraits::default(), pod, image)
}

fn container_on(kernel: &KernelTraits, pod: &Pod, image: &Image) -> Result<ContainerSpec, String> {
    let of_pod = At {
        is_labelled: true,
        ..At::from(Path::new("/own").to_owned())
    };
    let volumes: Mounted = [
        ("v".to_owned(), At::from(Path::new("/v").to_owned())),
        ("own".to_owned(), of_pod),
    ]
    .into();
    let made = config(&Parts {
        pod,
        container: &spec::containers(pod)[0],
        attempt: 0,
        image,
        env: &[],
        volumes: &volumes,
        pod_dir: Path::new("/pods/u"),
        seccomp_profiles: Path::new("/seccomp"),
        hosts_file: None,
        message_file: Path::new("/pods/u/message"),
        resources: Resources::default(),
        recursive_read_only: true,
        kernel,
    });
    made.map_err(|e| e.0)
}

fn sandbox_of(pod: &Pod) -> SandboxSpec {
    let (made, said) = sandbox_or_not(pod).unwrap();
    assert_eq!(said, Vec::<String>::new());
    made
}

fn sandbox_or_not(pod: &Pod) -> Result<(SandboxSpec, Vec<String>), String> {
    let config = Config::new("node", "192.0.2.1".parse().unwrap());
    sandbox::config(pod, &config, 0, "/g", &sandbox::Resolver::default())
}

fn root() -> Image {
    Image {
        user: Some(0),
        ..Default::default()
    }
}

/// All that differs from a container of which nothing is said.
fn words(s: &ContainerSecurity) -> String {
    let mut out = Vec::new();
    let mut say = |is: bool, text: String| out.extend(is.then_some(text));
    let common = &s.common;
    say(common.privileged, "privileged".into());
    say(s.masked_paths.is_empty(), "unmasked".into());
    say(s.read_only_paths.is_empty(), "writable-proc".into());
    say(s.read_only_root, "read-only-root".into());
    say(s.no_new_privileges, "no-new-privileges".into());
    let list = |list: &[String]| list.join("+");
    say(
        !s.add_capabilities.is_empty(),
        format!("add={}", list(&s.add_capabilities)),
    );
    say(
        !s.drop_capabilities.is_empty(),
        format!("drop={}", list(&s.drop_capabilities)),
    );
    let user = common.user.filter(|user| *user != 0);
    say(user.is_some(), format!("user={}", user.unwrap_or_default()));
    say(
        !s.user_name.is_empty(),
        format!("user-name={}", s.user_name),
    );
    let group = common.group.unwrap_or_default();
    say(common.group.is_some(), format!("group={group}"));
    say(
        !common.more_groups.is_empty(),
        format!("groups={:?}", common.more_groups),
    );
    say(common.strict_groups, "strict-groups".into());
    let label = common.selinux.clone().unwrap_or_default();
    let label = [label.user, label.role, label.kind, label.level].join(":");
    say(common.selinux.is_some(), format!("selinux={label}"));
    say(
        common.seccomp != Profile::Unconfined,
        format!("seccomp={:?}", common.seccomp),
    );
    say(
        s.app_armor.is_some(),
        format!("app-armor={:?}", s.app_armor),
    );
    out.join(" ")
}

#[test]
fn what_a_container_may_do_is_what_it_or_else_its_pod_says() {
    for (of_pod, own, want) in [
        (json!({}), json!({}), ""),
        (
            json!({}),
            json!({ "privileged": true }),
            "privileged unmasked writable-proc",
        ),
        (
            json!({}),
            json!({ "capabilities": { "add": ["NET_ADMIN", "SYS_TIME"], "drop": ["ALL"] } }),
            "add=NET_ADMIN+SYS_TIME drop=ALL",
        ),
        (
            json!({}),
            json!({ "readOnlyRootFilesystem": true }),
            "read-only-root",
        ),
        (
            json!({}),
            json!({ "allowPrivilegeEscalation": false }),
            "no-new-privileges",
        ),
        (json!({}), json!({ "allowPrivilegeEscalation": true }), ""),
        (
            json!({ "seLinuxOptions": { "level": "s0:c1" } }),
            json!({}),
            "selinux=:::s0:c1",
        ),
        (
            json!({ "seLinuxOptions": { "level": "s0:c1" } }),
            json!({ "seLinuxOptions": { "user": "u", "role": "r", "type": "t" } }),
            "selinux=u:r:t:",
        ),
        (
            json!({ "runAsUser": 7, "runAsGroup": 8 }),
            json!({}),
            "user=7 group=8",
        ),
        (
            json!({ "runAsUser": 7 }),
            json!({ "runAsUser": 9, "runAsGroup": 1 }),
            "user=9 group=1",
        ),
        (
            json!({ "supplementalGroups": [5], "fsGroup": 6, "supplementalGroupsPolicy": "Strict" }),
            json!({}),
            "groups=[5, 6] strict-groups",
        ),
        (
            json!({ "seccompProfile": { "type": "RuntimeDefault" } }),
            json!({}),
            "seccomp=RuntimeDefault",
        ),
        (
            json!({ "seccompProfile": { "type": "RuntimeDefault" } }),
            json!({ "seccompProfile": { "type": "Localhost", "localhostProfile": "a.json" } }),
            "seccomp=Localhost(\"/seccomp/a.json\")",
        ),
        (
            json!({ "appArmorProfile": { "type": "RuntimeDefault" } }),
            json!({ "appArmorProfile": { "type": "Localhost", "localhostProfile": "a" } }),
            "app-armor=Some(Localhost(\"a\"))",
        ),
    ] {
        let pod = pod(
            json!({ "securityContext": of_pod }),
            json!({ "securityContext": own }),
        );
        let made = container_of(&pod, &root()).unwrap();
        assert_eq!(words(&made.security), want, "{pod:?}");
    }
}

#[test]
fn proc_is_whole_for_pods_with_users_of_their_own() {
    let own = || json!({ "securityContext": { "procMount": "Unmasked" } });
    let made = container_of(&pod(json!({ "hostUsers": false }), own()), &root()).unwrap();
    assert_eq!(words(&made.security), "unmasked writable-proc");
    let why = container_of(&pod(json!({}), own()), &root()).unwrap_err();
    assert!(why.contains("`hostUsers` must be false"), "{why}");
}

#[test]
fn who_must_not_be_root_is_not() {
    let named = |name: &str| Image {
        user_name: name.into(),
        ..Default::default()
    };
    let numbered = Image {
        user: Some(1000),
        ..Default::default()
    };
    let must = || json!({ "runAsNonRoot": true });
    for (of_pod, own, image, want) in [
        (must(), json!({}), root(), Some("image will run as root")),
        (json!({}), must(), root(), Some("image will run as root")),
        (must(), json!({}), named(""), Some("image will run as root")),
        (
            must(),
            json!({}),
            named("app"),
            Some("non-numeric user (app)"),
        ),
        (must(), json!({}), numbered.clone(), None),
        (
            must(),
            json!({ "runAsUser": 0 }),
            numbered,
            Some("runAsUser breaks non-root policy"),
        ),
        (must(), json!({ "runAsUser": 5 }), root(), None),
        (
            json!({ "runAsNonRoot": true, "runAsUser": 5 }),
            json!({}),
            named("app"),
            None,
        ),
        (must(), json!({ "runAsNonRoot": false }), root(), None),
        (json!({}), json!({}), root(), None),
    ] {
        let pod = pod(
            json!({ "securityContext": of_pod }),
            json!({ "securityContext": own }),
        );
        let why = container_of(&pod, &image).err();
        assert_eq!(why.is_some(), want.is_some(), "{why:?} {pod:?}");
        let (why, want) = (why.unwrap_or_default(), want.unwrap_or_default());
        assert!(why.contains(want), "{why}");
    }
}

#[test]
fn a_user_of_the_image_is_the_containers() {
    let image = Image {
        user_name: "app".into(),
        ..Default::default()
    };
    let of = |own: Value| {
        let made = container_of(&pod(json!({}), json!({ "securityContext": own })), &image);
        words(&made.unwrap().security)
    };
    assert_eq!(of(json!({ "runAsGroup": 3 })), "user-name=app group=3");
    assert_eq!(of(json!({ "runAsUser": 4 })), "user=4");
}

#[test]
fn namespaces_are_the_pods_the_nodes_or_the_containers_own() {
    for (spec, network, pid, ipc) in [
        (
            json!({}),
            Namespace::Pod,
            Namespace::Container,
            Namespace::Pod,
        ),
        (
            json!({ "hostPID": true }),
            Namespace::Pod,
            Namespace::Node,
            Namespace::Pod,
        ),
        (
            json!({ "hostIPC": true }),
            Namespace::Pod,
            Namespace::Container,
            Namespace::Node,
        ),
        (
            json!({ "hostNetwork": true }),
            Namespace::Node,
            Namespace::Container,
            Namespace::Pod,
        ),
        (
            json!({ "shareProcessNamespace": true }),
            Namespace::Pod,
            Namespace::Pod,
            Namespace::Pod,
        ),
        (
            json!({ "shareProcessNamespace": false }),
            Namespace::Pod,
            Namespace::Container,
            Namespace::Pod,
        ),
    ] {
        let want = Namespaces {
            network,
            pid,
            ipc,
            users: None,
        };
        let pod = pod(spec, json!({}));
        let made = container_of(&pod, &root()).unwrap();
        assert_eq!(made.security.common.namespaces, want, "{pod:?}");
        assert_eq!(sandbox_of(&pod).security.namespaces, want, "{pod:?}");
    }
}

#[test]
fn a_sandbox_may_do_what_one_of_its_containers_may() {
    let of = |more: Value, own: Value| sandbox_of(&pod(more, own)).security;
    let privileged = || json!({ "securityContext": { "privileged": true } });
    assert!(of(json!({}), privileged()).privileged);
    let mut init = privileged();
    init["name"] = "i".into();
    assert!(of(json!({ "initContainers": [init] }), json!({})).privileged);
    let context = json!({ "runAsUser": 7, "runAsGroup": 8, "fsGroup": 9,
        "seLinuxOptions": { "level": "s0" },
        "seccompProfile": { "type": "Localhost", "localhostProfile": "a.json" } });
    let made = of(json!({ "securityContext": context }), json!({}));
    assert!(!made.privileged);
    assert_eq!((made.user, made.group), (Some(7), Some(8)));
    assert_eq!(made.more_groups, [9]);
    assert_eq!(made.selinux.unwrap().level, "s0");
    // A profile of the pod is for its containers.
    assert_eq!(made.seccomp, Profile::RuntimeDefault);
    assert_eq!(of(json!({}), json!({})).seccomp, Profile::RuntimeDefault);
    // A group alone would be one without a user.
    let alone = of(json!({ "securityContext": { "runAsGroup": 8 } }), json!({}));
    assert_eq!(alone.group, None);
}

#[test]
fn a_pod_has_its_name_or_the_one_that_it_asks_for() {
    for (spec, want) in [
        (json!({}), "p"),
        (json!({ "hostname": "h" }), "h"),
        (json!({ "hostname": "h", "subdomain": "s" }), "h"),
        (
            json!({ "hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true }),
            "h.s.n.svc.cluster.local",
        ),
        (json!({ "setHostnameAsFQDN": true }), "p"),
        (
            json!({ "hostname": "h", "subdomain": "s", "hostnameOverride": "o.x" }),
            "o.x",
        ),
        (json!({ "hostNetwork": true }), ""),
        (json!({ "hostNetwork": true, "hostnameOverride": "o" }), "o"),
    ] {
        let made = sandbox_of(&pod(spec.clone(), json!({})));
        assert_eq!(made.hostname, want, "{spec}");
    }
    // `.n.svc.cluster.local` is 20 characters long.
    let of = |hostname: usize, subdomain: usize| {
        let (host, domain) = ("h".repeat(hostname), "s".repeat(subdomain));
        let spec = json!({ "hostname": host, "subdomain": domain, "setHostnameAsFQDN": true });
        sandbox_or_not(&pod(spec, json!({}))).map(|(made, _)| made.hostname.len())
    };
    assert_eq!(of(33, 10), Ok(64));
    let why = of(34, 10).unwrap_err();
    let end = "is too long (64 characters is the max, 65 characters requested)";
    assert!(why.ends_with(end), "{why}");
}

#[test]
fn mounts_are_shared_as_far_as_they_say() {
    for (mode, want) in [
        (None, Propagation::Private),
        (Some("None"), Propagation::Private),
        (Some("HostToContainer"), Propagation::HostToContainer),
        (Some("Bidirectional"), Propagation::Bidirectional),
    ] {
        let mount = json!({ "name": "v", "mountPath": "in", "mountPropagation": mode });
        let pod = pod(json!({}), json!({ "volumeMounts": [mount] }));
        let made = container_of(&pod, &root()).unwrap();
        let wanted = Mount {
            container_path: "/in".into(),
            host_path: "/v".into(),
            propagation: want,
            ..Default::default()
        };
        assert_eq!(made.mounts.first(), Some(&wanted));
    }
}

#[test]
fn with_selinux_a_containers_files_get_its_label() {
    let mounts =
        json!([{ "name": "v", "mountPath": "/v" }, { "name": "own", "mountPath": "/own" }]);
    let pod = pod(json!({}), json!({ "volumeMounts": mounts }));
    let labelled = |selinux| {
        let kernel = KernelTraits {
            selinux,
            ..Default::default()
        };
        let made = container_on(&kernel, &pod, &root()).unwrap();
        let all = made.mounts.into_iter().filter(|m| m.relabel);
        all.map(|m| m.container_path).collect::<Vec<_>>()
    };
    // Not a folder that is the node's own.
    assert_eq!(labelled(true), ["/own", "/dev/termination-log"]);
    assert_eq!(labelled(false), Vec::<String>::new());
}

#[test]
fn a_container_does_not_see_how_hot_processors_are() {
    let counters = "/sys/devices/system/cpu/cpu0/thermal_throttle".to_owned();
    let kernel = KernelTraits {
        throttle_counters: vec![counters.clone()],
        ..Default::default()
    };
    let masked = |own: Value| {
        let pod = pod(json!({}), json!({ "securityContext": own }));
        let made = container_on(&kernel, &pod, &root()).unwrap();
        made.security.masked_paths
    };
    assert_eq!(masked(json!({})).last(), Some(&counters));
    assert!(masked(json!({ "privileged": true })).is_empty());
}

#[test]
fn a_container_may_say_what_it_is_stopped_with() {
    let signal = |own: Value| {
        let pod = pod(json!({}), own);
        container_of(&pod, &root()).unwrap().stop_signal
    };
    assert_eq!(signal(json!({})), "");
    let own = json!({ "lifecycle": { "stopSignal": "SIGRTMIN+3" } });
    assert_eq!(signal(own), "SIGRTMIN+3");
}
