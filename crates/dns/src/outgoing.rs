//! Answers that go out by one call to the kernel, where many have been asked for at once: each call
//! costs about as much as finding an answer. It knows no questions.

use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;

use rustix::net::addr::SocketAddrArg;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, sendmmsg};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// So many go out together: the first of them waits while the others are made, some microseconds each.
const TOGETHER: usize = 16;

/// Answers that wait for each other, with whom they are for.
#[derive(Debug, Default)]
pub struct Outgoing(Vec<(SocketAddr, Vec<u8>)>);

impl Outgoing {
    /// One more waits; says whether they are enough.
    pub fn put(&mut self, to: SocketAddr, answer: Vec<u8>) -> bool {
        self.0.push((to, answer));
        self.0.len() >= TOGETHER
    }

    /// Sends all that wait. Who is not there any more does without.
    pub async fn send(&mut self, socket: &UdpSocket) {
        let mut rest = self.0.as_slice();
        while let [first, others @ ..] = rest {
            let sent = socket.try_io(Interest::WRITABLE, || match others {
                [] => rustix::net::sendto(socket, &first.1, SendFlags::empty(), &first.0)
                    .map(|_| 1)
                    .map_err(io::Error::from),
                _ => send_some(socket, rest),
            });
            match sent {
                Ok(count) => rest = rest.get(count.max(1)..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if socket.writable().await.is_err() {
                        break;
                    }
                }
                // The first of them cannot be sent; that says nothing of the others.
                Err(_) => rest = others,
            }
        }
        self.0.clear();
    }
}

/// Sends the first of them; says how many.
fn send_some(socket: &UdpSocket, answers: &[(SocketAddr, Vec<u8>)]) -> io::Result<usize> {
    let to: Vec<SocketAddrAny> = answers.iter().map(|(to, _)| to.as_any()).collect();
    let parts: Vec<[IoSlice<'_>; 1]> = answers
        .iter()
        .map(|(_, bytes)| [IoSlice::new(bytes)])
        .collect();
    let mut beside: Vec<SendAncillaryBuffer<'_, '_, '_>> = answers
        .iter()
        .map(|_| SendAncillaryBuffer::default())
        .collect();
    let messages = to.iter().zip(&parts).zip(&mut beside);
    let mut messages: Vec<MMsgHdr<'_>> = messages
        .map(|((to, parts), beside)| MMsgHdr::new_with_addr(to, parts, beside))
        .collect();
    Ok(sendmmsg(socket, &mut messages, SendFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    async fn socket() -> UdpSocket {
        let any = (Ipv4Addr::LOCALHOST, 0);
        UdpSocket::bind(any).await.expect("bind")
    }

    #[tokio::test]
    async fn each_gets_his_own_also_behind_one_that_is_not_there() {
        let (server, one, two) = (socket().await, socket().await, socket().await);
        let at = |socket: &UdpSocket| socket.local_addr().expect("an address");
        // Nobody can be sent anything at this port.
        let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut outgoing = Outgoing::default();
        for round in 0..3u8 {
            let mut enough = false;
            for (number, to) in [nobody, at(&one), at(&two), nobody, at(&one), nobody]
                .into_iter()
                .cycle()
                .take(TOGETHER)
                .enumerate()
            {
                assert!(!enough, "{number}");
                let number = u8::try_from(number).expect("short");
                enough = outgoing.put(to, vec![round, number]);
            }
            assert!(enough);
            outgoing.send(&server).await;
            let mut buffer = [0; 16];
            for (socket, expected) in [
                (&one, [1, 4, 7, 10, 13].as_slice()),
                (&two, [2, 8, 14].as_slice()),
            ] {
                for number in expected {
                    let (length, from) = socket.recv_from(&mut buffer).await.expect("receive");
                    assert_eq!(from, at(&server));
                    assert_eq!(buffer[..length], [round, *number]);
                }
            }
        }
        // One alone, and none.
        outgoing.put(at(&two), vec![7]);
        outgoing.send(&server).await;
        outgoing.send(&server).await;
        let mut buffer = [0; 16];
        let (length, _) = two.recv_from(&mut buffer).await.expect("receive");
        assert_eq!(buffer[..length], [7]);
    }
}
