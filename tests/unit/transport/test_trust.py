"""Whose certificates are believed: the same that httpx2 believes, without the time that it takes to import."""

import os
import ssl
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from llmproxy_asgi import Gateway
from llmproxy_asgi.transport import Pool, channel

FRESH = """
import sys
from llmproxy_asgi.transport.channel import Trust
context = Trust(True).context_now()
print(len(context.get_ca_certs()), "httpx2" in sys.modules)
"""


def ours() -> ssl.SSLContext:
    """What is made for pools that are told nothing."""
    return channel._context.__wrapped__(True)


def beliefs(context: ssl.SSLContext) -> tuple[object, ...]:
    """What two contexts that believe the same have in common."""
    how = (context.verify_mode, context.check_hostname, context.verify_flags, context.minimum_version, context.options)
    return (*how, sorted(each["serialNumber"] for each in context.get_ca_certs()))


@pytest.fixture(params=["nothing", "file", "folder", "a folder without hashes"])
def surroundings(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """An environment that names a file, a folder or nothing, and an OpenSSL whose own folder is of no use."""
    found = ssl.get_default_verify_paths()
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    if request.param == "file":
        file = found.cafile or next((str(each) for each in Path(found.capath or "/").glob("*.crt")), None)
        if file is None:
            pytest.skip("this machine has no file of certificates")
        monkeypatch.setenv("SSL_CERT_FILE", file)
    elif request.param == "folder":
        monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    elif request.param == "a folder without hashes":
        (tmp_path / "README").write_text("")
        useless = found._replace(openssl_cafile=str(tmp_path / "none.pem"), openssl_capath=str(tmp_path))
        monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: useless)
    return str(request.param)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere httpx2 is asked")
def test_the_same_are_believed_as_httpx2_believes(surroundings: str) -> None:
    """Certificates, flags and oldest version are those of httpx2, wherever the trusted ones are found."""
    theirs = httpx2.create_ssl_context()
    made = ours()
    assert made.verify_mode is ssl.CERT_REQUIRED
    assert made.check_hostname
    assert beliefs(made) == beliefs(theirs), surroundings


def test_checks_can_be_left_out() -> None:
    """A pool that is told not to verify believes anybody."""
    context = channel._context.__wrapped__(False)
    assert context.verify_mode is ssl.CERT_NONE
    assert not context.check_hostname


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


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere httpx2 is asked")
def test_unreadable_certificates_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A host whose certificates cannot be read starts, with a warning that says why."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setattr(channel, "_context", channel._context.__wrapped__)
    Pool().read_trusted()
    assert "the trusted certificates cannot be read: [Errno 2]" in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere httpx2 is asked")
def test_tls_needs_no_httpx2() -> None:
    """The first call of an upstream behind TLS does not import httpx2 where OpenSSL knows the trusted certificates."""
    if channel._of_openssl() is None:
        pytest.skip("OpenSSL has no certificates of its own here")
    ended = subprocess.run(
        [sys.executable, "-c", FRESH], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert ended.stdout.split()[1] == "False"
