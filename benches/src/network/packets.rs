//! What a packet to a Service costs: a pod sends to it through its node, to a pod that takes what
//! comes. All of the way is walked within the sender's own call.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use host::netlink::Netlink;
use host::netns::NetNs;
use host::podlink::{PodLink, connect};
use serde::{Deserialize, Serialize};

use crate::report::Row;

/// The Service that is sent to, last by its name.
pub const SERVICE: &str = "target";
pub const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 5);
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 2);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 3);
/// There is a way to it, and it is of a range of Services' addresses: what goes there is dropped.
pub const NOBODY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// Packets of an open connection at a time, and how often the time is taken: the shortest counts,
/// since others use the machine, too.
const PACKETS: u32 = 20_000;
const TIMES: usize = 7;
/// Connections at a time: below the usual limit of open files.
const CONNECTIONS: usize = 400;
/// A packet that was sent is there.
const ARRIVED: Duration = Duration::from_secs(5);

/// A node with two pods.
pub struct Lab {
    pub node: NetNs,
    client: NetNs,
    server: UdpSocket,
    /// They hold the pods' ends.
    _others: [NetNs; 2],
}

/// Microseconds of a packet.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Packets {
    /// To the server's own address.
    plain: f64,
    /// To the Service, on a connection that is there.
    open: f64,
    /// The first packet of a connection to the server's own address.
    plain_first: f64,
    /// The first packet of a connection to the Service.
    first: f64,
}

impl Packets {
    /// Beside those of one Service alone, or these themselves, beside no Service.
    pub fn rows(&self, case: &str, one: Option<&Self>) -> Vec<Row> {
        let row = |what: &str, own: f64, other: Option<f64>| {
            let row = Row::value(&format!("{case}: {what}"), "µs", own);
            let other = other.map(|other| Row::value("", "µs", other));
            match other {
                Some(other) => row.against(&other),
                None => row,
            }
        };
        let open = "packet of an open connection";
        let first = "first packet of a connection";
        let mut rows = vec![
            row(open, self.open, one.map(|p| p.open)),
            row(first, self.first, one.map(|p| p.first)),
        ];
        if one.is_none() {
            let bare = |what: &str| format!("{what}, to the pod's own address");
            rows.push(row(&bare(open), self.plain, None));
            rows.push(row(&bare(first), self.plain_first, None));
        }
        rows
    }
}

/// What it costs that connections to addresses of Services which no Service has are dropped.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Unallocated {
    /// With ranges of Services' addresses.
    pub beside: Packets,
    /// Microseconds of a packet that is dropped.
    pub dropped: f64,
}

impl Unallocated {
    /// Beside a node that knows no such range.
    pub fn rows(&self, case: &str, alone: &Packets) -> Vec<Row> {
        let row = |what: &str, own: f64, other: f64| {
            let row = Row::value(&format!("{case}: {what}"), "µs", own);
            row.against(&Row::value("", "µs", other))
        };
        let first = "first packet of a connection";
        let to_pod = format!("{first}, to the pod's own address");
        vec![
            row("packet of an open connection", self.beside.open, alone.open),
            row(first, self.beside.first, alone.first),
            row(&to_pod, self.beside.plain_first, alone.plain_first),
            row(
                "packet that is dropped, beside the first of a connection",
                self.dropped,
                alone.plain_first,
            ),
        ]
    }
}

impl Lab {
    pub fn new() -> Result<Self> {
        let [node, client, server, nobody] = [(); 4].map(|()| NetNs::anonymous());
        let (node, client, server, nobody) = (node?, client?, server?, nobody?);
        node.run_async(|| async {
            let netlink = Netlink::connect()?;
            let lo = netlink.link("lo").await?;
            netlink.set_up(lo.index).await?;
            host::sysctl::set("net.ipv4.ip_forward", "1")?;
            for (name, address, pod) in [
                ("client", CLIENT, &client),
                ("server", SERVER, &server),
                ("nobody", NOBODY, &nobody),
            ] {
                let spec = PodLink {
                    host_name: name.into(),
                    pod_name: "eth0".into(),
                    addresses: vec![address.into()],
                    mtu: 1500,
                    node_addresses: Vec::new(),
                    from_loopback: false,
                    limits: Default::default(),
                };
                connect(&spec, pod).await?;
            }
            anyhow::Ok(())
        })??;
        let socket = server.run(|| UdpSocket::bind((SERVER, 8080)))??;
        socket.set_read_timeout(Some(ARRIVED))?;
        Ok(Self {
            node,
            client,
            server: socket,
            _others: [server, nobody],
        })
    }

    pub fn measure(&self) -> Result<Packets> {
        let service = SocketAddr::new(CLUSTER_IP.into(), 80);
        let (plain, plain_first) = self.measure_plain()?;
        Ok(Packets {
            plain,
            open: self.open(service)?,
            plain_first,
            first: self.first(service)?,
        })
    }

    /// Microseconds of a packet between the pods themselves: of an open connection, and of the first
    /// one of a connection.
    pub fn measure_plain(&self) -> Result<(f64, f64)> {
        let server = SocketAddr::new(SERVER.into(), 8080);
        Ok((self.open(server)?, self.first(server)?))
    }

    /// Microseconds of a packet to an address of Services that no Service has: each is the first one of
    /// its connection, of which nothing is kept.
    pub fn measure_dropped(&self) -> Result<f64> {
        let socket = self.socket(SocketAddr::new(NOBODY.into(), 8080))?;
        let mut best = f64::MAX;
        for _ in 0..TIMES {
            let begun = Instant::now();
            for _ in 0..PACKETS {
                socket.send(b"packet").context("it is not dropped")?;
            }
            best = best.min(begun.elapsed().as_secs_f64() * 1e6 / f64::from(PACKETS));
        }
        Ok(best)
    }

    fn socket(&self, to: SocketAddr) -> Result<UdpSocket> {
        let made = self.client.run(|| {
            let socket = UdpSocket::bind((CLIENT, 0))?;
            socket.connect(to)?;
            std::io::Result::Ok(socket)
        });
        Ok(made??)
    }

    /// What is sent arrives; what came before is thrown away.
    fn arrives(&self, socket: &UdpSocket) -> Result<()> {
        self.server.set_nonblocking(true)?;
        let mut buffer = [0; 64];
        while self.server.recv(&mut buffer).is_ok() {}
        self.server.set_nonblocking(false)?;
        socket.send(b"last")?;
        let length = self.server.recv(&mut buffer).context("nothing arrived")?;
        ensure!(
            buffer.get(..length) == Some(b"last"),
            "something else arrived"
        );
        Ok(())
    }

    fn open(&self, to: SocketAddr) -> Result<f64> {
        let socket = self.socket(to)?;
        self.arrives(&socket)?;
        let mut best = f64::MAX;
        for _ in 0..TIMES {
            let begun = Instant::now();
            for _ in 0..PACKETS {
                // A full socket at the other end is not an error here.
                socket.send(b"packet")?;
            }
            best = best.min(begun.elapsed().as_secs_f64() * 1e6 / f64::from(PACKETS));
        }
        self.arrives(&socket)?;
        Ok(best)
    }

    fn first(&self, to: SocketAddr) -> Result<f64> {
        let mut best = f64::MAX;
        for _ in 0..TIMES {
            let sockets = (0..CONNECTIONS).map(|_| self.socket(to));
            let sockets = sockets.collect::<Result<Vec<_>>>()?;
            let begun = Instant::now();
            for socket in &sockets {
                socket.send(b"packet")?;
            }
            let microseconds = begun.elapsed().as_secs_f64() * 1e6;
            best = best.min(microseconds / CONNECTIONS as f64);
            let last = sockets.last().context("no socket")?;
            self.arrives(last)?;
        }
        Ok(best)
    }
}
