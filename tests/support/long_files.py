"""The files of tests that take longest, the longest first.

Where several processes share the tests, a file is run by one of them. A long one that comes last is waited for by all,
so these are begun first, and the many short ones fill what is left. No harm is done by an order that is a little off.
"""

LONG_FILES = (
    "tests/e2e/hosts/test_hosts.py",
    "tests/e2e/faults/test_shutdown.py",
    "tests/e2e/test_soak_slice.py",
    "tests/e2e/test_command.py",
    "tests/e2e/faults/test_slow_readers.py",
    "tests/contract/pairs/test_streams.py",
    "tests/e2e/test_page.py",
    "tests/integration/faults/test_rows_streams.py",
    "tests/contract/pairs/test_exchanges.py",
    "tests/contract/pairs/test_errors.py",
    "tests/e2e/test_readme.py",
    "tests/integration/transport/test_ways.py",
    "tests/unit/translators/openai_responses/test_round_trips.py",
    "tests/integration/faults/test_rows_waits.py",
    "tests/unit/translators/test_assemble.py",
    "tests/unit/test_protocols_page.py",
    "tests/unit/test_docs.py",
    "tests/integration/faults/test_rows_framing.py",
    "tests/e2e/faults/test_leaving.py",
    "tests/e2e/faults/test_workers.py",
    "tests/unit/translators/openai_responses/test_stream_decoder.py",
    "tests/integration/corridor/test_routing_and_life.py",
    "tests/unit/translators/anthropic_messages/test_round_trips.py",
    "tests/fuzz/test_fuzz.py",
    "tests/e2e/faults/test_processes.py",
)
