//! The page and a plain `EventSource` in a real browser.

use std::process::{Command, Stdio};

use fantoccini::Locator;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::chromium::Browser;
use crate::logs::{LOGS, find, source};
use crate::proxy::Proxy;
use crate::server::{Server, ironbus, succeed};

#[tokio::test(flavor = "multi_thread")]
async fn an_event_source_sees_every_event_once_and_in_order_through_three_reconnects() {
    for path in LOGS.into_iter().filter_map(find) {
        let Some(browser) = Browser::start(1200, 800).await else { return };
        let data = tempfile::tempdir().expect("a temporary directory");
        let server = Server::start(data.path());
        let proxy = Proxy::before(&server).await;
        browser.client.goto(&format!("http://{}/healthz", proxy.address)).await.expect("answers");
        browser
            .run(
                "window.seen = []; window.opened = 0; window.resumed = 0;
                 const source = new EventSource('/v1/stream?after=0');
                 source.onopen = () => { window.opened += 1; };
                 source.addEventListener('resumed', () => { window.resumed += 1; });
                 source.onmessage = (message) => {
                     const event = JSON.parse(message.data);
                     const name = [event.aggregate_type, event.aggregate_id, event.event_type];
                     window.seen.push([event.position, ...name]);
                 };",
            )
            .await;
        browser.until("return window.opened === 1").await;
        let expected = source(&path);
        let total = expected.len();
        // One import, which goes on as long as there is more for it: through every reconnect.
        let mut import = tokio::process::Command::from(ironbus())
            .args(["import", "-", "--url", &server.url])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("the binary runs");
        let mut input = import.stdin.take().expect("it is piped");
        let lines = succeed(Command::new("zcat").arg(&path)).stdout;
        let lines: Vec<&[u8]> = lines.split_inclusive(|byte| *byte == b'\n').collect();
        for part in 0..4 {
            let (from, to) = (total * part / 4, total * (part + 1) / 4);
            input.write_all(&lines[from..to].concat()).await.expect("the import reads");
            if part < 3 {
                browser.until(&format!("return window.seen.length > {from}")).await;
                proxy.cut_all();
                browser.until(&format!("return window.opened === {}", part + 2)).await;
            }
        }
        drop(input);
        assert!(import.wait().await.expect("it ends").success());
        browser.until(&format!("return window.seen.length >= {total}")).await;
        let seen = browser.run("return window.seen").await;
        let numbered = (1..).zip(&expected);
        let expected: Vec<_> = numbered.map(|(n, event)| json!([n, event.0, event.1, event.2])).collect();
        assert!(seen == json!(expected), "not each event of {} once, in order", path.display());
        assert_eq!(browser.run("return window.resumed").await, 3, "each reconnect resumed");
        browser.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_events_as_they_arrive_and_fits_a_phone() {
    let Some(browser) = Browser::start(360, 740).await else { return };
    let data = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(data.path());
    browser.client.goto(&server.url).await.expect("the page loads");
    let shown = |text: &str| format!("return document.body.innerText.includes({text:?})");
    browser.until(&shown("Live")).await;
    let append = |id: &str| {
        let payload = r#"{"title":"<img src=x onerror=alert(1)>"}"#;
        succeed(ironbus().args([
            "append",
            "--url",
            &server.url,
            "Todo",
            id,
            "--type",
            "TodoAdded",
            "--payload",
            payload,
        ]));
    };
    append("first of all");
    browser.until(&shown("first of all")).await;
    assert_eq!(browser.run("return document.images.length").await, 0, "what an event says is only text");
    let input = browser.client.find(Locator::Id("pattern")).await.expect("there is a filter");
    browser.run("document.getElementById('pattern').value = ''").await;
    input.send_keys("events/Todo\u{e007}").await.expect("typed");
    browser.until(&shown("did you mean")).await;
    let wide = browser.run("return document.documentElement.scrollWidth - window.innerWidth").await;
    assert!(wide.as_f64().expect("a number") <= 0.0, "the page is {wide} pixels wider than the phone");
    let elsewhere = "return performance.getEntriesByType('resource').filter(r => !r.name.startsWith(location.origin)).length";
    assert_eq!(browser.run(elsewhere).await, 0, "nothing is asked of the outside");
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_origin_follows_its_session_by_a_cookie_beyond_the_end_of_a_token() {
    let Some(browser) = Browser::start(1200, 800).await else { return };
    let data = tempfile::tempdir().expect("a temporary directory");
    let secret = data.path().join("secret");
    std::fs::write(&secret, "0123456789abcdef0123456789abcdef").expect("written");
    let by_secret = ["--session-secret-file", secret.to_str().expect("text")];
    // What serves the application's page doesn't matter: cookies belong to a host, whatever the port.
    let application = Server::start(&data.path().join("application"));
    let origin = ["--cors-origin", &application.url];
    let server = Server::start_with(&data.path().join("log"), &[by_secret, origin].concat());
    let append = |session: &str| {
        let append = ["append", "Notice", "1", "--type", "Said", "--session", session, "--url", &server.url];
        succeed(ironbus().args(append));
    };
    let log_in = async |ttl: &str| {
        let token = succeed(ironbus().args(["session-token", "s 1", "--ttl", ttl]).args(by_secret)).stdout;
        let token = String::from_utf8(token).expect("text");
        browser.run(&format!("document.cookie = 'ironbus_session={}; path=/'", token.trim())).await;
    };
    let follow = format!(
        "window.follow = (query) => {{
             window.source?.close();
             [window.opened, window.gaveUp] = [0, false];
             const source = window.source = new EventSource('{}/v1/sessions/s%201/stream?' + query, {{ withCredentials: true }});
             source.onopen = () => {{ window.opened += 1; }};
             source.onmessage = (message) => {{
                 window.seen.push(JSON.parse(message.data).position);
                 window.last = message.lastEventId;
             }};
             source.onerror = () => {{ window.gaveUp = source.readyState === EventSource.CLOSED; }};
         }};
         window.seen = [];",
        server.url
    );
    browser.client.goto(&format!("{}/healthz", application.url)).await.expect("answers");
    browser.run(&follow).await;
    append("s 1");
    append("somebody else's");
    log_in("8s").await;
    browser.run("follow('after=0')").await;
    browser.until("return window.seen.length === 1").await;
    // The page has got a new cookie by the time that the stream ends with the old token.
    log_in("1h").await;
    browser.until("return window.opened === 2").await;
    append("s 1");
    browser.until("return window.seen.length === 2").await;

    // Where it hasn't, the EventSource gives up, and the page opens a new one when it has.
    browser.run("document.cookie = 'ironbus_session=not-any-more; path=/'; follow('after=0')").await;
    browser.until("return window.gaveUp === true").await;
    log_in("1h").await;
    append("s 1");
    browser.run("follow('last_event_id=' + window.last)").await;
    browser.until("return window.seen.length >= 3").await;
    assert_eq!(browser.run("return window.seen").await, json!([1, 3, 4]), "each event once, in order");

    // An origin that isn't configured is shown nothing, whoever uses the browser.
    let elsewhere = application.url.replace("127.0.0.1", "localhost");
    browser.client.goto(&format!("{elsewhere}/healthz")).await.expect("answers");
    browser.run(&format!("{follow} follow('after=0')")).await;
    browser.until("return window.gaveUp === true").await;
    assert_eq!(browser.run("return [window.opened, window.seen]").await, json!([0, []]));
    browser.end().await;
}
