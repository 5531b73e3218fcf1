"""Variables that a pod gets from its Secrets."""

from __future__ import annotations

from bloomery_model.secret_variables import read_variable, strip_variables


def test_values_for_stores_and_mlflow_lose_white_space_at_their_ends() -> None:
    environment = {
        "AWS_REGION": "eu-west-1\n",
        "SOURCE_AWS_ACCESS_KEY_ID": " key ",
        "MLFLOW_TRACKING_URI": "http://mlflow:5000\r\n",
        "MLFLOW_TRACKING_PASSWORD": "two words\n",
        "DESCRIPTION": "of the user \n",
    }
    strip_variables(environment)
    assert environment == {
        "AWS_REGION": "eu-west-1",
        "SOURCE_AWS_ACCESS_KEY_ID": "key",
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "MLFLOW_TRACKING_PASSWORD": "two words",
        "DESCRIPTION": "of the user \n",
    }


def test_value_of_white_space_counts_as_missing() -> None:
    assert read_variable({"AWS_REGION": " \n"}, "AWS_REGION") is None
    assert read_variable({}, "AWS_REGION") is None
