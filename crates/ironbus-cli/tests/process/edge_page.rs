//! The page of an edge node, while its store node is there, away, and back.

use std::net::TcpListener;

use crate::chromium::Browser;
use crate::server::{Server, ironbus, succeed};

fn append(server: &Server, name: &str) {
    succeed(ironbus().args(["append", "Todo", "1", "--type", name, "--url", &server.url]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_nodes_page_says_when_the_store_node_is_away_and_goes_on_when_it_is_back() {
    let Some(browser) = Browser::start(1200, 800).await else { return };
    let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port");
    let endpoint = format!("tcp/{free}");
    let data = tempfile::tempdir().expect("a temporary directory");
    let serve = || Server::start_with(data.path(), &["--name", "the store", "--zenoh-listen", &endpoint]);
    let nowhere = tempfile::tempdir().expect("a temporary directory");
    let edge = Server::start_with(nowhere.path(), &["--edge", "--connect", &endpoint]);

    browser.client.goto(&edge.url).await.expect("the page loads");
    let notice = "document.getElementById('log-notice')";
    let says = |text: &str| format!("return !{notice}.hidden && {notice}.textContent.includes('{text}')");
    browser.until(&says("waiting for a store node at")).await;
    let mut store = serve();
    browser.until(&format!("return {notice}.hidden")).await;
    append(&edge, "First");
    let shown = "[...document.querySelectorAll('#events b')].map((type) => type.textContent).join()";
    browser.until(&format!("return {shown} === 'First'")).await;

    store.kill();
    browser.until(&says("the store node the store is away")).await;
    assert_eq!(browser.run(&format!("return {shown}")).await, "First", "what was shown stays");
    let _store = serve();
    browser.until(&format!("return {notice}.hidden")).await;
    append(&edge, "Second");
    browser.until(&format!("return {shown} === 'Second,First'")).await;
    assert_eq!(browser.run("return document.getElementById('reset-notice').hidden").await, true);
}
