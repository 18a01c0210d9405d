import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy_asgi.translators.names import CALL_ID, CallIds, DistinctIds, Renamer

OPENAI = re.compile(r"[A-Za-z0-9_-]{1,64}")
GEMINI = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}")
NINE = re.compile(r"[A-Za-z0-9]{9}")

any_name = st.text(st.characters(codec="utf-8"), max_size=80) | st.text("ab._-1", max_size=4)


def renamer() -> Renamer:
    return Renamer(OPENAI, 64)


@given(st.lists(st.tuples(any_name, st.none() | st.sampled_from(["a", "b", "a__b"])), max_size=8))
def test_names_are_legal_different_and_found_again(asked: list[tuple[str, str | None]]) -> None:
    """Every name becomes legal, no two become one, and each is found again with its namespace."""
    for pattern, limit in ((OPENAI, 64), (GEMINI, 128)):
        names = Renamer(pattern, limit)
        given_names = {key: names.outward(*key) for key in asked}
        for (name, namespace), outward in given_names.items():
            assert pattern.fullmatch(outward)
            assert names.outward(name, namespace) == outward
            assert names.inward(outward) == name
            assert names.namespaces.get(outward) == namespace
        assert len(set(given_names.values())) == len(set(asked))
        assert all(outward != name for outward, name in names.table.items())


@given(any_name)
def test_the_same_name_in_every_turn(name: str) -> None:
    """What a name becomes depends on nothing but the name."""
    other = renamer()
    other.outward("something else!")
    assert renamer().outward(name) == other.outward(name)


def test_names_that_look_alike_do_not_depend_on_each_other() -> None:
    """Where a namespace ends and a name begins is part of what a derived name is made of."""
    alike = [("a!", "b"), ("a", "!b")]
    forwards, backwards = renamer(), renamer()
    one = [forwards.outward(name, namespace) for namespace, name in alike]
    other = [backwards.outward(name, namespace) for namespace, name in reversed(alike)]
    assert one == other[::-1]


def test_legal_names_stay() -> None:
    """A name that the upstream takes is not touched and not in the table."""
    names = renamer()
    assert names.outward("get_weather") == "get_weather"
    assert names.table == {}


def test_renamed_tools_can_still_be_read() -> None:
    """The model still sees what the tool is called."""
    outward = renamer().outward("files.read all")
    assert outward.startswith("files_read_all_")
    assert len(renamer().outward("long" * 50)) <= 64


def test_namespaces_are_flattened() -> None:
    """A namespace goes before the name, and comes off again."""
    names = renamer()
    assert names.outward("list", "crm") == "crm__list"
    assert names.outward("list", "shop") == "shop__list"
    assert (names.inward("crm__list"), names.namespaces["crm__list"]) == ("list", "crm")


@pytest.mark.parametrize("legal_first", [True, False])
def test_a_name_that_is_taken_is_not_given_again(*, legal_first: bool) -> None:
    """Who sends an illegal name and the very name derived from it gets two tools, not one."""
    derived = renamer().outward("a b")
    names = renamer()
    for name in (derived, "a b") if legal_first else ("a b", derived):
        names.outward(name)
    assert names.outward("a b") != names.outward(derived)
    assert names.inward(names.outward("a b")) == "a b"
    assert names.inward(names.outward(derived)) == derived


def test_a_limit_without_room_is_refused() -> None:
    """Names too short to be distinct are a bug and raise at once."""
    with pytest.raises(ValueError, match="16"):
        Renamer(OPENAI, 8)


@given(st.lists(any_name, max_size=8))
def test_call_ids_are_legal_different_and_found_again(asked: list[str]) -> None:
    """Every id becomes legal, no two become one, each is found again, and a new call derives the same."""
    for ids, again in (
        (CallIds(), CallIds()),
        (CallIds(NINE, prefix="", size=9), CallIds(NINE, prefix="", size=9)),
    ):
        pattern = CALL_ID if ids.outward("call_1") == "call_1" else NINE
        outward = [ids.outward(call_id) for call_id in asked]
        assert all(pattern.fullmatch(made) for made in outward)
        assert [ids.inward(made) for made in outward] == asked
        assert [again.outward(call_id) for call_id in reversed(asked)] == outward[::-1]


def test_legal_call_ids_stay() -> None:
    """An id that the upstream takes is not touched."""
    ids = CallIds()
    assert ids.outward("toolu_01AbC-x") == "toolu_01AbC-x"
    assert ids.table == {}
    assert re.fullmatch(r"call_[A-Za-z0-9]{24}", ids.outward("functions.f:0"))
    assert list(ids.table.values()) == ["functions.f:0"]


def test_a_call_id_that_is_taken_is_not_given_again() -> None:
    """Two ids of the caller stay two ids."""
    derived = CallIds().outward("functions.f:0")
    ids = CallIds()
    assert ids.outward(derived) == derived
    assert ids.outward("functions.f:0") != derived


def test_ids_of_one_answer_are_given_once() -> None:
    """The upstream's own if it is new, else one made from what is known, the same each time."""

    def given() -> list[str]:
        ids = DistinctIds()
        return [ids.of("a"), ids.of("a", "seed"), ids.of("", "seed"), ids.of(""), ids.of("b")]

    first = given()
    assert first == given()
    assert (first[0], first[4]) == ("a", "b")
    assert len(set(first)) == 5
    assert all(CALL_ID.fullmatch(call_id) for call_id in first)
