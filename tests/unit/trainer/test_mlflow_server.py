"""Errors of MLflow servers in words, and where the files of a run may lie."""

from __future__ import annotations

import pytest
from mlflow.exceptions import MlflowException, RestException

from bloomery_trainer.errors import BadConfig, Unavailable
from bloomery_trainer.mlflow_artifacts import require_reachable
from bloomery_trainer.mlflow_server import in_words, is_final, is_forbidden

PAGE = "<!doctype html>\n<html lang=en>\n<title>404 Not Found</title>\n<h1>Not Found</h1>\n"


def not_found(endpoint: str, body: str = PAGE) -> MlflowException:
    """The error of MLflow's client for an endpoint that a server does not have."""
    error = MlflowException(
        f"API request to endpoint {endpoint} failed with error code 404 != 200. Response body: '{body}'",
    )
    error.get_http_status_code = lambda: 404  # type: ignore[method-assign]
    return error


def test_server_without_logged_models_is_called_older_than_three() -> None:
    error = not_found("/api/2.0/mlflow/logged-models")
    assert "this MLflow is older than 3" in in_words(error)
    assert is_final(error) and not is_forbidden(error)


def test_address_of_something_else_is_named_as_such() -> None:
    assert "MLFLOW_TRACKING_URI is not the address of an MLflow" in in_words(
        not_found("/api/2.0/mlflow/experiments/get-by-name")
    )


def test_missing_object_keeps_the_words_of_mlflow() -> None:
    missing = RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Run 'a' not found"})
    assert in_words(missing) == "RESOURCE_DOES_NOT_EXIST: Run 'a' not found"


def test_certificate_fault_is_named_and_not_waited_for() -> None:
    error = MlflowException(
        "API request to https://mlflow/api/2.0/mlflow/runs/create failed with exception HTTPSConnectionPool("
        "host='mlflow', port=443): Max retries exceeded (Caused by SSLError(SSLCertVerificationError(1, "
        "'[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local issuer certificate "
        "(_ssl.c:1006)')))"
    )
    assert "certificate is not valid (unable to get local issuer certificate)" in in_words(error)
    assert "trustedCAs.configMap" in in_words(error)
    assert is_final(error)


@pytest.mark.parametrize(("error", "final"), [(BadConfig("A", "a"), True), (Unavailable("A", "a"), False)])
def test_own_errors_are_final_unless_something_did_not_answer(error: Exception, final: bool) -> None:
    assert is_final(error) is final


@pytest.mark.parametrize(
    ("artifacts", "server"),
    [
        ("mlflow-artifacts:/1/a/artifacts", "https://mlflow.example.com"),
        ("s3://bucket/1/a/artifacts", "https://mlflow.example.com"),
        ("/home/anna/mlruns/1/a/artifacts", "http://127.0.0.1:5000"),
        ("file:///home/anna/mlruns", "http://[::1]:5000"),
        ("/home/anna/mlruns/1/a/artifacts", "sqlite:///mlflow.db"),
    ],
)
def test_files_go_to_the_server_a_store_or_this_machine(artifacts: str, server: str) -> None:
    require_reachable(artifacts, server)


@pytest.mark.parametrize("artifacts", ["/mlflow/artifacts/1/a", "file:///mlflow/1", "gs://bucket/1", "wasbs://c@a/1"])
def test_files_that_only_the_server_reaches_are_refused_at_once(artifacts: str) -> None:
    with pytest.raises(BadConfig, match="--serve-artifacts") as refused:
        require_reachable(artifacts, "http://mlflow.team:5000")
    assert refused.value.reason == "ArtifactsNotReachable"
