"""What every test shares: one event loop family, and property tests that neither the clock nor chance can fail.

And what makes a run of all of them shorter, without a difference to any: how many are run at once, which come first,
and what is done once in place of a thousand times.
"""

import functools
import gc
import os
import ssl

import httpcore2
import pytest
from hypothesis import settings

from fidelity_checklist import collecting
from support.long_files import LONG_FILES

settings.register_profile("project", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, print_blob=True)
settings.load_profile("project")

# Every client reads the system's certificates, which takes longer than most tests, and hardly one of them speaks TLS.
_read_certificates = httpcore2.default_ssl_context


@functools.cache
def _read_once(trust_env: bool, *_places: object) -> ssl.SSLContext:
    return _read_certificates(_trust_env=trust_env)


def _usual_context(*, _trust_env: bool = True) -> ssl.SSLContext:
    places = (os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"), ssl.get_default_verify_paths())
    return _read_once(_trust_env, *places)


httpcore2.default_ssl_context = _usual_context


@pytest.fixture
def anyio_backend() -> str:
    """Run asynchronous tests on asyncio, the only family that is supported."""
    return "asyncio"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Note what the tests prove of the fidelity checklist, before any is deselected."""
    collecting.note(config, items)
    if hasattr(config, "workerinput"):  # one of several processes, which take up files in this order
        order = {file: number for number, file in enumerate(LONG_FILES)}
        items.sort(key=lambda item: order.get(item.nodeid.partition("::")[0], len(order)))


def pytest_collection_finish() -> None:
    """Spare the garbage collector what stays to the end: modules and tests, half a million objects."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores: some test always waits for a server to start, or to end."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (cores or 1) + 1
