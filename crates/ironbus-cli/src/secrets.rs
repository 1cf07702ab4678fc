//! The secrets that sign session tokens: those in the file that a flag names, else in the environment, else
//! in the configuration.
//!
//! Text holds one secret a line: the first signs, all verify. White space around one isn't part of it.

use std::fmt;
use std::path::Path;

use ironbus_server::{SessionSecret, SessionTokens, ShortSecret};
use serde::Deserialize;

use crate::config::Serve;
use crate::failure::Failure;

/// The variable that holds the secrets themselves. A flag would show them to every user of the machine.
const VARIABLE: &str = "IRONBUS_SESSION_SECRET";

/// A secret that is long enough.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Secret(String);

impl TryFrom<String> for Secret {
    type Error = ShortSecret;

    fn try_from(text: String) -> Result<Self, ShortSecret> {
        SessionSecret::new(text.trim())?;
        Ok(Self(text.trim().to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Session tokens by the secrets that are found; `None` where there are none.
pub(crate) fn session_tokens(file: Option<&Path>, config: &Serve) -> Result<Option<SessionTokens>, Failure> {
    let secrets = match (file, std::env::var_os(VARIABLE)) {
        (Some(file), _) => read(file)?,
        (None, Some(text)) => parse(VARIABLE, &text.to_string_lossy())?,
        (None, None) => match &config.session_secret_file {
            Some(file) => read(file)?,
            None => config.session_secrets.clone(),
        },
    };
    let mut secrets =
        secrets.iter().map(|secret| SessionSecret::new(&secret.0).expect("its length was checked"));
    Ok(secrets.next().map(|first| secrets.fold(SessionTokens::new(first), SessionTokens::and_earlier)))
}

fn read(file: &Path) -> Result<Vec<Secret>, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failure::usage(format!("the session secrets in {} can't be read: {error}", file.display()))
    })?;
    parse(&file.display().to_string(), &text)
}

fn parse(origin: &str, text: &str) -> Result<Vec<Secret>, Failure> {
    let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    let secrets: Result<Vec<_>, _> = lines
        .map(|(line, number)| {
            Secret::try_from(line.to_owned())
                .map_err(|short| Failure::usage(format!("{origin}, line {number}: {short}")))
        })
        .collect();
    let secrets = secrets?;
    if secrets.is_empty() {
        return Err(Failure::usage(format!("{origin} holds no secret; `openssl rand -base64 32` makes one")));
    }
    Ok(secrets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_holds_one_secret_a_line_and_says_which_is_too_short() {
        let (first, second) = ("0123456789abcdef0123456789abcdef", "a passphrase of words, as long as that");
        let secrets = parse("x", &format!("\n{first}\r\n  {second} \n")).expect("valid");
        assert_eq!(secrets, [first, second].map(|text| Secret(text.into())));
        assert_eq!(format!("{secrets:?}"), "[Secret(…), Secret(…)]");
        let wrong = |text: &str| parse("the file", text).expect_err(text).message;
        assert!(wrong(&format!("{first}\n\nshort")).starts_with("the file, line 3: a secret of 5 bytes"));
        assert!(wrong(" \n").contains("holds no secret"));
    }
}
