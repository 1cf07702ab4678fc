//! The page as a person uses it: filter, history, keyboard, and that it can be read in light and dark.

use std::process::Command;
use std::sync::atomic::Ordering;

use serde_json::json;

use crate::chromium::{Browser, PATIENCE};
use crate::proxy::Proxy;
use crate::server::{Server, ironbus, succeed};

pub(crate) const ENTER: &str = "\u{e007}";
pub(crate) const ESCAPE: &str = "\u{e00c}";

/// The positions that the list shows, from the top.
const SHOWN: &str =
    "[...document.querySelectorAll('#events > li')].map((row) => Number(row.dataset.position))";

fn append(server: &Server, aggregate_type: &str, aggregate_id: &str, event_type: &str) {
    let words = ["append", "--url", &server.url, aggregate_type, aggregate_id, "--type", event_type];
    succeed(ironbus().args(words).args(["--payload", r#"{"n":12345678901234567890}"#]));
}

pub(crate) async fn press(browser: &Browser, keys: &str) {
    let focused = browser.client.active_element().await.expect("something has the focus");
    focused.send_keys(keys).await.expect("typed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_filter_shows_only_what_matches_and_an_invalid_pattern_its_reason() {
    let Some(browser) = Browser::start(1200, 800).await else { return };
    let data = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(data.path());
    browser.client.goto(&server.url).await.expect("the page loads");
    browser.until("return !document.getElementById('empty-log').hidden").await;
    let curl = browser.run("return document.getElementById('command-curl').textContent").await;
    assert!(curl.as_str().expect("text").contains(&server.url), "the command is for this server: {curl}");

    append(&server, "Todo", "1", "TodoAdded");
    append(&server, "Order", "a/b #1 50%*", "OrderPlaced");
    append(&server, "Todo", "2", "TodoAdded");
    browser.until(&format!("return String({SHOWN}) === '3,2,1'")).await;
    assert_eq!(browser.run("return document.getElementById('empty-log').hidden").await, true);

    press(&browser, "/").await;
    press(&browser, &format!("events/Todo/**{ENTER}")).await;
    browser.until(&format!("return String({SHOWN}) === '3,1'")).await;
    append(&server, "Order", "2", "OrderPlaced");
    append(&server, "Todo", "1", "TodoDone");
    browser.until(&format!("return String({SHOWN}) === '5,3,1'")).await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());

    // Entering the field selects what is in it.
    browser.run("document.activeElement.blur()").await;
    press(&browser, "/").await;
    press(&browser, &format!("events//x{ENTER}")).await;
    browser
        .until("return document.getElementById('pattern-error').textContent.includes('empty chunk')")
        .await;
    append(&server, "Todo", "3", "TodoAdded");
    browser.until(&format!("return String({SHOWN}) === '6,5,3,1'")).await;
    assert_eq!(browser.run("return document.getElementById('app').dataset.duplicates").await, "0");
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_of_any_aggregate_opens_by_keyboard_and_goes_on_live() {
    let Some(browser) = Browser::start(1200, 800).await else { return };
    let data = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(data.path());
    // Names that a URL or a key gives a meaning to; `..` can't be a part of a path in a browser.
    for name in ["a/b #1 50%*?", "..", "@é漢"] {
        append(&server, "Odd", name, "First");
        append(&server, "Other", "1", "Between");
        append(&server, "Odd", name, "Second");
        browser.client.goto(&server.url).await.expect("the page loads");
        let newest = format!(
            "return document.querySelector('#events a')?.textContent === {}",
            json!(format!("Odd/{name}"))
        );
        browser.until(&newest).await;
        browser.run("document.getElementById('pause').focus()").await;
        press(&browser, "\t").await;
        assert_eq!(browser.run("return document.activeElement.className").await, "aggregate");
        press(&browser, ENTER).await;
        let rows =
            "[...document.querySelectorAll('#history-events b')].map((type) => type.textContent).join()";
        browser.until(&format!("return {rows} === 'First,Second'")).await;
        assert_eq!(browser.run("return document.activeElement.id").await, "history-title");
        let title = browser.run("return document.activeElement.textContent").await;
        assert_eq!(title, format!("Odd / {name}"));
        browser.until("return document.getElementById('history-line').textContent.endsWith('live')").await;
        append(&server, "Other", "1", "Between");
        append(&server, "Odd", name, "Third");
        browser.until(&format!("return {rows} === 'First,Second,Third'")).await;
        press(&browser, ESCAPE).await;
        browser.until("return document.getElementById('history').hidden").await;
        assert_eq!(browser.run("return document.activeElement.className").await, "aggregate");
        // Enter on the payload: shown as it was written, no digit lost.
        press(&browser, "\t").await;
        press(&browser, ENTER).await;
        let payload = browser.run("return document.querySelector('#events .detail pre').textContent").await;
        assert_eq!(payload, "{\n  \"n\": 12345678901234567890\n}");
    }
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_left_frees_its_connections_and_goes_on_when_it_is_back() {
    let Some(browser) = Browser::start(1200, 800).await else { return };
    let data = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(data.path());
    append(&server, "Todo", "1", "TodoAdded");
    browser.client.goto(&format!("{}/#type=Todo&id=1", server.url)).await.expect("the page loads");
    // More often than a browser has connections for one server.
    for round in 1..=4_u32 {
        let both = format!(
            "return {SHOWN}.length === {round} && document.getElementById('history-line').textContent === '{round} event{}, live'",
            if round == 1 { "" } else { "s" }
        );
        browser.until(&both).await;
        browser.client.goto(&format!("{}/healthz", server.url)).await.expect("answers");
        let ask = "fetch('/v1/status').then((answer) => answer.json()).then((status) => { window.streams = status.sse_clients; });
            return window.streams === 0";
        browser.until(ask).await;
        append(&server, "Todo", "1", "TodoDone");
        browser.client.back().await.expect("back");
    }
    browser.until(&format!("return String({SHOWN}) === '5,4,3,2,1'")).await;
    assert_eq!(browser.run("return document.getElementById('app').dataset.duplicates").await, "0");
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_the_browser_has_given_up_is_opened_again_after_the_same_cursor() {
    let Some(browser) = Browser::start(1200, 800).await else { return };
    let data = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(data.path());
    let proxy = Proxy::before(&server).await;
    append(&server, "Todo", "1", "TodoAdded");
    browser.client.goto(&format!("http://{}/", proxy.address)).await.expect("the page loads");
    let state =
        |state: &str| format!("return document.getElementById('connection').dataset.state === '{state}'");
    browser.until(&state("live")).await;
    browser.until(&format!("return String({SHOWN}) === '1'")).await;
    proxy.refusing.store(true, Ordering::SeqCst);
    proxy.cut_all();
    browser.until(&state("reconnecting")).await;
    // The browser's own attempt has been answered with an error: it won't try another time.
    let complaints = async {
        while !browser
            .complaints()
            .await
            .iter()
            .any(|said| said.contains("/v1/stream") && said.contains("502"))
        {}
    };
    tokio::time::timeout(PATIENCE, complaints).await.expect("the browser tries again and is refused");
    append(&server, "Todo", "1", "TodoDone");
    proxy.refusing.store(false, Ordering::SeqCst);
    browser.until(&state("live")).await;
    browser.until(&format!("return String({SHOWN}) === '2,1'")).await;
    assert_eq!(browser.run("return document.getElementById('app').dataset.duplicates").await, "0");
    browser.end().await;
}

/// How well one colour is seen on another, as WCAG 2 has it: `contrast(color, other)`, both as channels, and
/// `behind(element)`, what its text stands on.
pub(crate) const CONTRAST: &str = r#"
    const channels = (color) => color.match(/[\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
        .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, index) => sum + c * [0.2126, 0.7152, 0.0722][index], 0);
    const contrast = (one, other) => {
        const [dark, bright] = [light(one), light(other)].sort((a, b) => a - b);
        return (bright + 0.05) / (dark + 0.05);
    };
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const color = channels(getComputedStyle(at).backgroundColor);
            if (color.length === 3 || color[3] === 1) return color;
            if (color[3] !== 0) throw new Error('half-transparent: ' + at.className);
        }
        throw new Error('nothing behind');
    };
"#;

/// Every visible text whose contrast with what is behind it is less than 4.5, and every border of a control
/// and every line of a chart that has less than 3; and how light the page is.
pub(crate) const HARD_TO_READ: &str = r#"
    const own = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    const all = [...document.body.querySelectorAll('*')].filter((element) => element.checkVisibility());
    const texts = all.filter((element) => own(element) || element.matches('input[type=text]'));
    const shapes = all.filter((element) => element.matches('.plain, input[type=text], .segments span, .stroke, .mark path'));
    const faults = [
        ...texts.map((element) => [element, contrast(channels(getComputedStyle(element).color), behind(element)), 4.5]),
        ...shapes.map((element) => {
            const style = getComputedStyle(element);
            const line = element instanceof SVGElement ? style.stroke : style.borderTopColor;
            return [element, contrast(channels(line), behind(element.parentElement)), 3];
        }),
    ].filter(([, ratio, least]) => !(ratio >= least))
        .map(([element, ratio]) => `${element.tagName}.${element.getAttribute('class')} ${ratio.toFixed(2)} ${element.textContent.slice(0, 20)}`);
    return { faults, texts: texts.length, shapes: shapes.length, light: light(behind(document.body)) };
"#;

/// Looks at what is shown, in a browser that wants `scheme`.
async fn assert_legible(browser: &Browser, scheme: &str, what: &str) {
    let found = browser.run(&format!("{CONTRAST}{HARD_TO_READ}")).await;
    assert_eq!(found["faults"], json!([]), "{what}, {scheme}");
    let number = |name: &str| found[name].as_f64().expect("a number");
    assert!(number("texts") > 40.0 && number("shapes") >= 6.0, "{what}: too little was looked at: {found}");
    let light = number("light");
    assert!(if scheme == "dark" { light < 0.05 } else { light > 0.8 }, "{what} isn't {scheme}: {light}");
    let over = browser.run("return document.documentElement.scrollWidth - innerWidth").await;
    assert!(over.as_i64().expect("a number") <= 0, "{what}: {over} pixels wider than the window");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_can_be_read_in_light_and_dark_and_fits_360_pixels() {
    let Some(browser) = Browser::start(1200, 800).await else { return };
    let data = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(data.path());
    let sizes = [(1200, 800), (360, 740)];
    let looks = || sizes.into_iter().flat_map(|size| ["light", "dark"].map(|scheme| (size, scheme)));
    let load = async |(width, height), scheme: &str| {
        browser.resize(width, height).await;
        browser.prefer(scheme).await;
        browser.client.goto("about:blank").await.expect("left");
        browser.client.goto(&server.url).await.expect("the page loads");
    };
    for (size, scheme) in looks() {
        load(size, scheme).await;
        browser.until("return !document.getElementById('empty-log').hidden").await;
        assert_legible(&browser, scheme, "the empty log").await;
    }
    for id in ["short", "an-id-without-any-place-to-break-".repeat(6).as_str()] {
        append(&server, "AnAggregateTypeWithAVeryLongName", id, "SomethingWithALongNameHasHappenedAgain");
    }
    for (size, scheme) in looks() {
        load(size, scheme).await;
        browser.until(&format!("return {SHOWN}.length === 2")).await;
        browser.run("document.getElementById('status').open = true").await;
        browser.run("document.querySelector('#events .preview').click()").await;
        assert_legible(&browser, scheme, "the list").await;
        browser.run("document.getElementById('pause').click()").await;
        let wrong = "const pattern = document.getElementById('pattern');
            pattern.value = 'events//x'; pattern.form.requestSubmit()";
        browser.run(wrong).await;
        browser.until("return document.getElementById('pattern-error').checkVisibility()").await;
        assert_legible(&browser, scheme, "what is paused or wrong").await;
        browser.run("document.querySelector('#events a').click()").await;
        browser.until("return document.querySelectorAll('#history-events > li').length === 1").await;
        assert_legible(&browser, scheme, "the history").await;
        browser.run("document.getElementById('help').showModal()").await;
        assert_legible(&browser, scheme, "the help").await;
    }
    let mut complaints = browser.complaints().await;
    complaints.retain(|said| !said.contains("pattern=events%2F%2Fx"));
    assert_eq!(complaints, Vec::<String>::new());
    let outside = "return performance.getEntriesByType('resource').map((entry) => entry.name)
        .filter((name) => new URL(name).origin !== location.origin)";
    assert_eq!(browser.run(outside).await, json!([]), "nothing is asked of the outside");
    browser.end().await;
}

/// What has the focus: whether it is seen on what is around it. `null` where nothing has it.
const FOCUS: &str = r#"
    const at = document.activeElement;
    if (at === document.body || 'reached' in at.dataset) return null;
    at.dataset.reached = '';
    const ring = getComputedStyle(at.matches('.segments input') ? at.nextElementSibling : at);
    const seen = ring.outlineStyle === 'solid' && parseFloat(ring.outlineWidth) >= 2
        && contrast(channels(ring.outlineColor), behind(at.parentElement)) >= 3;
    return { seen, name: `${at.tagName}#${at.id}.${at.className} ${ring.outline}` };
"#;

#[tokio::test(flavor = "multi_thread")]
async fn every_control_is_reached_by_tab_alone_and_shows_it() {
    let Some(browser) = Browser::start(1200, 800).await else { return };
    let data = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(data.path());
    // What cannot be reached: of a group of radio buttons one is, and arrows lead to the others.
    let missed = "return [...document.querySelectorAll('a[href], button, input, summary, [tabindex=\"0\"]')]
        .filter((control) => control.checkVisibility() && !('reached' in control.dataset))
        .filter((control) => control.type !== 'radio' || control.checked)
        .map((control) => `${control.tagName}#${control.id}.${control.className}`)";
    for (events, scheme) in [(0, "light"), (1, "dark")] {
        browser.prefer(scheme).await;
        if events > 0 {
            append(&server, "Todo", "1", "TodoAdded");
        }
        browser.client.goto("about:blank").await.expect("left");
        browser.client.goto(&server.url).await.expect("the page loads");
        browser.until(&format!("return {SHOWN}.length === {events}")).await;
        browser.until("return document.getElementById('connection').dataset.state === 'live'").await;
        let mut reached = 0;
        loop {
            press(&browser, "\t").await;
            let focus = browser.run(&format!("{CONTRAST}{FOCUS}")).await;
            if focus.is_null() {
                break;
            }
            assert_eq!(focus["seen"], true, "{focus} in {scheme}");
            reached += 1;
        }
        assert_eq!(browser.run(missed).await, json!([]), "never reached in {scheme}");
        assert!(reached >= 10, "too little was reached: {reached}");
        // The first of them leads past all the others.
        browser.run("document.getElementById('skip').focus()").await;
        press(&browser, ENTER).await;
        browser.until("return document.activeElement.id === 'live-title'").await;
    }
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_can_not_keep_up_says_what_it_left_out_and_counts_all() {
    let Some(browser) = Browser::start(1200, 800).await else { return };
    let data = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(data.path());
    let total = 5_000_u64;
    let file = data.path().join("many.jsonl");
    let line = |n| {
        format!("{}\n", json!({"aggregate_type": "A", "aggregate_id": "1", "event_type": "E", "payload": n}))
    };
    std::fs::write(&file, (1..=total).map(line).collect::<String>()).expect("written");
    browser.client.goto(&format!("{}/#from=beginning", server.url)).await.expect("the page loads");
    browser.until("return document.getElementById('connection').dataset.state === 'live'").await;
    succeed(Command::new(env!("CARGO_BIN_EXE_ironbus")).args(["import", "--url", &server.url]).arg(&file));
    browser.until(&format!("return document.getElementById('app').dataset.received === '{total}'")).await;
    browser.until(&format!("return {SHOWN}[0] === {total}")).await;
    let shown = browser.run(&format!("return {SHOWN}")).await;
    let shown: Vec<u64> = shown.as_array().expect("a list").iter().filter_map(|n| n.as_u64()).collect();
    assert_eq!(shown.len(), 200, "the list is bounded");
    assert!(shown.is_sorted_by(|newer, older| newer > older), "newest first, none twice: {shown:?}");
    let counts = browser.run("return document.getElementById('counts').textContent").await;
    let skipped = browser.run("return Number(document.getElementById('app').dataset.skipped)").await;
    let skipped = skipped.as_u64().expect("a number");
    assert!(skipped <= total - 200, "{skipped} of {total} can't have been left out");
    assert!(skipped == 0 || counts.as_str().expect("text").contains("skipped in display"), "{counts}");
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.end().await;
}
