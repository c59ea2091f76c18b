//! A real browser without a screen: Debian's Chromium, driven by chromedriver over plain HTTP. What a reader would see and do.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tenure::peers::http::call;

use super::netns::Namespace;
use super::wait_for;

/// In a namespace of its own there is nobody else.
const DRIVER: &str = "http://127.0.0.1:9515";
const PATIENCE: Duration = Duration::from_mins(1);
const ANSWER_BYTES_MAX: usize = 64 << 20;

pub struct Browser {
    driver: Child,
    session: String,
    // Dropped after everybody who writes to it has gone.
    _dir: tempfile::TempDir,
}

/// Is there a browser to drive?
pub fn available() -> bool {
    let there = |program: &str| {
        Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
    };
    there("chromium") && there("chromedriver")
}

impl Browser {
    pub async fn open(place: &Namespace) -> Browser {
        let dir =
            tempfile::Builder::new().prefix("tenure-browser-").tempdir().expect("a temporary directory");
        let log = File::create(dir.path().join("chromedriver.log")).expect("our own directory");
        let mut command = place.command("chromedriver");
        command
            .args(["--port=9515", "--log-level=WARNING"])
            .env("HOME", dir.path())
            .env("TMPDIR", dir.path());
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle")).stderr(log);
        let driver = command.process_group(0).spawn().expect("chromedriver is installed");
        let data = dir.path().join("profile");
        let mut browser = Browser { driver, session: String::new(), _dir: dir };
        wait_for("chromedriver", async || {
            let answer = browser.say(Method::GET, "/status", None).await.ok()?;
            (answer["ready"] == true).then_some(())
        })
        .await;
        let arguments = [
            "--headless=new",
            // Root has no sandbox; whatever is shown here is ours.
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-breakpad",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            "--lang=en-US",
            "--window-size=1280,900",
            &format!("--user-data-dir={}", data.display()),
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let opened = browser.say(Method::POST, "/session", Some(wanted)).await;
        let opened = opened.unwrap_or_else(|why| panic!("Chromium does not start: {why}"));
        browser.session = format!("/session/{}", opened["sessionId"].as_str().expect("a session"));
        browser
    }

    async fn say(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, String> {
        let body = body.map(|body| body.to_string().into());
        let reply = call(method, &format!("{DRIVER}{path}"), body, PATIENCE, ANSWER_BYTES_MAX).await;
        let reply = reply.map_err(|error| error.to_string())?;
        let mut answer: Value = serde_json::from_slice(&reply.body).map_err(|error| error.to_string())?;
        let value = answer["value"].take();
        if reply.status == 200 { Ok(value) } else { Err(value["message"].to_string()) }
    }

    /// A command of the DevTools protocol.
    pub async fn command(&self, name: &str, parameters: Value) -> Value {
        let path = format!("{}/goog/cdp/execute", self.session);
        let answer = self.say(Method::POST, &path, Some(json!({"cmd": name, "params": parameters}))).await;
        answer.unwrap_or_else(|why| panic!("{name}: {why}"))
    }

    pub async fn visit(&self, url: &str) {
        let path = format!("{}/url", self.session);
        let answer = self.say(Method::POST, &path, Some(json!({"url": url}))).await;
        answer.unwrap_or_else(|why| panic!("{url}: {why}"));
    }

    /// What an expression gives on the page; a promise is waited for.
    pub async fn eval(&self, expression: &str) -> Value {
        let parameters = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let mut answer = self.command("Runtime.evaluate", parameters).await;
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer:#}");
        answer["result"]["value"].take()
    }

    /// Waits until an expression is true on the page.
    pub async fn until(&self, what: &str, expression: &str) {
        wait_for(what, async || (self.eval(&format!("Boolean({expression})")).await == true).then_some(()))
            .await;
    }

    /// What a reader would read there.
    pub async fn text(&self, selector: &str) -> String {
        let text = self.eval(&format!("document.querySelector({selector:?})?.innerText ?? ''")).await;
        text.as_str().unwrap_or_default().to_owned()
    }

    pub async fn click(&self, selector: &str) {
        let expression = format!("(document.querySelector({selector:?}).click(), true)");
        assert_eq!(self.eval(&expression).await, true, "{selector}");
    }

    /// As from a keyboard, into what has the focus after this.
    pub async fn type_into(&self, selector: &str, text: &str) {
        let focused = format!(
            "(document.querySelector({selector:?}).focus(), document.activeElement.matches({selector:?}))"
        );
        assert_eq!(self.eval(&focused).await, true, "{selector}");
        self.command("Input.insertText", json!({"text": text})).await;
    }

    /// A key, and the character that it stands for, if it stands for one.
    pub async fn press(&self, key: &str, code: u32, text: &str) {
        for kind in ["keyDown", "keyUp"] {
            let event =
                json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text});
            self.command("Input.dispatchKeyEvent", event).await;
        }
    }

    pub async fn resize(&self, width: u32, height: u32, phone: bool) {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone});
        self.command("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    pub async fn prefer(&self, scheme: &str) {
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.command("Emulation.setEmulatedMedia", features).await;
    }

    /// The whole page, or only what fits on the screen.
    pub async fn picture(&self, name: &str, whole: bool) {
        let mut parameters = json!({"format": "png", "captureBeyondViewport": whole});
        if whole {
            let metrics = self.command("Page.getLayoutMetrics", json!({})).await;
            let size = &metrics["cssContentSize"];
            parameters["clip"] =
                json!({"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1});
        }
        let answer = self.command("Page.captureScreenshot", parameters).await;
        let bytes = STANDARD.decode(answer["data"].as_str().expect("a picture")).expect("base64");
        let path = pictures().join(format!("{name}.png"));
        fs::write(&path, bytes).expect("the target directory can be written to");
        println!("screenshot: {}", path.display());
    }

    /// What the browser has complained of since it was last asked.
    pub async fn complaints(&self) -> Vec<String> {
        let path = format!("{}/se/log", self.session);
        let log = self.say(Method::POST, &path, Some(json!({"type": "browser"}))).await.expect("a log");
        let entries = log.as_array().cloned().unwrap_or_default();
        let grave =
            entries.into_iter().filter(|entry| entry["level"] == "SEVERE" || entry["level"] == "WARNING");
        grave.map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver and all that it has started.
        if let Ok(pid) = i32::try_from(self.driver.id()) {
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.driver.wait();
    }
}

fn pictures() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it lies in the target directory");
    let path = target.join("screenshots");
    fs::create_dir_all(&path).expect("the target directory can be written to");
    path
}
