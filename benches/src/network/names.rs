//! DNS queries by UDP: of the cluster's own names, of names that others answered before, and of
//! names that others have to be asked. Beside it dnsmasq, which clusters' nodes often have for
//! this, on the same names, from the same load, before the same other server.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clock::Random;
use dns::{Config, DnsEvent};
use futures::StreamExt;
use kube::runtime::watcher::Event;
use tokio::net::UdpSocket;

use super::{child, objects};
use crate::load::percentile_ms;
use crate::plan::Plan;
use crate::report::{Report, Row};
use crate::server::{cpu_of, memory_of, scratch};

/// Services of the cluster.
const SERVICES: u32 = 5_000;
/// Services without an address, whose names have those of all their endpoints; as many as fit into a
/// datagram without EDNS.
const HEADLESS: u32 = 200;
const ENDPOINTS: u32 = 25;
/// Names of others that are asked for again and again.
const CACHED: u32 = 1_000;
/// Answers that each of the servers keeps at most: what a node of ours does where no Corefile says more.
const KEPT: u32 = 9_984;
/// Questions that wait for others at once, at most: as many as ours takes.
const WAITING: u32 = 512;
/// Clients at once.
const CLIENTS: [usize; 2] = [1, 64];
/// An answer that does not come is asked for again, and counts with all that time.
const AGAIN: Duration = Duration::from_secs(2);
const START_LIMIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(10);

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Names {
    Cluster,
    Headless,
    Cached,
    Forwarded,
}

impl Names {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Cluster, "a Service's name"),
        (Self::Headless, "a headless Service's, 25 endpoints"),
        (Self::Cached, "a name that was asked for before"),
        (Self::Forwarded, "a name that others are asked for"),
    ];

    fn name(self, number: u64) -> String {
        match self {
            Self::Cluster => service_name((number % u64::from(SERVICES)) as u32),
            Self::Headless => headless_name((number % u64::from(HEADLESS)) as u32),
            Self::Cached => format!("host{}.example.com", number % u64::from(CACHED)),
            Self::Forwarded => format!("n{number}.example.net"),
        }
    }
}

fn service_name(index: u32) -> String {
    format!("s{index}.bench.svc.cluster.local")
}

fn headless_name(index: u32) -> String {
    format!("h{index}.bench.svc.cluster.local")
}

fn endpoints(index: u32) -> Vec<Ipv4Addr> {
    let first = Ipv4Addr::new(10, 128, 0, 1).to_bits() + index * ENDPOINTS;
    (first..first + ENDPOINTS)
        .map(Ipv4Addr::from_bits)
        .collect()
}

fn service_ip(index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 0, 10).to_bits() + index)
}

/// A server under test; its end is that of its process.
struct Server {
    whose: &'static str,
    child: Child,
    address: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    let other = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let upstream = other.local_addr()?;
    let answering = tokio::spawn(answer_all(other));
    let ours = ours(upstream).await?;
    let theirs = match dnsmasq() {
        Some(binary) => Some(theirs(&binary, upstream).await?),
        None => {
            println!(
                "no dnsmasq: `apt-get install dnsmasq-base`, or TIPHYS_DNSMASQ names it; \
                 `cargo xtask bench` gets it"
            );
            None
        }
    };
    for (names, what) in Names::ALL {
        for clients in CLIENTS {
            let case = format!("DNS, {what}");
            let theirs = match &theirs {
                Some(server) => Some(measure(server, names, &case, clients, plan).await?),
                None => None,
            };
            let mut row = measure(&ours, names, &case, clients, plan).await?;
            if let Some(theirs) = theirs {
                row = row.against(&theirs);
                report.add(theirs);
            }
            report.add(row);
        }
    }
    for server in [Some(&ours), theirs.as_ref()].into_iter().flatten() {
        let memory = memory_of(server.child.id());
        for (what, mb) in [
            ("resident", memory.resident_mb),
            ("not backed by files", memory.own_mb),
        ] {
            let case = format!("{}: DNS, {what} after all this", server.whose);
            report.add(Row::value(&case, "MB", mb));
        }
    }
    answering.abort();
    Ok(())
}

fn dnsmasq() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("TIPHYS_DNSMASQ") {
        return Some(path.into());
    }
    let path = std::env::var_os("PATH")?;
    let all = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    all.map(|dir| dir.join("dnsmasq"))
        .find(|file| file.is_file())
}

fn free_address() -> Result<SocketAddr> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(socket.local_addr()?)
}

async fn ours(upstream: SocketAddr) -> Result<Server> {
    let address = free_address()?;
    let mut command = child::command(&format!("names {address} {upstream} {SERVICES}"))?;
    started("Tiphys", &mut command, address, scratch()?).await
}

async fn theirs(binary: &Path, upstream: SocketAddr) -> Result<Server> {
    let address = free_address()?;
    let dir = scratch()?;
    let mut hosts = String::new();
    for index in 0..SERVICES {
        writeln!(hosts, "{} {}", service_ip(index), service_name(index))?;
    }
    for index in 0..HEADLESS {
        for ip in endpoints(index) {
            writeln!(hosts, "{ip} {}", headless_name(index))?;
        }
    }
    let file = dir.path().join("hosts");
    std::fs::write(&file, hosts)?;
    let mut command = Command::new(binary);
    command
        .args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
        ])
        .args([
            "--no-hosts",
            "--bind-interfaces",
            "--user=root",
            "--pid-file=",
        ])
        // What is wrong goes where whoever started it sees it.
        .arg("--log-facility=-")
        .arg(format!("--cache-size={KEPT}"))
        .arg(format!("--dns-forward-max={WAITING}"))
        .arg(format!("--listen-address={}", address.ip()))
        .arg(format!("--port={}", address.port()))
        .arg(format!("--server={}#{}", upstream.ip(), upstream.port()))
        .arg(format!("--addn-hosts={}", file.display()));
    started("dnsmasq", &mut command, address, dir).await
}

async fn started(
    whose: &'static str,
    command: &mut Command,
    address: SocketAddr,
    dir: tempfile::TempDir,
) -> Result<Server> {
    let log = dir.path().join("log");
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    let errors = std::fs::File::create(&log)?;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors);
    let mut server = Server {
        whose,
        child: command
            .spawn()
            .with_context(|| format!("starting {whose}"))?,
        address,
        _dir: dir,
    };
    let begun = Instant::now();
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    socket.connect(address).await?;
    let asked = question(&service_name(SERVICES - 1), 1);
    let mut buffer = [0; 512];
    while begun.elapsed() < START_LIMIT {
        if let Some(status) = server.child.try_wait()? {
            bail!("{whose} ended at its start: {status}: {}", said());
        }
        // Before it listens, sending fails.
        if socket.send(&asked).await.is_ok()
            && let Ok(Ok(length)) = tokio::time::timeout(PAUSE, socket.recv(&mut buffer)).await
            && is_answered(buffer.get(..length).unwrap_or_default())
        {
            return Ok(server);
        }
        tokio::time::sleep(PAUSE).await;
    }
    bail!("{whose} does not answer: {}", said())
}

/// Without an error, and with a record.
fn is_answered(answer: &[u8]) -> bool {
    matches!(answer, [_, _, _, code, _, _, high, low, ..] if code & 15 == 0 && (*high, *low) != (0, 0))
}

async fn measure(
    server: &Server,
    names: Names,
    case: &str,
    clients: usize,
    plan: &Plan,
) -> Result<Row> {
    // So that they have been asked for before.
    let next = Arc::new(AtomicU64::new(0));
    if names == Names::Cached {
        ask(server.address, names, &next, u64::from(CACHED)).await?;
    }
    let begun = Instant::now();
    let cpu = cpu_of(server.child.id());
    // Numbers of names that nobody asked for before, whichever server and load it is.
    static FRESH: AtomicU64 = AtomicU64::new(1 << 20);
    let next = Arc::new(AtomicU64::new(FRESH.fetch_add(1 << 32, Ordering::Relaxed)));
    let end = begun + plan.time;
    let loops: Vec<_> = (0..clients)
        .map(|_| tokio::spawn(ask_until(server.address, names, next.clone(), end)))
        .collect();
    let mut all = Vec::new();
    for one in loops {
        all.extend(one.await??);
    }
    let elapsed = begun.elapsed();
    let cpu = cpu_of(server.child.id()).saturating_sub(cpu);
    ensure!(!all.is_empty(), "{}: no answer", server.whose);
    all.sort_unstable();
    Ok(Row {
        case: format!("{}: {case}", server.whose),
        concurrency: clients,
        per_second: Some(all.len() as f64 / elapsed.as_secs_f64()),
        p50_ms: Some(percentile_ms(&all, 50.0)),
        p99_ms: Some(percentile_ms(&all, 99.0)),
        cpu_ms: Some(cpu.as_secs_f64() * 1e3 / all.len() as f64),
        ..Row::default()
    })
}

async fn ask(server: SocketAddr, names: Names, next: &Arc<AtomicU64>, count: u64) -> Result<()> {
    let client = Client::new(server).await?;
    for _ in 0..count {
        client
            .ask(&names.name(next.fetch_add(1, Ordering::Relaxed)))
            .await?;
    }
    Ok(())
}

async fn ask_until(
    server: SocketAddr,
    names: Names,
    next: Arc<AtomicU64>,
    end: Instant,
) -> Result<Vec<u64>> {
    let client = Client::new(server).await?;
    let mut all = Vec::new();
    while Instant::now() < end {
        let name = names.name(next.fetch_add(1, Ordering::Relaxed));
        let sent = Instant::now();
        client.ask(&name).await?;
        all.push(sent.elapsed().as_nanos() as u64);
    }
    Ok(all)
}

struct Client {
    socket: UdpSocket,
    id: AtomicU64,
}

impl Client {
    async fn new(server: SocketAddr) -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        socket.connect(server).await?;
        let id = AtomicU64::new(1);
        Ok(Self { socket, id })
    }

    async fn ask(&self, name: &str) -> Result<()> {
        let id = self.id.fetch_add(1, Ordering::Relaxed) as u16;
        let asked = question(name, id);
        let mut buffer = [0; 1500];
        loop {
            self.socket.send(&asked).await?;
            let Ok(received) = tokio::time::timeout(AGAIN, self.socket.recv(&mut buffer)).await
            else {
                continue;
            };
            let answer = buffer.get(..received?).unwrap_or_default();
            // An answer to what was asked again comes twice.
            if answer.get(..2) == Some(&id.to_be_bytes()) {
                ensure!(is_answered(answer), "{name}: {answer:?}");
                return Ok(());
            }
        }
    }
}

/// Whether a name has an IPv4 address.
fn question(name: &str, id: u16) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    // Recursion is desired; one question.
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

/// Another server, which knows an address for every name.
async fn answer_all(socket: UdpSocket) -> Result<()> {
    let mut buffer = [0; 1500];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await?;
        let asked = buffer.get(..length).unwrap_or_default();
        // The question ends behind the first empty label, type and class; what follows is EDNS.
        let Some(end) = asked.iter().skip(12).position(|b| *b == 0) else {
            continue;
        };
        let Some(said) = asked.get(..12 + end + 5) else {
            continue;
        };
        let mut answer = said.to_vec();
        if let Some(head) = answer.get_mut(2..12) {
            head.copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        }
        // The name of the question, type A, class IN, an hour, 192.0.2.1.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 14, 16, 0, 4, 192, 0, 2, 1]);
        socket.send_to(&answer, from).await?;
    }
}

/// In the child: the server of a node.
pub async fn serve(listen: SocketAddr, upstream: SocketAddr, services: u32) -> Result<()> {
    let begin = [DnsEvent::Service(Event::Init), DnsEvent::Slice(Event::Init)];
    // Made one by one, as a watch brings them: a list of all would stay in memory beside the server.
    let addressed = (0..services).map(|index| -> Result<DnsEvent> {
        let made = objects::service(&format!("s{index}"), service_ip(index), "TCP");
        Ok(DnsEvent::Service(Event::InitApply(made?)))
    });
    let headless = (0..HEADLESS).map(|index| -> Result<DnsEvent> {
        let made = objects::headless(&format!("h{index}"));
        Ok(DnsEvent::Service(Event::InitApply(made?)))
    });
    let slices = (0..HEADLESS).map(|index| -> Result<DnsEvent> {
        let made = objects::slice(&format!("h{index}"), &endpoints(index), "TCP");
        Ok(DnsEvent::Slice(Event::InitApply(made?)))
    });
    let end = [
        DnsEvent::Service(Event::InitDone),
        DnsEvent::Slice(Event::InitDone),
        DnsEvent::Namespace(Event::Init),
        DnsEvent::Namespace(Event::InitApply(objects::namespace("bench")?)),
        DnsEvent::Namespace(Event::InitDone),
    ];
    let made = addressed.chain(headless).chain(slices);
    // Without its list the server answers nothing, and whoever waits for it shows what it said.
    let said = |made: Result<DnsEvent>| made.inspect_err(|e| eprintln!("{e:#}")).ok();
    let events = begin.into_iter().chain(made.map_while(said)).chain(end);
    let config = Config {
        upstreams: dns::Resolvers::These(vec![upstream]),
        ..Config::new(vec![listen])
    };
    let events = futures::stream::iter(events).boxed();
    dns::run_on(events, config, Random::system(), std::future::pending()).await?;
    Ok(())
}
