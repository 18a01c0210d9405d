"""The bound on the memory of request bodies."""

import pytest

from llmproxy_asgi.errors import Unavailable
from llmproxy_asgi.execution.bodies import Bodies

MOST = 1_600


def test_more_than_the_bound_is_refused_with_a_wait() -> None:
    """The refusal names the limit, and what was counted before is still held."""
    bodies = Bodies()
    held = bodies.hold("a", MOST)
    held.add(1_200)
    with pytest.raises(Unavailable, match=r"limits\.bodies") as refused:
        held.add(401)
    assert refused.value.status == 503
    assert refused.value.retry_after == 1.0
    assert bodies.total == 1_200


def test_one_caller_leaves_a_quarter_to_those_who_hold_little() -> None:
    """However many uploads one key begins, another's requests go on."""
    bodies = Bodies()
    greedy = [bodies.hold("greedy", MOST) for _ in range(12)]
    for each in greedy:
        each.add(100)
    with pytest.raises(Unavailable):
        bodies.hold("greedy", MOST).add(1)
    other = bodies.hold("other", MOST)
    other.add(200)
    with pytest.raises(Unavailable):
        other.add(1)
    bodies.hold("third", MOST).add(200)
    with pytest.raises(Unavailable):
        bodies.hold("fourth", MOST).add(1)


def test_a_released_body_is_counted_once() -> None:
    """Accept repeated releases of a body, and keep no record of its owner."""
    bodies = Bodies()
    one, two = bodies.hold("a", MOST), bodies.hold("a", MOST)
    one.add(700)
    two.add(500)
    one.release()
    one.release()
    assert bodies.total == 500
    two.release()
    assert bodies.total == 0
    assert not bodies._held
    bodies.hold("a", MOST).add(1_200)
