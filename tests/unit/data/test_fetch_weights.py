"""Fetching weights: checksums, records, and a clear word where there is no network."""

import hashlib
import io
import re
from pathlib import Path

import pytest

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import sha256, verify_recorded_sha256
from workflow_scripts.data import fetch_weights
from workflow_scripts.runtime.cli import run

CONTENT = b"\x80\x02" + b"weights" * 1000  # begins as a pickle does, and is never opened
DIGEST = hashlib.sha256(CONTENT).hexdigest()
ZEROS = "0" * 64


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "server" / "original.pth"
    file.parent.mkdir()
    file.write_bytes(CONTENT)
    return file


def fetch(url: str, digest: str, output: Path) -> None:
    words = ["--url", url, "--sha256", digest, "--output-weights", str(output)]
    fetch_weights.main(fetch_weights.parser().parse_args(words))


def test_fetches_what_the_checksum_says(source, tmp_path, capsys):
    output = tmp_path / "weights" / "net.pth"
    fetch(source.as_uri(), DIGEST, output)
    assert output.read_bytes() == CONTENT
    assert "WARNING" not in capsys.readouterr().err


def test_a_wrong_checksum_leaves_nothing(source, tmp_path):
    output = tmp_path / "net.pth"
    with pytest.raises(UserError, match=f"{DIGEST} instead of {ZEROS}"):
        fetch(source.as_uri(), ZEROS, output)
    assert not output.exists()
    assert list(tmp_path.glob("*net*")) + list(tmp_path.glob(".*")) == []


def test_a_file_that_is_there_is_checked_and_not_fetched_again(source, tmp_path, capsys):
    output = tmp_path / "net.pth"
    output.write_bytes(CONTENT)
    fetch("https://unreachable.invalid/net.pth", DIGEST, output)
    assert "there already" in capsys.readouterr().err
    output.write_bytes(b"something else")
    with pytest.raises(UserError, match="instead of"):
        fetch(source.as_uri(), DIGEST, output)
    assert output.read_bytes() == b"something else"


def test_an_unknown_checksum_is_recorded_and_holds_from_then_on(source, tmp_path, capsys):
    output = tmp_path / "net.pth"
    record = tmp_path / "net.pth.sha256"
    fetch(source.as_uri(), "", output)
    assert "WARNING: the config gives no SHA-256" in capsys.readouterr().err
    # The format of sha256sum -c.
    assert record.read_text() == f"{DIGEST}  net.pth\n"
    fetch(source.as_uri(), "", output)
    assert "WARNING" not in capsys.readouterr().err
    verify_recorded_sha256(output)

    output.write_bytes(b"something else")
    with pytest.raises(UserError, match="has changed since"):
        verify_recorded_sha256(output)
    with pytest.raises(UserError, match="instead of"):
        fetch(source.as_uri(), "", output)
    # Another file at the URL is refused too, also when the local one is gone.
    output.unlink()
    source.write_bytes(b"\x80\x02a new version")
    with pytest.raises(UserError, match="instead of"):
        fetch(source.as_uri(), "", output)
    assert not output.exists()
    # The config overrules the record.
    fetch(source.as_uri(), sha256(source), output)
    verify_recorded_sha256(output)


@pytest.mark.parametrize("make", [Path.mkdir, lambda record: record.write_bytes(b"\x80\xff")])
def test_a_record_that_cannot_be_read_is_said_before_anything_is_fetched(source, tmp_path, make):
    make(tmp_path / "weights.pth.sha256")
    with pytest.raises(UserError, match=r"weights.pth.sha256 (cannot be read|is not the record of a checksum)"):
        fetch(source.as_uri(), "", tmp_path / "weights.pth")
    assert not (tmp_path / "weights.pth").exists()


def test_the_digits_in_torchvisions_names_count(source, tmp_path):
    fetch(source.as_uri(), "", tmp_path / f"resnet18-{DIGEST[:8]}.pth")
    with pytest.raises(UserError, match="not one beginning with f37072fd"):
        fetch(source.as_uri(), "", tmp_path / "resnet18-f37072fd.pth")
    assert not (tmp_path / "resnet18-f37072fd.pth").exists()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://unreachable.invalid/net.pth", "cannot be fetched"),
        ("https://127.0.0.1:1/net.pth", "cannot be fetched"),
        ("https://127.0.0.1:x/net.pth", "cannot be fetched"),
        ("https://[/net.pth", "only https"),
        ("https://a b/net.pth", "cannot be fetched"),
        ("https://" + "a" * 300 + ".invalid/net.pth", "cannot be fetched"),
        ("https://é.invalid/né.pth", "cannot be fetched"),
        ("file:///absent/net.pth", "cannot be fetched"),
        ("http://example.org/net.pth", "only https"),
        ("weights/net.pth", "only https"),
        ("", "no url"),
    ],
)
def test_what_cannot_be_fetched_is_one_clear_sentence(tmp_path, capsys, url, reason):
    output = tmp_path / "net.pth"
    with pytest.raises(SystemExit) as end:
        run(fetch_weights.main, fetch_weights.parser(), ["--url", url, "--output-weights", str(output)])
    assert end.value.code == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: ")
    assert reason in message
    assert re.search(rf"Supply {re.escape(str(output))} manually", message)
    assert url in message
    assert not output.exists()


def test_a_checksum_must_look_like_one(source, tmp_path):
    with pytest.raises(UserError, match="64 hexadecimal digits"):
        fetch(source.as_uri(), "f37072fd", tmp_path / "net.pth")


@pytest.mark.parametrize(
    "page",
    [b"<!DOCTYPE html><html>log in</html>", b"version https://git-lfs.github.com/spec/v1", b'{"error": 404}', b""],
)
def test_a_page_instead_of_weights_is_refused_and_not_recorded(source, tmp_path, page):
    source.write_bytes(page)
    output = tmp_path / "weights" / "net.pth"
    with pytest.raises(UserError, match=r"net\.pth is no file of weights"):
        fetch(source.as_uri(), "", output)
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize("length", ["-5", "many", "1e9", "7, 7", ""])
def test_an_odd_length_in_the_header_is_no_error(source, tmp_path, monkeypatch, length):
    class Answer(io.BytesIO):
        url, headers = "https://example.org/net.pth", {"Content-Length": length}

    monkeypatch.setattr("urllib.request.urlopen", lambda _, timeout: Answer(CONTENT))
    fetch("https://example.org/net.pth", DIGEST, tmp_path / "net.pth")
    assert (tmp_path / "net.pth").read_bytes() == CONTENT
