"""Answers of stores about addresses, regions, clocks, certificates and checksums, each from a server with that answer.

The codes are those of Alibaba Cloud OSS, Tencent COS, Huawei OBS, Volcengine TOS and AWS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bloomery_model.stores import Folder, Retry, S3Access, StoreError, open_folder
from testing.canned_s3 import EMPTY_LISTING, Answer, CannedS3, Request, error_document, run_canned_s3
from testing.forward_proxy import run_forward_proxy

pytestmark = pytest.mark.feature("O6")

ONCE = Retry(max_retries=1, seconds=5)
OPERATIONS: Mapping[str, Callable[[Folder], object]] = {
    "list": lambda folder: list(folder.list()),
    "read": lambda folder: folder.read("a"),
    "size": lambda folder: folder.size_of("a"),
    "write": lambda folder: folder.write("a", b"content"),
    "stream": lambda folder: stream(folder),
}
PATH_STYLE_CODES = (
    "InvalidPathAccess",
    "PathStyleDomainForbidden",
    "SecondLevelDomainForbidden",
    "VirtualHostDomainRequired",
)


def stream(folder: Folder) -> None:
    with folder.writer("a") as writer:
        writer.write(b"content")


def opened(server: CannedS3, **more: str) -> Folder:
    return open_folder("s3://bucket/folder", S3Access.from_environment(server.environment(**more)), retry=ONCE)


@contextmanager
def run_virtual_only(code: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[CannedS3]:
    """Runs a store that takes a bucket only as a part of the host's name; a proxy knows all its names."""
    with run_canned_s3(virtual_only(code)) as server:
        port = urlsplit(server.url).port
        with run_forward_proxy(lambda _: ("127.0.0.1", port or 0)) as proxy:
            for name, value in proxy.environment().items():
                monkeypatch.setenv(name, value)
            yield CannedS3("http://store.test", server.requests)


def virtual_only(code: str) -> Callable[[Request], Answer]:
    """Returns a store that takes a bucket only as a part of the host's name."""

    def answer(request: Request) -> Answer:
        if not request.headers["host"].startswith("bucket."):
            return Answer(403, error_document(code))
        return EMPTY_LISTING if "list-type" in request.path else Answer(200, b"content", {"Last-Modified": DATE})

    return answer


DATE = "Mon, 30 Nov 2026 00:00:00 GMT"


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("code", PATH_STYLE_CODES)
def test_virtual_host_store_gets_the_bucket_in_the_host_name(
    code: str, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with run_virtual_only(code, monkeypatch) as server:
        folder = opened(server)
        OPERATIONS[operation](folder)
        OPERATIONS[operation](folder)
        refused = [request for request in server.requests if request.headers["host"].startswith("store.")]
    # Once it is known, no request goes to the other address any more.
    assert len(refused) <= 2
    assert {request.method for request in refused} <= {"GET", "PUT", "HEAD"}


def test_style_of_the_secret_is_used_from_the_first_request(monkeypatch: pytest.MonkeyPatch) -> None:
    with run_virtual_only("AccessDenied", monkeypatch) as server:
        assert opened(server, AWS_S3_ADDRESSING_STYLE=" Virtual\n").read("a") == b"content"
    assert [request.path for request in server.requests] == ["/folder/a"]


def test_path_style_of_the_secret_is_kept() -> None:
    """The message names the variable."""
    with (
        run_canned_s3(virtual_only("SecondLevelDomainForbidden")) as server,
        pytest.raises(StoreError, match="set AWS_S3_ADDRESSING_STYLE to virtual") as refused,
    ):
        opened(server, AWS_S3_ADDRESSING_STYLE="path").read("a")
    assert (refused.value.kind, refused.value.reason) == ("Refused", "InvalidEndpoint")


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    "answer",
    [
        Answer(301, error_document("PermanentRedirect"), {"x-amz-bucket-region": "eu-west-1"}),
        Answer(400, error_document("AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>")),
    ],
    ids=["301", "400"],
)
def test_bucket_in_another_region_is_named_with_it(answer: Answer, operation: str) -> None:
    """No request is sent again."""
    with run_canned_s3(lambda _: answer) as server, pytest.raises(StoreError) as refused:
        OPERATIONS[operation](opened(server))
    assert (refused.value.kind, refused.value.reason) == ("Refused", "WrongRegion")
    assert "'bucket' is in the region eu-west-1: set AWS_REGION to eu-west-1" in str(refused.value)
    assert len(server.requests) <= 4


def test_bucket_at_another_endpoint_is_named_with_it() -> None:
    answer = Answer(
        403,
        error_document("AccessDenied", "<Endpoint>bucket.oss-cn-hangzhou.aliyuncs.com</Endpoint>").replace(
            b"<Message>no", b"<Message>The bucket must be addressed using the specified endpoint"
        ),
    )
    with run_canned_s3(lambda _: answer) as server, pytest.raises(StoreError) as refused:
        opened(server).require()
    assert "set AWS_ENDPOINT_URL to https://oss-cn-hangzhou.aliyuncs.com" in str(refused.value)


@pytest.mark.parametrize(
    ("answer", "kind", "reason", "words"),
    [
        (Answer(403, error_document("RequestTimeTooSkewed")), "Unavailable", "ClockSkewed", "set the node's clock"),
        (
            Answer(400, b"Client sent an HTTP request to an HTTPS server.\n"),
            *("Refused", "InvalidEndpoint", "must begin with https://"),
        ),
        (Answer(403, error_document("AccessDenied")), "Refused", "AccessDenied", "check its keys"),
    ],
    ids=["clock", "https", "keys"],
)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_answer_of_the_store_says_what_to_change(
    answer: Answer, kind: str, reason: str, words: str, operation: str
) -> None:
    with run_canned_s3(lambda _: answer) as server, pytest.raises(StoreError, match=words) as refused:
        OPERATIONS[operation](opened(server))
    assert (refused.value.kind, refused.value.reason) == (kind, reason)


def test_plain_server_behind_an_https_address_is_named() -> None:
    with run_canned_s3(lambda _: EMPTY_LISTING) as server:
        address = server.url.replace("http:", "https:")
        with pytest.raises(StoreError, match="must begin with http://") as refused:
            opened(server, AWS_ENDPOINT_URL=address).require()
    assert refused.value.reason == "InvalidEndpoint"


@pytest.mark.parametrize(
    ("variables", "sent"),
    [
        ({}, False),
        ({"AWS_REQUEST_CHECKSUM_CALCULATION": "when_required"}, False),
        ({"AWS_REQUEST_CHECKSUM_CALCULATION": "when_supported"}, True),
    ],
    ids=["default", "when_required", "when_supported"],
)
def test_uploads_have_checksums_in_their_headers_only_on_request(
    variables: dict[str, str], sent: bool, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with run_canned_s3(lambda _: EMPTY_LISTING) as server:
        folder = opened(server, **variables)
        folder.write("a", b"content")
        folder.upload(tmp_path / "file", "b")
        stream(folder)
    puts = [request for request in server.requests if request.method == "PUT"]
    assert len(puts) == 3
    for put in puts:
        assert any(name.startswith("x-amz-checksum") for name in put.headers) is sent
        assert sent or not {"x-amz-sdk-checksum-algorithm", "x-amz-trailer", "content-md5"} & put.headers.keys()


def test_store_without_conditional_writes_takes_plain_ones() -> None:
    def answer(request: Request) -> Answer:
        is_conditional = "If-None-Match" in {name.title() for name in request.headers}
        return Answer(501, error_document("NotImplemented")) if is_conditional else Answer(200, headers={"ETag": '"1"'})

    with run_canned_s3(answer) as server:
        opened(server).write_new("a", b"1")
    assert [request.path for request in server.requests[-1:]] == ["/bucket/folder/a"]
