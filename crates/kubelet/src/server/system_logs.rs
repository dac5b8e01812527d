//! `/logs`: files of the machine's own folder of logs, and, where that is allowed, what services and
//! files say by their names, as `kubectl get --raw` and log tools ask for it.

use super::common::{Answer, Body, Query, text};
use crate::config::SystemLogs;
use futures::StreamExt;
use http::{HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use jiff::Timestamp;
use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::Instant;
use tokio_util::io::ReaderStream;

/// The machine's folder of logs.
const FOLDER: &str = "/var/log";
/// The most services that one question names. 20: a page of a person's.
const MOST_SERVICES: usize = 20;
/// The most lines from the end that may be asked for; upstream's.
const MOST_LINES: u64 = 100_000;
/// The longest that the answer to a question may take; upstream's.
const ANSWER: Duration = Duration::from_secs(30);
/// Bytes of what a program says of its failure: a page of a person's.
const MOST_SAID: u64 = 4 << 10;
/// Bytes of a block.
const BLOCK: usize = 64 << 10;

pub(super) async fn serve(allowed: SystemLogs, path: &[&str], query: &Query) -> Answer {
    if allowed.query && query.get("query").is_some() {
        return match Question::read(path, query) {
            Ok(question) => question.answer().await,
            Err(why) => text(StatusCode::BAD_REQUEST, &why),
        };
    }
    if !allowed.files {
        let why = "logs endpoint is disabled.";
        return text(StatusCode::METHOD_NOT_ALLOWED, why);
    }
    file(Path::new(FOLDER), path)
}

/// A file below the folder, or the list of a folder. Nothing outside of it is shown.
fn file(root: &Path, path: &[&str]) -> Answer {
    let sub: PathBuf = path.iter().collect();
    if path.iter().any(|p| matches!(*p, "." | "..")) {
        return text(StatusCode::BAD_REQUEST, "invalid URL path\n");
    }
    match host::open_beneath::open_to_read(root, &sub) {
        Ok(file) => plain(
            tokio::fs::File::from_std(file),
            sub.display().to_string(),
            (),
        ),
        Err(e) if e.kind() == io::ErrorKind::IsADirectory => match list(root, &sub) {
            Ok(page) => page,
            Err(e) => failed(&e),
        },
        Err(e) => failed(&e),
    }
}

fn failed(e: &io::Error) -> Answer {
    match e.kind() {
        io::ErrorKind::NotFound => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        _ => text(StatusCode::FORBIDDEN, &format!("{e}\n")),
    }
}

/// As Go's file server lists a folder: programs read it.
fn list(root: &Path, sub: &Path) -> io::Result<Answer> {
    let found = host::open_beneath::list_folder(root, sub)?;
    let shown = found.iter().map(|(name, is_folder)| {
        let end = if *is_folder { "/" } else { "" };
        format!("{}{end}", name.to_string_lossy())
    });
    let mut names: Vec<_> = shown.collect();
    names.sort();
    let lines = names.iter().map(|name| {
        let shown = escaped(name);
        format!("<a href=\"{shown}\">{shown}</a>\n")
    });
    let page = format!("<pre>\n{}</pre>\n", lines.collect::<String>());
    let mut answer = text(StatusCode::OK, &page);
    let kind = HeaderValue::from_static("text/html; charset=utf-8");
    answer.headers_mut().insert("content-type", kind);
    Ok(answer)
}

fn escaped(name: &str) -> String {
    name.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&#34;")
}

/// Sends what is read, in blocks, as it is taken. What cannot be read ends the answer early, which
/// is logged under the name of `what`. What is `held` is held until the answer ends.
fn plain<T>(from: impl AsyncRead + Send + Sync + 'static, what: String, held: T) -> Answer
where
    T: Send + Sync + 'static,
{
    let blocks = ReaderStream::with_capacity(from, BLOCK);
    let frames = blocks.scan((what, held), |(what, _), block| {
        let block = block.inspect_err(|e| tracing::warn!("reading {what} for /logs: {e}"));
        std::future::ready(block.ok().map(|b| Ok::<_, Infallible>(Frame::data(b))))
    });
    let body: Body = BodyExt::boxed(StreamBody::new(frames));
    let mut answer = Response::new(body);
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert("content-type", kind);
    answer
}

/// Sends what a program writes while it writes it: nobody knows how much a journal holds. The
/// program ends when the client goes, and after [`ANSWER`].
async fn written_by(mut command: Command, what: &'static str) -> io::Result<Answer> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let (Some(mut out), Some(err)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(io::Error::other("no pipes"));
    };
    let said = tokio::spawn(async move {
        let mut said = Vec::new();
        let read = err.take(MOST_SAID).read_to_end(&mut said).await;
        read.map(|_| String::from_utf8_lossy(&said).into_owned())
    });
    let until = Instant::now() + ANSWER;
    let mut first = Vec::with_capacity(BLOCK);
    if tokio::time::timeout_at(until, out.read_buf(&mut first)).await?? == 0 {
        let status = tokio::time::timeout_at(until, child.wait()).await??;
        if !status.success() {
            let said = said.await.map_err(io::Error::other)??;
            return Ok(text(StatusCode::INTERNAL_SERVER_ERROR, &said));
        }
    }
    let rest = tokio_util::io::StreamReader::new(
        ReaderStream::with_capacity(out, BLOCK).take_until(async move {
            tokio::time::sleep_until(until).await;
            tracing::warn!("{what} was ended: its answer took longer than {ANSWER:?}");
        }),
    );
    let all = io::Cursor::new(first).chain(rest);
    Ok(plain(all, what.to_owned(), child))
}

/// What is asked of the machine's journal, or of a file.
#[derive(Debug, Default, PartialEq, Eq)]
struct Question {
    services: Vec<String>,
    files: Vec<PathBuf>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    tail: Option<u64>,
    boot: Option<i64>,
    pattern: Option<String>,
}

impl Question {
    fn read(path: &[&str], query: &Query) -> Result<Self, String> {
        if !path.is_empty() {
            return Err("a query has no path".into());
        }
        let mut out = Self::default();
        for named in query.all("query") {
            if named.contains(['/', '\\']) {
                out.files.push(PathBuf::from(named));
            } else if is_unit(&named) {
                out.services.push(named);
            } else {
                return Err(format!("{named:?} is not the name of a service"));
            }
        }
        match (out.services.len(), out.files.len()) {
            (0, 0) => return Err("query cannot be empty".into()),
            (1.., 1..) => return Err("cannot specify a file and service".into()),
            (_, 2..) => return Err("cannot specify more than one file".into()),
            (n, _) if n > MOST_SERVICES => {
                return Err(format!("more than {MOST_SERVICES} services"));
            }
            _ => {}
        }
        let time = |name: &str| -> Result<Option<Timestamp>, String> {
            let text = query.get(name).filter(|t| !t.is_empty());
            let wrong = |t: &str| format!("{name}: {t:?} is not a time of RFC 3339");
            text.map(|t| t.parse().map_err(|_| wrong(t))).transpose()
        };
        out.since = time("sinceTime")?;
        out.until = time("untilTime")?;
        if out.since.zip(out.until).is_some_and(|(s, u)| s > u) {
            return Err("untilTime: must be after sinceTime".into());
        }
        let number = |name: &str| -> Result<Option<i64>, String> {
            let text = query.get(name).filter(|t| !t.is_empty());
            let wrong = |t: &str| format!("{name}: {t:?} is not a number");
            text.map(|t| t.parse().map_err(|_| wrong(t))).transpose()
        };
        out.boot = number("boot")?;
        if out.boot.is_some_and(|b| b > 0) {
            return Err("boot: must be at most 0".into());
        }
        if let Some(lines) = number("tailLines")? {
            let lines = u64::try_from(lines).ok().filter(|l| *l <= MOST_LINES);
            out.tail = Some(lines.ok_or(format!("tailLines: must be from 0 to {MOST_LINES}"))?);
        }
        out.pattern = query.get("pattern").map(str::to_owned);
        if !out.files.is_empty() && out.is_narrowed() {
            return Err("cannot specify a file with query options".into());
        }
        Ok(out)
    }

    fn is_narrowed(&self) -> bool {
        self.since.is_some()
            || self.until.is_some()
            || self.tail.is_some()
            || self.boot.is_some()
            || self.pattern.is_some()
    }

    async fn answer(&self) -> Answer {
        if let Some(path) = self.files.first() {
            let parts: Vec<&str> = path.iter().filter_map(|p| p.to_str()).collect();
            let parts: Vec<&str> = parts.into_iter().filter(|p| *p != "/").collect();
            return file(Path::new(FOLDER), &parts);
        }
        let mut command = Command::new("journalctl");
        command.args(self.words());
        match written_by(command, "journalctl").await {
            Ok(answer) => answer,
            Err(e) if e.kind() == io::ErrorKind::NotFound => text(
                StatusCode::BAD_REQUEST,
                "this machine has no journalctl: services cannot be asked for",
            ),
            Err(e) if e.kind() == io::ErrorKind::TimedOut => text(
                StatusCode::GATEWAY_TIMEOUT,
                "journalctl did not answer in time",
            ),
            Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
        }
    }

    /// The arguments of journalctl.
    fn words(&self) -> Vec<String> {
        let mut words: Vec<String> = ["--utc", "--no-pager", "--output=short-precise"]
            .map(str::to_owned)
            .into();
        let time = |t: &Timestamp| t.strftime("%Y-%m-%d %H:%M:%S").to_string();
        words.extend(
            self.since
                .iter()
                .map(|t| format!("--since={} UTC", time(t))),
        );
        words.extend(
            self.until
                .iter()
                .map(|t| format!("--until={} UTC", time(t))),
        );
        words.extend(self.tail.iter().map(|n| format!("--lines={n}")));
        words.extend(self.services.iter().map(|s| format!("--unit={s}")));
        words.extend(self.pattern.iter().map(|p| format!("--grep={p}")));
        words.extend(self.boot.iter().map(|b| format!("--boot={b}")));
        words
    }
}

/// Whether it may be the name of a unit of systemd; nothing that a tool takes for an option.
fn is_unit(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'@' | b':');
    !name.is_empty() && name.len() <= 255 && !name.starts_with('-') && name.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::super::common::query;
    use super::*;

    async fn body(answer: Answer) -> (StatusCode, String) {
        let code = answer.status();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8_lossy(&bytes).into_owned())
    }

    #[tokio::test]
    async fn files_of_the_folder_are_shown_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("log");
        std::fs::create_dir_all(root.join("pods")).unwrap();
        std::fs::write(root.join("a<b"), "said\n").unwrap();
        std::fs::write(dir.path().join("secret"), "no").unwrap();
        std::os::unix::fs::symlink("../secret", root.join("out")).unwrap();
        let (code, page) = body(file(&root, &[])).await;
        assert_eq!(code, 200);
        assert!(page.contains("<a href=\"pods/\">pods/</a>"), "{page}");
        assert!(page.contains("a&lt;b"), "{page}");
        let said = body(file(&root, &["a<b"])).await;
        assert_eq!(said, (StatusCode::OK, "said\n".into()));
        assert_eq!(body(file(&root, &["none"])).await.0, 404);
        assert_eq!(body(file(&root, &["out"])).await.0, 403);
        assert_eq!(body(file(&root, &["..", "secret"])).await.0, 400);
        let off = SystemLogs {
            files: false,
            query: false,
        };
        assert_eq!(serve(off, &[], &query("")).await.status(), 405);
    }

    #[tokio::test]
    async fn what_a_program_writes_is_sent_and_its_failure_is_an_error() {
        let run = async |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            body(written_by(command, "sh").await.unwrap()).await
        };
        let many = "i=0; while [ $i -lt 40000 ]; do echo line; i=$((i+1)); done";
        let (code, said) = run(many).await;
        assert_eq!((code, said.len()), (StatusCode::OK, 200_000));
        assert_eq!(run("exit 0").await, (StatusCode::OK, String::new()));
        let (code, said) = run("echo no such unit >&2; exit 1").await;
        assert_eq!((code.as_u16(), said.as_str()), (500, "no such unit\n"));
        let missing = written_by(Command::new("/nowhere/at/all"), "x").await;
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn questions_become_words_for_the_journal() {
        let read = |text: &str| Question::read(&[], &query(text));
        let question = read("query=kubelet&query=a@b.service&tailLines=5&boot=-1&pattern=x%20y&sinceTime=2026-01-02T03:04:05Z").unwrap();
        assert_eq!(
            question.words(),
            [
                "--utc",
                "--no-pager",
                "--output=short-precise",
                "--since=2026-01-02 03:04:05 UTC",
                "--lines=5",
                "--unit=kubelet",
                "--unit=a@b.service",
                "--grep=x y",
                "--boot=-1",
            ]
        );
        for bad in [
            "query=",
            "query=--output%3Dcat",
            "query=a&query=/b",
            "query=/a&tailLines=1",
            "query=a&boot=1",
            "query=a&tailLines=100001",
            "query=a&sinceTime=yesterday",
            "query=a&sinceTime=2026-01-02T00:00:00Z&untilTime=2026-01-01T00:00:00Z",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
