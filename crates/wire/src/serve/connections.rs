//! Which connections a server holds, how long each may wait, and which goes first when there are
//! too many.
//!
//! ```text
//! accepted ──▶ Unauthenticated ──a request shows credentials──▶ User or System
//! ```
//!
//! Each class has a room of its own, so that nobody without credentials takes the room of users,
//! and no user that of nodes. A full room admits the newcomer and closes a connection of the
//! holder that has most of them. A holder of an unauthenticated connection is its source address:
//! many clients may share one (NAT, a balancer), so no address has a fixed share, but one that
//! holds thousands loses its own before others lose theirs. A holder of an authenticated one is
//! the user at that address.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How many connections of each class a server holds. One costs about 30 KB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Without credentials so far: those in their handshake, too. A client needs some ten
    /// milliseconds to show credentials.
    pub unauthenticated: usize,
    pub users: usize,
    /// Nodes, the parts of the control plane, administrators: two of each of 5,000 nodes.
    pub system: usize,
    /// Time until the first request, and between requests without credentials.
    pub first_request: Duration,
    /// Time between two requests, and between the last one and the end of the connection; as
    /// upstream.
    pub idle: Duration,
}

impl Limits {
    pub const MOST: Self = Self {
        unauthenticated: 2_000,
        users: 8_000,
        system: 10_000,
        first_request: Duration::from_secs(10),
        idle: Duration::from_secs(90),
    };

    /// The limits of a process that may have so many open files: half of them are for
    /// connections, since stores, logs and proxied requests need some, too.
    pub fn for_files(files: u64) -> Self {
        let half = usize::try_from(files / 2).unwrap_or(usize::MAX);
        Self {
            unauthenticated: Self::MOST.unauthenticated.min(half / 5),
            users: Self::MOST.users.min(half / 5 * 2),
            system: Self::MOST.system.min(half / 5 * 2),
            ..Self::MOST
        }
    }

    /// The limits that fit this process.
    pub fn of_this_process() -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        Self::for_files(limit.current.unwrap_or(u64::MAX))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    Unauthenticated,
    User,
    System,
}

/// Which connection is closed when there are too many.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Holder {
    /// Of IPv6 the network: a host has a whole /64 to choose from.
    source: IpAddr,
    /// Empty without credentials.
    user: String,
}

impl Holder {
    fn new(source: IpAddr, user: &str) -> Self {
        let source = match source.to_canonical() {
            IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() >> 64 << 64).into()),
            v4 @ IpAddr::V4(_) => v4,
        };
        Self {
            source,
            user: user.to_owned(),
        }
    }
}

/// What the table and the tasks of a connection share.
#[derive(Debug, Default)]
struct Signal {
    evicted: AtomicBool,
    /// The requests that it has are its last.
    finished: AtomicBool,
    notify: Notify,
    /// The task that reads an upgraded stream.
    reader: AtomicWaker,
    /// Requests that have no complete answer yet.
    running: AtomicUsize,
}

impl Signal {
    fn evict(&self) {
        self.evicted.store(true, Ordering::Release);
        self.notify.notify_one();
        self.reader.wake();
    }
    fn is_idle(&self) -> bool {
        self.running.load(Ordering::Relaxed) == 0
    }
}

/// The connections of one class: of each holder, the oldest first.
#[derive(Debug, Default)]
struct Room {
    count: usize,
    holders: HashMap<Holder, BTreeMap<u64, Arc<Signal>>>,
}

impl Room {
    fn add(&mut self, holder: Holder, id: u64, signal: Arc<Signal>) {
        self.holders.entry(holder).or_default().insert(id, signal);
        self.count += 1;
    }

    fn remove(&mut self, holder: &Holder, id: u64) {
        let Some(own) = self.holders.get_mut(holder) else {
            return;
        };
        if own.remove(&id).is_some() {
            self.count -= 1;
        }
        if own.is_empty() {
            self.holders.remove(holder);
        }
    }

    /// Closes connections until there are at most `most`; never `newest`. Prefers, of the holder
    /// with most of them, those that serve no request, then the oldest.
    fn shrink(&mut self, most: usize, newest: u64, prefer_idle: bool) -> usize {
        let mut closed = 0;
        while self.count > most {
            let Some((holder, id)) = self.victim(newest, prefer_idle) else {
                break;
            };
            if let Some(signal) = self.holders.get(&holder).and_then(|own| own.get(&id)) {
                signal.evict();
            }
            self.remove(&holder, id);
            closed += 1;
        }
        closed
    }

    fn victim(&self, newest: u64, prefer_idle: bool) -> Option<(Holder, u64)> {
        let age = |own: &BTreeMap<u64, _>| own.keys().next().map_or(0, |id| u64::MAX - id);
        let others = |own: &BTreeMap<u64, _>| own.len() - usize::from(own.contains_key(&newest));
        let (holder, own) = self
            .holders
            .iter()
            .filter(|(_, own)| others(own) > 0)
            .max_by_key(|(_, own)| (own.len(), age(own)))?;
        let mut all = own.iter().filter(|(id, _)| **id != newest);
        let oldest = *all.clone().next()?.0;
        let idle = all.find(|(_, signal)| prefer_idle && signal.is_idle());
        Some((holder.clone(), idle.map_or(oldest, |(id, _)| *id)))
    }
}

/// A warning about closed connections comes at most so often.
const WARN_EVERY: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Table {
    rooms: [Room; 3],
    /// Closed since the last warning, and when that was.
    closed: usize,
    warned: Option<Instant>,
}

#[derive(Debug)]
struct Shared {
    limits: Limits,
    born: Instant,
    next: AtomicU64,
    failed_handshakes: AtomicU64,
    table: Mutex<Table>,
}

impl Shared {
    fn most(&self, class: Class) -> usize {
        match class {
            Class::Unauthenticated => self.limits.unauthenticated,
            Class::User => self.limits.users,
            Class::System => self.limits.system,
        }
    }

    fn enter(&self, table: &mut Table, class: Class, holder: Holder, id: u64, s: Arc<Signal>) {
        let room = &mut table.rooms[class as usize];
        room.add(holder, id, s);
        // Without credentials, requests that never end do not count in its favour.
        table.closed += room.shrink(self.most(class), id, class != Class::Unauthenticated);
        let due = table.warned.is_none_or(|at| at.elapsed() > WARN_EVERY);
        if table.closed > 0 && due {
            let closed = std::mem::take(&mut table.closed);
            table.warned = Some(Instant::now());
            tracing::warn!(
                "too many connections ({class:?}: at most {}): {closed} were closed for new ones",
                self.most(class)
            );
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// The connections of one server.
#[derive(Clone, Debug)]
pub struct Connections(Arc<Shared>);

impl Connections {
    pub fn new(limits: Limits) -> Self {
        Self(Arc::new(Shared {
            limits,
            born: Instant::now(),
            next: AtomicU64::new(0),
            failed_handshakes: AtomicU64::new(0),
            table: Mutex::default(),
        }))
    }

    /// Admits a new connection, and closes another where its room is full.
    pub fn admit(&self, source: IpAddr) -> Arc<Connection> {
        let shared = self.0.clone();
        let id = shared.next.fetch_add(1, Ordering::Relaxed);
        let (holder, signal) = (Holder::new(source, ""), Arc::<Signal>::default());
        let class = Class::Unauthenticated;
        let mut table = shared.table.lock();
        shared.enter(&mut table, class, holder.clone(), id, signal.clone());
        drop(table);
        Arc::new(Connection {
            id,
            source,
            signal,
            place: Mutex::new((class, holder)),
            known: AtomicBool::new(false),
            last_ms: AtomicU64::new(shared.now_ms()),
            shared,
        })
    }

    /// How many there were so far whose TLS handshake failed or took too long.
    pub fn failed_handshakes(&self) -> u64 {
        self.0.failed_handshakes.load(Ordering::Relaxed)
    }

    /// How many there are: without credentials, of users, of the system.
    pub fn counts(&self) -> [usize; 3] {
        self.0.table.lock().rooms.each_ref().map(|room| room.count)
    }
}

/// Nodes, parts of the control plane and administrators: no pod gets such a credential, but those
/// that the cluster's own people run in `kube-system` (and so do the controllers, each as its
/// service account there).
fn is_system(user: &str, groups: &[String]) -> bool {
    let system = [
        "system:masters",
        "system:nodes",
        "system:node-proxier",
        "system:serviceaccounts:kube-system",
    ];
    user.starts_with("system:kube-") || groups.iter().any(|g| system.contains(&g.as_str()))
}

/// Why a connection is to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unwanted {
    /// Its room is full.
    Evicted,
    /// It has not asked for anything for too long.
    Idle,
    /// See [`Connection::finish`].
    Finished,
}

/// One connection; an extension of each of its requests.
#[derive(Debug)]
pub struct Connection {
    shared: Arc<Shared>,
    id: u64,
    source: IpAddr,
    signal: Arc<Signal>,
    place: Mutex<(Class, Holder)>,
    /// A request has shown credentials.
    known: AtomicBool,
    /// When the connection was accepted or its last request ended, after the table's birth.
    last_ms: AtomicU64,
}

impl Connection {
    /// Its TLS handshake failed or took too long.
    pub fn failed_handshake(&self) {
        self.shared
            .failed_handshakes
            .fetch_add(1, Ordering::Relaxed);
    }

    /// Credentials of a request were accepted. The first user of a connection counts.
    pub fn authenticated(&self, user: &str, groups: &[String]) {
        if self.known.swap(true, Ordering::Relaxed) {
            return;
        }
        let class = if is_system(user, groups) {
            Class::System
        } else {
            Class::User
        };
        let holder = Holder::new(self.source, user);
        let mut table = self.shared.table.lock();
        if self.is_evicted() {
            return;
        }
        let mut place = self.place.lock();
        table.rooms[place.0 as usize].remove(&place.1, self.id);
        *place = (class, holder.clone());
        let signal = self.signal.clone();
        self.shared
            .enter(&mut table, class, holder, self.id, signal);
    }

    /// The requests that it has are answered, and no more is taken.
    pub fn finish(&self) {
        self.signal.finished.store(true, Ordering::Release);
        self.signal.notify.notify_one();
    }

    /// A request runs until the value is dropped.
    pub fn running(self: &Arc<Self>) -> Running {
        self.signal.running.fetch_add(1, Ordering::Relaxed);
        Running(self.clone())
    }

    pub fn is_evicted(&self) -> bool {
        self.signal.evicted.load(Ordering::Acquire)
    }

    /// Wakes the task that reads when the connection is evicted.
    pub(super) fn wake_reader(&self, cx: &std::task::Context<'_>) {
        self.signal.reader.register(cx.waker());
    }

    /// Waits until it is evicted.
    pub async fn evicted(&self) {
        while !self.is_evicted() {
            self.signal.notify.notified().await;
        }
    }

    /// Waits until the connection is evicted, has had its last request, or has been silent for too long.
    pub async fn unwanted(&self) -> Unwanted {
        loop {
            if self.is_evicted() {
                return Unwanted::Evicted;
            }
            if self.signal.finished.load(Ordering::Acquire) {
                return Unwanted::Finished;
            }
            let Some(wait) = self.patience() else {
                return Unwanted::Idle;
            };
            // Woken by either; else it is looked again how long it has been silent.
            let _ = tokio::time::timeout(wait, self.signal.notify.notified()).await;
        }
    }

    /// Waits until it has been silent for too long.
    pub async fn silent(&self) {
        while let Some(wait) = self.patience() {
            tokio::time::sleep(wait).await;
        }
    }

    /// How long to wait before looking again; `None` when it has been silent for too long.
    fn patience(&self) -> Option<Duration> {
        let limits = &self.shared.limits;
        if !self.signal.is_idle() {
            return Some(limits.idle);
        }
        let limit = if self.known.load(Ordering::Relaxed) {
            limits.idle
        } else {
            limits.first_request
        };
        let now = self.shared.now_ms();
        let silent = now.saturating_sub(self.last_ms.load(Ordering::Relaxed));
        // A millisecond more, since times are cut off to whole ones.
        let left = limit.checked_sub(Duration::from_millis(silent))?;
        // Credentials may come meanwhile, and change the limit.
        Some(left.min(limits.idle) + Duration::from_millis(1))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let (class, holder) = self.place.get_mut();
        let mut table = self.shared.table.lock();
        table.rooms[*class as usize].remove(holder, self.id);
    }
}

/// A request that has no complete answer yet.
#[derive(Debug)]
pub struct Running(Arc<Connection>);

impl Drop for Running {
    fn drop(&mut self) {
        let connection = &self.0;
        let now = connection.shared.now_ms();
        connection.last_ms.store(now, Ordering::Relaxed);
        connection.signal.running.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(unauthenticated: usize, users: usize) -> Limits {
        Limits {
            unauthenticated,
            users,
            ..Limits::MOST
        }
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn evicted(all: &[Arc<Connection>]) -> Vec<usize> {
        let gone = all.iter().enumerate().filter(|(_, c)| c.is_evicted());
        gone.map(|(i, _)| i).collect()
    }

    #[test]
    fn the_address_with_most_connections_loses_its_oldest() {
        let table = Connections::new(limits(4, 8));
        let honest = table.admit(ip(1));
        let flood: Vec<_> = (0..9).map(|_| table.admit(ip(2))).collect();
        assert!(!honest.is_evicted());
        assert_eq!(evicted(&flood), [0, 1, 2, 3, 4, 5]);
        assert_eq!(table.counts(), [4, 0, 0]);
        drop(flood);
        assert_eq!(table.counts(), [1, 0, 0]);
    }

    #[test]
    fn failed_handshakes_are_counted_when_their_connections_have_gone() {
        let table = Connections::new(limits(4, 8));
        table.admit(ip(1)).failed_handshake();
        table.admit(ip(2)).failed_handshake();
        assert_eq!(table.failed_handshakes(), 2);
    }

    #[test]
    fn a_newcomer_gets_in_where_all_come_from_one_address() {
        let table = Connections::new(limits(3, 8));
        let silent: Vec<_> = (0..20).map(|_| table.admit(ip(1))).collect();
        let newcomer = table.admit(ip(1));
        newcomer.authenticated("jane", &[]);
        let more: Vec<_> = (0..20).map(|_| table.admit(ip(1))).collect();
        assert!(!newcomer.is_evicted(), "a known client is in another room");
        assert_eq!(table.counts(), [3, 1, 0]);
        drop((silent, more));
    }

    #[test]
    fn one_user_cannot_take_the_room_of_others_or_of_nodes() {
        let table = Connections::new(limits(4, 3));
        let open = |user: &str, group: &str| {
            let c = table.admit(ip(1));
            c.authenticated(user, &[group.to_owned()]);
            c
        };
        let (jane, node) = (open("jane", "a"), open("system:node:a", "system:nodes"));
        let greedy: Vec<_> = (0..5).map(|_| open("joe", "a")).collect();
        assert!(!jane.is_evicted() && !node.is_evicted());
        assert_eq!(evicted(&greedy), [0, 1, 2]);
        assert_eq!(table.counts(), [0, 3, 1]);
    }

    #[test]
    fn of_a_user_those_that_serve_no_request_go_first() {
        let table = Connections::new(limits(4, 2));
        let open = || {
            let c = table.admit(ip(1));
            c.authenticated("joe", &[]);
            c
        };
        let busy = open();
        let running = busy.running();
        let all = [busy, open(), open()];
        assert_eq!(evicted(&all), [1]);
        drop(running);
    }

    #[test]
    fn a_host_of_ipv6_is_one_source() {
        let table = Connections::new(limits(2, 2));
        let address = |text: &str| text.parse::<IpAddr>().expect("address");
        let other = table.admit(address("2001:db8:1::1"));
        let all: Vec<_> = (1..5)
            .map(|i| table.admit(address(&format!("2001:db8::{i}"))))
            .collect();
        assert!(!other.is_evicted());
        assert_eq!(evicted(&all), [0, 1, 2]);
    }

    #[test]
    fn limits_fit_the_open_files_of_the_process() {
        let small = Limits::for_files(1024);
        assert_eq!(
            (small.unauthenticated, small.users, small.system),
            (102, 204, 204)
        );
        assert_eq!(Limits::for_files(1 << 20), Limits::MOST);
        assert_eq!(Limits::for_files(u64::MAX), Limits::MOST);
    }

    #[tokio::test]
    async fn a_connection_can_have_its_last_request() {
        let table = Connections::new(Limits::MOST);
        let stranger = table.admit(ip(1));
        let running = stranger.running();
        // Before anybody waits, and while somebody does.
        stranger.finish();
        assert_eq!(stranger.unwanted().await, Unwanted::Finished);
        let other = table.admit(ip(1));
        let (why, ()) = tokio::join!(other.unwanted(), async { other.finish() });
        assert_eq!(why, Unwanted::Finished);
        drop(running);
    }

    #[tokio::test]
    async fn silence_has_a_limit_that_a_running_request_suspends() {
        let (short, long) = (Duration::from_millis(20), Duration::from_millis(60));
        let table = Connections::new(Limits {
            first_request: short,
            idle: long,
            ..Limits::MOST
        });
        let begun = Instant::now();
        let stranger = table.admit(ip(1));
        assert_eq!(stranger.unwanted().await, Unwanted::Idle);
        assert!(begun.elapsed() >= short);
        let known = table.admit(ip(1));
        known.authenticated("jane", &[]);
        let running = known.running();
        tokio::select! {
            _ = known.unwanted() => panic!("a request runs"),
            () = tokio::time::sleep(long * 4) => {}
        }
        let begun = Instant::now();
        drop(running);
        assert_eq!(known.unwanted().await, Unwanted::Idle);
        assert!(
            begun.elapsed() >= long / 2,
            "it begins again after a request"
        );
        // The same of one that has had its last request.
        known.finish();
        let running = known.running();
        tokio::select! {
            () = known.silent() => panic!("a request runs"),
            () = tokio::time::sleep(long * 2) => {}
        }
        drop(running);
        known.silent().await;
    }
}
