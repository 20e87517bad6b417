"""What can go wrong for a client of an HTTP API, what we promise, and the tests that show it.

`docs/hazards.md` is made from this table (`docs/generate_hazards.py`).
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Hazard(NamedTuple):
    """One way to fail; *tests* are files below `tests/` with the names of functions."""

    number: int
    title: str
    promise: str
    tests: tuple[str, ...] = ()


FAULTS: Final = "hardening/test_faults.py::test_fault_raises_the_promised_error"
PASSES: Final = "hardening/test_faults.py::test_idempotent_call_survives_a_transient_fault"
CUTS: Final = "hardening/test_interruptions.py::test_interrupted_call_releases_everything"
CUT_JOBS: Final = "hardening/test_interruptions.py::test_interrupted_job_resumes"
TRANSPORT: Final = "core/test_transport.py::test_"
LIMITER: Final = "ratelimit/test_limiter.py::test_"
SCHEDULER: Final = "ratelimit/test_scheduler.py::test_"
DISPATCH: Final = "core/test_dispatch.py::test_"
TOKENS: Final = "core/test_tokens.py::test_"
UPSTREAM: Final = "core/test_upstream.py::test_"
POOL: Final = "core/test_pool.py::test_"
PUSH: Final = "backfill/test_push.py::test_"
PULL: Final = "backfill/test_pull.py::test_"
CRASH: Final = "backfill/test_crash.py::test_"
JOURNAL: Final = "backfill/test_journal.py::test_"
REDIS: Final = "stores/test_redis.py::test_"
SHARED: Final = "stores/test_shared.py::test_"
OUTAGE: Final = "stores/test_outage.py::test_"
NOT_HERE: Final = "hardening/test_not_here.py::test_"
SUPPLY: Final = "hardening/test_supply.py::test_"
SEEDS: Final = "hardening/test_simulation.py::test_simulation_keeps_all_promises"
DO_TOKENS: Final = "vendors/digital_onboarding/test_tokens.py::test_"
DO_ENDPOINT: Final = "vendors/digital_onboarding/test_token_endpoint.py::test_"


def tests(prefix: str, *names: str) -> tuple[str, ...]:
    """*names* below one prefix."""
    return tuple(prefix + name for name in names)


# fmt: off
CONNECTION: Final = (
    Hazard(1, "The server closes a connection as it is used again",
           "Repeatable calls do not notice; a lost creation is told, not repeated.",
           (*tests(TRANSPORT, "a_stale_connection_is_survived"), PASSES)),
    Hazard(2, "Not sent, or maybe sent",
           "Every silence says which; only what was certainly not sent is always repeated.",
           (FAULTS, *tests(TRANSPORT, "nobody_listens", "a_connection_that_never_comes_about"))),
    Hazard(3, "The HTTP library resends on its own",
           "Its resend is refused: permits, attempts and requests on the wire are as many.",
           (*tests(UPSTREAM, "aiohttp_resends_by_itself"),
            *tests(TRANSPORT, "a_dropped_connection_costs_one_request_each"))),
    Hazard(4, "Idle connections outlive the server's patience",
           "They are kept for 4 s, below the 5 s of common servers; one that is closed all the "
           "same costs a repeatable call nothing.",
           tests(TRANSPORT, "a_stale_connection_is_survived")),
    Hazard(5, "A read timer runs on while a connection idles",
           "No timer of the HTTP library's is used for reading: each attempt has its own.",
           tests("core/test_timeouts.py::test_", "each_call_ends_at_its_own_time")),
    Hazard(6, "A name does not resolve", "`ConnectError`, nothing was sent, repeated.",
           tests(TRANSPORT, "a_name_that_does_not_resolve")),
    Hazard(7, "A certificate is expired, self-signed or another host's",
           "`TLSError` after one attempt, before anything is sent; verification stays on.",
           ("hardening/test_faults.py::test_invalid_certificate_ends_the_call_unsent",)),
    Hazard(8, "The machine has no store of authorities",
           "The error names `SSL_CERT_FILE`; `asyncclients doctor` looks at the store.",
           (*tests(TRANSPORT, "a_certificate_that_nobody_vouches_for"),
            *tests("cli/test_doctor.py::test_", "a_machine_that_is_fit"))),
    Hazard(9, "Proxies and logins of the environment", "They are not asked.",
           tests(TRANSPORT, "proxies_of_the_environment_are_not_asked")),
    Hazard(10, "Answers that drip", "An attempt ends at its time, however busy the line.",
           (FAULTS,)),
    Hazard(11, "Headers or bodies without end",
           "Headers end in `DecodeError`, bodies in `ResponseTooLargeError` at the cap.", (FAULTS,)),
    Hazard(12, "Decompression bombs", "Decompressed bytes are counted as they come.",
           (FAULTS, *tests(TRANSPORT, "a_bomb_is_not_unpacked"))),
    Hazard(13, "A second answer on one connection", "It is given to nobody.",
           ("hardening/test_faults.py::test_second_response_is_discarded",
            *tests(UPSTREAM, "aiohttp_gives_a_stray_answer_to_the_next_request"))),
    Hazard(14, "Line breaks in what callers give",
           "Refused before anything is sent, in header, path and method.",
           tests("hardening/test_strings.py::test_", "header_is_sent_exactly_or_rejected", "path_stays_below_the_base_or_is_rejected",
                 "method_is_known_or_rejected")),
    Hazard(15, "The server answers before the body is sent",
           "Its answer is what the call says.",
           ("hardening/test_faults.py::test_early_response_ends_an_upload",
            *tests("vendors/intempt/test_upload_failures.py::test_",
                   "an_early_no_is_heard_while_the_file_is_still_going"))),
    Hazard(16, "A body cut short that has no length", "It is no JSON: `DecodeError`.", (FAULTS,)),
    Hazard(17, "A compressed body cut short", "It is no JSON: `DecodeError`.", (FAULTS,)),
    Hazard(18, "A page of HTML with status 200",
           "`DecodeError` with its first words, also where no body is expected.",
           (FAULTS, *tests("vendors/emma/test_client.py::test_", "a_page_of_markup_is_no_delete"),
            *tests("vendors/intempt/test_client.py::test_", "a_page_of_markup_is_no_insert"))),
    Hazard(19, "Bad encodings and hostile JSON", "Any bytes are a value or `DecodeError`.",
           (FAULTS, "core/test_codec.py::test_any_bytes_are_a_value_or_a_decode_error")),
    Hazard(20, "Huge answers block the loop", "What is long is decoded in a thread.",
           tests(DISPATCH, "a_large_body_is_decoded_off_the_loop")),
)
LIMITS: Final = (
    Hazard(21, "Absurd Retry-After",
           "A strict grammar: any text is a finite wait or none; a long one raises at once.",
           (FAULTS, *tests("ratelimit/test_ratelimit_headers.py::test_", "retry_after",
                           "any_text_is_a_finite_wait_or_none"))),
    Hazard(22, "Refusals that name no time", "The server is asked ever less.",
           tests(LIMITER, "a_server_that_always_refuses_is_asked_ever_less")),
    Hazard(23, "One call backs off, the others go on", "A refusal pauses the whole scope.",
           (*tests(DISPATCH, "a_refusal_holds_back_everyone"),
            *tests(SHARED, "a_refusal_is_heeded_by_all"))),
    Hazard(24, "Retries multiply the load in an outage",
           "Attempts are bounded and stay within the quota; a backfill waits for the vendor.",
           (*tests("core/test_retry.py::test_", "repetition_ends"),
            *tests(PUSH, "ten_minutes_away_cost_no_row"))),
    Hazard(25, "Retries within retries",
           "One owner: the library's resend is refused, and `attempts` counts all requests.",
           tests(DISPATCH, "attempts_count_all_requests", "one_attempt_means_one_request")),
    Hazard(26, "Waiting with a slot or lock in hand", "Nothing is held between attempts.",
           (*tests("test_middleware.py::test_", "waiting_request_holds_no_connection"),
            SEEDS)),
    Hazard(27, "The wall clock jumps",
           "Durations are of the loop's clock; a date counts against the answer's own date.",
           (SEEDS, *tests(LIMITER, "a_clock_that_stands_still_or_jumps"),
            *tests("ratelimit/test_ratelimit_headers.py::test_", "a_date_without_a_readable_date_is_compared_with_our_clock"),
            *tests("stores/test_files.py::test_",
                   "a_clock_set_back_does_not_make_a_token_immortal"))),
    Hazard(28, "The machine sleeps while a token expires", "A 401 renews it, once.",
           tests(DO_TOKENS, "a_thousand_calls_on_a_revoked_token_ask_for_one")),
    Hazard(29, "Workers whose clocks differ",
           "Shared windows are kept by the store's clock; where that one is set, the window "
           "counts as spent.",
           (*tests(OUTAGE, "the_clock_never_runs_ahead"),
            "stores/test_clocks.py::test_the_store_s_clock_is_set",
            "stores/test_processes.py::test_four_processes_on_two_a_second")),
    Hazard(30, "Windows whose edges nobody knows",
           "No more than the limit arrives in any window, wherever it begins.",
           (*tests(LIMITER, "exact_never_lets_more_than_n_arrive_in_any_window"),
            "simulator/test_simulate.py::test_exact_is_never_rejected_long",
            SEEDS)),
    Hazard(31, "A cancelled waiter keeps its slot", "It costs nothing, at any instant.",
           (*tests(SCHEDULER, "a_cancelled_waiter_costs_nothing", "nothing_is_lost_in_any_order"),
            "hardening/test_interruptions.py::test_interrupted_queued_call_delays_no_other")),
    Hazard(32, "A backfill starves users", "Users go first, and background keeps a tenth.",
           tests(SCHEDULER, "interactive_goes_first", "background_survives_a_flood")),
    Hazard(33, "Timeouts that count the queue", "They count the wire; the deadline counts all.",
           (*tests(POOL, "a_crowd_times_out_nowhere"),
            "core/test_timeouts.py::test_a_timeout_does_not_count_the_queue")),
    Hazard(34, "Backoff overflows", "Waits grow and are capped.",
           tests("core/test_retry.py::test_", "waits_grow_and_are_capped")),
    Hazard(35, "A wait longer than the deadline", "Raised at once, with what was asked.",
           tests(DISPATCH, "a_wait_beyond_the_deadline_raises_at_once")),
)
WRITES: Final = (
    Hazard(36, "A creation whose answer is lost",
           "`OutcomeUnknownError`, never a second request; a push lists the row as unknown.",
           (FAULTS, SEEDS, *tests(PUSH, "lost_answers_are_listed_and_left"))),
    Hazard(37, "A key for each attempt instead of each operation",
           "None of the five vendors takes idempotency keys: the endpoint says what may be "
           "repeated, and the journal what was sent.",
           tests(CRASH, "a_killed_push_sends_no_row_twice")),
    Hazard(38, "A key used for two bodies",
           "None of the five vendors takes such keys, and no operation sends one.",
           tests(NOT_HERE, "requests_have_no_idempotency_key")),
    Hazard(39, "A gateway's 502 or 504 after the work was done",
           "Read as maybe sent: unknown for what must not be repeated.", (FAULTS,)),
    Hazard(40, "A write is cancelled",
           "What was on the wire is unknown unless its answer came; it is never sent again unasked.",
           tests(PUSH, "cancelled_it_lands_what_flies", "cancelled_twice_it_does_not_wait")),
    Hazard(41, "A batch fails in part",
           "A batch is halved until the bad row is alone; who was left out is seen.",
           (*tests(PUSH, "a_poisoned_batch_is_halved"),
            "vendors/digital_onboarding/test_client.py::test_who_is_left_out_of_a_batch_is_seen")),
    Hazard(42, "One row that always fails", "It is written down, and the run goes on.",
           tests(PUSH, "a_row_that_always_breaks_the_vendor_is_isolated")),
    Hazard(43, "Jobs to be polled",
           "None of the five vendors answers with a job; a 202 that names one is told, not "
           "taken for done, and not polled.",
           tests(NOT_HERE, "202_with_a_job_is_reported_after_one_request")),
    Hazard(44, "Two processes do one job", "The second is told who has the state file.",
           tests(JOURNAL, "the_second_is_told_who_the_first_is")),
)
LOGIN: Final = (
    Hazard(45, "A stampede for a token", "A thousand calls ask once.",
           tests(DO_TOKENS, "a_thousand_first_calls_ask_for_one_token")),
    Hazard(46, "Late 401s throw the new token away", "Only the token that failed is forgotten.",
           tests(TOKENS, "five_hundred_refusals_of_one_token_cost_one_request")),
    Hazard(47, "A new token is refused as well", "Two calls, two token requests, then an error.",
           tests(DO_TOKENS, "a_server_that_always_says_401_sees_two_calls")),
    Hazard(48, "403, or a 401 about something else", "No token is renewed for those.",
           tests(DO_TOKENS, "a_403_never_renews", "a_401_that_names_another_error_is_final")),
    Hazard(49, "The token endpoint is down", "The token in hand serves until it expires.",
           tests(DO_ENDPOINT, "an_outage_of_the_token_endpoint_fails_no_call")),
    Hazard(50, "Strange lifetimes", "Missing, zero, text or huge: all are survived.",
           tests(DO_ENDPOINT, "a_strange_lifetime_is_survived")),
    Hazard(51, "A token expires on its way", "Renewed ahead; checked at the instant of sending.",
           tests(DO_TOKENS, "a_call_sends_the_token_that_is_good_when_its_turn_comes")),
    Hazard(52, "The caller who asks is cancelled", "Those who wait with it get the token.",
           tests(DO_ENDPOINT, "a_cancelled_leader_takes_nobody_down")),
    Hazard(53, "Tokens on disk", "The file is its owner's alone and names no credential.",
           tests("stores/test_files.py::test_", "the_file_is_its_owners_alone", "keys_do_not_mix",
                 "the_file_names_no_credential")),
    Hazard(54, "Credentials in logs, errors and tracebacks",
           "In none of them, on any way to fail: canaries are searched for.",
           (FAULTS, SEEDS,
            *tests("contract/test_secrets.py::test_", "echoed_credential_is_redacted",
                   "connection_error_shows_no_credential"),
            *tests("integrations/test_opentelemetry.py::test_",
                   "nothing_of_a_request_is_exported_but_what_is_allowed"))),
    Hazard(55, "A redirect takes the credential along", "Redirects are not followed.",
           (FAULTS, *tests(TRANSPORT, "a_redirect_carries_nothing_away"),
            *tests(UPSTREAM, "aiohttp_carries_keys_to_another_origin"))),
    Hazard(56, "A link in an answer leads elsewhere",
           "Links are not followed but to upload a file, without any credential.",
           tests("vendors/intempt/test_upload_failures.py::test_",
                 "a_link_that_is_not_https_gets_no_file")),
    Hazard(57, "An address that gives the key away", "Https, or this machine; else refused.",
           tests("test_base_url.py::test_", "base_url_error_names_origin_and_remedy")),
    Hazard(58, "Cookies and answers of another customer", "Sessions are one for each credential.",
           tests(POOL, "cookies_never_cross", "answers_never_cross_credentials")),
)
INPUT: Final = (
    Hazard(59, "Ids that change the path", "One segment that decodes to the id, or refused.",
           tests("core/test_endpoint.py::test_", "an_id_is_refused_or_is_exactly_one_segment")),
    Hazard(60, "Values that change the query or form", "Parsed again they are the same.",
           ("core/test_codec.py::test_a_query_says_what_it_was_given",
            "hardening/test_strings.py::test_json_text_is_sent_exactly_or_rejected")),
    Hazard(61, "What the vendor holds is hostile",
           "Values are passed on unchanged, and none becomes a path or a statement. A CSV file "
           "for a spreadsheet may hold a formula that a customer typed: that is the reader's to "
           "know.",
           tests("hardening/test_hostile.py::test_", "pull_writes_hostile_values_unchanged",
                 "push_sends_hostile_values_unchanged")),
    Hazard(62, "Reading state runs code", "No pickle, no eval: state is JSON and SQLite.",
           ("test_house.py::test_the_package_keeps",)),
)
LIFE: Final = (
    Hazard(63, "Cancellation at any await",
           "Slots, sockets, tasks, tokens and state files come back, from every point.",
           (CUTS, CUT_JOBS, "hardening/test_interruptions.py::test_every_interrupted_operation_releases_everything")),
    Hazard(64, "A cancellation is swallowed", "A cancelled call ends as cancelled.",
           (CUTS, "core/test_timeouts.py::test_cancelled_as_the_time_is_over")),
    Hazard(65, "Another event loop", "`WrongEventLoopError`, with what to do.",
           tests(POOL, "a_pool_belongs_to_the_loop_of_its_first_use")),
    Hazard(66, "A fork", "A pool used before is refused in the child; the parent's goes on.",
           tests("integrations/test_fork.py::test_",
                 "a_pool_used_before_the_fork_is_refused_in_the_child")),
    Hazard(67, "Another thread", "Told at once.", tests(POOL, "another_thread_is_told_at_once")),
    Hazard(68, "Closed while in use, twice, or never", "Waiting calls end; nothing is left.",
           tests(POOL, "closing_ends_waiting_calls", "closing_leaves_no_task_or_socket")),
    Hazard(69, "A listing that is left early", "Everything is released by the page.",
           tests("contract/test_answers.py::test_", "list_break_releases_everything")),
    Hazard(70, "Tasks without an owner", "What the loop complains of fails every test.",
           (CUTS, FAULTS)),
    Hazard(71, "Blocking the loop", "Files, SQLite and long JSON have their threads.",
           ("stores/test_files.py::test_the_loop_goes_on_while_the_disk_is_slow",)),
    Hazard(72, "Context of one caller in another's call", "Each call runs in its caller's.",
           (*tests(DISPATCH, "each_call_runs_in_its_caller_s_context"),
            *tests(TOKENS, "the_request_runs_in_nobodys_lane"))),
    Hazard(73, "Other loops and builds of Python",
           "Nothing but the virtual clock looks into asyncio's own loop; uvloop and other selectors "
           "do all of the work. Tested on CPython 3.11.",
           tests("hardening/test_loops.py::test_", "other_loops_do_all_work")),
)
BACKFILL: Final = (
    Hazard(74, "Pages shift while data changes",
           "What a deletion hides is read again; what comes twice is written once.",
           tests(PULL, "what_a_deletion_hides_is_found", "what_comes_twice_is_written_once")),
    Hazard(75, "Ties in the order", "Items are told apart by their ids, not by their order.",
           tests(PULL, "what_comes_twice_is_written_once")),
    Hazard(76, "A listing that repeats", "`PaginationError`, for pages in a circle as for one.",
           tests("test_paging.py::test_", "pager_rejects_repeated_items",
                 "pager_rejects_a_cycle_of_pages")),
    Hazard(77, "A listing that ends early", "Compared with the vendor's count, or said so.",
           tests(PULL, "short_lists", "without_a_count_the_report_says_so")),
    Hazard(78, "Killed at any instant", "Nothing is lost, nothing sent or written twice.",
           (SEEDS, *tests(CRASH, "a_killed_push_sends_no_row_twice",
                          "a_killed_pull_has_exactly_the_servers_items"))),
    Hazard(79, "State that did not reach the disk, or was damaged there",
           "Each commit is synced, by one connection; blobs carry checksums.",
           ("hardening/test_damage.py::test_damaged_state_file_is_rejected_or_harmless",
            *tests(JOURNAL, "what_is_saved_is_there_again", "damage_is_told"))),
    Hazard(80, "The disk is full", "It stops before the next send, and resumes.",
           (*tests(PUSH, "a_full_disk_stops_before_the_next_send"),
            *tests(PULL, "a_full_disk"))),
    Hazard(81, "Types change midway",
           "The row or item is written down as it came, and the run goes on, up to a share.",
           (*tests("backfill/test_drift.py::test_", "a_field_that_changes_its_type_costs_that_item",
                   "a_page_of_which_nothing_can_be_read_is_set_aside", "a_tenth_is_too_much"),
            *tests(PUSH, "a_wrong_type_far_down_is_one_rows_fault",
                   "too_many_failures_stop_the_run_early"),
            "core/test_codec.py::test_unknown_fields_never_fail")),
    Hazard(82, "State of another version", "Any other is refused, untouched.",
           tests(JOURNAL, "another_format_is_refused_untouched")),
    Hazard(83, "A slow sink fills the memory", "Pages are fetched ahead, and not too far.",
           tests(PULL, "pages_are_fetched_ahead_and_not_too_far")),
    Hazard(84, "Cursors that expire",
           "The listings here are by page number: a resumed pull goes back to known ground.",
           tests(PULL, "a_resumed_pull_goes_back_to_known_ground")),
)
STORE: Final = (
    Hazard(85, "The shared store is down", "A safe share of the quota, a pause, or local: yours.",
           (SEEDS, *tests(OUTAGE, "safe_share_stays_inside_the_quota_and_goes_on",
                          "pause_sends_nothing_and_then_goes_on",
                          "a_deadline_holds_while_the_store_is_silent"),
            "stores/test_processes.py::test_the_store_dies_under_four_processes")),
    Hazard(86, "The store's library asks twice", "A claim counts once.",
           (*tests(REDIS, "a_lost_answer_is_not_asked_again_by_the_library"),
            *tests(OUTAGE, "lost_answers_count_once"))),
    Hazard(87, "A cancelled command shifts the answers", "It does not.",
           tests(REDIS, "a_cancelled_command_does_not_shift_the_answers")),
    Hazard(88, "The store forgets", "What is gone counts as spent.",
           (*tests(REDIS, "flushall_counts_as_a_spent_window", "an_evicting_store_is_warned_of"),
            *tests(OUTAGE, "a_store_that_forgot_everything_counts_as_spent",
                   "an_idle_process_is_the_first_to_meet_an_empty_store"),
            SEEDS)),
    Hazard(89, "Scripts are gone, keys in other slots", "Nobody's trouble.",
           tests(REDIS, "forgotten_scripts_are_nobody_s_trouble",
                 "all_keys_of_a_scope_live_in_one_slot_of_a_cluster")),
    Hazard(90, "Locks that nobody takes back", "What a dead process held ends by itself.",
           tests("stores/test_ledger.py::test_", "a_dead_process_s_slot_ends_by_itself")),
    Hazard(91, "A long task is given to a second worker",
           "A worker that was only asleep sends nothing twice.",
           ("integrations/test_dbos.py::test_a_worker_that_was_only_asleep_sends_nothing_twice",)),
    Hazard(92, "Workers come and go", "Their shares follow.",
           (*tests(SHARED, "from_two_to_twenty_to_three_processes"),
            "stores/test_processes.py::test_they_use_it_also_while_they_join_leave_and_die")),
)
OPERATION: Final = (
    Hazard(93, "Dependencies with known holes",
           "aiohttp 3.14.5 at least; `nox -s audit` asks for advisories, `nox -s lowest` "
           "tests the lowest versions.",
           tests(SUPPLY, "dependencies_exclude_known_vulnerabilities", "dependencies_have_lower_bounds")),
    Hazard(94, "The slow parser of the HTTP library", "`asyncclients doctor` looks.",
           tests("cli/test_doctor.py::test_", "a_machine_that_is_fit")),
    Hazard(95, "The parser is lenient with answers",
           "What is no HTTP ends in an error, and what remains on a connection is given to nobody.",
           (FAULTS, "hardening/test_faults.py::test_second_response_is_discarded")),
    Hazard(96, "Metrics without bound", "Operations and templates are exported, never addresses.",
           tests("integrations/test_opentelemetry.py::test_",
                 "nothing_of_a_request_is_exported_but_what_is_allowed")),
    Hazard(97, "Tests that reach real vendors, sandboxes that strangers reach",
           "Loopback only; vendors' hosts can be blocked in tests.",
           (*tests("sandbox/test_sandbox.py::test_", "sandbox_binds_to_loopback_only"),
            *tests("testing/test_network.py::test_", "network_block_rejects_vendor_hosts"))),
    Hazard(98, "More dependencies than needed",
           "Four, each of them used; all else is an extra.",
           tests(SUPPLY, "dependencies_are_imported")),
)
# fmt: on
SECTIONS: Final = {
    "Connection and transport": CONNECTION,
    "Limits, retries and time": LIMITS,
    "Writes": WRITES,
    "Login and credentials": LOGIN,
    "Input": INPUT,
    "Life in an event loop": LIFE,
    "Listings and backfills": BACKFILL,
    "Quotas shared by processes": STORE,
    "Dependencies and operation": OPERATION,
}
