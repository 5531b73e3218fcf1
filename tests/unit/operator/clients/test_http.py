"""The circuit breaker: a server that does not answer delays one request at a time; and the choice of a proxy."""

from __future__ import annotations

import ssl

import aiohttp
import pytest
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from bloomery_operator.clients.http import CircuitBreaker, Proxies, describe_error

CONNECTION = aiohttp.client_reqrep.ConnectionKey("internal-host-7", 22, False, True, None, None, None)


class Clock:
    """Seconds that pass only when set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    breaker = CircuitBreaker(open_seconds=10, probe_seconds=3, clock=clock)
    with pytest.raises(TimeoutError), breaker.guard("a"):
        raise TimeoutError
    return breaker


def test_open_circuit_fails_requests_with_the_last_error(breaker: CircuitBreaker, clock: Clock) -> None:
    clock.now += 9.9
    with pytest.raises(TimeoutError, match="no answer within 3 s"), breaker.guard("a"):
        pytest.fail("the request was sent")
    with breaker.guard("b"):
        pass


def test_only_the_probe_is_sent_after_the_open_time(breaker: CircuitBreaker, clock: Clock) -> None:
    clock.now += 10
    with breaker.guard("a"):
        clock.now += 2.9
        with pytest.raises(TimeoutError), breaker.guard("a"):
            pytest.fail("a second request was sent")


def test_successful_probe_closes_the_circuit(breaker: CircuitBreaker, clock: Clock) -> None:
    clock.now += 10
    with breaker.guard("a"):
        pass
    with breaker.guard("a"):
        pass


def test_failed_probe_opens_the_circuit_again(breaker: CircuitBreaker, clock: Clock) -> None:
    clock.now += 10
    with pytest.raises(aiohttp.ClientError), breaker.guard("a"):
        raise aiohttp.ClientError("refused")
    clock.now += 9.9
    with pytest.raises(TimeoutError, match="not HTTP"), breaker.guard("a"):
        pytest.fail("the request was sent")


@pytest.mark.feature("O7")
def test_circuit_of_a_silent_server_stays_open_longer_each_time(breaker: CircuitBreaker, clock: Clock) -> None:
    pauses = []
    for _ in range(5):
        before = clock.now
        while True:
            clock.now += 1
            try:
                with breaker.guard("a"):
                    raise ConnectionAbortedError
            except TimeoutError:
                continue
            except ConnectionAbortedError:
                break
        pauses.append(clock.now - before)
        with pytest.raises(TimeoutError), breaker.guard("a"):
            pytest.fail("the request was sent")
        clock.now += 3
        with pytest.raises(aiohttp.ClientError), breaker.guard("a"):
            raise aiohttp.ClientError
    assert pauses == [10, 20, 40, 60, 60]


def test_errors_of_another_kind_leave_the_circuit_closed(clock: Clock) -> None:
    breaker = CircuitBreaker(open_seconds=10, probe_seconds=3, clock=clock)
    with pytest.raises(ValueError), breaker.guard("a"):
        raise ValueError("not JSON")
    with breaker.guard("a"):
        pass


@pytest.mark.feature("O7")
def test_description_of_an_error_has_no_text_of_the_other_side() -> None:
    banner = "SSH-2.0-OpenSSH_9.6 internal-host-7"
    for error in (
        aiohttp.ClientError(banner),
        aiohttp.ClientPayloadError(banner),
        aiohttp.ServerDisconnectedError(banner),
        aiohttp.ClientConnectorError(CONNECTION, OSError(111, banner)),
        aiohttp.ClientConnectorDNSError(CONNECTION, OSError(banner)),
        aiohttp.ClientConnectorCertificateError(CONNECTION, ValueError(banner)),
    ):
        assert "internal" not in describe_error(error, 3)


def test_errors_without_a_text_are_described() -> None:
    assert describe_error(TimeoutError(), 3) == "no answer within 3 s"
    assert describe_error(aiohttp.ServerTimeoutError(), 3) == "no answer within 3 s"
    assert describe_error(aiohttp.ClientError(), 3) == "the answer is not HTTP"
    assert describe_error(aiohttp.ClientPayloadError(), 3) == "the connection broke"


@pytest.mark.feature("O6")
def test_error_of_a_proxy_names_the_proxy() -> None:
    request = aiohttp.RequestInfo(URL("http://proxy:3128"), "CONNECT", CIMultiDictProxy(CIMultiDict()))
    refusal = aiohttp.ClientHttpProxyError(request, (), status=407, message="internal-host-7")
    assert describe_error(refusal, 3) == "the proxy refuses the connection with status 407"
    error = aiohttp.ClientProxyConnectionError(CONNECTION, OSError(111, "refused"))
    assert describe_error(error, 3) == "the proxy cannot be reached"


@pytest.mark.feature("O6")
def test_only_an_error_of_the_certificate_is_named_as_one() -> None:
    untrusted = ssl.SSLCertVerificationError(1, "certificate verify failed: self-signed certificate (_ssl.c:1016)")
    text = describe_error(aiohttp.ClientConnectorCertificateError(CONNECTION, untrusted), 3)
    assert text.startswith("its certificate is not valid (self-signed certificate): add the CA")
    plain = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1016)")
    text = describe_error(aiohttp.ClientConnectorSSLError(CONNECTION, plain), 3)
    assert text == "it does not answer by https as expected; check the address"


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("https://mlflow.example.com/api", "http://proxy:3128"),
        ("http://mlflow.example.com/api", None),
        ("https://mlflow.team.svc:5000", None),
        ("https://MLFLOW.team.SVC", None),
        ("https://mlflow.internal", None),
        ("https://internal", None),
        ("https://not-internal", "http://proxy:3128"),
        ("https://10.1.2.3", None),
        ("https://[fd00::1]", None),
        ("https://11.1.2.3", "http://proxy:3128"),
    ],
)
def test_proxy_is_used_for_hosts_that_are_not_excluded(url: str, proxy: str | None) -> None:
    proxies = Proxies(https="http://proxy:3128", excluded=".svc, *.internal,10.0.0.0/8,fd00::/8")
    assert proxies.proxy_for(URL(url)) == proxy


def test_star_excludes_every_host() -> None:
    assert Proxies(https="http://proxy:3128", excluded="*").proxy_for(URL("https://a.example.com")) is None
