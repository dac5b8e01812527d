//! Databases that people run keep what they acknowledged when their node dies: SQLite and PostgreSQL,
//! Debian's programs in an image made here, each in a StatefulSet with a claim. In the soak, or when
//! asked for by name, since it needs the packages `sqlite3` and `postgresql`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::Context;
use tests::command::{eventually, find, run};

const IMAGE: &str = "tiphys.local/databases:1";

/// How often the plug of the node is pulled.
fn kills() -> usize {
    if tests::is_soak() { 10 } else { 2 }
}

/// A database of numbers: each is acknowledged when the database says that it is kept.
struct Database {
    name: &'static str,
    /// Prepares the database, and leaves the shell functions `put NUMBER` and `ask QUERY`.
    begin: &'static str,
    /// Asks it from outside of that shell.
    ask: &'static str,
}

const SQLITE: Database = Database {
    name: "sqlite",
    begin: "put() { sqlite3 /data/db \"pragma synchronous=full; insert into n values($1)\"; }; \
        ask() { sqlite3 /data/db \"$1\"; }; \
        ask 'create table if not exists n (n integer primary key)'",
    ask: "sqlite3 /data/db",
};

/// It is initialized beside its place: a half-made one is never started. A volume of the group's is
/// given to the group again with each pod, and PostgreSQL wants its folder for itself: so its usual
/// image closes it at each start, too.
const POSTGRES: Database = Database {
    name: "postgres",
    begin: "if test ! -d /data/pg; then rm -rf /data/new; \
          initdb -D /data/new -A trust -U postgres --no-locale -E UTF8 && mv /data/new /data/pg || exit 1; \
        fi; rm -f /data/pg/postmaster.pid; chmod 700 /data/pg; \
        postgres -D /data/pg -k /tmp -c listen_addresses= & \
        ask() { psql -h /tmp -U postgres -qAtF '|' -c \"$1\"; }; \
        put() { ask \"insert into n values($1)\"; }; \
        until ask 'select 1'; do sleep 0.2; done; \
        ask 'create table if not exists n (n integer primary key)'",
    ask: "psql -h /tmp -U postgres -qAtF '|' -c",
};

impl Database {
    /// Goes on from the number that it finds.
    fn script(&self) -> String {
        format!(
            "trap 'exit 0' TERM; {}; n=$(ask 'select coalesce(max(n),0) from n'); \
             while true; do n=$((n+1)); put $n || exit 1; echo $n > /tmp/ack.new; \
             mv /tmp/ack.new /tmp/ack; sleep 0.05 & wait $!; done",
            self.begin
        )
    }

    fn set(&self) -> Value {
        json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": self.name },
            "spec": { "serviceName": self.name, "replicas": 1,
                "selector": { "matchLabels": { "app": self.name } },
                "template": { "metadata": { "labels": { "app": self.name } }, "spec": {
                    "terminationGracePeriodSeconds": 1,
                    // PostgreSQL does not run as root.
                    "securityContext": { "runAsUser": 999, "runAsGroup": 999, "fsGroup": 999 },
                    "volumes": [{ "name": "tmp", "emptyDir": {} }],
                    "containers": [{ "name": "main", "image": IMAGE, "imagePullPolicy": "Never",
                        "command": ["/bin/sh", "-c", self.script()],
                        "readinessProbe": { "exec": { "command": ["test", "-s", "/tmp/ack"] },
                            "periodSeconds": 1, "timeoutSeconds": 60 },
                        "volumeMounts": [{ "name": "data", "mountPath": "/data" },
                            { "name": "tmp", "mountPath": "/tmp" }] }] } },
                "volumeClaimTemplates": [{ "metadata": { "name": "data" },
                    "spec": { "accessModes": ["ReadWriteOnce"],
                        "resources": { "requests": { "storage": "256Mi" } } } }] } })
    }
}

pub fn databases_keep_what_they_acknowledged(cx: &Context) -> Result<()> {
    import(cx)?;
    for database in [SQLITE, POSTGRES] {
        cx.apply_json(&database.set())?;
        cx.wait_rollout(&format!("statefulset/{}", database.name))?;
        for _ in 0..kills() {
            pull_the_plug(cx, &database)?;
        }
        cx.kubectl(&format!("delete statefulset {}", database.name))?;
        cx.kubectl(&format!("delete pvc data-{}-0", database.name))?;
    }
    let removed = cx.cluster.tiphys_on_data(&format!("image rm {IMAGE}"))?;
    removed.ok().map(drop)
}

fn pull_the_plug(cx: &Context, database: &Database) -> Result<()> {
    let pod = format!("{}-0", database.name);
    let node = cx.field(&format!("pod {pod}"), ".spec.nodeName")?;
    let uid = cx.field(&format!("pod {pod}"), ".metadata.uid")?;
    let acknowledged: u64 = cx.sh(&pod, "cat /tmp/ack")?.trim().parse()?;
    let on_node = |verb: &str| {
        let line = format!("node {verb} {node}");
        cx.cluster.tiphys_on_data(&line)?.ok()
    };
    on_node("kill")?;
    cx.wait(
        &format!("pod/{pod}"),
        "jsonpath={.metadata.deletionTimestamp}",
    )?;
    on_node("start")?;
    eventually("another pod has its identity", || {
        ensure!(cx.field(&format!("pod {pod}"), ".metadata.uid")? != uid);
        Ok(())
    })?;
    cx.wait_ready(&pod)?;
    // One question, so that both numbers are of one moment.
    let asked = format!("{} 'select count(*), max(n) from n'", database.ask);
    let answer = cx.sh(&pod, &asked)?;
    let (count, last) = answer.trim().split_once('|').context(answer.clone())?;
    let (count, last): (u64, u64) = (count.parse()?, last.parse()?);
    ensure!(
        count == last && last >= acknowledged,
        "{}: {acknowledged} were acknowledged; {count} rows up to {last} are left",
        database.name
    );
    Ok(())
}

/// The programs, what they need, and a shell.
fn import(cx: &Context) -> Result<()> {
    let dir = cx.cluster.scratch()?.join("databases");
    let root = dir.join("root");
    fs::create_dir_all(&root)?;
    let packaged = |program: &str, package: &str| {
        find(program).with_context(|| format!("install Debian's package {package}"))
    };
    let initdb = packaged("initdb", "postgresql")
        .or_else(|e| newest_postgres().with_context(|| format!("{e:#}")))?;
    let bin = initdb.parent().context("initdb has no folder")?.to_owned();
    let version = bin.parent().context("PostgreSQL has no folder")?.to_owned();
    let number = version.file_name().context("PostgreSQL has no version")?;
    let share = Path::new("/usr/share/postgresql").join(number);
    let sqlite = packaged("sqlite3", "sqlite3")?;
    for tree in [&bin, &version.join("lib"), &share] {
        copy(tree, &root)?;
    }
    let programs = [
        sqlite.clone(),
        initdb,
        bin.join("postgres"),
        bin.join("psql"),
    ];
    for program in &programs {
        for needed in libraries(program)? {
            copy(&needed, &root)?;
        }
    }
    layout(&root, &sqlite, &bin)?;
    let archive = archive(&dir, &root)?;
    let mut command = cx
        .cluster
        .tiphys(&["image", "import", &format!("--name={IMAGE}")]);
    command
        .arg(format!("--data-dir={}", cx.cluster.data().display()))
        .arg(archive);
    run(command, "")?.ok()?;
    Ok(fs::remove_dir_all(dir)?)
}

/// Where Debian has it, which is not in the PATH.
fn newest_postgres() -> Result<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")?
        .filter_map(|e| Some(e.ok()?.path().join("bin/initdb")))
        .filter(|p| p.is_file())
        .collect();
    all.sort();
    all.pop().context("no initdb in /usr/lib/postgresql")
}

fn shell(line: &str) -> Result<String> {
    let mut command = Command::new("sh");
    command.args(["-c", line]);
    run(command, "")?.ok()
}

/// Copies a file or a folder to the same place below another root; links become what they point to.
fn copy(what: &Path, root: &Path) -> Result<()> {
    let inner = what.strip_prefix("/")?.display();
    let (root, archive) = (root.display(), root.with_extension("tar"));
    let archive = archive.display();
    shell(&format!(
        "tar -chf {archive} -C / {inner} && tar -xf {archive} -C {root} && rm {archive}"
    ))
    .map(drop)
}

/// The libraries of a program, the loader among them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let text = shell(&format!("ldd {}", program.display()))?;
    let paths = text.split_whitespace().filter(|w| w.starts_with('/'));
    Ok(paths.map(PathBuf::from).collect())
}

/// A shell with its tools, the user that the databases run as, and the programs in the PATH.
fn layout(root: &Path, sqlite: &Path, postgres: &Path) -> Result<()> {
    let busybox = find("busybox").context("install Debian's package busybox-static")?;
    for folder in ["bin", "etc", "usr/local/bin"] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::copy(&busybox, root.join("bin/busybox"))?;
    for tool in [
        "sh", "cat", "chmod", "mv", "rm", "sleep", "echo", "test", "mkdir", "ls",
    ] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(tool))?;
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/:/bin/sh\npostgres:x:999:999::/tmp:/bin/sh\n",
    )?;
    fs::write(root.join("etc/group"), "root:x:0:\npostgres:x:999:\n")?;
    copy(sqlite, root)?;
    // initdb looks for postgres beside itself, so what the PATH has are links to their own folder.
    for program in ["initdb", "postgres", "psql"] {
        let link = root.join("usr/local/bin").join(program);
        std::os::unix::fs::symlink(postgres.join(program), link)?;
    }
    Ok(())
}

/// An OCI archive of one layer.
fn archive(dir: &Path, root: &Path) -> Result<PathBuf> {
    let image = dir.join("image");
    let blobs = image.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let layer = dir.join("layer.tar");
    let (layer_file, root) = (layer.display(), root.display());
    shell(&format!(
        "tar --numeric-owner --owner=0 --group=0 -cf {layer_file} -C {root} ."
    ))?;
    let blob = |file: &Path| -> Result<(String, u64)> {
        let sum = shell(&format!("sha256sum {}", file.display()))?;
        let sum = sum.split_whitespace().next().context("no sum")?.to_owned();
        let size = fs::metadata(file)?.len();
        fs::rename(file, blobs.join(&sum))?;
        Ok((format!("sha256:{sum}"), size))
    };
    let written = |value: Value| -> Result<(String, u64)> {
        let file = dir.join("value.json");
        fs::write(&file, value.to_string())?;
        blob(&file)
    };
    let (layer, layer_size) = blob(&layer)?;
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let path = "PATH=/usr/local/bin:/usr/bin:/bin";
    let (config, config_size) = written(json!({ "architecture": architecture, "os": "linux",
        "config": { "Env": [path] }, "rootfs": { "type": "layers", "diff_ids": [layer] } }))?;
    let (manifest, manifest_size) = written(json!({ "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config, "size": config_size },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": layer, "size": layer_size }] }))?;
    let index = json!({ "schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": manifest, "size": manifest_size,
        "annotations": { "org.opencontainers.image.ref.name": IMAGE } }] });
    fs::write(image.join("index.json"), index.to_string())?;
    let version = json!({ "imageLayoutVersion": "1.0.0" });
    fs::write(image.join("oci-layout"), version.to_string())?;
    let out = dir.join("databases.tar");
    shell(&format!(
        "tar -cf {} -C {} oci-layout index.json blobs",
        out.display(),
        image.display()
    ))?;
    Ok(out)
}
