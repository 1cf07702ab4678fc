//! An SSE client that behaves as a browser does: it connects again after the time it was told, with the id
//! of the last event, and an answer other than 200 ends it for good.

use std::io::BufRead;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ironbus::{Cursor, StoredEvent};

use crate::readers::Subscription;

/// The events that clients were sent, each held once, so that many clients fit into one process.
#[derive(Default)]
pub(crate) struct Known(Mutex<Vec<Vec<Arc<StoredEvent>>>>);

impl Known {
    /// The event of this document, whose id says that it stands at this position.
    fn event(&self, position: u64, document: &[u8]) -> Result<Arc<StoredEvent>, String> {
        let index = usize::try_from(position).expect("it fits");
        let mut known = self.0.lock().expect("not poisoned");
        if let Some(same) = known.get(index).into_iter().flatten().find(|event| event.json() == document) {
            return Ok(Arc::clone(same));
        }
        let event = StoredEvent::from_json(document).map_err(|error| format!("no event: {error}"))?;
        if event.position.0 != position {
            return Err(format!("the id {position} with the event at {}", event.position));
        }
        let event = Arc::new(event);
        if known.len() <= index {
            known.resize(index + 1, Vec::new());
        }
        known[index].push(Arc::clone(&event));
        Ok(event)
    }
}

/// What stands in the lines of a frame.
#[derive(Default)]
struct Frame {
    event: String,
    id: Option<String>,
    data: Vec<u8>,
}

struct Client {
    known: Arc<Known>,
    subscription: Arc<Subscription>,
    line: Vec<u8>,
    frame: Frame,
    last_id: Option<String>,
    retry: Duration,
}

/// Follows a stream until it is aborted.
pub(crate) async fn follow(
    http: reqwest::Client,
    url: String,
    known: Arc<Known>,
    subscription: Arc<Subscription>,
) {
    let (line, frame, last_id, retry) = (Vec::new(), Frame::default(), None, Duration::from_secs(3));
    let mut client = Client { known, subscription, line, frame, last_id, retry };
    loop {
        let mut request = http.get(&url).header("accept", "text/event-stream");
        if let Some(id) = &client.last_id {
            request = request.header("last-event-id", id);
        }
        if let Ok(mut response) = request.send().await {
            if response.status() != 200 {
                let status = response.status();
                return client
                    .subscription
                    .fault(format!("the answer {status}, which ends a browser's stream"));
            }
            while let Ok(Some(bytes)) = response.chunk().await {
                if let Err(fault) = client.take(&bytes) {
                    return client.subscription.fault(fault);
                }
            }
        }
        // What came without its end is void.
        client.line.clear();
        client.frame = Frame::default();
        client.subscription.again();
        tokio::time::sleep(client.retry).await;
    }
}

impl Client {
    fn take(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        loop {
            bytes.read_until(b'\n', &mut self.line).expect("memory can be read");
            if self.line.pop_if(|last| *last == b'\n').is_none() {
                return Ok(());
            }
            let line = std::mem::take(&mut self.line);
            self.line(&line)?;
        }
    }

    fn line(&mut self, line: &[u8]) -> Result<(), String> {
        let text = || String::from_utf8_lossy(line).into_owned();
        match line {
            [] => return self.dispatch(),
            [b'd', b'a', b't', b'a', b':', b' ', data @ ..] => self.frame.data.extend_from_slice(data),
            [b':', ..] => {}
            _ => match text().split_once(": ") {
                Some(("id", id)) => self.frame.id = Some(id.to_owned()),
                Some(("event", event)) => event.clone_into(&mut self.frame.event),
                Some(("retry", retry)) => {
                    let retry = retry.parse().map_err(|_| format!("no time to wait: {retry}"))?;
                    self.retry = Duration::from_millis(retry);
                }
                _ => return Err(format!("no line of a stream: {}", text())),
            },
        }
        Ok(())
    }

    fn dispatch(&mut self) -> Result<(), String> {
        let Frame { event, id, data } = std::mem::take(&mut self.frame);
        match (&*event, id) {
            ("", Some(id)) => {
                let cursor: Cursor = id.parse().map_err(|error| format!("{error}"))?;
                if !data.is_empty() {
                    self.subscription.take(self.known.event(cursor.position.0, &data)?);
                }
                self.last_id = Some(id);
                Ok(())
            }
            ("resumed" | "caught_up", None) => Ok(()),
            ("", None) if data.is_empty() => Ok(()),
            _ => Err(format!("event `{event}`: {}", String::from_utf8_lossy(&data))),
        }
    }
}
