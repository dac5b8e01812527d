//! `/debug/pprof/`: where the process spends its CPU time, and what its memory consists of, in the
//! format that `go tool pprof` and its like read.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_DISPOSITION, HeaderValue, LOCATION};
use http::{Response, StatusCode};
use procfs::process::{MMapPath, MemoryMap, Process};

use crate::page::{CLASSIFIED, PageRequest, page, parameter, text};
use crate::profile::{Frame, StackFunction, Writer};

pub const BASE: &str = "/debug/pprof/";

/// Samples of each second in which the CPU works for the process: as Go's profiles, less one, so that
/// what happens at round times is not always met, or never.
const FREQUENCY: i32 = 99;
/// Seconds of a profile when the request does not say; Go's.
const USUAL_SECONDS: u64 = 30;
/// The most: what is longer is asked for several times. Samples lie in memory meanwhile.
const MOST_SECONDS: u64 = 300;

const BINARY: &str = "application/octet-stream";

pub async fn answer(asked: &PageRequest<'_>) -> Response<Bytes> {
    let Some(name) = asked.path.strip_prefix(BASE) else {
        let mut moved = text(StatusCode::FOUND, "");
        let headers = moved.headers_mut();
        headers.insert(LOCATION, HeaderValue::from_static(BASE));
        return moved;
    };
    match name {
        "" => page(StatusCode::OK, "text/html; charset=utf-8", INDEX),
        "cmdline" => text(StatusCode::OK, command_line()),
        "profile" => cpu(asked.query).await,
        "heap" => memory(asked.query),
        // Profiles bring their names along; nobody needs to ask for them.
        "symbol" => text(StatusCode::OK, "num_symbols: 0\n"),
        _ => text(StatusCode::NOT_FOUND, "Unknown profile\n"),
    }
}

const INDEX: &str = "<html>
<head>
<title>/debug/pprof/</title>
</head>
<body>
/debug/pprof/<br>
<br>
Types of profiles available:
<table>
<tr><td><a href='cmdline'>cmdline</a></td><td>The command line of the process; secrets are left out.</td></tr>
<tr><td><a href='heap'>heap</a></td><td>What the process's memory consists of now; as text with debug=1.</td></tr>
<tr><td><a href='profile'>profile</a></td><td>Where CPU time goes, for as many seconds as the parameter seconds says.</td></tr>
</table>
</body>
</html>
";

/// The words of the command line, as Go's page has them.
fn command_line() -> String {
    let words = std::env::args_os().map(|w| w.to_string_lossy().into_owned());
    without_secrets(words.collect()).join("\0")
}

/// Flags whose value is a secret, as they are written.
const SECRETS: [&str; 1] = ["--token"];

fn without_secrets(mut words: Vec<String>) -> Vec<String> {
    let mut is_secret = false;
    for word in &mut words {
        if std::mem::take(&mut is_secret) {
            CLASSIFIED.clone_into(word);
        } else if SECRETS.contains(&word.as_str()) {
            is_secret = true;
        } else if let Some((flag, _)) = word.split_once('=')
            && SECRETS.contains(&flag)
        {
            *word = format!("{flag}={CLASSIFIED}");
        }
    }
    words
}

/// The parts of a file that a browser should save.
fn file(name: &'static str, body: Vec<u8>) -> Response<Bytes> {
    let mut answer = page(StatusCode::OK, BINARY, body);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static(name));
    answer
}

async fn cpu(query: &str) -> Response<Bytes> {
    let seconds = parameter(query, "seconds").and_then(|s| s.parse().ok());
    let seconds = seconds.filter(|s| *s > 0).unwrap_or(USUAL_SECONDS);
    if seconds > MOST_SECONDS {
        let why = format!("profile duration exceeds the longest one of {MOST_SECONDS} s\n");
        return text(StatusCode::BAD_REQUEST, why);
    }
    let failed = |why: &str| {
        let why = format!("Could not enable CPU profiling: {why}\n");
        text(StatusCode::INTERNAL_SERVER_ERROR, why)
    };
    // The process has one timer of its CPU time. It stops when this is dropped, also when the client
    // has gone.
    let sampling = match pprof::ProfilerGuardBuilder::default()
        .frequency(FREQUENCY)
        .build()
    {
        Ok(sampling) => sampling,
        Err(pprof::Error::Running) => return failed("cpu profiling already in use"),
        Err(e) => return failed(&e.to_string()),
    };
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    // Names are looked up in the binary: that is work for hundreds of milliseconds.
    #[expect(clippy::disallowed_methods, reason = "long computing")]
    let made = tokio::task::spawn_blocking(move || {
        let report = sampling.report().build();
        report.map(|report| cpu_file(&report))
    });
    match made.await {
        Ok(Ok(body)) => file("attachment; filename=\"profile\"", body),
        Ok(Err(e)) => failed(&e.to_string()),
        Err(e) => failed(&e.to_string()),
    }
}

fn cpu_file(report: &pprof::Report) -> Vec<u8> {
    let period = 1_000_000_000 / i64::from(report.timing.frequency.max(1));
    let mut out = Writer::new(&[("samples", "count"), ("cpu", "nanoseconds")], period);
    let began = report
        .timing
        .start_time
        .duration_since(std::time::UNIX_EPOCH);
    let nanos = |d: Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
    out.took(
        nanos(began.unwrap_or_default()),
        nanos(report.timing.duration),
    );
    for (stack, count) in &report.data {
        let frames: Vec<Frame> = stack.frames.iter().map(|symbols| frame(symbols)).collect();
        let count = i64::try_from(*count).unwrap_or(i64::MAX);
        out.add(
            &frames,
            vec![count, count.saturating_mul(period)],
            &stack.thread_name,
        );
    }
    out.gzipped()
}

fn frame(symbols: &[pprof::Symbol]) -> Frame {
    let address = symbols.iter().find_map(|s| s.addr);
    let place = |s: &pprof::Symbol| StackFunction {
        name: s.name(),
        file: s.filename().into_owned(),
        line: i64::from(s.lineno()),
    };
    Frame {
        address: address.map_or(0, |a| a.addr() as u64),
        places: symbols.iter().map(place).collect(),
    }
}

/// What one part of the memory is, and its resident bytes: in all, and of them this process's alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Part {
    name: String,
    resident: u64,
    own: u64,
}

/// The parts, the largest first.
fn parts(maps: impl IntoIterator<Item = MemoryMap>) -> Vec<Part> {
    let mut all: Vec<Part> = Vec::new();
    for map in maps {
        let name = match &map.pathname {
            MMapPath::Heap | MMapPath::Anonymous => "allocated".to_owned(),
            MMapPath::Stack | MMapPath::TStack(_) => "stacks".to_owned(),
            MMapPath::Path(path) => path.display().to_string(),
            other => format!("{other:?}"),
        };
        let of = |key: &str| map.extension.map.get(key).copied().unwrap_or(0);
        let own = of("Private_Dirty") + of("Private_Clean");
        let known = all.iter().position(|p| p.name == name);
        let at = known.unwrap_or_else(|| {
            all.push(Part {
                name,
                ..Part::default()
            });
            all.len() - 1
        });
        if let Some(part) = all.get_mut(at) {
            part.resident += of("Rss");
            part.own += own;
        }
    }
    all.retain(|p| p.resident > 0);
    all.sort_by_key(|p| std::cmp::Reverse(p.resident));
    all
}

fn memory(query: &str) -> Response<Bytes> {
    let maps = Process::myself().and_then(|me| me.smaps());
    let parts = match maps {
        Ok(maps) => parts(maps),
        Err(e) => {
            let why = format!("reading the process's memory: {e}\n");
            return text(StatusCode::INTERNAL_SERVER_ERROR, why);
        }
    };
    let wants_text = parameter(query, "debug").is_some_and(|v| v != "0");
    if wants_text {
        let lines = parts
            .iter()
            .map(|p| format!("{:>14} {:>14} {}\n", p.resident, p.own, p.name));
        let head = format!("{:>14} {:>14} of\n", "resident bytes", "own bytes");
        return text(StatusCode::OK, head + &lines.collect::<String>());
    }
    let mut out = Writer::new(&[("resident_space", "bytes"), ("inuse_space", "bytes")], 1);
    for (at, part) in parts.iter().enumerate() {
        let place = StackFunction {
            name: part.name.clone(),
            file: String::new(),
            line: 0,
        };
        let frame = Frame {
            address: at as u64 + 1,
            places: vec![place],
        };
        let bytes = |n| i64::try_from(n).unwrap_or(i64::MAX);
        out.add(&[frame], vec![bytes(part.resident), bytes(part.own)], "");
    }
    file("attachment; filename=\"heap\"", out.gzipped())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::tests::read;

    async fn ask(path: &str, query: &str) -> Response<Bytes> {
        let asked = PageRequest {
            method: &http::Method::GET,
            path,
            query,
            accept: None,
            body: Bytes::new(),
        };
        answer(&asked).await
    }

    #[inline(never)]
    fn burns_the_processor(until: &std::sync::atomic::AtomicBool) -> u64 {
        let mut sum = 0_u64;
        while !until.load(std::sync::atomic::Ordering::Relaxed) {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
        }
        sum
    }

    #[tokio::test]
    async fn a_profile_names_the_function_that_works_and_one_is_made_at_a_time() {
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = stop.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "a thread that burns the processor"
        )]
        let burning = std::thread::spawn(move || burns_the_processor(&seen));
        let (first, second) = tokio::join!(
            ask("/debug/pprof/profile", "seconds=1"),
            ask("/debug/pprof/profile", "seconds=1"),
        );
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let _ = burning.join();
        assert_eq!(first.status(), 200);
        assert_eq!(second.status(), 500, "one at a time");
        let (samples, kinds) = read(first.body());
        assert_eq!(kinds, ["samples", "cpu"]);
        let is_ours = |name: &String| name.contains("burns_the_processor");
        let found = samples.iter().any(|(stack, _)| stack.iter().any(is_ours));
        assert!(found, "{samples:?}");
    }

    #[tokio::test]
    async fn memory_is_shown_as_a_file_and_as_text() {
        let (samples, kinds) = read(ask("/debug/pprof/heap", "").await.body());
        assert_eq!(kinds, ["resident_space", "inuse_space"]);
        let allocated = samples.iter().find(|(stack, _)| stack == &["allocated"]);
        assert!(allocated.is_some_and(|(_, v)| v[0] > 4096), "{samples:?}");
        let text = ask("/debug/pprof/heap", "debug=1").await;
        let text = String::from_utf8_lossy(text.body()).into_owned();
        assert!(text.contains(" allocated\n"), "{text}");
    }

    #[tokio::test]
    async fn pages_are_gos_and_what_is_not_there_says_so() {
        assert_eq!(ask("/debug/pprof", "").await.status(), 302);
        assert_eq!(ask("/debug/pprof/", "").await.status(), 200);
        assert_eq!(ask("/debug/pprof/goroutine", "").await.status(), 404);
        assert_eq!(
            ask("/debug/pprof/profile", "seconds=9999").await.status(),
            400
        );
    }

    #[test]
    fn secrets_of_the_command_line_are_left_out() {
        let words = ["tiphys", "--token", "a", "--token=b", "--token-file=c", "d"];
        assert_eq!(
            without_secrets(words.map(String::from).into()),
            [
                "tiphys",
                "--token",
                CLASSIFIED,
                "--token=CLASSIFIED",
                "--token-file=c",
                "d"
            ]
        );
    }
}
