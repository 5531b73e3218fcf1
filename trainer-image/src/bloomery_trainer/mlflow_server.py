"""The MLflow server as all commands use it: a client, experiments by name, what its errors mean.

The library is imported when it is needed: that takes seconds, and without a server nobody needs it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from bloomery_model.store_faults import CERTIFICATE_ADVICE
from bloomery_trainer.errors import BadConfig, TrainerError, Unavailable

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

OLDEST_VERSION = 3
"""The oldest version of MLflow whose server takes models: it has logged models of their own."""


def connect(uri: str) -> MlflowClient:
    """Make a client of the server at ``uri``, for tracking and for the registry, without a request to it.

    Raises:
        BadConfig: MLflow has no use for such an address.
    """
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.utils.logging_utils import disable_logging

    from bloomery_trainer.mlflow_artifacts import use_own_client

    # Our own code reports what goes wrong, once.
    disable_logging()  # type: ignore[no-untyped-call]
    for name in ("mlflow", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    use_own_client()
    mlflow.set_tracking_uri(uri)
    try:
        return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    except MlflowException as error:
        raise BadConfig("InvalidTrackingUri", f"MLFLOW_TRACKING_URI is of no use: {in_words(error)}") from error


def experiment(client: MlflowClient, name: str, tags: Mapping[str, str] | None = None) -> str:
    """Return the id of an experiment, which is created, or restored if it was deleted."""
    known = client.get_experiment_by_name(name)
    if known is None:
        return str(client.create_experiment(name, tags=dict(tags or {})))
    if known.lifecycle_stage == "deleted":
        client.restore_experiment(known.experiment_id)
    return str(known.experiment_id)


def in_words(error: Exception) -> str:
    """Return the first line of an error, without the chain of what caused it."""
    text = str(error)
    if _is_certificate_fault(error):
        fault = re.search(r"certificate verify failed: ([^(\n]+)", text)
        return f"MLflow's certificate is not valid ({fault.group(1).strip() if fault else 'TLS'}): {CERTIFICATE_ADVICE}"
    if _is_without_endpoint(error):
        if "/logged-models" in text:
            return f"this MLflow is older than {OLDEST_VERSION}, the oldest version that takes models: upgrade it"
        return "MLFLOW_TRACKING_URI is not the address of an MLflow: it answers 404 to MLflow's own requests"
    line = (text.splitlines() or [type(error).__name__])[0]
    request, unanswered, _ = line.partition(" failed with exception")
    return f"{request} got no answer" if unanswered else line[:300]


def is_final(error: Exception) -> bool:
    """Return whether the server answered, and would answer the same again."""
    if isinstance(error, TrainerError):
        return not isinstance(error, Unavailable)
    status = _status(error)
    return _is_certificate_fault(error) or (status is not None and 400 <= status < 500 and status not in (408, 429))


def is_forbidden(error: Exception) -> bool:
    """Return whether the server does not like the credentials, which people may put right."""
    return _status(error) in (401, 403)


def _is_certificate_fault(error: Exception) -> bool:
    return "CERTIFICATE_VERIFY_FAILED" in str(error)


def _is_without_endpoint(error: Exception) -> bool:
    """Return whether the server answers with a page: MLflow's API answers 404 with JSON."""
    return _status(error) == 404 and "Response body: '<" in str(error)


def _status(error: Exception) -> int | None:
    from mlflow.exceptions import MlflowException

    if not isinstance(error, MlflowException):
        return None
    return int(error.get_http_status_code())  # type: ignore[no-untyped-call]
