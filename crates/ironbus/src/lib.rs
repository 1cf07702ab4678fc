//! **ironbus**: an event store and event bus that starts inside one process on SQLite.
//!
//! The log is the truth; a bus is only a faster way to hear of it. Every stored event has a contiguous
//! global position, and a reader's whole state is the next position it needs.
//!
//! The way of an event reads in this order: [`store`] (append, group commit), [`tail`] (the log's end in
//! memory, and who waits for what), [`subscription`] (replay, then live, without a seam). [`typed`] puts
//! an application's own types on top; [`cache`] keeps computed values true; [`bus`] carries raw live
//! events; [`migration`] takes a log from one process to many nodes and back, [`moving`] from one storage to another;
//! [`node`] wires it all.
//!
//! ```
//! use ironbus::{Aggregate, Append, EventFilter, EventStore, ExpectedVersion, Json, NewEvent};
//! use ironbus::{SqliteEventStore, SqliteOptions, Start};
//!
//! # tokio_test_block_on(async {
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("ironbus.db");
//! let store = SqliteEventStore::open(SqliteOptions::new(path)).await?;
//! let mut events = store.subscribe(EventFilter::public("events/Todo/**".parse()?), Start::Beginning);
//!
//! let todo = Aggregate::new("Todo", "uuid-123")?;
//! let added = NewEvent::new("TodoAdded", Json::parse(r#"{"title":"write docs"}"#)?);
//! store.append(Append::to(todo, ExpectedVersion::NoStream, vec![added])).await?;
//!
//! let event = events.next_event().await.expect("the store is open")?;
//! assert_eq!((event.position.0, event.sequence.0), (1, 1));
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! # fn tokio_test_block_on<F: std::future::Future>(future: F) -> F::Output {
//! #     tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(future)
//! # }
//! ```

pub mod bus;
pub mod cache;
pub mod event;
pub mod key;
pub mod migration;
pub mod moving;
pub mod node;
pub mod publisher;
pub mod store;
pub mod subscription;
pub mod tail;
pub mod typed;

pub use bus::{BroadcastBus, DualEventBus, EventBus, EventBusMode, EventSubscription, event_key};
pub use event::{
    Aggregate, Cursor, Epoch, EventId, Json, Metadata, NewEvent, Position, Sequence, SessionId, StoreId,
    StoredEvent,
};
pub use key::{Entitlement, EventFilter, EventKey, KeyPattern};
pub use migration::{Migration, MigrationOptions, Phase};
pub use moving::{LogPlace, NodeLog};
pub use node::{LogAccess, Node, NodeOptions};
pub use store::{
    Append, AppendError, Appended, Durability, EventStore, ExpectedVersion, ReadError, SqliteEventStore,
    SqliteOptions,
};
pub use subscription::{Delivery, Start, Subscription};
pub use typed::{Decider, DomainEvent, Repository, TypedEvent, TypedSubscription};
