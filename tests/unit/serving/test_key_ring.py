"""Keys as headers carry them."""

from __future__ import annotations

import pytest

from bloomery_serving.key_ring import key_of


@pytest.mark.feature("S13")
@pytest.mark.parametrize("key", ["voilà", "clé à", "мех"])
@pytest.mark.parametrize("form", ["{}", "Bearer {}", "  bearer  {}\t"])
def test_key_may_end_in_any_byte(key: str, form: str) -> None:
    # As a server shows a header's bytes.
    assert key_of(form.format(key).encode().decode("latin-1")).encode("latin-1") == key.encode()
