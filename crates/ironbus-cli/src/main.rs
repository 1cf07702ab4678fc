//! `ironbus`: the server and the tools around a log, in one program.
//!
//! [`args`] says what can be typed, [`config`] which setting counts, [`backend`] where the log is (a
//! server or a data directory), `commands/` does the work, one file for each command. Results go to
//! standard output, everything else to standard error.

mod args;
mod backend;
mod commands;
mod config;
mod failure;
mod import;
mod network;
mod open_files;
mod output;
mod secrets;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use args::{Cli, Command};
use config::Config;
use failure::Failure;

/// The writer makes events that other threads give back: with the system's allocator they wait for each other.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before anything speaks TLS: everything in the process is to use the same cryptography.
    #[cfg(feature = "s3")]
    ironbus_zenoh::storage::provide_tls();
    // A process that `bench` measures with: nothing that anybody types, or that a shell completes.
    let ended = match commands::bench::helper() {
        Some(helped) => helped.map(|()| ExitCode::SUCCESS),
        None => run(Cli::parse()),
    };
    match ended {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    if let Command::Completions(args) = &cli.command {
        commands::completions::run(args);
        return Ok(ExitCode::SUCCESS);
    }
    let config = Config::read(cli.config.as_deref())?;
    // What Zenoh says of itself at the start worries a reader for nothing; RUST_LOG shows it.
    let usual =
        if matches!(cli.command, Command::Serve(_)) { "info,zenoh=error" } else { "warn,zenoh=error" };
    log_to_stderr(cli.log.as_deref().or(config.log.as_deref()).unwrap_or(usual))?;
    if let Command::Bench(args) = &cli.command {
        commands::bench::run(args, &config.serve)?;
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("the program can't start its threads: {error}")))?;
    let ended = runtime.block_on(async {
        let ended = dispatch(cli.command, &config).await;
        backend::close_opened().await;
        ended
    });
    // Reading standard input can't be interrupted; it must not keep a program that is done.
    runtime.shutdown_background();
    ended
}

async fn dispatch(command: Command, config: &Config) -> Result<ExitCode, Failure> {
    match command {
        Command::Serve(args) => commands::serve::run(args, config).await?,
        Command::Append(args) => commands::append::run(args, &config.client).await?,
        Command::Import(args) => commands::import::run(args, &config.client).await?,
        Command::Export(args) => commands::export::run(args, &config.client).await?,
        Command::Load(args) => commands::load::run(args, &config.client).await?,
        Command::Read(args) => commands::read::run(args, &config.client).await?,
        Command::Tail(args) => commands::tail::run(args, &config.client).await?,
        Command::Status(args) => commands::status::run(args, &config.client).await?,
        Command::Migrate(args) => commands::migrate::run(args.action, &config.client).await?,
        Command::Backup(args) => commands::backup::back_up_to(args, &config.serve).await?,
        Command::Restore(args) => commands::backup::restore_from(args, &config.serve).await?,
        Command::Promote(args) => commands::promote::run(args, &config.serve).await?,
        Command::Verify(args) => return commands::verify::run(args, config).await,
        Command::SessionToken(args) => commands::session_token::run(&args, &config.serve)?,
        Command::Completions(_) | Command::Bench(_) => {
            unreachable!("done before this runtime is started")
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn log_to_stderr(filter: &str) -> Result<(), Failure> {
    let parsed = EnvFilter::try_new(filter)
        .map_err(|error| Failure::usage(format!("the log filter `{filter}` can't be used: {error}")))?;
    tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .compact()
        .init();
    Ok(())
}
