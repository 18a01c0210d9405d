"""What an adapter says when its framework is missing."""

import importlib
import sys

import pytest


@pytest.mark.parametrize(("adapter", "framework"), [("llmproxy_flask", "flask"), ("llmproxy_fastapi", "fastapi")])
def test_missing_framework_names_the_extra(monkeypatch: pytest.MonkeyPatch, adapter: str, framework: str) -> None:
    """Importing an adapter without its framework says what to install."""
    for name in [name for name in sys.modules if name.partition(".")[0] == adapter]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, framework, None)
    with pytest.raises(ImportError, match=rf'pip install "llmproxy-asgi\[{framework}\]"'):
        importlib.import_module(adapter)


@pytest.mark.parametrize(("adapter", "framework"), [("llmproxy_flask", "flask"), ("llmproxy_fastapi", "fastapi")])
def test_broken_framework_is_not_called_missing(monkeypatch: pytest.MonkeyPatch, adapter: str, framework: str) -> None:
    """A framework that is there but lacks something of its own is not said to be missing."""

    class Broken:
        def find_spec(self, name: str, *_: object) -> None:
            if name == framework:
                raise ModuleNotFoundError("No module named 'its_dependency'", name="its_dependency")

    for name in [name for name in sys.modules if name.partition(".")[0] in {adapter, framework}]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(ModuleNotFoundError, match="its_dependency"):
        importlib.import_module(adapter)
