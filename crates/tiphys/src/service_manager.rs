//! What the machine's service manager (systemd) hears of a kubelet: that it runs, and as long as its tasks go
//! round, that it is not stuck. A manager that does not hear it in time starts it again. Nothing is said
//! where nobody asks: by variables of the environment, as sd_notify(3) has them.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The shortest time that a watchdog may have; upstream's. Less would be missed by a busy machine.
const SHORTEST: Duration = Duration::from_secs(1);

/// What the service manager wants to hear.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    /// Its socket: a path, or a name of Linux' own after `@`.
    socket: String,
    /// How often it must hear that the process is not stuck.
    watchdog: Option<Duration>,
}

/// Reads what the environment says to the process `pid`; an error is for people.
fn wanted(
    variable: impl Fn(&str) -> Option<String>,
    pid: u32,
) -> Result<Option<Wanted>, &'static str> {
    let Some(socket) = variable("NOTIFY_SOCKET").filter(|s| s.starts_with(['/', '@'])) else {
        return Ok(None);
    };
    let is_for_us = variable("WATCHDOG_PID").is_none_or(|text| text.parse() == Ok(pid));
    let watchdog = match variable("WATCHDOG_USEC").filter(|_| is_for_us) {
        None => None,
        Some(text) => {
            let micros = text.parse().map_err(|_| "WATCHDOG_USEC is not a number")?;
            let time = Duration::from_micros(micros);
            if time <= SHORTEST {
                return Err("the watchdog's time is too short: it must be above 1s");
            }
            Some(time)
        }
    };
    Ok(Some(Wanted { socket, watchdog }))
}

/// Says it in the background, for as long as the process runs.
pub fn tell() {
    match wanted(|name| std::env::var(name).ok(), std::process::id()) {
        Ok(None) => {}
        Ok(Some(wanted)) => drop(tokio::spawn(run(wanted))),
        Err(why) => tracing::warn!("the service manager is not told that this goes on: {why}"),
    }
}

async fn run(wanted: Wanted) {
    say(&wanted.socket, "READY=1");
    let Some(time) = wanted.watchdog else { return };
    // Twice as often as needed, as upstream: one may come late.
    let mut ticks = tokio::time::interval(time / 2);
    loop {
        ticks.tick().await;
        say(&wanted.socket, "WATCHDOG=1");
    }
}

fn say(socket: &str, what: &str) {
    if let Err(error) = send(socket, what) {
        tracing::warn!(socket, what, %error, "the service manager cannot be told");
    }
}

fn send(socket: &str, what: &str) -> io::Result<()> {
    let to = match socket.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let own = UnixDatagram::unbound()?;
    // A full socket is not waited for: the same is said again soon.
    own.set_nonblocking(true)?;
    own.send_to_addr(what.as_bytes(), &to).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_asks_is_told() {
        let of = |all: &[(&str, &str)]| {
            let found = |name: &str| {
                let mut all = all.iter();
                all.find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
            };
            wanted(found, 7)
        };
        let told = |watchdog: Option<u64>| {
            Ok(Some(Wanted {
                socket: "/run/s".into(),
                watchdog: watchdog.map(Duration::from_secs),
            }))
        };
        let socket = ("NOTIFY_SOCKET", "/run/s");
        let minute = ("WATCHDOG_USEC", "60000000");
        assert_eq!(of(&[minute]), Ok(None));
        assert_eq!(of(&[("NOTIFY_SOCKET", "vsock:1:2")]), Ok(None));
        assert_eq!(of(&[socket]), told(None));
        assert_eq!(of(&[socket, minute]), told(Some(60)));
        assert_eq!(of(&[socket, minute, ("WATCHDOG_PID", "7")]), told(Some(60)));
        assert_eq!(of(&[socket, minute, ("WATCHDOG_PID", "8")]), told(None));
        for wrong in ["x", "1000000"] {
            assert!(of(&[socket, ("WATCHDOG_USEC", wrong)]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn it_is_told_at_its_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        send(path.to_str().unwrap(), "READY=1").unwrap();
        let mut heard = [0; 32];
        let length = manager.recv(&mut heard).unwrap();
        assert_eq!(&heard[..length], b"READY=1");
        assert!(send("/no/such/socket", "READY=1").is_err());
    }
}
