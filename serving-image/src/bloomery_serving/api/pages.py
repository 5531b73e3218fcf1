"""Pages for people: /upload to drop images on, /docs to read and try the API.

Both work under any prefix and without the internet: addresses are relative, and all files come from here.
"""

from __future__ import annotations

import html
from pathlib import Path
from string import Template

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from bloomery_serving.about import About
from bloomery_serving.api.errors import RequestError
from bloomery_serving.settings import Settings

FOLDER = Path(__file__).parent.parent / "static"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_MIB = 1024 * 1024

_STRICT = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
# Swagger UI styles its elements inline and draws with images of its own style sheet.
_FOR_SWAGGER = _STRICT.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'").replace("blob:", "data:")


def build_router(settings: Settings, about: About, *, explains: bool) -> APIRouter:
    """Return the pages' routes."""
    router = APIRouter(include_in_schema=False)
    files = {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.suffix in _TYPES}

    @router.get("/upload")
    async def upload_page() -> Response:
        """Return the page to drop images on."""
        return HTMLResponse(_upload_page(settings, about, explains=explains), headers=_headers(_STRICT))

    @router.get("/docs")
    async def docs_page() -> Response:
        """Return the page that documents the API."""
        return HTMLResponse(_fill("docs.html", title=about.title), headers=_headers(_FOR_SWAGGER))

    @router.get("/upload/{name}")
    async def asset(name: str) -> Response:
        """Return a file of the pages."""
        if name not in files:
            raise RequestError(404, "NotFound", f"The upload page has no file {name!r}; it is at /upload itself.")
        return Response(files[name], media_type=_TYPES[Path(name).suffix], headers=_headers(_STRICT))

    # The files of Swagger UI, as the package carries them.
    router.mount("/docs", StaticFiles(packages=[("fastapi_offline", "static")]))
    return router


def _upload_page(settings: Settings, about: About, *, explains: bool) -> str:
    identity = about.identity
    model = [identity.model_name and f"Model {identity.model_name}"]
    model += [identity.model_version and f"version {identity.model_version}"]
    model += [identity.variant and f"variant {identity.variant}"]
    return _fill(
        "upload.html",
        title=about.title,
        description=about.description,
        model=", ".join(filter(None, model)),
        max_images=str(settings.max_images),
        max_bytes=str(settings.max_image_bytes),
        max_size=f"{settings.max_image_bytes / _MIB:.3g} MB",
        needs_key="false" if settings.api_keys_dir is None else "true",
        explains="true" if explains else "false",
    )


def _fill(name: str, **values: str) -> str:
    """Return a page with its places filled; names and descriptions are the users' own text."""
    template = Template((FOLDER / name).read_text(encoding="utf-8"))
    return template.substitute({key: html.escape(value) for key, value in values.items()})


def _headers(policy: str) -> dict[str, str]:
    return {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        # An update of the server must not meet the script of the one before.
        "cache-control": "no-cache",
    }
