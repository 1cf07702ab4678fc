//! `ironbus tail`: events as they arrive.

use std::future::Future;
use std::io::Write;
use std::task::Poll;

use crate::args;
use crate::backend::{Backend, Followed, Use};
use crate::config::Client;
use crate::failure::Failure;
use crate::output::{Form, Reader, event_line, out, width, write_line};

pub(crate) async fn run(args: args::Tail, config: &Client) -> Result<(), Failure> {
    let mut left = args.limit.unwrap_or(u64::MAX);
    let backend = Backend::find(&args.target, config, Use::Read).await?;
    let mut follow = backend.follow(&args.pattern, args.after).await?;
    let (form, mut out, width) = (Form::choose(args.form), out(), width());
    let reader = Reader::watch();
    while left > 0 {
        let followed = {
            let mut next = std::pin::pin!(follow.next());
            // Written out as soon as nothing more waits: many at a time in a replay, each at once when live.
            match std::future::poll_fn(|context| Poll::Ready(next.as_mut().poll(context))).await {
                Poll::Ready(followed) => followed,
                Poll::Pending => {
                    out.flush()?;
                    tokio::select! {
                        followed = next => followed,
                        error = reader.gone() => return Err(error.into()),
                    }
                }
            }
        };
        match followed {
            Ok(Followed::Event(event)) => {
                match form {
                    Form::Lines => write_line(&mut out, &event)?,
                    Form::Human => writeln!(out, "{}", event_line(&event, width))?,
                }
                left -= 1;
            }
            Ok(Followed::CaughtUp) if args.until_head => break,
            Ok(Followed::CaughtUp) => {}
            Err(failure) => {
                out.flush()?;
                return Err(failure);
            }
        }
    }
    out.flush()?;
    Ok(())
}
