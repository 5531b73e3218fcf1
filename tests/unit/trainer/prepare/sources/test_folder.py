"""Folders of an S3 store with keys that are no paths."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

from bloomery_model.sources.folder import FolderSource
from bloomery_model.sources.left_out import LeftOut
from bloomery_model.sources.s3_listing import sign_request
from bloomery_trainer.config import Addition
from bloomery_trainer.errors import TrainerError
from bloomery_trainer.prepare.arrangement import KnownClasses
from bloomery_trainer.prepare.file_table import FileTable
from bloomery_trainer.prepare.layouts import Exclusion, list_source
from bloomery_trainer.storage import S3Access, open_folder

PAGE = 4
CLIENT_PAGE = 1000
"""Keys that the client of stores yields at a time."""


class Bucket(BaseHTTPRequestHandler):
    """The part of S3 that a source needs: pages of keys, and objects."""

    keys: ClassVar[list[str]] = []
    failures: ClassVar[list[int]] = []

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        if "list-type" not in query:
            self._answer(200, unquote(parts.path).encode())
        elif "encoding-type" in query and self.failures:
            status = self.failures.pop()
            self._answer(status, b"", missing_bytes=10 if status == 200 else 0)
        elif parts.path not in ("/raw", "/raw/"):
            self._answer(404, b"<Error><Code>NoSuchBucket</Code></Error>")
        else:
            self._answer(200, self._page(query).encode())

    def _page(self, query: dict[str, str]) -> str:
        keys = [key for key in sorted(self.keys) if key.startswith(query.get("prefix", ""))]
        first = int(query.get("continuation-token", 0))
        is_encoded = "encoding-type" in query
        contents = "".join(
            f"<Contents><Key>{quote(key) if is_encoded else escape(key)}</Key><Size>{len(key)}</Size>"
            f"<ETag>{number}</ETag><LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
            for number, key in enumerate(keys[first : first + PAGE])
        )
        token = f"<NextContinuationToken>{first + PAGE}</NextContinuationToken>" if first + PAGE < len(keys) else ""
        encoding = "<EncodingType>url</EncodingType>" if is_encoded else ""
        return (
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>raw</Name><Prefix></Prefix>'
            f"<KeyCount>{PAGE}</KeyCount><MaxKeys>{PAGE}</MaxKeys><IsTruncated>{str(bool(token)).lower()}</IsTruncated>"
            f"{encoding}{token}{contents}</ListBucketResult>"
        )

    def _answer(self, status: int, body: bytes, *, missing_bytes: int = 0) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) + missing_bytes))
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        del code, size


@pytest.fixture
def source() -> Iterator[FolderSource]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    access = S3Access.from_environment({
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
    })  # fmt: skip
    Bucket.keys, Bucket.failures = [], []
    yield FolderSource(open_folder("s3://raw/data", access), access)
    server.shutdown()
    server.server_close()


GOOD = [f"{name}/{number}.png" for name in ("roses", "tulips", "花卉 1+1%") for number in range(3)]


def fill(*keys: str) -> None:
    Bucket.keys = [f"data/{key}" for key in (*GOOD, *keys)]


def test_bad_key_after_a_page_leaves_out_only_itself(source: FolderSource) -> None:
    fill("roses//1.png", "tulips/line\n.png", "tulips/../up.png", "tulips/Icon\r", "zinnias/")
    files = list(source.list())

    assert sorted(file.path for file in files if not isinstance(file, LeftOut)) == sorted([*GOOD, "zinnias"])
    assert {file.path: file.reason for file in files if isinstance(file, LeftOut)} == dict.fromkeys(
        ("roses//1.png", "tulips/line\\n.png", "tulips/../up.png"), "BadName"
    )
    assert source.read("花卉 1+1%/1.png") == "/raw/data/花卉 1+1%/1.png".encode()


@pytest.mark.parametrize("last_of_page", ["roses/.DS_Store", "roses/1\u0085.png", "roses/"])
def test_bad_key_after_an_unusual_one_hides_no_others(last_of_page: str, source: FolderSource) -> None:
    first = [f"a/{number:03}.png" for number in range(CLIENT_PAGE - 1)]
    Bucket.keys = [f"data/{key}" for key in (*first, last_of_page, "x//1.png", "z/1.png")]
    files = list(source.list())
    paths = {file.path for file in files if not isinstance(file, LeftOut)}
    left_out = {file.path for file in files if isinstance(file, LeftOut)}

    assert paths >= {*first, "z/1.png"}
    assert left_out == {"x//1.png"}


def test_refusal_of_a_source_of_bad_keys_alone_names_the_names(source: FolderSource, tmp_path: Path) -> None:
    Bucket.keys = ["data/roses//1.png", "data/tulips//2.png"]
    table, known = FileTable(tmp_path / "files.sqlite", seed=0), KnownClasses(frozenset(), tuple)
    with pytest.raises(TrainerError, match="only files whose names cannot be used") as refused:
        list_source(
            table, 0, source, layout="Auto", addition=Addition(uri="file:///x"), known=known, exclusion=Exclusion(())
        )
    table.close()

    assert refused.value.reason == "NoImages"


def test_excluded_bad_key_counts_as_excluded(source: FolderSource, tmp_path: Path) -> None:
    fill("roses//1.png", "roses//2.png", "tulips/line\n.png")
    table, exclusion = FileTable(tmp_path / "files.sqlite", seed=0), Exclusion(["roses//*", "tulips/line\\n.png"])
    known = KnownClasses(frozenset(), tuple)
    list_source(table, 0, source, layout="Auto", addition=Addition(uri="file:///x"), known=known, exclusion=exclusion)
    reasons = table.ignored.count_by_reason()
    table.close()

    assert reasons == {"Excluded": 3}
    assert exclusion.unused_patterns() == []


def test_listing_of_bad_keys_fails_with_a_sentence_after_retries(
    source: FolderSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bloomery_model.sources.s3_listing._RETRY_SECONDS", (0.0, 0.0))
    fill("roses//1.png")
    Bucket.failures = [503, 200]
    assert len(list(source.list())) == len(GOOD) + 1

    Bucket.failures = [403]
    with pytest.raises(TrainerError, match="the store of s3://raw/data cannot be listed: HTTP Error 403"):
        list(source.list())


def test_signature_is_that_of_the_published_example() -> None:
    """AWS documents this request with its signature, at "Signature Calculations: Using the Authorization Header"."""
    access = S3Access(
        endpoint=None, region="us-east-1", key_id="AKIAIOSFODNN7EXAMPLE",
        secret="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", session_token=None,
    )  # fmt: skip
    headers = sign_request(
        "https://examplebucket.s3.amazonaws.com/", "max-keys=2&prefix=J", access, now=datetime(2013, 5, 24, tzinfo=UTC)
    )

    assert headers["authorization"].endswith(
        "Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
    )
