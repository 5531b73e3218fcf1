"""Paths on the gateway, and the namespaces that may use them."""

from __future__ import annotations

import pytest

from bloomery_operator.domain.gateway_paths import conflicting_grants, may_use_path

pytestmark = pytest.mark.feature("O7")

GRANTS = {"team-a": ("/shop", "/login"), "team-b": ("/team-c",)}


@pytest.mark.parametrize(
    ("namespace", "path", "expected"),
    [
        ("team-a", "/team-a", True),
        ("team-a", "/team-a/flowers/v1", True),
        ("team-a", "/team-ab/flowers", False),
        ("team-a", "/team", False),
        ("team-a", "/team-b/flowers", False),
        ("team-a", "/Team-a/flowers", False),
        ("team-a", "/flowers", False),
        ("team-a", "/shop", True),
        ("team-a", "/shop/all", True),
        ("team-a", "/shopping", False),
        ("team-b", "/shop/all", False),
        # A granted prefix belongs to one namespace, also if it is the name of another.
        ("shop", "/shop/all", False),
        ("team-b", "/team-c/x", True),
        ("team-c", "/team-c/x", False),
    ],
)
def test_path_needs_the_name_of_the_namespace_or_a_grant(namespace: str, path: str, expected: bool) -> None:
    assert may_use_path(namespace, path, GRANTS) is expected


def test_overlapping_grants_of_two_namespaces_conflict() -> None:
    assert conflicting_grants(GRANTS) is None
    assert conflicting_grants({"a": ("/shop", "/shop/all"), "b": ("/shopping",)}) is None
    assert conflicting_grants({"b": ("/shop/all",), "a": ("/shop",)}) == ("/shop", "/shop/all")
    assert conflicting_grants({"b": ("/shop",), "a": ("/shop",)}) == ("/shop", "/shop")
