"""Whose certificates are believed, and when they are read."""

import ssl
from pathlib import Path

import pytest

from llmproxy_asgi import Gateway
from llmproxy_asgi.transport import Pool, channel


def test_checks_can_be_left_out() -> None:
    """A pool with verification off accepts every certificate; others require one with the right name."""
    sure, careless = (channel._context.__wrapped__(verify) for verify in (True, False))
    assert (sure.verify_mode, sure.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert (careless.verify_mode, careless.check_hostname) == (ssl.CERT_NONE, False)


@pytest.mark.parametrize(("address", "reads"), [("https://upstream.invalid/v1", [True]), ("http://127.0.0.1:9/v1", [])])
def test_certificates_are_read_before_the_first_call(
    address: str, reads: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that is prepared has read the trusted certificates, if an upstream of its own shows one."""
    read: list[bool] = []
    monkeypatch.setattr(channel, "_context", read.append)
    one = {"type": "openai-compatible", "base_url": address, "api_key": "sk-none"}
    Gateway({"providers": {"one": one}, "access": {"mode": "open"}}).prepare()
    assert read == reads


def test_unreadable_certificates_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A host whose certificates cannot be read starts, with a warning that says why."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setattr(channel, "_context", channel._context.__wrapped__)
    Pool().read_trusted()
    assert "the trusted certificates cannot be read: [Errno 2]" in caplog.text
