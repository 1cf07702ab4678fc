//! What is measured with a second process: this program again, told by its arguments what to do, and told and asked
//! line by line on its standard input and output. It ends when its input does.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use tokio::runtime::Runtime;

use super::{BenchError, During, idle, over_zenoh, streams};

/// The first argument of a program that is to be such a process; it hands all others to [`help`].
pub const HELPER: &str = "bench-helper";

/// Does what the arguments of such a process say, until it is done.
///
/// # Errors
///
/// [`BenchError`] when it can't be done, or the arguments are none that this program has given.
pub fn help(arguments: &[String]) -> Result<(), BenchError> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let count = |text: &str| text.parse::<usize>().during("a count was expected");
    match *words.as_slice() {
        ["receive", kind, endpoint, few, all] => {
            end_with_input();
            over_zenoh::receive(&runtime()?, kind, endpoint, count(few)?, count(all)?)
        }
        ["idle", kind, number, folder] => {
            end_with_input();
            idle::declare(kind, count(number)?, Path::new(folder))
        }
        ["load"] => streams::load(),
        _ => Err(BenchError::Helper { said: words.join(" "), instead: "what a helper can do" }),
    }
}

/// Nothing is left behind when the process that started this one is killed.
fn end_with_input() {
    std::thread::spawn(|| {
        // Nothing is ever said to it; an error is as good an end.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        std::process::exit(1);
    });
}

/// What such a process runs on.
pub(super) fn runtime() -> Result<Runtime, BenchError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.during("threads can't be started")
}

/// The other process, seen from this one; it ends with this.
pub(super) struct Helper {
    child: Child,
    to: ChildStdin,
    from: Lines<BufReader<ChildStdout>>,
}

impl Helper {
    pub(super) fn start(arguments: &[&str]) -> Result<Self, BenchError> {
        let own = std::env::current_exe().during("this program can't be found")?;
        let mut command = Command::new(own);
        command.arg(HELPER).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().during("a second process can't be started")?;
        let to = child.stdin.take().expect("piped");
        let from = BufReader::new(child.stdout.take().expect("piped")).lines();
        Ok(Self { child, to, from })
    }

    pub(super) fn say(&mut self, line: &str) -> Result<(), BenchError> {
        writeln!(self.to, "{line}").map_err(|_| BenchError::HelperEnded)
    }

    /// The next line that it says.
    pub(super) fn line(&mut self) -> Result<String, BenchError> {
        self.from.next().ok_or(BenchError::HelperEnded)?.during("a process of the measurement can't be heard")
    }

    pub(super) fn hear(&mut self, expected: &'static str) -> Result<(), BenchError> {
        let said = self.line()?;
        if said == expected { Ok(()) } else { Err(BenchError::Helper { said, instead: expected }) }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // Whether it has ended already doesn't matter; nothing is to be left behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
