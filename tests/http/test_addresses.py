"""Which addresses are asked, and how they are shown."""

from __future__ import annotations

import socket

import pytest

from cellcode.cli import main
from cellcode.http import Client, Politeness, RemoteError, allow_private, check_url, redact


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/{z}/{x}/{y}",
        "http://localhost:8080/",
        "https://10.1.2.3/",
        "http://192.168.0.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[fd00::1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:a00:1::]/",
        "http://0.0.0.0/",
        "http://2130706433/",
    ],
)
def test_private_addresses_are_refused(url):
    with pytest.raises(RemoteError, match="--allow-private") as caught:
        check_url(url)
    assert caught.value.reason == "private address"
    assert caught.value.lasting
    with pytest.raises(RemoteError, match="--allow-private"):
        Client().get(url)
    check_url(url, allow_private=True)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://example.org/", "gopher://x", "http://", "no address", "http://[x"]
)
def test_other_schemes_are_refused(url):
    with pytest.raises(RemoteError, match="not an http or https address"):
        check_url(url, allow_private=True)


def test_public_addresses_are_not():
    check_url("https://93.184.216.34/x")


def test_name_that_changes_after_the_check(server, monkeypatch):
    """A name server may say a public address when asked first, and a private one when it is connected to."""
    port = server.server.server_address[1]
    answers = iter(["93.184.216.34"])

    def lookup(host, asked_port, *args, **kwargs):
        address = next(answers, "127.0.0.1")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, asked_port or 0))]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    with pytest.raises(RemoteError, match="private address"):
        Client(Politeness(tries=1)).get(f"http://changing.example:{port}/image")
    assert server.asked == []


def test_flag_of_the_command_line(monkeypatch, capsys):
    monkeypatch.delenv("CELLCODE_ALLOW_PRIVATE", raising=False)
    with pytest.raises(SystemExit):
        main(["info", "nothing-there", "--allow-private"])
    check_url("http://127.0.0.1/")
    allow_private(False)
    with pytest.raises(RemoteError):
        check_url("http://127.0.0.1/")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://a.org/x?bbox=1,2,3,4", "https://a.org/x?bbox=1,2,3,4"),
        ("https://a.org/{z}/{x}/{y}.png?apikey=abc&v=1", "https://a.org/{z}/{x}/{y}.png?apikey=***&v=1"),
        ("https://a.org/?access_token=MLY|1|2", "https://a.org/?access_token=***"),
        ("https://me:pass@a.org/x", "https://a.org/x"),
        (
            "https://a.org/?X-Amz-Signature=1&X-Amz-Credential=2",
            "https://a.org/?X-Amz-Signature=***&X-Amz-Credential=***",
        ),
    ],
)
def test_secrets_are_hidden(url, shown):
    assert redact(url) == shown
