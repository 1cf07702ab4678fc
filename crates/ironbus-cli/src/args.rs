//! The command line: every command, flag and help text.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use ironbus::event::Position;
use ironbus::{Cursor, EventId, ExpectedVersion, KeyPattern, SessionId};
use ironbus::{LogPlace, Phase};

use crate::config::Durability;
use crate::failure::EXIT_CODES;

const EXAMPLES: &str = "\
Examples:
  ironbus serve                            start a server; open its page
  ironbus import events.jsonl.gz           feed it a file
  ironbus append Todo 17 --type TodoAdded --payload '{\"title\":\"docs\"}'
  ironbus load Todo 17                     one aggregate's history
  ironbus tail --pattern 'events/Todo/**'  watch events arrive
  ironbus read --limit 5 --json | jq .payload
  ironbus verify --data ./ironbus-data     prove that the log is sound
  ironbus bench                            measure this machine, in a minute

All commands but `serve`, `verify`, `session-token` and `bench` talk to a running server (--url, IRONBUS_URL, or `[client] url` in \
ironbus.toml; http://127.0.0.1:4466 where nothing is said), or work straight on a data directory (--data, \
or `[client] data`). Reading works beside a running server; appending and importing need the directory for \
themselves.

Results are tables on a terminal, and JSON lines where standard output is piped or --json is given.
";

/// An event store and event bus that starts inside one process.
#[derive(Debug, Parser)]
#[command(name = "ironbus", version, max_term_width = 110, after_help = format!("{EXAMPLES}\n{EXIT_CODES}"))]
pub(crate) struct Cli {
    /// Read settings from this file instead of ./ironbus.toml
    #[arg(long, value_name = "FILE", env = "IRONBUS_CONFIG", global = true)]
    pub(crate) config: Option<PathBuf>,

    /// What to log to standard error, for example `debug` or `ironbus_server=debug`
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", global = true)]
    pub(crate) log: Option<String>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a server on a data directory
    Serve(Serve),
    /// Append one event to an aggregate
    Append(Append),
    /// Import events from a file of JSON lines or CloudEvents
    Import(Import),
    /// Write events as JSON lines to standard output or a file
    Export(Export),
    /// Show the events of one aggregate
    Load(Load),
    /// Show events of the whole log
    Read(Read),
    /// Follow the log: show events as they arrive
    Tail(Tail),
    /// Show how the server or the log is
    Status(Status),
    /// Take a log from one process to many nodes, step by step, and back
    Migrate(Migrate),
    /// Walk a log and prove that it is sound
    Verify(Verify),
    /// Copy a log while its server runs, or bring an earlier copy up to date
    Backup(Backup),
    /// Make a log out of a copy, under a new epoch
    Restore(Restore),
    /// Make a copy of a log the one that counts: begin a new epoch
    Promote(Promote),
    /// Print a token that shows one session's events
    SessionToken(SessionToken),
    /// Measure ironbus on this machine, beside what it is compared with
    Bench(Bench),
    /// Print a completion script for a shell
    Completions(Completions),
}

/// A log's directory, for what works on it without a server.
#[derive(Debug, Args)]
pub(crate) struct DataDirectory {
    /// The log's data directory [default: ./ironbus-data]
    #[arg(long, value_name = "DIR", env = "IRONBUS_DATA")]
    pub(crate) data: Option<PathBuf>,
}

/// Where the log is found.
#[derive(Debug, Args)]
#[command(next_help_heading = "Where the log is")]
pub(crate) struct Where {
    /// Talk to the server at this URL [env: IRONBUS_URL] [default: http://127.0.0.1:4466]
    #[arg(long, conflicts_with = "data")]
    pub(crate) url: Option<String>,

    /// Work straight on this data directory, without a server
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,

    /// Send this token to the server, which then shows session-scoped events too: all with an operator's
    /// token, one session's with a token of that session
    #[arg(long, env = "IRONBUS_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ironbus serve
  ironbus serve --data /var/lib/ironbus --listen 127.0.0.1:8080
  ironbus serve --zenoh-listen tcp/127.0.0.1:7447
  ironbus serve --edge --connect tcp/127.0.0.1:7447 --listen 127.0.0.1:4467
  IRONBUS_OPERATOR_TOKEN=$(cat token) ironbus serve

Prints one line `listening on http://ADDRESS:PORT` to standard output once it answers (with --listen \
127.0.0.1:0 the system chooses the port); everything else goes to standard error. SIGINT (Ctrl-C) or SIGTERM \
drains: requests under way finish, streams end so that their clients resume elsewhere. A second signal ends \
at once.")]
pub(crate) struct Serve {
    /// The data directory; created if it doesn't exist [default: ./ironbus-data]
    #[arg(long, value_name = "DIR", env = "IRONBUS_DATA")]
    pub(crate) data: Option<PathBuf>,

    /// Where a log is begun if the data directory has none: sqlite:FILE, folder:DIRECTORY, rocksdb:DIRECTORY or
    /// s3://BUCKET/PREFIX [default: sqlite:ironbus.db]
    #[arg(long, value_name = "PLACE", env = "IRONBUS_LOG_AT")]
    pub(crate) log_at: Option<LogPlace>,

    /// The address to listen on [default: 127.0.0.1:4466]
    #[arg(long, value_name = "ADDRESS:PORT", env = "IRONBUS_LISTEN")]
    pub(crate) listen: Option<SocketAddr>,

    /// When an append counts as durable [default: full]
    #[arg(long, env = "IRONBUS_DURABILITY")]
    pub(crate) durability: Option<Durability>,

    /// Whoever sends this token (`Authorization: Bearer …`) sees session-scoped events; better given by
    /// the environment, where other users of the machine don't see it
    #[arg(long, value_name = "TOKEN", env = "IRONBUS_OPERATOR_TOKEN", hide_env_values = true)]
    pub(crate) operator_token: Option<String>,

    #[command(flatten)]
    pub(crate) secret: SessionSecret,

    /// Let pages of this origin read from here, with their session's cookie, for example https://app.example.org; may be repeated
    #[arg(long, value_name = "ORIGIN", env = "IRONBUS_CORS_ORIGINS", value_delimiter = ',')]
    pub(crate) cors_origin: Vec<String>,

    /// Listen on an address that isn't loopback although nothing is encrypted or authenticated
    #[arg(long, env = "IRONBUS_ALLOW_PLAINTEXT_REMOTE")]
    pub(crate) allow_plaintext_remote: bool,

    /// How many connections, streams among them, are served at the same time; further ones wait [default: 16384, or
    /// what the limit on open files allows]
    #[arg(long, value_name = "COUNT", env = "IRONBUS_MAX_CONNECTIONS")]
    pub(crate) max_connections: Option<NonZeroUsize>,

    #[command(flatten)]
    pub(crate) network: Network,
}

/// How a node reaches others.
#[derive(Debug, Args)]
#[command(next_help_heading = "Many nodes (Zenoh)")]
pub(crate) struct Network {
    /// Have no database (--data isn't used): append, load and follow through the store node that is connected to
    #[arg(long)]
    pub(crate) edge: bool,

    /// What this node is called by others [default: the name of the machine and the process]
    #[arg(long, value_name = "NAME", env = "IRONBUS_NAME")]
    pub(crate) name: Option<String>,

    /// Let other nodes connect here, for example tcp/127.0.0.1:7447; may be repeated
    #[arg(long, value_name = "ENDPOINT", env = "IRONBUS_ZENOH_LISTEN", value_delimiter = ',')]
    pub(crate) zenoh_listen: Vec<String>,

    /// Connect to another node or a router, for example tcp/10.0.0.1:7447; may be repeated
    #[arg(
        long,
        visible_alias = "connect",
        value_name = "ENDPOINT",
        env = "IRONBUS_ZENOH_CONNECT",
        value_delimiter = ','
    )]
    pub(crate) zenoh_connect: Vec<String>,

    /// Be a client of the router that is connected to, instead of a peer
    #[arg(long)]
    pub(crate) zenoh_client: bool,

    /// Begin with this Zenoh configuration (JSON5); what is said here wins over it
    #[arg(long, value_name = "FILE")]
    pub(crate) zenoh_config: Option<PathBuf>,

    /// The log that an edge node belongs to, where there are several on the network
    #[arg(long, value_name = "STORE_ID", requires = "edge")]
    pub(crate) store: Option<uuid::Uuid>,

    /// The authority's certificate, for tls/ endpoints (PEM)
    #[arg(long, value_name = "FILE")]
    pub(crate) zenoh_ca: Option<PathBuf>,

    /// This node's certificate (PEM)
    #[arg(long, value_name = "FILE")]
    pub(crate) zenoh_cert: Option<PathBuf>,

    /// The private key of the certificate (PEM)
    #[arg(long, value_name = "FILE")]
    pub(crate) zenoh_key: Option<PathBuf>,

    /// Both sides show a certificate (mutual TLS)
    #[arg(long)]
    pub(crate) zenoh_mtls: bool,

    /// Who this node is to others; its password is taken from IRONBUS_ZENOH_PASSWORD or the configuration
    #[arg(long, value_name = "NAME")]
    pub(crate) zenoh_user: Option<String>,

    /// A file of `name:password` lines: who may connect to this node, and nobody else
    #[arg(long, value_name = "FILE")]
    pub(crate) zenoh_users: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The copy is a data directory with a log as it was when the last page was read: `ironbus verify`, `export` and `read` \
take it with --data. Called again, only what is new is copied. Every event is checked against the log's hash chain. \
Don't serve a copy: restore it.

Examples:
  ironbus backup /backups/shop
  ironbus verify --data /backups/shop")]
pub(crate) struct Backup {
    /// The directory of the copy; made if it isn't there
    #[arg(value_name = "DIR")]
    pub(crate) to: PathBuf,
    #[command(flatten)]
    pub(crate) data: DataDirectory,
    #[command(flatten)]
    pub(crate) form: Form,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Overwrites nothing: the data directory must hold no log, and the place neither. The log keeps its id and begins a \
new epoch after the copy's last event. Readers that have seen what the copy hasn't are told to begin anew; the others \
go on where they are.

Examples:
  ironbus restore /backups/shop --data ./ironbus-data
  ironbus restore /backups/shop --data ./ironbus-data --log-at s3://bucket/shop")]
pub(crate) struct Restore {
    /// The directory of the copy
    #[arg(value_name = "DIR")]
    pub(crate) from: PathBuf,
    /// Where the log is to be: sqlite:FILE, folder:DIRECTORY, rocksdb:DIRECTORY or s3://BUCKET/PREFIX [default:
    /// sqlite:ironbus.db]
    #[arg(long, value_name = "PLACE")]
    pub(crate) log_at: Option<LogPlace>,
    #[command(flatten)]
    pub(crate) data: DataDirectory,
    #[command(flatten)]
    pub(crate) form: Form,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Makes a copy of a log, or the log of a node that was stopped, the one that counts: begins a new epoch after its \
last event. Nodes of the old epoch stop accepting as soon as they hear of it. Readers go on where they are, as \
far as this log has what they have seen; who has seen more is told to begin anew.

Example:
  ironbus promote --data ./ironbus-data")]
pub(crate) struct Promote {
    #[command(flatten)]
    pub(crate) data: DataDirectory,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ironbus append Todo 17 --type TodoAdded --expected no_stream
  ironbus append Todo 17 --type TodoDone --expected 1
  curl -s example.org/fact.json | ironbus append Fact 1 --type Noted --payload -

Give --event-id to make a retry safe: an append with ids that are stored already gives the first result.")]
pub(crate) struct Append {
    /// The aggregate's type, for example Todo
    pub(crate) aggregate_type: String,
    /// The aggregate's id
    pub(crate) aggregate_id: String,
    /// What happened, for example TodoAdded
    #[arg(long = "type", value_name = "EVENT_TYPE")]
    pub(crate) event_type: String,
    /// The facts: JSON, @FILE, or - for standard input
    #[arg(long, value_name = "JSON|@FILE|-", default_value = "{}")]
    pub(crate) payload: String,
    /// What the aggregate has to be: any, no_stream, stream_exists, or the sequence of its last event
    #[arg(long, value_name = "VERSION", default_value = "any", value_parser = expected_version)]
    pub(crate) expected: ExpectedVersion,
    /// The event's identity; generated where none is given
    #[arg(long, value_name = "UUID", value_parser = event_id)]
    pub(crate) event_id: Option<EventId>,
    /// Show the event to this session alone
    #[arg(long, value_name = "ID", value_parser = |text: &str| SessionId::new(text))]
    pub(crate) session: Option<SessionId>,
    /// About the event: a JSON object
    #[arg(long, value_name = "JSON")]
    pub(crate) metadata: Option<String>,
    /// Which shape the payload has
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) schema_version: u32,
    #[command(flatten)]
    pub(crate) form: Form,
    #[command(flatten)]
    pub(crate) target: Where,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Each line is a JSON object in one of these forms:
  1. an object of aggregate_type, aggregate_id, event_type, payload, and
     occurred_at if you like
  2. a CloudEvent 1.0, which has a specversion; its aggregate is named by the
     extensions aggregatetype and aggregateid, or by a subject like type/id
  3. an event as `ironbus export` writes it, which keeps its event id

gzip is detected. The order of lines becomes the order of positions; payloads are kept byte for byte.

Importing the same lines again changes nothing, and an import that was interrupted goes on when the same \
command is run again: event ids are derived from a CloudEvent's source and id, or from a line's number and \
content. A bad line ends the import: what came before it is stored, nothing after it is.

Examples:
  ironbus import events.jsonl.gz
  zcat events.jsonl.gz | ironbus import -
  ironbus import events.jsonl --data ./ironbus-data")]
pub(crate) struct Import {
    /// The file, or - for standard input
    pub(crate) file: PathBuf,
    /// How many events are stored at a time
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) batch: u16,
    #[command(flatten)]
    pub(crate) form: Form,
    #[command(flatten)]
    pub(crate) target: Where,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ironbus export > events.jsonl
  ironbus export --pattern 'events/Todo/**' --output todos.jsonl

Exports what is stored when it begins. With --output the file appears under its name only when it is whole.
A session-scoped event is exported only with an operator's token, or straight from a data directory.")]
pub(crate) struct Export {
    /// Only events that match this pattern
    #[arg(long, default_value = "events/**")]
    pub(crate) pattern: KeyPattern,
    /// Only events after this position
    #[arg(long, value_name = "POSITION", default_value = "0", value_parser = position)]
    pub(crate) after: Position,
    /// Write to this file instead of standard output
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) target: Where,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ironbus load Todo 17 --after-sequence 10")]
pub(crate) struct Load {
    /// The aggregate's type
    pub(crate) aggregate_type: String,
    /// The aggregate's id
    pub(crate) aggregate_id: String,
    /// Only events after this sequence
    #[arg(long, value_name = "SEQUENCE", default_value_t = 0)]
    pub(crate) after_sequence: u64,
    /// At most so many events
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    #[command(flatten)]
    pub(crate) form: Form,
    #[command(flatten)]
    pub(crate) target: Where,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ironbus read --after 1000 --limit 20
  ironbus read --pattern 'events/Incident/**' --json")]
pub(crate) struct Read {
    /// Only events that match this pattern
    #[arg(long, default_value = "events/**")]
    pub(crate) pattern: KeyPattern,
    /// Only events after this position
    #[arg(long, value_name = "POSITION", default_value = "0", value_parser = position)]
    pub(crate) after: Position,
    /// At most so many events
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) limit: u64,
    #[command(flatten)]
    pub(crate) form: Form,
    #[command(flatten)]
    pub(crate) target: Where,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ironbus tail                                    from now on
  ironbus tail --after 0                          everything, then live
  ironbus tail --after 0 --until-head --json      everything that there is, then end
  ironbus tail --pattern 'events/Todo/17/**'

When the connection breaks, it reconnects and goes on where it was: no event is shown twice, none is lost.")]
pub(crate) struct Tail {
    /// Only events that match this pattern
    #[arg(long, default_value = "events/**")]
    pub(crate) pattern: KeyPattern,
    /// Begin after this position (0: with the first event) or cursor (epoch.position), instead of now
    #[arg(long, value_name = "POSITION", value_parser = After::parse)]
    pub(crate) after: Option<After>,
    /// End once everything that is stored has been shown
    #[arg(long)]
    pub(crate) until_head: bool,
    /// End after so many events
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    #[command(flatten)]
    pub(crate) form: Form,
    #[command(flatten)]
    pub(crate) target: Where,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) form: Form,
    #[command(flatten)]
    pub(crate) target: Where,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The phases:
  1 broadcast  events travel within one process
  2 dual       events travel within the process and over Zenoh, and both are compared
  3 zenoh      events travel over Zenoh, to any number of nodes

No step needs a restart, and no subscription loses, repeats or reorders anything by one. A step forward \
from dual needs parity of both buses; a step back needs nothing.

Examples:
  ironbus migrate status
  ironbus migrate plan
  ironbus migrate advance --to dual --reason 'three nodes from Monday on'
  ironbus migrate rollback --to broadcast --reason 'trouble in the network'
  ironbus migrate rollback --to broadcast --reason 'no Zenoh here' --data ./ironbus-data")]
pub(crate) struct Migrate {
    #[command(subcommand)]
    pub(crate) action: MigrateAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MigrateAction {
    /// Show the phase, what is measured against the thresholds, and the last steps
    Status(MigrateStatus),
    /// Show what each step would do, and what is in its way
    Plan(MigrateLook),
    /// Go one phase forward
    Advance(MigrateStep),
    /// Go back to an earlier phase; straight on a data directory too, where no server runs
    Rollback(MigrateStep),
    /// Take back a move of the log that is still copying
    Cancel(MigrateLook),
    /// End keeping the log up to date that the last move left: the way back then copies what has come since
    Settle(MigrateLook),
    /// Follow the status
    Watch(MigrateLook),
}

#[derive(Debug, Args)]
pub(crate) struct MigrateStatus {
    /// Show at most so many of the last steps
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) history: usize,
    #[command(flatten)]
    pub(crate) form: Form,
    #[command(flatten)]
    pub(crate) target: Where,
}

#[derive(Debug, Args)]
pub(crate) struct MigrateLook {
    #[command(flatten)]
    pub(crate) form: Form,
    #[command(flatten)]
    pub(crate) target: Where,
}

#[derive(Debug, Args)]
pub(crate) struct MigrateStep {
    /// The phase to go to: broadcast, dual, zenoh or zenoh-storage [default: the next, or the one before]
    #[arg(long, value_name = "PHASE")]
    pub(crate) to: Option<Phase>,
    /// Where the log goes with the step to zenoh-storage or back: folder:DIRECTORY, rocksdb:DIRECTORY,
    /// s3://BUCKET/PREFIX; sqlite:FILE on the way back [default there: where it was]
    #[arg(long, value_name = "PLACE")]
    pub(crate) log_at: Option<LogPlace>,
    /// Why; recorded with the step
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
    /// Who takes the step; recorded with it [default: the user who runs this]
    #[arg(long, value_name = "NAME")]
    pub(crate) by: Option<String>,
    #[command(flatten)]
    pub(crate) form: Form,
    #[command(flatten)]
    pub(crate) target: Where,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Walks every event: positions and sequences without holes, the hash chain, the record of the log's migration, and \
SQLite's own integrity check. Works beside a running server. Ends with exit code 1 when something is wrong.

With --replica, a Zenoh storage that keeps `events/**` is compared with the log: each event byte for byte, the hash \
chain over all of them, and whether it has keys that the log hasn't. With --repair, what it lacks or has otherwise is \
put to it again, and everything is compared anew. docs/REPLICAS.md is the guide.

Examples:
  ironbus verify
  ironbus verify --replica --connect tcp/127.0.0.1:7447
  ironbus verify --replica --connect tcp/127.0.0.1:7447 --repair --url http://127.0.0.1:4466")]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) data: DataDirectory,
    #[command(flatten)]
    pub(crate) replica: ReplicaCheck,
    #[command(flatten)]
    pub(crate) form: Form,
}

/// Which replica is compared with the log, and how it is reached.
#[derive(Debug, Args)]
#[command(next_help_heading = "A replica (Zenoh)")]
pub(crate) struct ReplicaCheck {
    /// Compare a Zenoh storage with the log; where several are reached, the one of this name or of the router with
    /// this Zenoh id
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "")]
    pub(crate) replica: Option<String>,

    /// Put to the replica what it lacks or has otherwise, and compare again
    #[arg(long, requires = "replica")]
    pub(crate) repair: bool,

    /// Don't look for keys that the log hasn't: for that a storage reads all of its keys, and stores nothing
    /// meanwhile
    #[arg(long, requires = "replica")]
    pub(crate) skip_foreign: bool,

    /// Compare with the log of the server at this URL; then no data directory counts
    #[arg(long, requires = "replica")]
    pub(crate) url: Option<String>,

    /// An operator's token, which that server needs to show session-scoped events
    #[arg(long, env = "IRONBUS_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,

    /// Connect to the replica's router, for example tcp/10.0.0.1:7447; may be repeated
    #[arg(
        long,
        visible_alias = "connect",
        value_name = "ENDPOINT",
        env = "IRONBUS_ZENOH_CONNECT",
        value_delimiter = ','
    )]
    pub(crate) zenoh_connect: Vec<String>,

    /// Begin with this Zenoh configuration (JSON5); what is said here wins over it
    #[arg(long, value_name = "FILE")]
    pub(crate) zenoh_config: Option<PathBuf>,

    /// The authority's certificate, for tls/ endpoints (PEM)
    #[arg(long, value_name = "FILE")]
    pub(crate) zenoh_ca: Option<PathBuf>,

    /// Our own certificate, for mutual TLS (PEM)
    #[arg(long, value_name = "FILE")]
    pub(crate) zenoh_cert: Option<PathBuf>,

    /// The private key of the certificate (PEM)
    #[arg(long, value_name = "FILE")]
    pub(crate) zenoh_key: Option<PathBuf>,

    /// Both sides show a certificate (mutual TLS)
    #[arg(long)]
    pub(crate) zenoh_mtls: bool,

    /// Who we are to the router; the password is taken from IRONBUS_ZENOH_PASSWORD or the configuration
    #[arg(long, value_name = "NAME")]
    pub(crate) zenoh_user: Option<String>,
}

/// What signs session tokens.
#[derive(Debug, Args)]
pub(crate) struct SessionSecret {
    /// The secrets of session tokens, one a line (the first signs, all verify): whoever sends a token of a
    /// session sees its events. Without a file, IRONBUS_SESSION_SECRET may hold the secrets themselves
    #[arg(long, value_name = "FILE", env = "IRONBUS_SESSION_SECRET_FILE")]
    pub(crate) session_secret_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  openssl rand -base64 32 > secret
  ironbus serve --session-secret-file secret
  ironbus append Notice 1 --type Said --session s1
  ironbus tail --after 0 --token $(ironbus session-token s1 --session-secret-file secret)

In a browser the token is a cookie, which the application sets when it knows who is there; to try it, in the \
console of the server's page:
  document.cookie = 'ironbus_session=TOKEN; path=/'
  new EventSource('/v1/sessions/s1/stream?after=0').onmessage = (m) => console.log(m.data)

A stream ends when its token expires, and a browser reconnects with the cookie that it has by then. Where that \
has expired too, the EventSource closes for good: the page has to get a new cookie, and open a new one.")]
pub(crate) struct SessionToken {
    /// The session's id
    #[arg(value_parser = |text: &str| SessionId::new(text))]
    pub(crate) session: SessionId,
    /// How long the token is valid, for example 90s, 15m, 1h or 7d; it can't be taken back earlier
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = ttl)]
    pub(crate) ttl: Duration,
    #[command(flatten)]
    pub(crate) secret: SessionSecret,
}

#[derive(Debug, Args)]
#[command(after_help = "\
What is measured:
  in-process  events to 1, 1,000 and 100,000 subscriptions of one process, beside tokio's broadcast; idle ones
  zenoh       events over Zenoh in one process and between two, beside plain Zenoh
  store       durable appends by 1 and 64 clients beside the disk's own syncs; loads and replay
  sse         deliveries to 1,000 live streams of the server, one event under way and 500

Ours and what is beside it run in turns; told are medians, and how they relate. Everything is in a temporary folder \
beside the data directory, or in the current directory where there is none, and is removed at the end. Figures of a \
machine that does something else meanwhile mean little.

Examples:
  ironbus bench                       everything, in about half a minute
  ironbus bench store --full          the log alone, with more and longer turns
  ironbus bench --html bench.html     a page with charts beside the table
  ironbus bench --json | jq 'select(.goal) | {what, figure, unit, goal}'")]
pub(crate) struct Bench {
    /// What to measure: in-process, zenoh, store, sse [default: all]
    pub(crate) names: Vec<String>,
    /// More and longer turns, a log of 1,000,000 events, 1,000,000 idle subscriptions: some minutes
    #[arg(long)]
    pub(crate) full: bool,
    /// Write a page with charts to this file too
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Only see whether everything runs
    #[arg(long, hide = true, conflicts_with = "full")]
    pub(crate) tiny: bool,
    #[command(flatten)]
    pub(crate) form: Form,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ironbus completions bash > ~/.local/share/bash-completion/completions/ironbus
  ironbus completions zsh > ~/.zfunc/_ironbus")]
pub(crate) struct Completions {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

/// How results are shown.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Form {
    /// Print JSON lines, also on a terminal
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where a tail begins.
#[derive(Clone, Copy, Debug)]
pub(crate) enum After {
    Position(Position),
    Cursor(Cursor),
}

impl After {
    fn parse(text: &str) -> Result<Self, String> {
        if text.contains('.') {
            return text
                .parse()
                .map(Self::Cursor)
                .map_err(|error: ironbus::event::InvalidCursor| error.to_string());
        }
        position(text).map(Self::Position)
    }
}

fn position(text: &str) -> Result<Position, String> {
    text.parse().map(Position).map_err(|_| "a position is a whole number from 0".to_owned())
}

fn ttl(text: &str) -> Result<Duration, String> {
    let span = text.parse::<jiff::Span>().ok();
    let ttl = span.and_then(|span| span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).ok());
    ttl.and_then(|ttl| Duration::try_from(ttl).ok())
        .filter(|ttl| !ttl.is_zero())
        .ok_or_else(|| "use a duration such as 90s, 15m, 1h or 7d".to_owned())
}

fn event_id(text: &str) -> Result<EventId, uuid::Error> {
    uuid::Uuid::try_parse(text).map(EventId)
}

fn expected_version(text: &str) -> Result<ExpectedVersion, String> {
    match text {
        "any" => Ok(ExpectedVersion::Any),
        "no_stream" => Ok(ExpectedVersion::NoStream),
        "stream_exists" => Ok(ExpectedVersion::StreamExists),
        number => number
            .parse()
            .map(|version| ExpectedVersion::Exact(ironbus::Sequence(version)))
            .map_err(|_| "use any, no_stream, stream_exists, or a whole number from 0".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn a_time_to_live_is_written_as_people_do() {
        let seconds = |text: &str| super::ttl(text).map(|ttl| ttl.as_secs());
        assert_eq!(["90s", "15m", "1h", "1h 30m", "7d"].map(seconds), [90, 900, 3600, 5400, 604_800].map(Ok));
        for text in ["", "0s", "-1h", "1", "soon", "1y"] {
            assert!(seconds(text).is_err_and(|said| said.contains("1h")), "{text}");
        }
    }
}
