//! Ports and address ranges of a test cluster. A slot is held by a locked file, so that clusters
//! of test processes that run side by side never share one.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

/// Slots are numbered below this: each has the second octet 128 + n of 10.0.0.0/8.
const SLOTS: u8 = 100;
/// The first slot's API port; below the range of which the kernel gives out ports by itself.
const FIRST_PORT: u16 = 16_400;

/// Held as long as it lives.
pub struct Slot {
    number: u8,
    _lock: File,
}

impl Slot {
    /// The first slot that nobody holds.
    pub fn take() -> Result<Self> {
        let dir = std::env::temp_dir().join("tiphys-test-slots");
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        for number in 0..SLOTS {
            let path = dir.join(number.to_string());
            let file = File::create(&path).with_context(|| format!("{}", path.display()))?;
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            let slot = Self {
                number,
                _lock: file,
            };
            if TcpListener::bind((Ipv4Addr::LOCALHOST, slot.port())).is_ok() {
                return Ok(slot);
            }
        }
        bail!("all {SLOTS} slots of {} are taken", dir.display())
    }

    pub fn port(&self) -> u16 {
        FIRST_PORT + u16::from(self.number)
    }
    fn octet(&self) -> u8 {
        128 + self.number
    }
    pub fn service_cidr(&self) -> String {
        format!("10.{}.0.0/20", self.octet())
    }
    pub fn node_cidr(&self) -> String {
        format!("10.{}.16.0/24", self.octet())
    }
    /// The same ranges of IPv6: unique local ones.
    fn six(&self, part: &str) -> String {
        format!("fd54:{:x}:{part}", self.octet())
    }
    pub fn service_cidr6(&self) -> String {
        self.six("1::/112")
    }
    pub fn node_cidr6(&self) -> String {
        self.six("2::/64")
    }
    pub fn pod_cidr6(&self) -> String {
        self.six("100::/56")
    }
    pub fn balancer_pool6(&self) -> String {
        self.six("2::208-") + &self.six("2::20f")
    }
    pub fn spare_node_ip6(&self) -> String {
        self.six("2::200")
    }
    /// Addresses of the nodes' network for load balancers.
    pub fn balancer_pool(&self) -> String {
        format!("10.{}.16.208/29", self.octet())
    }
    pub fn pod_cidr(&self) -> String {
        format!("10.{}.128.0/17", self.octet())
    }
    /// The last range of the size that a node's pods get.
    pub fn last_pod_range(&self) -> String {
        format!("10.{}.255.0/24", self.octet())
    }
    /// The address of cluster DNS: the tenth of the service range.
    pub fn dns_ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.octet(), 0, 10)
    }
    /// The machine's own address on the nodes' network.
    pub fn bridge_ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.octet(), 16, 1)
    }
    /// An address of the nodes' network that `up` gives to nobody.
    pub fn spare_node_ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.octet(), 16, 200)
    }
}
