//! An event as JSON, and as an SSE frame: built at most once per node and shared by every reader.
//!
//! The fields are `position, sequence, event_id, aggregate_type, aggregate_id, event_type,
//! schema_version, payload, metadata, session_id?, recorded_at`. [`StoredEvent::json_line`] is always
//! one line: where a payload has line breaks between its tokens (JSON allows them nowhere else), they
//! become spaces. [`StoredEvent::write_json`] keeps them.

use bytes::Bytes;

use super::{Epoch, StoredEvent};

impl StoredEvent {
    /// Appends the event as JSON to `out`, the payload byte for byte.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        let mut number = itoa::Buffer::new();
        out.reserve(self.payload.as_bytes().len() + self.metadata.json().as_bytes().len() + 384);
        out.extend_from_slice(b"{\"position\":");
        out.extend_from_slice(number.format(self.position.0).as_bytes());
        out.extend_from_slice(b",\"sequence\":");
        out.extend_from_slice(number.format(self.sequence.0).as_bytes());
        out.extend_from_slice(b",\"event_id\":\"");
        let mut id = uuid::Uuid::encode_buffer();
        out.extend_from_slice(self.event_id.0.hyphenated().encode_lower(&mut id).as_bytes());
        out.extend_from_slice(b"\",\"aggregate_type\":");
        write_text(out, self.aggregate.aggregate_type());
        out.extend_from_slice(b",\"aggregate_id\":");
        write_text(out, self.aggregate.aggregate_id());
        out.extend_from_slice(b",\"event_type\":");
        write_text(out, &self.event_type);
        out.extend_from_slice(b",\"schema_version\":");
        out.extend_from_slice(number.format(self.schema_version).as_bytes());
        out.extend_from_slice(b",\"payload\":");
        out.extend_from_slice(self.payload.as_bytes());
        out.extend_from_slice(b",\"metadata\":");
        out.extend_from_slice(self.metadata.json().as_bytes());
        if let Some(session) = &self.session_id {
            out.extend_from_slice(b",\"session_id\":");
            write_text(out, session.as_str());
        }
        out.extend_from_slice(b",\"recorded_at\":\"");
        out.extend_from_slice(format!("{:.6}", self.recorded_at).as_bytes());
        out.extend_from_slice(b"\"}");
    }

    /// The event as one line of JSON, without a line break at its end. Built once, then shared.
    pub fn json_line(&self) -> Bytes {
        self.line().0.clone()
    }

    /// The event as JSON, the payload byte for byte: what [`Self::write_json`] writes. Shared with
    /// [`Self::json_line`] where that is the same.
    pub fn json(&self) -> Bytes {
        let (line, is_exact) = self.line();
        if *is_exact {
            return line.clone();
        }
        let mut out = Vec::new();
        self.write_json(&mut out);
        out.into()
    }

    /// The line, and whether it is what [`Self::write_json`] writes.
    fn line(&self) -> &(Bytes, bool) {
        self.encoded.line.get_or_init(|| {
            let mut out = Vec::new();
            self.write_json(&mut out);
            let is_exact = !join_lines(&mut out);
            (out.into(), is_exact)
        })
    }

    /// The event as an SSE frame, `id: {epoch}.{position}` and one `data:` line. Built once per node
    /// and shared by every client; a node that changes its epoch builds anew.
    pub fn sse_frame(&self, epoch: Epoch) -> Bytes {
        let (of, frame) = self.encoded.sse.get_or_init(|| (epoch, self.build_sse_frame(epoch)));
        if *of == epoch { frame.clone() } else { self.build_sse_frame(epoch) }
    }

    fn build_sse_frame(&self, epoch: Epoch) -> Bytes {
        let mut number = itoa::Buffer::new();
        let mut out = Vec::with_capacity(self.payload.as_bytes().len() + 420);
        out.extend_from_slice(b"id: ");
        out.extend_from_slice(number.format(epoch.0).as_bytes());
        out.push(b'.');
        out.extend_from_slice(number.format(self.position.0).as_bytes());
        out.extend_from_slice(b"\ndata: ");
        let body = out.len();
        self.write_json(&mut out);
        join_lines(&mut out[body..]);
        out.extend_from_slice(b"\n\n");
        out.into()
    }
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("writing text into memory can't fail");
}

/// A raw line break can only stand between the tokens of a JSON text, where it means a space. Says whether
/// there was one.
fn join_lines(json: &mut [u8]) -> bool {
    let mut joined = false;
    for byte in json {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
            joined = true;
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::{Aggregate, Encoded, EventId, Json, Metadata, Position, Sequence, SessionId};
    use super::*;

    fn event(payload: &str) -> StoredEvent {
        StoredEvent {
            position: Position(7),
            sequence: Sequence(2),
            event_id: EventId(uuid::Uuid::from_u128(1)),
            aggregate: Aggregate::new("To\"do", "a/b\\ é").expect("valid"),
            event_type: "Done".into(),
            schema_version: 3,
            payload: Json::parse(payload.to_owned()).expect("valid"),
            metadata: Metadata::caused(Some("c"), None),
            session_id: Some(SessionId::new("s 1").expect("valid")),
            recorded_at: Timestamp::from_microsecond(1_700_000_000_000_000).expect("in range"),
            encoded: Encoded::default(),
        }
    }

    #[test]
    fn an_event_reads_back_what_it_writes() {
        let event = event(r#"{"b": 1.50, "a":[ ]}"#);
        let line = event.json_line();
        assert_eq!(StoredEvent::from_json(&line).expect("valid"), event);
        let value: serde_json::Value = serde_json::from_slice(&line).expect("valid");
        assert_eq!(value["recorded_at"], "2023-11-14T22:13:20.000000Z");
        assert_eq!(value["aggregate_id"], "a/b\\ é");
    }

    #[test]
    fn a_payload_of_many_lines_is_one_line_in_frames_and_kept_elsewhere() {
        let payload = "{\r\n \"a\": \"x\\ny\"\n}";
        let event = event(payload);
        assert!(!event.json_line().contains(&b'\n') && !event.json_line().contains(&b'\r'));
        let frame = event.sse_frame(Epoch(4));
        assert!(frame.starts_with(b"id: 4.7\ndata: {"));
        assert_eq!(frame.iter().filter(|&&byte| byte == b'\n').count(), 3);
        let mut whole = Vec::new();
        event.write_json(&mut whole);
        assert_eq!(event.json(), whole);
        assert_eq!(StoredEvent::from_json(&whole).expect("valid").payload.as_str(), payload);
    }

    #[test]
    fn a_frame_is_shared_within_an_epoch_and_new_in_the_next() {
        let event = event("{}");
        assert_eq!(event.sse_frame(Epoch(1)).as_ptr(), event.sse_frame(Epoch(1)).as_ptr());
        assert!(event.sse_frame(Epoch(2)).starts_with(b"id: 2.7\n"));
    }
}
