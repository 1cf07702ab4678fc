//! The command line: every command, flag and help text.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use ironbus::event::Position;
use ironbus::{Cursor, EventId, ExpectedVersion, KeyPattern, SessionId};

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

All commands but `serve` and `verify` talk to a running server (--url, IRONBUS_URL, or `[client] url` in \
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
    /// Walk a log and prove that it is sound
    Verify(Verify),
    /// Print a completion script for a shell
    Completions(Completions),
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

    /// Send this operator token to the server, which then shows session-scoped events too
    #[arg(long, env = "IRONBUS_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ironbus serve
  ironbus serve --data /var/lib/ironbus --listen 127.0.0.1:8080
  IRONBUS_OPERATOR_TOKEN=$(cat token) ironbus serve

Prints one line `listening on http://ADDRESS:PORT` to standard output once it answers (with --listen \
127.0.0.1:0 the system chooses the port); everything else goes to standard error. SIGINT (Ctrl-C) or SIGTERM \
drains: requests under way finish, streams end so that their clients resume elsewhere. A second signal ends \
at once.")]
pub(crate) struct Serve {
    /// The data directory; created if it doesn't exist [default: ./ironbus-data]
    #[arg(long, value_name = "DIR", env = "IRONBUS_DATA")]
    pub(crate) data: Option<PathBuf>,

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

    /// Let pages of this origin read from here, for example https://app.example.org; may be repeated
    #[arg(long, value_name = "ORIGIN", env = "IRONBUS_CORS_ORIGINS", value_delimiter = ',')]
    pub(crate) cors_origin: Vec<String>,

    /// Listen on an address that isn't loopback although nothing is encrypted or authenticated
    #[arg(long, env = "IRONBUS_ALLOW_PLAINTEXT_REMOTE")]
    pub(crate) allow_plaintext_remote: bool,
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
Walks every event: positions and sequences without holes, the hash chain, and SQLite's own integrity check.
Works beside a running server. Ends with exit code 1 when something is wrong.")]
pub(crate) struct Verify {
    /// The data directory [default: ./ironbus-data]
    #[arg(long, value_name = "DIR", env = "IRONBUS_DATA")]
    pub(crate) data: Option<PathBuf>,
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
}
