"""Access to stores, and their errors in words."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from bloomery_model.stores import S3Access, StoreError, open_folder

ANONYMOUS = S3Access.from_environment({})


@pytest.mark.parametrize(
    ("environment", "region"),
    [
        ({}, "us-east-1"),
        ({"AWS_DEFAULT_REGION": "eu-north-1"}, "eu-north-1"),
        ({"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-north-1"}, "eu-west-1"),
        ({"AWS_REGION": ""}, "us-east-1"),
    ],
)
def test_region_falls_back(environment: dict[str, str], region: str) -> None:
    assert S3Access.from_environment(environment).region == region


def test_prefix_separates_the_keys_of_a_source() -> None:
    environment = {"AWS_ACCESS_KEY_ID": "k", "SOURCE_AWS_SESSION_TOKEN": "t"}
    access = S3Access.from_environment(environment, "SOURCE_")
    assert (access.key_id, access.session_token) == (None, "t")


def test_local_folder_is_listed_read_and_downloaded(tmp_path: Path) -> None:
    folder = open_folder((tmp_path / "a folder").as_uri(), ANONYMOUS, create=True)
    folder.write("deep/file", b"content")
    assert [(file.path, file.size) for file in folder.list()] == [("deep/file", 7)]
    assert (folder.read("deep/file"), folder.read_if_there("other")) == (b"content", None)
    assert folder.download("deep/file", tmp_path / "copy") == hashlib.sha256(b"content").hexdigest()
    assert not folder.is_remote
    with pytest.raises(FileNotFoundError):
        folder.size_of("other")


def test_new_file_is_not_written_over(tmp_path: Path) -> None:
    folder = open_folder(f"file://{tmp_path}/out", S3Access.from_environment({}), create=True)
    folder.write_new("a/b", b"first")
    folder.write_new("a/b", b"second")
    assert folder.read("a/b") == b"first"


@pytest.mark.parametrize(
    ("uri", "environment", "reason", "words"),
    [
        ("file:///no/such/folder", {}, "SourceNotFound", "there is no folder file:///no/such/folder"),
        ("s3://a/b", {"AWS_ENDPOINT_URL": "http://store/path"}, "InvalidEndpoint", "must be http"),
    ],
)
def test_wrong_address_is_refused_in_words(uri: str, environment: dict[str, str], reason: str, words: str) -> None:
    with pytest.raises(StoreError, match=words) as refused:
        open_folder(uri, S3Access.from_environment(environment))
    assert (refused.value.kind, refused.value.reason) == ("Refused", reason)


def test_errors_become_those_of_the_program() -> None:
    class OwnError(Exception):
        """A program's own error."""

    with pytest.raises(OwnError, match="SourceNotFound"):
        open_folder("file:///no/such/folder", ANONYMOUS, convert_error=lambda error: OwnError(error.reason))


VARIABLES = {
    "AWS_ENDPOINT_URL": "http://localhost:1",
    "AWS_REGION": "eu-west-1",
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_SESSION_TOKEN": "token",
}


@pytest.mark.parametrize("name", VARIABLES)
@pytest.mark.parametrize("end", ["\n", " ", "\r\n", "\t"])
def test_trailing_white_space_of_a_value_is_ignored(name: str, end: str) -> None:
    changed = S3Access.from_environment(VARIABLES | {name: f" {VARIABLES[name]}{end}"})
    assert changed == S3Access.from_environment(VARIABLES)


@pytest.mark.parametrize("name", [name for name in VARIABLES if name != "AWS_ENDPOINT_URL"])
@pytest.mark.parametrize("text", ["a\nb", "a b", "a\u200bb", "\ufeffab"])
def test_value_that_no_request_can_carry_is_named_and_not_shown(name: str, text: str) -> None:
    access = S3Access.from_environment(VARIABLES | {name: text})
    with pytest.raises(StoreError, match=f"{name} contains a space") as refused:
        open_folder("s3://bucket/folder", access)
    assert (refused.value.kind, refused.value.reason) == ("Refused", "InvalidCredentials")
    assert text not in str(refused.value)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"AWS_ENDPOINT_URL": "s3.example.com"}, "AWS_ENDPOINT_URL must be http"),
        ({"AWS_ENDPOINT_URL": "https://s3.example.com:port"}, "AWS_ENDPOINT_URL must be http"),
        ({"AWS_ENDPOINT_URL": "https://key@s3.example.com"}, "AWS_ENDPOINT_URL must be http"),
        ({"AWS_ENDPOINT_URL": "https://s3.example.com?a=b"}, "AWS_ENDPOINT_URL must be http"),
        ({"AWS_ENDPOINT_URL": "https://fd00::1"}, "AWS_ENDPOINT_URL must be http"),
        ({"AWS_S3_ADDRESSING_STYLE": "virtual-host"}, "must be path, virtual or auto"),
        (
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9000", "AWS_S3_ADDRESSING_STYLE": "virtual"},
            "not before an IP address",
        ),
    ],
)
def test_value_that_cannot_be_right_is_refused_before_a_request(variables: dict[str, str], words: str) -> None:
    with pytest.raises(StoreError, match=words):
        open_folder("s3://bucket/folder", S3Access.from_environment(VARIABLES | variables))


def test_endpoint_of_the_service_wins_over_the_general_one() -> None:
    variables = VARIABLES | {"AWS_ENDPOINT_URL_S3": "http://s3:2/"}
    assert S3Access.from_environment(variables).endpoint == "http://s3:2/"
