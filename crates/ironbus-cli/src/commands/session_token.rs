//! `ironbus session-token`: a token that shows one session's events.

use std::io::Write;

use crate::args;
use crate::config::Serve;
use crate::failure::Failure;
use crate::secrets::session_tokens;

pub(crate) fn run(args: &args::SessionToken, config: &Serve) -> Result<(), Failure> {
    let tokens = session_tokens(args.secret.session_secret_file.as_deref(), config)?.ok_or_else(|| {
        Failure::usage(
            "no secret is given that signs session tokens; make one (`openssl rand -base64 32 > secret`), and give \
             it to `ironbus serve` and to this command with --session-secret-file, IRONBUS_SESSION_SECRET or \
             `[serve] session_secret_file` in ironbus.toml",
        )
    })?;
    writeln!(std::io::stdout(), "{}", tokens.mint(&args.session, args.ttl))?;
    Ok(())
}
