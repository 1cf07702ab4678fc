//! A real browser: headless Chromium, driven through chromedriver. Where there is none, tests are skipped.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fantoccini::{Client, ClientBuilder};
use serde_json::{Value, json};

/// Nothing that a test waits for takes so long; only a fault does.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Browser {
    driver: Child,
    /// Where chromedriver listens.
    address: String,
    pub(crate) client: Client,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// `None` where there is no browser; says that the test is skipped then.
    pub(crate) async fn start(width: u32, height: u32) -> Option<Self> {
        let spawned =
            Command::new("chromedriver").arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let Ok(mut driver) = spawned else {
            println!("skipped: chromedriver isn't installed (Debian: chromium and chromium-driver)");
            return None;
        };
        let stdout = BufReader::new(driver.stdout.take().expect("it is piped"));
        let port: String = stdout
            .lines()
            .map(|line| line.expect("text"))
            .find_map(|line| {
                Some(line.split("successfully on port ").nth(1)?.trim_end_matches('.').to_owned())
            })
            .expect("chromedriver says on which port it listens");
        let profile = tempfile::tempdir().expect("a temporary directory");
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            &format!("--user-data-dir={}", profile.path().display()),
            &format!("--window-size={width},{height}"),
        ];
        let options = json!({ "args": arguments });
        let capabilities =
            [("goog:chromeOptions", options), ("goog:loggingPrefs", json!({ "browser": "ALL" }))];
        let capabilities = capabilities.map(|(name, value)| (name.to_owned(), value)).into_iter().collect();
        let address = format!("127.0.0.1:{port}");
        let client = ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://{address}"))
            .await
            .expect("Chromium starts");
        Some(Self { driver, address, client, _profile: profile })
    }

    /// A command of chromedriver's own, which WebDriver doesn't have.
    async fn command(&self, name: &str, body: Value) -> Value {
        let session = self.client.session_id().await.expect("asked").expect("there is a session");
        let url = format!("http://{}/session/{session}/{name}", self.address);
        let answer = reqwest::Client::new().post(url).json(&body).send().await.expect("chromedriver answers");
        let answer = answer.error_for_status().expect("chromedriver knows the command");
        answer.json::<Value>().await.expect("JSON")["value"].take()
    }

    /// What the page and the browser complained of since this was last asked.
    pub(crate) async fn complaints(&self) -> Vec<String> {
        let said = self.command("se/log", json!({ "type": "browser" })).await;
        let said = said.as_array().expect("a list");
        said.iter().map(|entry| entry["message"].as_str().expect("text").to_owned()).collect()
    }

    /// The part of the page that is seen, whatever size the browser's window may have.
    pub(crate) async fn resize(&self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        let body = json!({ "cmd": "Emulation.setDeviceMetricsOverride", "params": size });
        self.command("goog/cdp/execute", body).await;
        self.until(&format!("return innerWidth === {width}")).await;
    }

    /// Light or dark, as a person's system would ask for it.
    pub(crate) async fn prefer(&self, scheme: &str) {
        let params = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        let body = json!({ "cmd": "Emulation.setEmulatedMedia", "params": params });
        self.command("goog/cdp/execute", body).await;
        self.until(&format!("return matchMedia('(prefers-color-scheme: {scheme})').matches")).await;
    }

    pub(crate) async fn run(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.expect("the script runs")
    }

    /// Asks the page until the script gives back something true.
    pub(crate) async fn until(&self, script: &str) -> Value {
        let asking = async {
            loop {
                let value = self.run(script).await;
                if value.as_bool().unwrap_or(!value.is_null()) {
                    return value;
                }
            }
        };
        tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("never true: {script}"))
    }

    pub(crate) async fn end(self) {
        self.client.clone().close().await.expect("Chromium ends");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Chromedriver's own way to end takes Chromium with it, also after a test has failed; killed, it
        // would leave Chromium behind.
        if let Ok(mut stream) = TcpStream::connect(&self.address) {
            let asked =
                format!("GET /shutdown HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address);
            let _ = stream.set_read_timeout(Some(PATIENCE));
            let _ = stream.write_all(asked.as_bytes());
            let _ = stream.read_to_end(&mut Vec::new());
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
