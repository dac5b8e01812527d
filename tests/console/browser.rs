//! A Chromium that a test drives, by its DevTools protocol: messages of JSON over one WebSocket.
//! Whatever the page complains of is kept, and a test asks for it at its end.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::Running;
use tests::command::{GUARD, eventually};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// Messages of the browser may hold a picture.
const MOST_BYTES: usize = 64 << 20;

/// Which rules an axe looks at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    All,
    /// Those whose answer is another one in another theme or on another screen: a page that was looked
    /// at by all rules is the same page there.
    OfLooks,
}

/// Colours; what overflows and is touched; and what has its name from a text that a screen may hide.
const RULES_OF_LOOKS: [&str; 7] = [
    "color-contrast",
    "link-in-text-block",
    "scrollable-region-focusable",
    "target-size",
    "button-name",
    "link-name",
    "select-name",
];

pub struct Browser {
    runtime: tokio::runtime::Runtime,
    socket: WebSocketStream<TcpStream>,
    next: u64,
    session: String,
    complaints: VecDeque<String>,
    /// Its folder is removed after it.
    process: Running,
    _home: TempDir,
}

impl Browser {
    /// Starts a browser with one empty page.
    pub fn start() -> Result<Self> {
        let home = tempfile::Builder::new()
            .prefix("tiphys-browser-")
            .tempdir()?;
        let mut command = Command::new("chromium");
        command
            .args([
                "--headless=new",
                "--remote-debugging-port=0",
                // Root has no sandbox; what it opens is this cluster's page alone.
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--disable-sync",
                "--disable-extensions",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-domain-reliability",
                "--no-pings",
                // The cluster's CA is nobody's, and nobody else is asked for anything.
                "--ignore-certificate-errors",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            ])
            .arg(format!("--user-data-dir={}", home.path().display()))
            .arg("about:blank")
            .env("HOME", home.path());
        let process = Running::start(command).context(
            "the tests of the console need Chromium: `apt-get install chromium`, as `cargo xtask test` does",
        )?;
        let line = process.line(|l| l.contains("DevTools listening on "))?;
        let url = line
            .split_whitespace()
            .find(|w| w.starts_with("ws://"))
            .context("no address of the browser")?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let socket = runtime.block_on(connect(url))?;
        let mut browser = Self {
            runtime,
            socket,
            next: 0,
            session: String::new(),
            complaints: VecDeque::new(),
            process,
            _home: home,
        };
        let target = browser.ask("Target.createTarget", json!({ "url": "about:blank" }))?;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.ask("Target.attachToTarget", attach)?;
        browser.session = text(&session["sessionId"]);
        for domain in ["Page", "Runtime", "Log"] {
            browser.ask(&format!("{domain}.enable"), json!({}))?;
        }
        Ok(browser)
    }

    /// One command of the protocol and its answer.
    pub fn ask(&mut self, method: &str, params: Value) -> Result<Value> {
        self.next += 1;
        let id = self.next;
        let mut message = json!({ "id": id, "method": method, "params": params });
        if !self.session.is_empty() {
            message["sessionId"] = self.session.clone().into();
        }
        let (socket, complaints) = (&mut self.socket, &mut self.complaints);
        let answer = async {
            socket.send(Message::text(message.to_string())).await?;
            loop {
                let frame = socket.next().await.context("the browser has gone")??;
                let Message::Text(body) = frame else { continue };
                let value: Value = serde_json::from_str(&body)?;
                if value["id"] == id {
                    return Ok::<Value, anyhow::Error>(value);
                }
                complaints.extend(complaint(&value));
            }
        };
        let answer = async { tokio::time::timeout(GUARD, answer).await };
        let answer = self.runtime.block_on(answer).context(method.to_owned())??;
        let error = &answer["error"];
        ensure!(error.is_null(), "{method}: {error}");
        Ok(answer["result"].clone())
    }

    pub fn open(&mut self, url: &str) -> Result<()> {
        self.ask("Page.navigate", json!({ "url": url })).map(drop)
    }

    /// What an expression is; a promise is waited for.
    pub fn value(&mut self, expression: &str) -> Result<Value> {
        let params =
            json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let answer = self.ask("Runtime.evaluate", params)?;
        let thrown = &answer["exceptionDetails"];
        ensure!(thrown.is_null(), "{expression}: {thrown}");
        Ok(answer["result"]["value"].clone())
    }

    /// Waits until an expression is true.
    pub fn until(&mut self, what: &str, expression: &str) -> Result<()> {
        let seen = eventually(what, || {
            let value = self.value(expression)?;
            ensure!(value == true, "it is {value}");
            Ok(())
        });
        match seen {
            Ok(()) => Ok(()),
            Err(e) => bail!("{e:#}\nthe page shows:\n{}", self.shown()?),
        }
    }

    /// Waits until the page shows a text.
    pub fn until_shown(&mut self, wanted: &str) -> Result<()> {
        let quoted = json!(wanted);
        let has = format!("document.body.innerText.includes({quoted})");
        self.until(&format!("the page shows {wanted:?}"), &has)
    }

    /// The text of the page.
    pub fn shown(&mut self) -> Result<String> {
        Ok(text(&self.value("document.body.innerText")?))
    }

    /// Clicks the button, link or label with this text or name, in the dialog where one is open.
    pub fn click(&mut self, name: &str) -> Result<()> {
        let script = format!(
            "(() => {{ const name = {}; \
             const root = [...document.querySelectorAll('dialog[open]')].at(-1) ?? document; \
             const all = [...root.querySelectorAll('button, a, label, summary')]; \
             const words = (e) => e.getAttribute('aria-label') ?? e.innerText.trim(); \
             const found = all.find((e) => words(e) === name && !e.disabled); \
             found?.click(); return !!found; }})()",
            json!(name)
        );
        self.until(&format!("{name:?} can be clicked"), &script)
    }

    /// Types into what has the focus.
    pub fn write(&mut self, words: &str) -> Result<()> {
        self.ask("Input.insertText", json!({ "text": words }))
            .map(drop)
    }

    /// Presses a key; of one that writes, its text goes with it.
    pub fn press(&mut self, key: &str) -> Result<()> {
        let (name, code, written) = match key {
            "Enter" => ("Enter", 13, "\r".to_owned()),
            "Escape" => ("Escape", 27, String::new()),
            one => (one, 0, one.to_owned()),
        };
        let press = json!({ "type": "keyDown", "key": name, "text": written,
            "windowsVirtualKeyCode": code });
        self.ask("Input.dispatchKeyEvent", press)?;
        let release = json!({ "type": "keyUp", "key": name, "windowsVirtualKeyCode": code });
        self.ask("Input.dispatchKeyEvent", release).map(drop)
    }

    /// Sets a field's value as a person's typing does.
    pub fn fill(&mut self, selector: &str, words: &str) -> Result<()> {
        let script = format!(
            "(() => {{ const field = document.querySelector({}); if (!field) return false; \
             const set = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(field), 'value').set; \
             set.call(field, {}); field.dispatchEvent(new Event('input', {{ bubbles: true }})); \
             return true; }})()",
            json!(selector),
            json!(words)
        );
        self.until(&format!("{selector} can be filled"), &script)
    }

    /// The page's width and height, and whether it is a phone's.
    pub fn resize(&mut self, width: u32, height: u32, phone: bool) -> Result<()> {
        let screen = json!({ "width": width, "height": height, "deviceScaleFactor": 1,
            "mobile": phone });
        self.ask("Emulation.setDeviceMetricsOverride", screen)
            .map(drop)
    }

    pub fn prefer(&mut self, scheme: &str) -> Result<()> {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.ask(
            "Emulation.setEmulatedMedia",
            json!({ "features": features }),
        )
        .map(drop)
    }

    /// What an axe finds against the rules for pages that everybody can use.
    pub fn axe(&mut self, rules: Rules) -> Result<()> {
        // One document holds it for all its looks.
        if self.value("typeof axe === 'object'")? != true {
            let path = axe_path();
            let source = std::fs::read_to_string(&path).with_context(|| {
                format!(
                    "{} is missing: `cargo xtask test` gets it, or `apt-get install nodejs npm` and `npm ci` in crates/console/web",
                    path.display()
                )
            })?;
            self.value(&format!("{source}; true"))?;
        }
        let mut options = json!({ "resultTypes": ["violations"] });
        if rules == Rules::OfLooks {
            options["runOnly"] = json!({ "type": "rule", "values": RULES_OF_LOOKS });
        }
        // What is half faded in has another contrast than when it is there.
        // What stands in the terminal, and how, is the business of the program in it.
        let run = format!(
            "axe.run({{ exclude: ['.xterm'] }}, {options}).then((r) => \
             r.violations.map((v) => v.id + ': ' + v.nodes.slice(0, 3).map((n) => n.html).join(' ')))"
        );
        let found = self.value(&run)?;
        ensure!(
            found.as_array().is_some_and(Vec::is_empty),
            "axe finds at {}: {found:#}",
            self.value("location.hash")?
        );
        Ok(())
    }

    /// What the page has complained of so far: errors of its scripts, of its console, of loading.
    pub fn complaints(&mut self) -> Result<Vec<String>> {
        // An answer comes after all that was said before it.
        self.value("0")?;
        Ok(self.complaints.drain(..).collect())
    }

    /// A picture of what is seen, beside what tests write: a person looks at them.
    pub fn picture(&mut self, name: &str) -> Result<()> {
        let folder = pictures()?;
        let answer = self.ask("Page.captureScreenshot", json!({ "format": "png" }))?;
        use base64::Engine;
        let bytes = base64::engine::general_purpose::STANDARD.decode(text(&answer["data"]))?;
        std::fs::create_dir_all(&folder)?;
        Ok(std::fs::write(folder.join(format!("{name}.png")), bytes)?)
    }
}

impl Drop for Browser {
    /// Asked to end, it ends its own processes, too, which else write into the folder for a while.
    fn drop(&mut self) {
        if self.ask("Browser.close", json!({})).is_ok() {
            let _ = self.process.end();
        }
    }
}

/// The folder that `TIPHYS_SHOTS` names, or `test-output/console` in cargo's target folder, which is
/// marked as a cache.
fn pictures() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("TIPHYS_SHOTS") {
        return Ok(folder.into());
    }
    let program = std::env::current_exe()?;
    let target = program
        .ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").is_file());
    let target = target.context("this program lies in no target folder: set TIPHYS_SHOTS")?;
    Ok(target.join("test-output/console"))
}

fn axe_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../crates/console/web/node_modules/axe-core/axe.min.js")
}

async fn connect(url: &str) -> Result<WebSocketStream<TcpStream>> {
    let place = url.strip_prefix("ws://").context("not a ws address")?;
    let (address, _) = place.split_once('/').context("no path")?;
    let stream = tokio::time::timeout(Duration::from_secs(30), TcpStream::connect(address))
        .await
        .context("connecting to the browser")??;
    let config = tokio_tungstenite::tungstenite::protocol::WebSocketConfig::default()
        .max_message_size(Some(MOST_BYTES))
        .max_frame_size(Some(MOST_BYTES));
    let answer = tokio_tungstenite::client_async_with_config(url, stream, Some(config));
    Ok(answer.await?.0)
}

/// What a message of the browser says is wrong with the page.
fn complaint(message: &Value) -> Option<String> {
    let params = &message["params"];
    match message["method"].as_str()? {
        "Runtime.exceptionThrown" => Some(params["exceptionDetails"].to_string()),
        "Runtime.consoleAPICalled" if params["type"] == "error" => Some(params["args"].to_string()),
        // A link came or went on this machine, whosever it is: the browser drops what runs, and
        // the page takes it up again.
        "Log.entryAdded"
            if text(&params["entry"]["text"]).ends_with("net::ERR_NETWORK_CHANGED") =>
        {
            None
        }
        "Log.entryAdded" if params["entry"]["level"] == "error" => {
            Some(params["entry"].to_string())
        }
        _ => None,
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
