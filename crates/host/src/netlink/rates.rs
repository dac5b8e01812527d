//! How fast a link may send: a token bucket as its only queue (tc-tbf(8)).

use futures::StreamExt;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};
use rtnetlink::packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};

use super::{Netlink, NetlinkError, refused};

/// The kernel's numbers of a token bucket's options.
const PARAMETERS: u16 = 1;
const RATE_64: u16 = 4;
const BURST: u16 = 6;
/// Lengths of packets are those of Ethernet's frames.
const ETHERNET: u8 = 1;
/// What waits for longer is dropped: as upstream's plugin, a fortieth of a second.
const QUEUES_OF_A_SECOND: u64 = 40;
/// A burst is a tenth of a second at most: runtimes ask for endless ones, which would be no limit.
const BURSTS_OF_A_SECOND: u64 = 10;
/// And at least so long that each packet of a usual link fits in.
const LEAST_BURST_BYTES: u64 = 20_000;

/// A limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    bytes_per_second: u64,
    burst_bytes: u32,
}

impl Rate {
    /// Of bits in a second, where so many bits may be sent at once.
    pub fn of_bits(per_second: u64, burst: u64) -> Self {
        let bytes_per_second = (per_second / 8).max(1);
        let most = (bytes_per_second / BURSTS_OF_A_SECOND).max(LEAST_BURST_BYTES);
        let burst = (burst / 8).clamp(LEAST_BURST_BYTES, most);
        Self {
            bytes_per_second,
            burst_bytes: u32::try_from(burst).unwrap_or(u32::MAX),
        }
    }

    /// The kernel's options, by their numbers.
    fn options(self) -> Vec<(u16, Vec<u8>)> {
        let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let waits = self.bytes_per_second / QUEUES_OF_A_SECOND;
        let limit = narrow(waits.saturating_add(self.burst_bytes.into()));
        // struct tc_tbf_qopt: the rate's specification, an empty one of a peak, and three numbers.
        let mut parameters = vec![0, ETHERNET, 0, 0, 0, 0, 0, 0];
        parameters.extend(narrow(self.bytes_per_second).to_ne_bytes());
        parameters.extend([0; 12]);
        parameters.extend(limit.to_ne_bytes());
        // Burst and MTU in ticks of the kernel, which takes the burst in bytes, too.
        parameters.extend([0; 8]);
        let mut all = vec![
            (PARAMETERS, parameters),
            (BURST, self.burst_bytes.to_ne_bytes().to_vec()),
        ];
        if self.bytes_per_second > u32::MAX.into() {
            all.push((RATE_64, self.bytes_per_second.to_ne_bytes().to_vec()));
        }
        all
    }
}

impl Netlink {
    /// Lets a link send no faster from now on.
    pub async fn set_rate(&self, index: u32, rate: Rate) -> Result<(), NetlinkError> {
        let attempt = "limit what a link sends";
        let index = i32::try_from(index).map_err(std::io::Error::other)?;
        let mut wanted = TcMessage::with_index(index);
        wanted.header.parent = TcHandle::ROOT;
        wanted.header.handle = TcHandle { major: 1, minor: 0 };
        let options = rate.options().into_iter();
        let options = options.map(|(kind, value)| TcOption::Other(DefaultNla::new(kind, value)));
        wanted.attributes = vec![
            TcAttribute::Kind("tbf".to_owned()),
            TcAttribute::Options(options.collect()),
        ];
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(wanted));
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let answers = self.handle.clone().request(message);
        let mut answers = answers.map_err(|e| refused(attempt, e))?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.raw_code() != 0
            {
                return Err(refused(attempt, rtnetlink::Error::NetlinkError(error)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_are_no_way_around_the_limit() {
        let endless = u64::from(u32::MAX);
        for (per_second, burst, expected) in [
            (8_000_000, endless, (1_000_000, 100_000)),
            (8_000_000, 400_000, (1_000_000, 50_000)),
            (8_000_000, 0, (1_000_000, 20_000)),
            (1_000, endless, (125, 20_000)),
            (0, 0, (1, 20_000)),
            (u64::MAX, u64::MAX, (u64::MAX / 8, u32::MAX)),
        ] {
            let rate = Rate::of_bits(per_second, burst);
            assert_eq!((rate.bytes_per_second, rate.burst_bytes), expected);
        }
    }

    #[test]
    fn the_kernel_gets_bytes() {
        let number = |bytes: &[u8], at: usize| {
            u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
        };
        let options = Rate::of_bits(8_000_000, 800_000).options();
        let [(PARAMETERS, parameters), (BURST, burst)] = &options[..] else {
            panic!("{options:?}")
        };
        assert_eq!(parameters.len(), 36);
        assert_eq!(number(parameters, 8), 1_000_000);
        assert_eq!(number(parameters, 24), 125_000, "the queue");
        assert_eq!(number(burst, 0), 100_000);
        // More than a number of 32 bits holds.
        let options = Rate::of_bits(80_000_000_000, 0).options();
        assert_eq!(number(&options[0].1, 8), u32::MAX);
        assert_eq!(
            options[2],
            (RATE_64, 10_000_000_000_u64.to_ne_bytes().to_vec())
        );
    }
}
