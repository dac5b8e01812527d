//! A process of the control plane: an API server, and the controllers and the scheduler, which
//! work while it leads. It can die at any moment; another one may live beside it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use api::Fence;
use apiserver::settings::Shared;
use apiserver::{ApiServer, admission, filters};
use client::{Accounts, Informers};
use clock::{Clock, Random};
use control::lease::{Election, Times, lead};
use kube::Client;
use store::Store;
use tokio_util::sync::CancellationToken;

use crate::basis::Failed;
use crate::faults::{FaultyStore, Fuse, Weather};
use crate::net::{Cable, Servers, Up};

/// Between tries to make the first objects.
const AGAIN: Duration = Duration::from_millis(250);
/// Tries to make the first objects.
const TRIES: u32 = 100;
/// After a term, as long as the usual pause between tries.
const BETWEEN_TERMS: Duration = Duration::from_secs(1);

/// What the controllers get as their configuration.
#[derive(Clone, Copy)]
pub(crate) struct Course {
    /// Silence after which a node is taken for failed; none: as usual.
    pub node_grace: Option<Duration>,
    /// Whether nodes get ranges of addresses for their pods.
    pub pod_ranges: bool,
    /// How patient candidates and leaders are. Servers show themselves to each other in the same
    /// measure: once in three tries.
    pub elections: Times,
}

impl Default for Course {
    fn default() -> Self {
        Self {
            node_grace: None,
            pod_ranges: true,
            elections: Times::default(),
        }
    }
}

/// What each process is started with.
#[derive(Clone)]
pub(crate) struct Base {
    pub servers: Servers,
    pub store: Arc<dyn Store>,
    pub weather: Weather,
    pub clock: Clock,
    pub random: Random,
    pub configure: Arc<dyn Fn(&mut apiserver::Config) + Send + Sync>,
    pub course: Course,
    /// Held while a process starts: two never have one number.
    pub starting: Arc<tokio::sync::Mutex<()>>,
}

/// Starts the process of this number, unless it lives; it lives until [`kill`].
pub(crate) async fn start(base: &Base, number: usize) -> Result<(), Failed> {
    let _starting = base.starting.lock().await;
    if matches!(base.servers.lock().get(number), Some(Some(_))) {
        return Ok(());
    }
    let random = base.random.fork();
    let dead = CancellationToken::new();
    let fuse = Fuse::default();
    let (servers, own) = (base.servers.clone(), dead.clone());
    let dies = move || {
        if own.is_cancelled() {
            return;
        }
        own.cancel();
        if let Some(place) = servers.lock().get_mut(number) {
            *place = None;
        }
    };
    let store = FaultyStore::new(
        base.store.clone(),
        base.weather.clone(),
        random.fork(),
        fuse.clone(),
        dies,
    );
    let course = base.course;
    let configure = |config: &mut apiserver::Config| {
        config.settings.shared = Some(shared(course.elections));
        (base.configure)(config);
    };
    let own = (base.clock, random.fork());
    let api = api(number, own, Arc::new(store), &configure, &dead).await?;
    let up = Up {
        api,
        dead: dead.clone(),
        fuse,
    };
    if let Some(place) = base.servers.lock().get_mut(number) {
        *place = Some(up);
    }
    let cable = Cable::within(&base.servers, number, &base.weather, random.fork());
    let own = cable.clone();
    let ends = dead.clone();
    tokio::spawn(async move {
        ends.cancelled().await;
        own.kill();
    });
    let own = cable.client("system:kube-controller-manager", &[]);
    // Once for all parts of the process, as in the binary.
    let informers = control::trimmed::informers(own, base.clock, random.fork());
    let part = Part {
        course: base.course,
        clock: base.clock,
        cable,
        informers,
        stop: dead,
    };
    tokio::spawn(controllers(part.clone(), random.fork()));
    tokio::spawn(scheduler(part, random));
    Ok(())
}

/// What servers owe each other where candidates for leadership are so patient: as usual with the
/// usual times.
fn shared(elections: Times) -> Shared {
    let renew = elections.retry() * 3;
    Shared {
        renew,
        lease_seconds: u32::try_from(renew.as_secs() * 3).unwrap_or(u32::MAX),
        ..Shared::default()
    }
}

/// An API server of this number on a store, which has made its first objects.
pub(crate) async fn api(
    number: usize,
    (clock, random): (Clock, Random),
    store: Arc<dyn Store>,
    configure: &(dyn Fn(&mut apiserver::Config) + Sync),
    dead: &CancellationToken,
) -> Result<ApiServer, Failed> {
    let last = u8::try_from(number).unwrap_or(0) + 1;
    let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, last));
    let mut config = apiserver::Config::new(address, 6443, clock, random);
    config.authorizers = filters::authorizers();
    config.admission = admission::standard(&admission::Options::default());
    configure(&mut config);
    let api = ApiServer::new(config, store, dead.clone())
        .await
        .map_err(|e| Failed(e.to_string()))?;
    let mut tries = 0;
    while let Err(e) = api.bootstrap().await {
        tries += 1;
        if tries > TRIES {
            return Err(Failed(format!("{e:?}")));
        }
        tokio::time::sleep(AGAIN).await;
    }
    Ok(api)
}

/// The process dies: nothing of it is heard of any more.
pub(crate) fn kill(base: &Base, number: usize) {
    let up = base.servers.lock().get_mut(number).and_then(Option::take);
    if let Some(up) = up {
        up.dead.cancel();
    }
}

/// What a part of a process that leads or waits has.
#[derive(Clone)]
struct Part {
    course: Course,
    clock: Clock,
    cable: Cable,
    informers: Informers,
    /// Cancelled when the process dies.
    stop: CancellationToken,
}

/// Leads in one term after another until the process dies, as whom `own` speaks. `lease`: by which
/// Lease, and how the candidate is called there; `begin` gives the work of the next term.
async fn in_terms<W, F>(
    part: Part,
    own: Client,
    (lease, candidate): (&str, &str),
    random: Random,
    mut begin: impl FnMut() -> W,
) where
    W: FnOnce(Fence, CancellationToken) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    while !part.stop.is_cancelled() {
        let identity = format!("{candidate}_{}", random.uuid());
        let election = Election {
            times: part.course.elections,
            ..Election::new(lease, &identity, part.clock)
        };
        let work = begin();
        lead(own.clone(), election, part.stop.clone(), work).await;
        tokio::time::sleep(BETWEEN_TERMS).await;
    }
}

async fn controllers(part: Part, random: Random) {
    let (course, cable, informers) = (part.course, part.cable.clone(), part.informers.clone());
    let own = informers.client().clone();
    let accounts = Accounts::new(own.clone(), move |account| {
        let (name, groups) = client::accounts::user_of(account);
        let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
        cable.client(&name, &groups)
    });
    let begin = move || {
        let (informers, accounts) = (informers.clone(), accounts.clone());
        move |fence: Fence, term: CancellationToken| async move {
            let usual = controllers::Config::default();
            let config = controllers::Config {
                ca_pem: "the simulation's".into(),
                pod_cidrs: pod_ranges().filter(|_| course.pod_ranges),
                node_grace: course.node_grace.unwrap_or(usual.node_grace),
                ..usual
            };
            let accounts = accounts.fenced(&fence);
            if let Err(e) = controllers::run(&informers, &accounts, config, term).await {
                tracing::error!("controllers ended: {e}");
            }
        }
    };
    let lease = ("kube-controller-manager", "controllers");
    in_terms(part, own, lease, random, begin).await;
}

/// The range of all pods' addresses, cut as upstream does.
fn pod_ranges() -> Option<controllers::nodes::cidr::Ranges> {
    use controllers::nodes::cidr::{NODE_PREFIX_IPV4, NODE_PREFIX_IPV6, Ranges};
    let all = "10.244.0.0/16".parse().ok()?;
    Ranges::new(&all, NODE_PREFIX_IPV4, NODE_PREFIX_IPV6).ok()
}

async fn scheduler(part: Part, random: Random) {
    let own = part.cable.client("system:kube-scheduler", &[]);
    let (informers, client) = (part.informers.clone(), own.clone());
    let begin = move || {
        let (informers, client) = (informers.clone(), client.clone());
        move |fence: Fence, term: CancellationToken| async move {
            let client = client::fenced(&client, &fence);
            let config = scheduler::Config::default();
            if let Err(e) = scheduler::run(&informers, client, config, term).await {
                tracing::error!("the scheduler ended: {e}");
            }
        }
    };
    let lease = ("kube-scheduler", "scheduler");
    in_terms(part, own, lease, random, begin).await;
}
