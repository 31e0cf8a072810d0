//! What a call promises, and what it does not. Nothing here is code; each row names the test that
//! proves it, which stands in `tests/agents`, in `tests/processes` or beside the code. The book's
//! chapter `docs/semantics.md` says the same.
//!
//! # Order
//!
//! | promise | test |
//! | --- | --- |
//! | Calls of one proxy run in the order in which they were made, also those that wait for a credit. | `order_1_calls_of_one_proxy_run_in_order_also_beyond_the_credits` |
//! | A service instance runs one handler at a time, across callers and across `.await`. | `serial_1_one_handler_at_a_time_across_peers_and_awaits` |
//! | A call is made when it is made, not when its reply is polled. | `a_call_is_made_when_it_is_made_not_when_it_is_polled` |
//! | Parallel methods run beside the serial one and one another, as many at once as there are workers. | `parallel_methods_run_beside_one_another_as_many_as_there_are_workers` |
//! | A busy serial handler does not delay them, nor do serial calls that wait for a credit. | `a_parallel_method_answers_while_a_serial_one_keeps_its_thread_and_all_credits` |
//!
//! Not promised: an order between proxies, clones on several threads included, between services, or
//! of parallel methods.
//!
//! # At most once
//!
//! A request is sent once and never again, so a handler runs at most once for it. The error says
//! whether it ran ([`RpcError::ran`](crate::RpcError::ran)):
//!
//! | promise | test |
//! | --- | --- |
//! | A call that waits for a credit until its deadline was not run. | `a_call_that_waits_for_a_credit_until_its_deadline_was_certainly_not_run` |
//! | When the peer is lost, calls that were not sent were not run; of the others nothing is known. | `losing_the_peer_says_which_calls_were_certainly_not_run` |
//! | A message that could not be sent comes back. | `a_message_that_was_not_sent_comes_back` |
//! | A oneway call is run at most once, in order with the others. | `oneway_calls_complete_when_they_are_taken_and_run_once_in_order` |
//!
//! # Types
//!
//! Both sides may declare a service for themselves, in different versions. A proxy compares what
//! the service publishes with what it declares, when it is made and whenever it connects again;
//! [`Shape`](slimerpc::wire::Shape) says what of a type is compared.
//!
//! | promise | test |
//! | --- | --- |
//! | A method that both declare with the same types can be called, whatever the types are named and wherever they stand. | `type_1_types_that_are_changed_are_refused_and_renamed_or_moved_ones_are_not` |
//! | Calls of others end with `MethodMismatch` or `MethodNotFound` before anything is sent, in whatever way they are made. | `type_1_a_method_that_differs_is_never_called_and_others_are` |
//! | If there are no others, no proxy is made. | `type_1_a_proxy_is_refused_when_no_method_has_the_same_types` |
//! | That holds also for a service that is replaced while it is called. | `type_1_a_proxy_that_heals_compares_anew`, `type_1_a_service_that_was_replaced_since_its_table_was_read_is_not_reached` |
//! | A type that the codec cannot carry is refused where it is declared. | `types_that_bincode_cannot_carry_are_refused_where_they_are_declared` |
//!
//! Not promised: anything about types towards peers of earlier releases, which publish none (this
//! is logged once), and towards DLSlime peers.
//!
//! # Deadlines
//!
//! | promise | test |
//! | --- | --- |
//! | A deadline ends the call at its time, whatever the service does; a late answer harms nothing. | `call_1_call_2_a_timeout_ends_the_call_and_its_late_answer_harms_nothing` |
//! | A request that has expired when its turn comes is not run, and its caller has long had `Timeout`. | `an_expired_request_is_not_run_and_its_caller_has_long_had_timeout` |
//! | That holds also if its caller can tell the service nothing any more, as the time that remained travelled with it. | `a_deadline_that_travelled_ends_a_request_whose_caller_cannot_cancel` |
//! | A deadline of zero sends nothing; one of years is one of years. | `deadlines_of_zero_are_not_sent_and_those_of_years_do_not_overflow` |
//!
//! Not promised: that a handler which has begun is ended by the deadline; the cancel that follows
//! may do that. Without a deadline a call waits as long as its connection lives.
//!
//! # Cancelling
//!
//! Dropping a [`Reply`](crate::Reply) cancels its call.
//!
//! | promise | test |
//! | --- | --- |
//! | A request that has not begun is skipped. | `a_cancelled_request_that_has_not_begun_is_skipped` |
//! | An async handler is dropped where it awaits. | `a_cancelled_async_handler_is_dropped_where_it_awaits` |
//! | A sync handler finishes, and its answer is dropped. | `a_cancelled_sync_handler_finishes_and_its_answer_is_dropped` |
//! | A reply may be dropped at any time; credits come back. | `slot_2_a_reply_may_be_dropped_at_each_of_its_pending_points` |
//! | A parallel handler is cancelled likewise. | `cancelled_parallel_methods_are_dropped_or_never_begin` |
//! | A oneway call is taken back only until the transport has taken it. | `a_oneway_call_that_is_not_taken_is_taken_back_when_it_is_dropped` |
//!
//! Not promised: that a cancel overtakes the handler. DLSlime peers cannot be told of a cancel at
//! all.
//!
//! # Streams
//!
//! | promise | test |
//! | --- | --- |
//! | Items come in order; after the last, or an error, there are none. | `items_come_in_order_and_the_stream_ends`, `an_error_ends_the_stream_and_can_be_had_back` |
//! | No more items are made than are asked for, or read. | `no_more_items_are_made_than_are_asked_for` |
//! | Dropping the items ends the stream, where it awaits or between two items. | `dropping_the_items_ends_the_stream_wherever_it_is`, `slot_2_items_may_be_dropped_at_each_of_their_pending_points` |
//! | The stream of a serial method has the state until it ends; those of parallel methods run beside it. | `serial_1_the_stream_of_a_serial_method_has_the_state_until_it_ends` |
//! | A consumer that stops reading loses the stream after `stream_patience`, and is told. | `a_consumer_that_stops_reading_loses_the_stream_and_is_told` |
//! | A deadline is that of the whole stream. | `the_deadline_is_that_of_the_whole_stream` |
//! | A stream ends when its service stops, its peer leaves or its caller dies. | `call_1_a_stream_ends_when_its_service_stops_or_its_peer_leaves`, `a_caller_that_dies_leaves_no_stream_behind` |
//!
//! Not promised: that calls find a credit while as many streams as there are credits are open and
//! unread.
//!
//! # When either side dies
//!
//! | promise | test |
//! | --- | --- |
//! | Calls of a peer that is killed end with `PeerLost`. | `call_1_a_killed_worker_fails_the_call_within_a_second` |
//! | Calls made while a peer is away end at once, and are not run, unless a [`reconnect_wait`](crate::Timeouts::reconnect_wait) is set. | `call_1_calls_of_a_peer_that_leaves_end_at_once_and_its_proxies_heal_when_it_is_back` |
//! | Proxies heal by themselves when the peer, or its service, is back. | the same, `a_proxy_heals_when_its_service_is_served_again` |
//! | A wait for a peer ends as soon as its next incarnation serves. | `fence_1_all_who_wait_for_a_dead_life_look_again_when_there_is_another`, `all_who_wait_for_a_killed_worker_have_its_next_life_as_soon_as_that_serves` |
//! | A proxy says `Reconnected` when it can be called. | `a_proxy_says_that_it_is_connected_again_when_it_can_be_called` |
//! | Calls that may wait for a peer that is lost are made when it is back, once. | `calls_of_a_peer_that_is_lost_wait_for_it_as_long_as_they_may` |
//! | A service that is back is checked anew: no call goes to another method. | `fence_1_a_proxy_checks_the_table_of_a_service_that_is_back_anew` |
//! | Two agents that connect with each other at once end with one line between them. | `both_sides_that_begin_at_once_end_with_one_connection` |
//! | A death watch tells an actor once. | `an_actor_is_told_once_of_the_death_of_a_peer` |
//! | Calls of a peer that leaves end with `PeerLost`. | `call_1_calls_end_when_the_peer_leaves` |
//! | A service that is stopped answers what has arrived and takes nothing more. | `stop_answers_what_has_arrived_and_takes_nothing_more` |
//! | A handler that never returns holds up neither `stop` nor `shutdown`. | `a_handler_that_never_returns_does_not_hold_up_stop_nor_shutdown` |
//! | That holds for parallel methods too. | `stop_answers_parallel_requests_that_have_arrived`, `a_parallel_handler_that_never_returns_does_not_hold_up_stop_nor_shutdown` |
//! | Answers that were given before `shutdown` arrive. | `serve_once_ends_when_the_agent_leaves_and_its_last_answer_arrives` |
//! | A handler that panics answers its caller; the service goes on. | `panic_1_a_panic_answers_its_caller_and_the_service_goes_on` |
//!
//! Not promised: that a proxy heals when a DLSlime peer comes back (make a new one); that a peer
//! which is merely [stalled](crate::PeerEvent::Stalled) is given up, as its calls may have
//! deadlines; that the requests of a dead caller do not run: those that arrived may run, and their
//! answers are discarded.
//!
//! # When an instance ends
//!
//! [`Restart`](crate::Restart) and [`Strategy`](crate::Strategy) decide what follows.
//!
//! | promise | test |
//! | --- | --- |
//! | A panic is reported to its caller, with its place, and counts; with a factory a new instance is made. | `panic_1_a_panic_is_told_with_its_place_and_the_instance_is_made_anew` |
//! | Requests that wait survive a restart, in order, their bytes untouched; the one that was running is not run again. | `ring_1_slot_2_waiting_requests_survive_a_restart_and_the_running_one_is_not_run_again` |
//! | Deadlines and cancels hold while a restart waits. | `deadlines_and_cancels_hold_while_a_restart_waits` |
//! | Each restart within the window waits longer than the one before. | `restarts_wait_longer_each_time` |
//! | No more restarts than the limit begin within any window, which slides. | `never_more_than_max_in_any_window_and_waits_within_bounds` (in `restarts.rs`), `the_window_of_the_limit_slides` |
//! | Beyond the limit all waiting and new calls end with `ServiceDown`, at once. | `call_1_slot_2_beyond_its_limit_a_service_is_down_for_all_who_wait_and_who_come` |
//! | New proxies are refused then, with a type of its own. | `new_proxies_are_told_that_a_service_is_down_until_it_is_served_anew` |
//! | A start that fails is tried again, and counts. | `a_factory_that_fails_at_a_restart_is_tried_again_up_to_the_limit` |
//! | A handler may ask for a restart; its caller has its answer. | `a_handler_may_ask_for_a_restart_and_its_caller_has_its_answer` |
//! | A service that is served by value goes on with its state. | `what_is_served_by_value_keeps_its_state_unless_it_is_temporary` |
//! | Parallel methods are answered during a restart, from what the previous instance shared; their panics end nothing. | `parallel_methods_are_answered_while_a_restart_waits_and_their_panics_are_no_end` |
//! | The old instance is gone before the new one is made, unless it is handed over. | `hooks_are_called_in_order_and_the_old_instance_is_gone_before_the_new_one_is_made`, `state_is_handed_over_by_choice_and_waits_for_a_start_that_takes_it` |
//! | Services that are tied together end together, and then start in the order of serving. | `one_for_all_ends_the_others_too_and_then_starts_all_in_order`, `rest_for_one_restarts_those_that_were_served_later` |
//! | Their async handlers are dropped where they await, and answer `ServiceDown`; sync ones are waited for. | `call_1_handlers_that_await_are_dropped_when_another_service_takes_theirs_with_it`, `one_for_all_waits_for_a_sync_handler_and_its_caller_has_its_answer` |
//! | A service that is given up takes those with it that would have been restarted with it. | `a_service_that_is_given_up_takes_those_with_it_that_depend_on_it` |
//! | A service that panics on every tenth request under load answers each exactly once. | `serial_1_call_1_slot_2_a_worker_that_panics_on_every_tenth_answers_each_call_once` |
//!
//! Not promised: that `ServiceDown` says whether the call ran; that the `stopped` hook runs, if the
//! process ends first.
//!
//! # Calling oneself
//!
//! | promise | test |
//! | --- | --- |
//! | A serial handler that calls its own instance gets an error, instead of waiting for ever. | `a_handler_that_calls_its_own_instance_is_told_so` |
//! | It may call the parallel methods of its service. | `a_serial_handler_may_ask_the_parallel_methods_of_its_own_service` |
//!
//! Not promised: that a cycle of calls through several services is detected. Give such calls
//! deadlines.
