//! Who gets events in and out: certificates, mutual TLS, users and access control, with real sessions.
//!
//! Whether somebody comes in is asked of Zenoh: a session that has to connect within [`CONNECT`] opens, or
//! fails. The same question with the right credentials is always asked too, and is answered with yes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ironbus::bus::EventBusMode;
use ironbus::event::Position;
use ironbus::tail::Heartbeat;
use ironbus::{
    Aggregate, Append, EventFilter, ExpectedVersion, Json, NewEvent, Node, NodeOptions, SessionId, Start,
    StoredEvent,
};
use ironbus_testkit::within;
use ironbus_zenoh::wire::Origin;
use ironbus_zenoh::{
    EdgeNode, EdgeOptions, Role, StoreNode, StoreNodeOptions, Tls, UserPassword, ZenohOptions, keys,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// How long a session that has to connect may try.
const CONNECT: Duration = Duration::from_secs(5);

/// An authority and its certificate's file.
struct Authority {
    directory: PathBuf,
    certificate: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(directory: &Path, name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate =
            write(directory, &format!("{name}.pem"), &params.self_signed(&key).expect("signed").pem());
        Self { directory: directory.to_owned(), certificate, issuer: Issuer::new(params, key) }
    }

    /// A certificate for the name, trusting whom this authority has signed.
    fn issue(&self, name: &str) -> Tls {
        let key = KeyPair::generate().expect("a key");
        let mut params =
            CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("names");
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        Tls {
            ca: Some(self.certificate.clone()),
            certificate: Some(write(&self.directory, &format!("{name}.pem"), &certificate.pem())),
            key: Some(write(&self.directory, &format!("{name}.key"), &key.serialize_pem())),
            mutual: true,
        }
    }
}

fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, text).expect("written");
    path
}

/// A directory for the log and for certificates, and an endpoint on loopback.
struct Place {
    directory: tempfile::TempDir,
    endpoint: String,
}

impl Place {
    fn new(protocol: &str) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let endpoint = format!("{protocol}/{}", free.local_addr().expect("bound"));
        Self { directory: tempfile::tempdir().expect("temporary files can be made"), endpoint }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A store node that listens at the endpoint.
    async fn store(&self, options: ZenohOptions) -> Node {
        let node = Node::open(NodeOptions::new(self.path().join("data"))).await.expect("the log opens");
        let options = ZenohOptions { listen: vec![self.endpoint.clone()], ..options };
        let session = options.open().await.expect("it listens");
        let named = StoreNodeOptions { name: "store".into() };
        StoreNode::join(&node, session, named).await.expect("it joins");
        node.bus().set_mode(EventBusMode::Zenoh).expect("it has Zenoh");
        node
    }

    /// The options of somebody who connects there.
    fn to(&self, options: ZenohOptions) -> ZenohOptions {
        ZenohOptions { connect: vec![self.endpoint.clone()], ..options }
    }

    async fn edge(&self, options: ZenohOptions) -> (Node, Arc<EdgeNode>) {
        let session = self.to(options).open().await.expect("it opens");
        let (node, edge) = EdgeNode::start(session, EdgeOptions::new("edge")).await.expect("it starts");
        within("the edge finds its log", async {
            while !node.log_access().is_ready() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        (node, edge)
    }

    /// A session that had to connect, if it did. It is a client's, so that the store node passes on to
    /// other nodes what it puts, as it wouldn't for a peer.
    async fn enter(&self, options: ZenohOptions) -> Option<zenoh::Session> {
        let options = ZenohOptions { role: Role::Client, ..options };
        let mut config = self.to(options).config().expect("a whole configuration");
        let mut set = |key: &str, value: String| config.insert_json5(key, &value).expect("a known key");
        set("connect/timeout_ms", CONNECT.as_millis().to_string());
        set("connect/exit_on_failure", "true".into());
        zenoh::open(config).await.ok()
    }
}

fn tls(tls: Tls) -> ZenohOptions {
    ZenohOptions { tls: Some(tls), ..ZenohOptions::default() }
}

fn todo(number: u64) -> Append {
    let payload = Json::parse(format!("{{\"n\":{number}}}")).expect("valid");
    let todo = Aggregate::new("Todo", "1").expect("valid");
    Append::to(todo, ExpectedVersion::Any, vec![NewEvent::new("Added", payload)])
}

/// Appends on both nodes, and reads the same on both.
async fn works_end_to_end(store: &Node, edge: &Node) {
    let mut live = edge.store().subscribe(EventFilter::everything(), Start::Beginning);
    let before = store.store().head().await.expect("readable").position;
    for number in 0..10 {
        let through = if number % 2 == 0 { store } else { edge };
        through.store().append(todo(number)).await.expect("appended");
    }
    for position in 1..=before.0 + 10 {
        let event = within("an event", live.next_event()).await.expect("open").expect("readable");
        assert_eq!(event.position.0, position);
    }
}

async fn end(nodes: &[&Node]) {
    for node in nodes {
        assert!(node.shutdown(Duration::from_secs(5)).await.is_empty(), "its tasks end");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_certificates_of_its_authority_nodes_work_and_nobody_else_comes_in() {
    let place = Place::new("tls");
    let ours = Authority::new(place.path(), "ours");
    let theirs = Authority::new(place.path(), "theirs");
    let store = place.store(tls(ours.issue("store"))).await;
    let (edge, _) = place.edge(tls(ours.issue("edge"))).await;
    works_end_to_end(&store, &edge).await;

    assert!(place.enter(tls(ours.issue("other"))).await.is_some(), "the question can be answered with yes");
    let none = Tls { ca: Some(ours.certificate.clone()), ..Tls::default() };
    assert!(place.enter(tls(none)).await.is_none(), "it shows no certificate");
    let stranger = Tls { ca: Some(ours.certificate.clone()), ..theirs.issue("stranger") };
    assert!(place.enter(tls(stranger)).await.is_none(), "its certificate is of another authority");
    let distrusting = Tls { ca: Some(theirs.certificate.clone()), ..ours.issue("distrusting") };
    assert!(place.enter(tls(distrusting)).await.is_none(), "the store's is of another authority");
    let plain = place.endpoint.replace("tls/", "tcp/");
    let plain =
        Place { directory: tempfile::tempdir().expect("temporary files can be made"), endpoint: plain };
    assert!(plain.enter(ZenohOptions::default()).await.is_none(), "it doesn't speak TLS");

    works_end_to_end(&store, &edge).await;
    end(&[&edge, &store]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_mutual_tls_a_client_needs_only_the_authority() {
    let place = Place::new("tls");
    let (ours, theirs) = (Authority::new(place.path(), "ours"), Authority::new(place.path(), "theirs"));
    let store = place.store(tls(Tls { mutual: false, ..ours.issue("store") })).await;
    let knows =
        |authority: &Authority| tls(Tls { ca: Some(authority.certificate.clone()), ..Tls::default() });
    let (edge, _) = place.edge(knows(&ours)).await;
    works_end_to_end(&store, &edge).await;
    assert!(place.enter(knows(&theirs)).await.is_none(), "the store's is of another authority");
    end(&[&edge, &store]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_user_of_the_list_or_a_wrong_password_doesnt_come_in() {
    let place = Place::new("tcp");
    let users = write(place.path(), "users", "edge:right\nreader:other\n");
    let store = place.store(ZenohOptions { users: Some(users), ..ZenohOptions::default() }).await;
    let user = |user: &str, password: &str| ZenohOptions {
        user: Some(UserPassword { user: user.into(), password: password.into() }),
        ..ZenohOptions::default()
    };
    let (edge, _) = place.edge(user("edge", "right")).await;
    works_end_to_end(&store, &edge).await;
    assert!(place.enter(user("reader", "other")).await.is_some(), "the question can be answered with yes");
    assert!(place.enter(user("edge", "wrong")).await.is_none(), "a wrong password");
    assert!(place.enter(user("edge", "other")).await.is_none(), "another user's password");
    assert!(place.enter(user("nobody", "right")).await.is_none(), "an unknown user");
    assert!(place.enter(ZenohOptions::default()).await.is_none(), "no user");
    end(&[&edge, &store]).await;
}

/// The log of a store node, as any client can learn it.
async fn origin(session: &zenoh::Session) -> Origin {
    let answers = session.get(keys::heartbeat(None)).await.expect("asked");
    let answer = within("a heartbeat", answers.recv_async()).await.expect("an answer");
    let sample = answer.into_result().expect("a heartbeat");
    let heartbeat: Heartbeat = serde_json::from_slice(&sample.payload().to_bytes()).expect("a heartbeat");
    let epoch = heartbeat.lineage().expect("it has an epoch").epoch();
    Origin { store_id: heartbeat.store_id, epoch }
}

/// An event at a position of the to-do list, as a store node would send it.
fn forged(position: u64) -> Vec<u8> {
    let document = serde_json::json!({
        "position": position, "sequence": position, "event_id": "00000000-0000-7000-8000-000000000000",
        "aggregate_type": "Todo", "aggregate_id": "1", "event_type": "Forged", "schema_version": 1,
        "payload": {}, "metadata": {}, "recorded_at": "2026-01-01T00:00:00Z",
    });
    let text = document.to_string().into_bytes();
    StoredEvent::from_json(&text).expect("an event");
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_else_puts_on_the_keys_of_events_is_never_delivered() {
    let place = Place::new("tcp");
    let store = place.store(ZenohOptions::default()).await;
    let (edge, joined) = place.edge(ZenohOptions::default()).await;
    let mut subscriptions =
        [&store, &edge].map(|node| node.store().subscribe(EventFilter::everything(), Start::Beginning));
    let foreign = place.enter(ZenohOptions::default()).await.expect("anybody may connect");
    let other_log = Origin { store_id: ironbus::event::StoreId(uuid::Uuid::nil()), ..origin(&foreign).await };

    foreign.put("events/Todo/1/1", forged(1)).await.expect("put");
    let attached = other_log.attachment(Position(1));
    foreign.put("events/Todo/1/1", forged(1)).attachment(attached).await.expect("put");
    foreign.put("events/Todo/1/1", "no event").await.expect("put");
    within("the edge hears all three", async {
        while joined.received().foreign < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    for number in 1..=20 {
        store.store().append(todo(number)).await.expect("appended");
    }
    for subscription in &mut subscriptions {
        for position in 1..=20 {
            let event = within("an event", subscription.next_event()).await.expect("open").expect("readable");
            assert_eq!((event.position.0, &*event.event_type), (position, "Added"));
        }
    }
    foreign.close().await.expect("closed");
    end(&[&edge, &store]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_access_control_only_store_nodes_put_events_and_readers_see_no_sessions() {
    let place = Place::new("tls");
    let ours = Authority::new(place.path(), "ours");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/zenoh-access.json5");
    let guarded = ZenohOptions { file: Some(file), ..tls(ours.issue("store")) };
    let store = place.store(guarded).await;
    let (edge, joined) = place.edge(tls(ours.issue("edge"))).await;
    works_end_to_end(&store, &edge).await;
    let log = store.store().head().await.expect("readable");
    let origin = Origin { store_id: log.store_id, epoch: log.lineage.epoch() };

    let reader = place.enter(tls(ours.issue("reader"))).await.expect("its certificate is right");
    let stranger = place.enter(tls(ours.issue("stranger"))).await.expect("its certificate is right");
    let heard = reader.declare_subscriber("events/**").await.expect("declared");
    let strangers = stranger.declare_subscriber("events/**").await.expect("declared");
    // The reader's subscription may still be on its way: it has arrived once one event is heard.
    let mut number = 0;
    loop {
        number += 1;
        store.store().append(todo(number)).await.expect("appended");
        if tokio::time::timeout(Duration::from_millis(200), heard.recv_async()).await.is_ok() {
            break;
        }
    }

    // With all that a store node attaches, so that an edge node would take it. An edge puts no events either.
    let next = store.store().head().await.expect("readable").position.0 + 1;
    let mut foreign = Vec::new();
    for name in ["reader", "stranger", "edge"] {
        let session = place.enter(tls(ours.issue(name))).await.expect("its certificate is right");
        let attached = origin.attachment(Position(next));
        session.put("events/Todo/1/1000", forged(next)).attachment(attached).await.expect("sent");
        // What is asked comes after what was put: once it is answered or refused, that was put has arrived.
        let answers = session.get("events/Todo/1/**").await.expect("asked");
        let mut answered = 0;
        while let Ok(answer) = within("an answer", answers.recv_async()).await {
            assert!(answer.result().is_ok());
            answered += 1;
        }
        assert_eq!(answered, if name == "stranger" { 0 } else { next - 1 }, "who may ask is answered");
        foreign.push(session);
    }
    let of_a_session = SessionId::new("somebody's").expect("valid");
    let mut private = todo(next);
    for write in &mut private.writes {
        write.events.iter_mut().for_each(|event| event.session_id = Some(of_a_session.clone()));
    }
    store.store().append(private).await.expect("appended");
    store.store().append(todo(next + 1)).await.expect("appended");

    let last = next + 1;
    loop {
        let sample = within("an event", heard.recv_async()).await.expect("open");
        let event = StoredEvent::from_json(&sample.payload().to_bytes()).expect("an event");
        assert_eq!((&*event.event_type, event.session_id.as_ref()), ("Added", None));
        if event.position.0 == last {
            break;
        }
    }
    assert_eq!(strangers.len(), 0, "a stranger hears nothing");
    let mut all = edge.store().subscribe(EventFilter::everything(), Start::Beginning);
    for position in 1..=last {
        let event = within("an event", all.next_event()).await.expect("open").expect("readable");
        assert_eq!(
            (event.position.0, &*event.event_type),
            (position, "Added"),
            "sessions too, and nothing forged"
        );
    }
    assert_eq!(joined.received().foreign, 0, "nothing forged came as far");
    for session in foreign.into_iter().chain([reader, stranger]) {
        session.close().await.expect("closed");
    }
    end(&[&edge, &store]).await;
}
