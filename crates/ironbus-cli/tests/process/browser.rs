//! The page and a plain `EventSource` in a real browser.

use std::process::Command;

use fantoccini::Locator;
use serde_json::json;

use crate::chromium::Browser;
use crate::logs::{LOGS, find, source};
use crate::proxy::Proxy;
use crate::server::{Server, ironbus, succeed};

#[tokio::test(flavor = "multi_thread")]
async fn an_event_source_sees_every_event_once_and_in_order_through_three_reconnects() {
    let Some(path) = find(LOGS[0]) else { return };
    let Some(browser) = Browser::start(1200, 800).await else { return };
    let data = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(data.path());
    let proxy = Proxy::before(&server).await;
    let total = source(&path).len();
    browser.client.goto(&format!("http://{}/healthz", proxy.address)).await.expect("answers");
    browser
        .run(
            "window.seen = []; window.opened = 0; window.resumed = 0;
             const source = new EventSource('/v1/stream?after=0');
             source.onopen = () => { window.opened += 1; };
             source.addEventListener('resumed', () => { window.resumed += 1; });
             source.onmessage = (message) => window.seen.push(JSON.parse(message.data).position);",
        )
        .await;
    browser.until("return window.opened === 1").await;
    // The import comes in four parts, so that each reconnect has events before and after it.
    let lines = succeed(Command::new("zcat").arg(&path)).stdout;
    let lines: Vec<&[u8]> = lines.split_inclusive(|byte| *byte == b'\n').collect();
    for part in 1..=4 {
        let file = data.path().join("part.jsonl");
        std::fs::write(&file, lines[..total * part / 4].concat()).expect("written");
        let url = server.url.clone();
        let import = tokio::task::spawn_blocking(move || {
            succeed(ironbus().args(["import", "--url", &url]).arg(&file));
        });
        if part < 4 {
            proxy.cut_all();
            browser.until(&format!("return window.opened === {}", part + 1)).await;
        }
        import.await.expect("the import succeeds");
    }
    browser.until(&format!("return window.seen.length >= {total}")).await;
    let seen = browser.run("return window.seen").await;
    assert_eq!(seen, json!((1..=total).collect::<Vec<_>>()), "each event once, in order");
    assert!(browser.run("return window.resumed").await.as_u64().expect("a number") >= 2);
    browser.end().await;
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
