//! What every [`EventStore`] promises, as tests that run against any of them.
//!
//! A store takes part with [`crate::contract_tests!`] and a [`Subject`] that opens it empty. A new kind of
//! store gets the whole suite by one line, and a new promise is tested on every store by one function.

pub mod append;
pub mod read;
pub mod subscribe;

use std::any::Any;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use ironbus::store::EventStore;

/// A kind of store that the suite is run against.
#[async_trait]
pub trait Subject: Sync {
    /// Opens a new, empty log, whose ring holds so many events.
    async fn open(&self, ring: usize) -> Opened;
}

/// A store that was opened for one test.
pub struct Opened {
    /// The store.
    pub store: Arc<dyn EventStore>,
    /// Closes it; resolves when it is closed.
    pub close: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// What must live as long as the store: a temporary directory, say.
    pub keep: Box<dyn Any + Send>,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").finish_non_exhaustive()
    }
}

/// A ring that no test of the suite fills.
pub const ROOMY: usize = 4096;

/// Makes one test of every promise in the suite, run against the given [`Subject`].
#[macro_export]
macro_rules! contract_tests {
    ($subject:expr) => {
        $crate::contract_tests! { @each $subject;
            append::an_append_is_answered_with_its_places_and_the_head,
            append::events_without_ids_get_ids_of_their_own,
            append::a_batch_over_several_aggregates_is_stored_in_its_order,
            append::a_conflict_in_the_last_write_of_a_batch_leaves_nothing,
            append::an_aggregate_named_twice_is_checked_against_what_the_batch_itself_writes,
            append::every_expected_version_meets_every_state,
            append::a_retry_gets_the_first_result_whatever_version_it_expects,
            append::a_retried_batch_gets_the_first_result_as_a_whole,
            append::an_id_that_is_stored_for_another_event_is_refused,
            append::a_batch_that_is_partly_stored_is_refused,
            append::what_no_store_may_take_is_refused_and_leaves_nothing,
            append::the_limits_themselves_are_accepted,
            append::of_concurrent_appends_that_expect_one_version_exactly_one_wins,
            append::concurrent_retries_of_one_append_store_it_once,
            append::a_dropped_append_stands_or_not_but_its_retry_is_answered,
            read::an_aggregate_is_loaded_page_by_page,
            read::loading_shows_an_aggregate_whole_and_an_unknown_one_empty,
            read::a_stored_event_is_what_was_appended,
            read::the_log_is_read_page_by_page_up_to_its_head,
            read::a_pattern_that_matches_nothing_still_advances,
            read::every_shape_of_pattern_reads_just_its_events,
            read::names_with_meaning_in_keys_are_found_by_their_patterns,
            read::a_sessions_events_are_read_only_by_the_entitled,
            read::the_head_says_which_log_this_is,
            subscribe::from_the_beginning_everything_comes_and_then_what_is_new,
            subscribe::live_means_only_what_is_committed_from_now_on,
            subscribe::after_a_position_and_a_resumed_cursor_go_on_behind_it,
            subscribe::a_cursor_of_a_foreign_epoch_is_reset,
            subscribe::a_cursor_beyond_the_head_is_reset,
            subscribe::caught_up_is_said_once_between_replay_and_live,
            subscribe::watermarks_advance_where_nothing_matches,
            subscribe::a_sessions_events_reach_only_the_entitled_in_replay_and_live,
            subscribe::a_reader_that_falls_out_of_the_ring_loses_nothing,
            subscribe::an_acknowledged_event_is_there_for_who_subscribes_next,
            subscribe::closing_the_store_ends_its_subscriptions,
        }
    };
    (@each $subject:expr; $($module:ident :: $name:ident,)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            $crate::within(stringify!($name), $crate::contract::$module::$name(&$subject)).await;
        }
    )*};
}
