//! Servers of others, for tests: they know an address for every name.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::op::{Message, OpCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use crate::asking::free_address;

/// A server of others, which answers each question with this many addresses after a moment, and
/// counts the questions. It ends with the handle.
pub async fn upstream(
    records: u8,
    ttl: u32,
) -> (SocketAddr, Arc<AtomicUsize>, tokio::task::JoinHandle<()>) {
    let address = free_address().await;
    let udp = UdpSocket::bind(address).await.expect("bind");
    let tcp = TcpListener::bind(address).await.expect("bind");
    let count = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&count);
    let answer = move |bytes: &[u8], limit: usize| -> Vec<u8> {
        let request = Message::from_vec(bytes).expect("a question");
        asked.fetch_add(1, Ordering::Relaxed);
        let mut response = Message::response(request.metadata.id, OpCode::Query);
        response.metadata.recursion_available = true;
        response.queries = request.queries.clone();
        response.edns = request.edns.clone();
        let name = request.queries[0].name.clone();
        for n in 0..records {
            let data = RData::A(A(Ipv4Addr::new(192, 0, 2, n)));
            response
                .answers
                .push(Record::from_rdata(name.clone(), ttl, data));
        }
        let whole = response.to_vec().expect("encode");
        if whole.len() <= limit {
            return whole;
        }
        response.answers.clear();
        response.metadata.truncation = true;
        response.to_vec().expect("encode")
    };
    let serve = tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            tokio::select! {
                biased;
                Ok((length, from)) = udp.recv_from(&mut buffer) => {
                    let answer = answer(&buffer[..length], 1232);
                    udp.send_to(&answer, from).await.expect("send");
                }
                Ok((mut stream, _)) = tcp.accept() => {
                    let length = stream.read_u16().await.expect("read");
                    let mut bytes = vec![0; usize::from(length)];
                    stream.read_exact(&mut bytes).await.expect("read");
                    let answer = answer(&bytes, 65_535);
                    let length = u16::try_from(answer.len()).expect("short");
                    stream.write_u16(length).await.expect("write");
                    stream.write_all(&answer).await.expect("write");
                }
            }
        }
    });
    (address, count, serve)
}

/// A server over TLS with a certificate for `dns.example`, which knows an address for every name: where
/// it is, whom to believe, and how many connections it has taken.
#[expect(clippy::disallowed_methods, reason = "a real server, in real time")]
pub async fn upstream_over_tls() -> (SocketAddr, Vec<u8>, Arc<AtomicUsize>) {
    let now = clock::Clock::system().seconds();
    let ca = wire::pki::Ca::generate("of the test", now).expect("an authority");
    let subject = wire::pki::Subject::server("dns", &["dns.example"], &[]);
    let pair = ca.issue(&subject, now, 1).expect("a certificate");
    let config = wire::tls::server_config(&pair, None).expect("a configuration");
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("bind");
    let address = listener.local_addr().expect("address");
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // Whoever does not believe the certificate ends here.
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                while let Ok(length) = stream.read_u16().await {
                    let mut bytes = vec![0; usize::from(length)];
                    stream.read_exact(&mut bytes).await.expect("read");
                    let request = Message::from_vec(&bytes).expect("a question");
                    let mut response = Message::response(request.metadata.id, OpCode::Query);
                    response.queries = request.queries.clone();
                    let data = RData::A(A(Ipv4Addr::new(192, 0, 2, 1)));
                    let name = request.queries[0].name.clone();
                    response.answers.push(Record::from_rdata(name, 300, data));
                    let answer = response.to_vec().expect("encode");
                    let length = u16::try_from(answer.len()).expect("short");
                    stream.write_u16(length).await.expect("write");
                    stream.write_all(&answer).await.expect("write");
                    stream.flush().await.expect("write");
                }
            });
        }
    });
    (address, ca.pair.cert_pem.into_bytes(), taken)
}
