//! The page's section on the migration: what it shows, and a step taken by keyboard, there and back.

use std::time::Duration;

use ironbus::migration::NodeReport;
use serde_json::{Value, json};

use crate::chromium::Browser;
use crate::near::NearServer;
use crate::page::{CONTRAST, ENTER, ESCAPE, HARD_TO_READ, press};
use crate::server::{ironbus, succeed};

async fn text(browser: &Browser, id: &str) -> String {
    let found = browser.run(&format!("return document.getElementById('{id}').innerText")).await;
    found.as_str().expect("text").to_owned()
}

/// Opens the page with the section open, and waits until it is drawn.
async fn open(browser: &Browser, server: &NearServer) {
    browser.client.goto("about:blank").await.expect("left");
    browser.client.goto(&server.url).await.expect("the page loads");
    browser.until("return !document.getElementById('migration').hidden").await;
    browser.run("document.querySelector('#migration summary').focus()").await;
    press(browser, ENTER).await;
    browser.until("return document.querySelectorAll('#triggers tbody tr').length === 4").await;
}

async fn append(server: &NearServer, count: u32) {
    let url = server.url.clone();
    let append = move || {
        for n in 0..count {
            let words = ["append", "T", "1", "--type", "E", "--payload", &n.to_string(), "--url", &url];
            succeed(ironbus().args(words));
        }
    };
    tokio::task::spawn_blocking(append).await.expect("no panic");
}

fn in_phase(phase: &str) -> String {
    format!("return document.querySelector('#phases [aria-current]')?.dataset.phase === '{phase}'")
}

const BUTTONS: &str = "return [...document.querySelectorAll('#steps button')]
    .map((button) => `${button.textContent} ${button.disabled ? 'disabled' : 'enabled'}`)";

#[tokio::test(flavor = "multi_thread")]
async fn a_step_is_planned_confirmed_and_taken_by_keyboard() {
    let Some(browser) = Browser::start(1200, 900).await else { return };
    let data = tempfile::tempdir().expect("a temporary directory");
    let server = NearServer::start(data.path(), None).await;
    open(&browser, &server).await;
    browser.until(&in_phase("broadcast")).await;
    assert!(text(&browser, "steps").await.contains("both are compared"), "what the step does is said");
    let row = "return [...document.querySelector('#triggers tr[data-trigger=events_per_second]').cells]
        .slice(0, 4).map((cell) => cell.textContent)";
    assert_eq!(browser.run(row).await, json!(["Events per second", "not known", "800", "no"]));

    // Without a reason the dialog stays; it can be left by Escape.
    browser.run("document.querySelector('#steps button').focus()").await;
    press(&browser, ENTER).await;
    browser.until("return document.activeElement.id === 'step-by'").await;
    press(&browser, &format!("ann{ENTER}")).await;
    assert_eq!(browser.run("return document.getElementById('step').open").await, true);
    press(&browser, ESCAPE).await;
    browser.until("return !document.getElementById('step').open").await;
    assert_eq!(browser.run(BUTTONS).await, json!(["Advance to dual… enabled"]), "nothing was taken");

    press(&browser, ENTER).await;
    browser.until("return document.activeElement.id === 'step-reason'").await;
    press(&browser, &format!("three nodes are planned{ENTER}")).await;
    browser.until(&in_phase("dual")).await;
    browser.until("return document.activeElement.id === 'steps-title'").await;
    assert_eq!(
        browser.run(BUTTONS).await,
        json!(["Advance to zenoh… disabled", "Roll back to broadcast… enabled"])
    );
    assert!(text(&browser, "steps").await.contains("In the way:"), "what is in the way is said");
    assert!(text(&browser, "taken").await.contains("three nodes are planned"));

    append(&server, 12).await;
    browser.until("return document.getElementById('parity-verdict').dataset.reached === 'true'").await;
    browser.until("return !document.querySelector('#steps button[data-way=advance]').disabled").await;
    assert_eq!(text(&browser, "parity-near").await, "0");
    assert_eq!(browser.complaints().await, Vec::<String>::new());

    // The page shows a plan that has become false: the server refuses, and the dialog says why.
    browser.run("document.querySelector('#steps button[data-way=advance]').click()").await;
    server.far.lose_every(Some(1));
    append(&server, 2).await;
    let mut watch = server.node.migration().expect("started").watch();
    let seen =
        watch.wait_for(|status| status.parity.as_ref().is_some_and(|parity| parity.only_broadcast > 0));
    tokio::time::timeout(crate::chromium::PATIENCE, seen).await.expect("in time").expect("it is told");
    press(&browser, &format!("parity{ENTER}")).await;
    browser
        .until("return document.getElementById('step-error').textContent.includes('in-process bus brought')")
        .await;
    press(&browser, ESCAPE).await;
    browser.until(&in_phase("dual")).await;

    server.far.lose_every(None);
    append(&server, 12).await;
    browser.until("return !document.querySelector('#steps button[data-way=advance]').disabled").await;
    browser.run("document.querySelector('#steps button[data-way=advance]').click()").await;
    press(&browser, &format!("parity{ENTER}")).await;
    browser.until(&in_phase("zenoh")).await;

    // An edge node is there: going back to broadcast says what that means for it.
    server.node.migration().expect("started").node_report(NodeReport {
        node: "edge-1".into(),
        covered: Duration::from_secs(1),
        by_zenoh: 3,
        from_log: 0,
        latency: None,
        sse_clients: 2,
    });
    browser.until("return !document.getElementById('nodes').hidden").await;
    browser.run("document.querySelector('#steps button[data-to=broadcast]').click()").await;
    assert!(text(&browser, "step-know").await.contains("at the pace of the heartbeat"));
    press(&browser, &format!("a drill{ENTER}")).await;
    browser.until(&in_phase("broadcast")).await;
    browser.until("return document.querySelectorAll('#taken tbody tr').length === 3").await;
    browser.end().await;
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_a_token_the_dialog_asks_for_it() {
    let Some(browser) = Browser::start(1200, 900).await else { return };
    let data = tempfile::tempdir().expect("a temporary directory");
    let server = NearServer::start(data.path(), Some("secret")).await;
    open(&browser, &server).await;
    browser.run("document.querySelector('#steps button').click()").await;
    press(&browser, "ann\tgo").await;
    press(&browser, ENTER).await;
    browser.until("return document.activeElement.id === 'step-token'").await;
    assert!(text(&browser, "step-error").await.contains("operator"));
    press(&browser, &format!("secret{ENTER}")).await;
    browser.until(&in_phase("dual")).await;
    browser.end().await;
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_migration_can_be_read_in_light_and_dark_and_fits_360_pixels() {
    let Some(browser) = Browser::start(1200, 900).await else { return };
    let data = tempfile::tempdir().expect("a temporary directory");
    let server = NearServer::start(data.path(), None).await;
    let migration = server.node.migration().expect("started").clone();
    let reason = "a-reason-without-any-place-to-break-".repeat(8);
    let request = ironbus::migration::StepRequest { to: None, log: None, by: "ann".repeat(40), reason };
    migration.advance(request).await.expect("nothing is in the way");
    append(&server, 1).await;
    for (width, height) in [(1200, 900), (360, 740)] {
        browser.resize(width, height).await;
        for scheme in ["light", "dark"] {
            browser.prefer(scheme).await;
            migration.node_report(NodeReport {
                node: "an-edge-node-with-a-very-long-name".repeat(3),
                covered: Duration::from_secs(1),
                by_zenoh: 123_456,
                from_log: 7,
                latency: None,
                sse_clients: 210,
            });
            open(&browser, &server).await;
            browser.until("return !document.getElementById('nodes').hidden").await;
            browser.until("return document.querySelector('#triggers .exceeded')").await;
            let read = async |what: &str| {
                let found: Value = browser.run(&format!("{CONTRAST}{HARD_TO_READ}")).await;
                assert_eq!(found["faults"], json!([]), "{what}, {width} pixels, {scheme}");
                let over = browser.run("return document.documentElement.scrollWidth - innerWidth").await;
                assert!(over.as_i64().expect("a number") <= 0, "{what}: {over} pixels wider than {width}");
            };
            read("the section").await;
            browser.run("document.querySelector('#steps button[data-way=rollback]').click()").await;
            read("the dialog").await;
        }
    }
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.end().await;
    server.end().await;
}
