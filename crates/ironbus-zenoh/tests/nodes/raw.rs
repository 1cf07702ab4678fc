//! Raw subscriptions in the process that publishes.

use std::sync::Arc;

use ironbus::bus::Heard;
use ironbus::{EventBus as _, EventFilter, StoredEvent};
use ironbus_zenoh::{ZenohBus, ZenohOptions};

fn event(position: u64, payload: &str) -> Arc<StoredEvent> {
    let json = format!(
        r#"{{"position":{position},"sequence":{position},"event_id":"00000000-0000-7000-8000-000000000000","aggregate_type":"A","aggregate_id":"1","event_type":"Tested","schema_version":1,"payload":{payload},"metadata":{{}},"recorded_at":"2026-01-01T00:00:00.000000Z"}}"#
    );
    Arc::new(StoredEvent::from_json(json.as_bytes()).expect("an event"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_listens_hears_what_is_published_from_then_on_also_when_all_others_have_left() {
    let session = ZenohOptions::embedded().open().await.expect("opens");
    let bus = ZenohBus::new(session).await.expect("starts");
    let events = [event(1, "1"), event(2, "{\n\"a\":\r\n2}"), event(3, "3"), event(4, "4"), event(5, "5")];
    bus.publish_all(&events[..1]).expect("that nobody listens is no error");
    let mut first = bus.subscribe(EventFilter::everything());
    let mut second = bus.subscribe(EventFilter::everything());
    bus.publish_all(&events[1..3]).expect("carried");
    for listener in [&mut first, &mut second] {
        for sent in &events[1..3] {
            assert_eq!(listener.next().await, Some(Heard::Event(Arc::clone(sent))));
        }
    }
    drop(first);
    bus.publish_all(&events[3..4]).expect("carried");
    let Some(Heard::Event(heard)) = second.next().await else { panic!("it still listens") };
    assert!(Arc::ptr_eq(&heard, &events[3]), "within a process it is the same event, and not a copy");
    drop(second);
    bus.publish_all(&events[..1]).expect("that nobody listens any more is no error");
    let mut third = bus.subscribe(EventFilter::everything());
    bus.publish_all(&events[4..]).expect("carried");
    assert_eq!(third.next().await, Some(Heard::Event(Arc::clone(&events[4]))));
}
