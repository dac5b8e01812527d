//! A client on loopback sockets, in both transports.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// Below the ports that the kernel gives to sockets: one of those could be another's by the time it
/// is bound. Beside the ports of the stores' tests.
const PORTS: Range<u16> = 24_000..28_000;

/// An address that is free in both transports, and nobody else's while this process lives, whatever
/// test programs run beside it: by a file that is locked.
pub async fn free_address() -> SocketAddr {
    let dir = std::env::temp_dir().join("tiphys-test-ports");
    std::fs::create_dir_all(&dir).expect("dir");
    for port in PORTS {
        let lock = File::create(dir.join(port.to_string())).expect("file");
        if lock.try_lock().is_err() {
            continue;
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if UdpSocket::bind(address).await.is_ok() && TcpListener::bind(address).await.is_ok() {
            // The lock ends with the process.
            std::mem::forget(lock);
            return address;
        }
    }
    panic!("no port is free");
}

/// A question about addresses of IPv4.
pub fn question(name: &str) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let name = Name::from_ascii(name).expect("a name");
    message.queries.push(Query::query(name, RecordType::A));
    message
}

/// The answer by UDP.
pub async fn ask_udp(server: SocketAddr, message: &Message) -> Message {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("bind");
    let bytes = message.to_vec().expect("encode");
    socket.send_to(&bytes, server).await.expect("send");
    let mut buffer = [0; 4096];
    let (length, _) = socket.recv_from(&mut buffer).await.expect("receive");
    Message::from_vec(&buffer[..length]).expect("decode")
}

/// The answer by TCP.
pub async fn ask_tcp(server: SocketAddr, message: &Message) -> Message {
    let mut stream = TcpStream::connect(server).await.expect("connect");
    let bytes = message.to_vec().expect("encode");
    stream
        .write_u16(u16::try_from(bytes.len()).expect("short"))
        .await
        .expect("write");
    stream.write_all(&bytes).await.expect("write");
    let mut answer = vec![0; usize::from(stream.read_u16().await.expect("read"))];
    stream.read_exact(&mut answer).await.expect("read");
    Message::from_vec(&answer).expect("decode")
}
