//! `ironbus completions`: a completion script for a shell.

use clap::CommandFactory;

use crate::args::{Cli, Completions};

pub(crate) fn run(args: &Completions) {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ironbus", &mut script);
    // A reader that has enough of a script is no failure.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), &script);
}
