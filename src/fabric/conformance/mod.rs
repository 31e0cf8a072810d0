//! The specification of a fabric, as executable cases.
//!
//! The [`CASES`] check what an implementation of [`Device`] must do beyond its types, on two
//! devices that can reach each other (or one that can reach itself). Every implementation runs all
//! of them.
//!
//! ```
//! use slimerpc::fabric::{conformance, shm::ShmDevice};
//! let (a, b) = (ShmDevice::open()?, ShmDevice::open()?);
//! for case in conformance::CASES.iter().take(3) {
//!     case.run(&a, &b);
//! }
//! # Ok::<(), slimerpc::fabric::FabricError>(())
//! ```

mod at_once;
mod completions;
mod errors;
mod events;
mod limits;
mod pair;
mod states;
mod transfers;

use std::fmt;
use std::sync::Arc;

use super::Device;
use pair::Devices;

/// One requirement on a fabric, as a test.
#[derive(Clone, Copy)]
pub struct Case {
    name: &'static str,
    check: fn(&Devices),
}

impl Case {
    /// Describes what the case checks.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Runs the case.
    ///
    /// # Panics
    /// If the devices do not conform; the message says where.
    pub fn run(&self, a: &Arc<dyn Device>, b: &Arc<dyn Device>) {
        (self.check)(&Devices {
            a: a.clone(),
            b: b.clone(),
        });
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! cases {
    ($($module:ident: $($check:ident),+;)+) => {
        /// All requirements on a fabric.
        pub const CASES: &[Case] = &[$($(Case {
            name: concat!(stringify!($module), "::", stringify!($check)),
            check: $module::$check,
        }),+),+];
    };
}

cases! {
    states: a_queue_pair_goes_through_its_states_in_order, nothing_is_posted_too_early,
        a_reset_queue_pair_keeps_its_address_and_meets_another_peer;
    transfers: writes_arrive_whole_and_touch_nothing_else, reads_fetch_what_the_peer_has,
        immediates_arrive_in_order_with_their_data, zero_length_operations_need_no_memory,
        inline_data_may_be_reused_at_once, both_directions_work_at_the_same_time,
        what_is_made_in_place_arrives;
    completions: unsignalled_sends_complete_silently, a_full_send_queue_says_so_and_has_room_after_polling,
        a_full_receive_queue_says_so, one_completion_queue_serves_many_queue_pairs,
        who_uses_up_its_receives_stops_nobody_else, what_came_before_an_error_is_no_failure,
        many_receives_are_posted_at_once, many_sends_are_posted_at_once;
    at_once: a_message_written_now_follows_those_posted_and_completes_at_the_peer,
        what_cannot_be_written_now_is_not_written_at_all;
    errors: a_bad_remote_key_puts_both_ends_in_error, every_remote_refusal_is_a_remote_access_error,
        deregistered_memory_is_refused, bad_local_memory_is_a_local_protection_error,
        posts_in_error_are_accepted_and_flushed, going_to_error_flushes_what_is_posted,
        without_a_receive_a_message_waits, without_any_receive_a_message_fails,
        a_peer_that_is_gone_is_noticed,
        memory_is_not_reached_through_a_queue_pair_that_is_gone, a_queue_pair_that_never_was_is_noticed;
    events: entries_before_arming_raise_no_event, one_arming_gives_one_event,
        a_send_completion_raises_an_event, an_error_raises_an_event, sleepers_miss_nothing,
        sends_and_receives_may_have_queues_of_their_own;
    limits: nonsense_is_refused, an_inline_read_is_refused;
}
