//! Session-scoped events: whom they are shown to, in replay and live, and until when.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ironbus::{Cursor, Entitlement, SessionId};
use ironbus_server::{
    Access, AnyAccess, Denied, Grant, OperatorToken, ServerOptions, SessionSecret, SessionTokens,
};
use proptest::prelude::*;
use serde_json::json;

use crate::support::{Answer, Frame, PATIENCE, Server, Stream};

fn tokens() -> SessionTokens {
    SessionTokens::new(SessionSecret::new("of these tests, and long enough.").expect("long enough"))
}

fn session(id: &str) -> SessionId {
    SessionId::new(id).expect("valid")
}

fn mint(id: &str, ttl: Duration) -> String {
    tokens().mint(&session(id), ttl)
}

fn bearer(token: &str) -> (&'static str, String) {
    ("authorization", format!("Bearer {token}"))
}

fn cookie(token: &str) -> (&'static str, String) {
    ("cookie", format!("theme=dark; ironbus_session={token}"))
}

/// A token of the session `a`, signed by the secret of these tests, that expired in 2020.
const EXPIRED: &str = "ibs1.YQ.1600000000.PcpshHZt6uz7IX9g3bAfF6eSdg8c8yc-msKrZE7OY9k";

const HOUR: Duration = Duration::from_secs(3600);

/// A server that knows an operator and session tokens.
async fn server() -> Server {
    let access = AnyAccess::new(vec![Arc::new(OperatorToken::new("operator")), Arc::new(tokens())]);
    // Short, so that a reader soon hears how far it has been served.
    let heartbeat = Duration::from_millis(20);
    Server::with(ServerOptions { access: Arc::new(access), heartbeat, ..Default::default() }).await
}

/// Appends one event; its payload holds the word by which a leak would show.
async fn append(server: &Server, scope: Option<&str>) {
    let mut event = json!({ "event_type": "Said", "payload": { "word": word(scope) } });
    if let Some(scope) = scope {
        event["session_id"] = scope.into();
    }
    let answer =
        server.post("/v1/aggregates/Notice/1/events", json!({ "events": [event] }).to_string()).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
}

fn word(scope: Option<&str>) -> String {
    scope.map_or_else(|| "for-everybody".to_owned(), |scope| format!("only-for-{scope}"))
}

fn positions(answer: &Answer) -> Vec<u64> {
    let events = answer.json()["events"].as_array().expect("a list").clone();
    events.iter().map(|event| event["position"].as_u64().expect("a number")).collect()
}

/// Somebody who reads, with what it sends and what it is to see.
struct Reader {
    path: &'static str,
    header: Option<(&'static str, String)>,
    scopes: &'static [Option<&'static str>],
}

const ANONYMOUS: &[Option<&str>] = &[None];
const OF_A: &[Option<&str>] = &[Some("a")];
const PUBLIC_AND_A: &[Option<&str>] = &[None, Some("a")];
const OF_B: &[Option<&str>] = &[Some("b")];
const PUBLIC_AND_B: &[Option<&str>] = &[None, Some("b")];
const ALL: &[Option<&str>] = &[None, Some("a"), Some("b")];

fn readers() -> Vec<Reader> {
    let [a, b] = ["a", "b"].map(|id| mint(id, HOUR));
    let reader = |path, header, scopes| Reader { path, header, scopes };
    vec![
        reader("/v1/stream?", None, ANONYMOUS),
        reader("/v1/stream?pattern=**&", None, ANONYMOUS),
        reader("/v1/stream?pattern=events/session/**&", None, &[]),
        reader("/v1/stream?pattern=events/session/**&", Some(cookie(&b)), OF_B),
        reader("/v1/sessions/a/stream?", Some(cookie(&a)), OF_A),
        reader("/v1/stream?", Some(bearer(&a)), PUBLIC_AND_A),
        reader("/v1/sessions/b/stream?", Some(bearer(&b)), OF_B),
        reader("/v1/stream?", Some(cookie(&b)), PUBLIC_AND_B),
        reader("/v1/sessions/a/stream?", Some(bearer("operator")), OF_A),
        reader("/v1/stream?", Some(bearer("operator")), ALL),
    ]
}

impl Reader {
    fn headers(&self) -> Vec<(&str, &str)> {
        self.header.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }

    fn sees(&self, log: &[Option<&'static str>]) -> Vec<u64> {
        let places = log.iter().zip(1..).filter(|(scope, _)| self.scopes.contains(scope));
        places.map(|(_, position)| position).collect()
    }

    /// That nothing of what a stranger to a session gets tells what the session was told.
    fn check(&self, text: &str) {
        for scope in ALL.iter().filter(|scope| !self.scopes.contains(scope)) {
            let secrets = [word(*scope), format!("\"session_id\":{:?}", scope.unwrap_or_default())];
            for secret in secrets {
                assert!(!text.contains(&secret), "{} was sent {secret}: {text}", self.path);
            }
        }
    }
}

/// A reader on its way through the log.
struct Reading {
    reader: Reader,
    stream: Stream,
    /// What a browser would keep: the last id.
    last: Option<String>,
    /// Up to which position it has been served, as far as it was told.
    served: Option<u64>,
    seen: Vec<u64>,
}

impl Reading {
    async fn start(server: &Server, reader: Reader) -> Self {
        let stream = server.open(&format!("{}after=0", reader.path), &reader.headers()).await;
        Self { reader, stream, last: None, served: None, seen: Vec::new() }
    }

    /// Reads until everything up to `position` has been served.
    async fn read_until(&mut self, position: u64) {
        while self.served < Some(position) {
            let frame = self.stream.frame().await.expect("it goes on");
            self.reader.check(&format!("{frame:?}").replace("\\\"", "\""));
            if frame.event.as_deref() == Some("caught_up") {
                self.served = frame.json()["position"].as_u64();
            }
            if let Some(id) = &frame.id {
                let cursor: Cursor = id.parse().expect("a cursor");
                self.served = Some(cursor.position.0);
                self.seen.extend(frame.data.is_some().then_some(cursor.position.0));
                self.last = frame.id;
            }
        }
    }

    /// Goes away and comes back, as a browser does: to the same address, with the last id it has heard.
    async fn reconnect(&mut self, server: &Server) {
        let mut headers = self.reader.headers();
        headers.extend(self.last.as_deref().map(|last| ("last-event-id", last)));
        self.stream = server.open(&format!("{}after=0", self.reader.path), &headers).await;
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append(&'static [Option<&'static str>]),
    /// One of the readers reads so far into what is stored, and reconnects.
    Reconnect(prop::sample::Index, prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    let scopes = prop::sample::select(vec![ANONYMOUS, OF_A, OF_B, OF_B, PUBLIC_AND_A, PUBLIC_AND_B, ALL]);
    prop_oneof![
        3 => scopes.prop_map(Step::Append),
        2 => any::<(prop::sample::Index, prop::sample::Index)>()
            .prop_map(|(reader, so_far)| Step::Reconnect(reader, so_far)),
    ]
}

async fn walk(steps: Vec<Step>) {
    let server = server().await;
    let mut log = Vec::new();
    let mut readings = Vec::new();
    for reader in readers() {
        readings.push(Reading::start(&server, reader).await);
    }
    for step in steps {
        match step {
            Step::Append(scopes) => {
                for scope in scopes {
                    append(&server, *scope).await;
                    log.push(*scope);
                }
            }
            Step::Reconnect(reader, so_far) => {
                let reading = &mut readings[reader.index(readers().len())];
                reading.read_until(so_far.index(log.len() + 1) as u64).await;
                reading.reconnect(&server).await;
            }
        }
    }
    let head = log.len() as u64;
    for mut reading in readings {
        reading.read_until(head).await;
        assert_eq!(reading.seen, reading.reader.sees(&log), "{} over {log:?}", reading.reader.path);
        let mut anew = Reading::start(&server, reading.reader).await;
        anew.read_until(head).await;
        assert_eq!(anew.seen, anew.reader.sees(&log), "{} over {log:?}", anew.reader.path);
        // What is read and loaded shows the same as a stream of the same pattern.
        let page = anew.reader.path.replace("/v1/stream", "/v1/events");
        if page.starts_with("/v1/events") {
            let page = server.get_with(&page, &anew.reader.headers()).await;
            anew.reader.check(&page.text);
            assert_eq!(positions(&page), anew.reader.sees(&log));
        }
        if anew.reader.path == "/v1/stream?" {
            let loaded = server.get_with("/v1/aggregates/Notice/1/events", &anew.reader.headers()).await;
            anew.reader.check(&loaded.text);
            assert_eq!(positions(&loaded), anew.reader.sees(&log));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 50, ..ProptestConfig::default() })]

    #[test]
    fn every_reader_gets_its_sessions_events_and_no_others_live_in_replay_and_resumed(
        steps in prop::collection::vec(step(), 1..24),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime can be built").block_on(walk(steps));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sessions_stream_is_opened_by_its_own_token_alone() {
    let server = server().await;
    let stream = "/v1/sessions/a/stream";
    let asked = async |path: &str, header: (&str, String)| {
        server.get_with(path, &[(header.0, header.1.as_str())]).await
    };
    let own = mint("a", HOUR);
    for header in [bearer(&own), cookie(&own), bearer("operator")] {
        server.open(stream, &[(header.0, header.1.as_str())]).await.control("caught_up").await;
    }
    let without = server.get(stream).await.problem(403, "session");
    assert!(without.contains("`ironbus_session`") && without.contains("Bearer"), "{without}");
    for header in [bearer(&mint("b", HOUR)), cookie(&mint("b", HOUR))] {
        assert_eq!(asked(stream, header).await.problem(403, "session"), without, "tells nothing more");
    }
    let elsewhere =
        SessionTokens::new(SessionSecret::new("known to somebody else, not to us").expect("long"));
    for (token, kind) in [
        (EXPIRED.to_owned(), "token-expired"),
        (elsewhere.mint(&session("a"), HOUR), "token-forged"),
        (own.replacen("YQ", "Yg", 1), "token-forged"),
        (own[..own.len() - 1].to_owned(), "token-malformed"),
    ] {
        for path in [stream, "/v1/stream", "/v1/events", "/v1/aggregates/Notice/1/events"] {
            for header in [bearer(&token), cookie(&token)] {
                let answer = asked(path, header).await;
                answer.problem(401, kind);
                assert!(!answer.text.contains(&token), "{}", answer.text);
            }
        }
    }
    asked(stream, bearer("guessed")).await.problem(401, "credentials");
    // An address stands in logs: nothing in it entitles to anything.
    let by_address = server.get(&format!("{stream}?token={own}")).await;
    by_address.problem(400, "invalid-query");
    for pattern in ["events/session/a/**", "events/session/a/Notice/**"] {
        server.get(&format!("/v1/stream?pattern={pattern}")).await.problem(403, "session");
        server.get(&format!("/v1/events?pattern={pattern}")).await.problem(403, "session");
    }
    server.get(&format!("/v1/sessions/{}/stream", "x".repeat(257))).await.problem(400, "invalid-name");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_any_name_is_one_session() {
    let server = server().await;
    for (id, path) in [("**", "**"), ("a/b #?%é", "a%2Fb%20%23%3F%25%C3%A9"), ("@x", "@x")] {
        append(&server, Some("a")).await;
        append(&server, Some(id)).await;
        let token = bearer(&mint(id, HOUR));
        let mut stream =
            server.open(&format!("/v1/sessions/{path}/stream?after=0"), &[(token.0, &token.1)]).await;
        assert_eq!(stream.message().await.json()["session_id"], id);
        stream.control("caught_up").await;
    }
}

/// Entitles to the session `a`: where `x-brief` asks for it, only for a moment.
struct Brief;

const MOMENT: Duration = Duration::from_millis(200);

impl Access for Brief {
    fn grant(&self, request: &http::request::Parts) -> Result<Grant, Denied> {
        let until = request.headers.contains_key("x-brief").then(|| SystemTime::now() + MOMENT);
        Ok(Grant { entitlement: Entitlement::session(session("a")), until })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_its_credentials_expire_and_goes_on_with_new_ones() {
    for path in ["/v1/sessions/a/stream?after=0", "/v1/stream?after=0"] {
        let heartbeat = MOMENT / 10;
        let server =
            Server::with(ServerOptions { access: Arc::new(Brief), heartbeat, ..Default::default() }).await;
        append(&server, Some("a")).await;
        let began = Instant::now();
        let mut stream = server.open(path, &[("x-brief", "1")]).await;
        let (mut seen, mut last) = (Vec::new(), Frame::default());
        while let Some(frame) = stream.frame().await {
            assert!(began.elapsed() < PATIENCE, "it has no end");
            seen.extend(frame.id.clone());
            last = frame;
        }
        assert!(began.elapsed() >= MOMENT, "not before its time");
        assert_eq!(last.retry.as_deref(), Some("2000"), "the browser comes again by itself");
        let why = last.comment.expect("it says why");
        assert!(why.contains("expired"), "{why}");
        append(&server, Some("a")).await;
        let resume = seen.last().map_or("1.0", String::as_str).to_owned();
        let mut anew = server.open(path, &[("last-event-id", &resume)]).await;
        while seen.len() < 2 {
            seen.extend(anew.message().await.id);
        }
        assert_eq!(seen, ["1.1", "1.2"]);
    }
}

/// What an application may do: it knows its users and which sessions are theirs.
struct Users;

impl Access for Users {
    fn grant(&self, request: &http::request::Parts) -> Result<Grant, Denied> {
        match request.headers.get("x-user").map(http::HeaderValue::as_bytes) {
            None => Ok(Grant::default()),
            Some(b"alice") => {
                let sessions = ["phone", "laptop"].map(session).into();
                Ok(Entitlement::Sessions(Arc::new(sessions)).into())
            }
            Some(_) => Err(Denied::Unknown),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_entitles_to_sessions_by_its_own_rules() {
    let server = Server::with(ServerOptions { access: Arc::new(Users), ..Default::default() }).await;
    for scope in [Some("phone"), Some("laptop"), Some("of-bob"), None] {
        append(&server, scope).await;
    }
    let alice = [("x-user", "alice")];
    for (path, seen) in [
        ("/v1/sessions/phone/stream", vec![1]),
        ("/v1/sessions/laptop/stream", vec![2]),
        ("/v1/stream", vec![1, 2, 4]),
    ] {
        let mut stream = server.open(&format!("{path}?after=0"), &alice).await;
        assert_eq!(stream.positions(seen.len()).await, seen);
        assert_eq!(stream.control("caught_up").await["position"], 4);
    }
    server.get_with("/v1/sessions/of-bob/stream", &alice).await.problem(403, "session");
    server.get_with("/v1/stream", &[("x-user", "mallory")]).await.problem(401, "credentials");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_history_is_empty_only_where_no_more_of_it_may_be_seen() {
    let server = server().await;
    for scope in [Some("a"), Some("a"), None, Some("b"), None, Some("a")] {
        append(&server, scope).await;
    }
    let load = async |after: u64, headers: &[(&str, &str)]| {
        let path = format!("/v1/aggregates/Notice/1/events?limit=1&after_sequence={after}");
        let answer = server.get_with(&path, headers).await;
        assert_eq!(
            (&answer.json()["version"], &answer.headers["cache-control"]),
            (&json!(6), &"no-store".parse().expect("text"))
        );
        positions(&answer)
    };
    assert_eq!((load(0, &[]).await, load(3, &[]).await, load(5, &[]).await), (vec![3], vec![5], vec![]));
    let b = bearer(&mint("b", HOUR));
    assert_eq!(load(3, &[(b.0, &b.1)]).await, [4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_configured_origin_may_send_its_cookie_and_no_other_may() {
    let access = Arc::new(tokens());
    let cors_origins = vec!["https://app.example.org".to_owned()];
    let server = Server::with(ServerOptions { access, cors_origins, ..Default::default() }).await;
    append(&server, Some("a")).await;
    let cookie = cookie(&mint("a", HOUR));
    let asked = async |origin: &str| {
        server.get_with("/v1/events", &[("origin", origin), (cookie.0, &cookie.1)]).await.headers
    };
    let headers = asked("https://app.example.org").await;
    assert_eq!(headers["access-control-allow-origin"], "https://app.example.org");
    assert_eq!(headers["access-control-allow-credentials"], "true");
    assert!(headers["vary"].to_str().expect("text").contains("origin"));
    for other in ["https://evil.example", "https://app.example.org.evil.example", "null", "*"] {
        let headers = asked(other).await;
        for name in ["access-control-allow-origin", "access-control-allow-credentials"] {
            assert_eq!(headers.get(name), None, "{other}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_heeds_no_cookie_and_no_page_elsewhere_can_make_one_unasked() {
    let server = server().await;
    let path = server.url("/v1/aggregates/Notice/1/events");
    let body = r#"{"events":[{"event_type":"Said","payload":1,"session_id":"a"}]}"#;
    let post = |kind: &str, token: &str| {
        let (name, value) = cookie(token);
        server.http.post(&path).header("content-type", kind).header(name, value).body(body)
    };
    assert_eq!(Answer::of(post("application/json", "nonsense")).await.status, 201);
    // These are the types that a page may send anywhere without asking first.
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
        Answer::of(post(kind, &mint("a", HOUR))).await.problem(415, "content-type");
    }
}
