"""The pages that need no key and no network: the front page, the documentation and their static files."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

WEB_FOLDER = Path(__file__).parent.parent / "web"
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "cache-control": "no-cache",
}
# Swagger UI starts from an inline script, and draws its icons from data URLs.
_DOCS_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_SWAGGER_UI_OPTIONS = {
    "persistAuthorization": True,
    "tryItOutEnabled": True,
    "displayRequestDuration": True,
    "docExpansion": "list",
    "defaultModelsExpandDepth": 0,
    # Else it asks a validator on the internet.
    "validatorUrl": None,
}


def add_pages(app: FastAPI) -> None:
    """Adds `/`, `/static`, `/docs` and `/docs/assets`."""
    app.mount("/static", _CachedFiles(directory=WEB_FOLDER / "static"), name="static")
    app.mount("/docs/assets", _CachedFiles(directory=_find_swagger_ui()), name="docs-assets")

    @app.get("/", include_in_schema=False)
    async def get_front_page() -> Response:
        return FileResponse(WEB_FOLDER / "index.html", headers=_PAGE_HEADERS)

    @app.get("/favicon.ico", include_in_schema=False)
    async def get_icon() -> Response:
        return FileResponse(WEB_FOLDER / "static" / "finesmith.svg", media_type="image/svg+xml")

    @app.get("/docs", include_in_schema=False)
    async def get_docs(request: Request) -> Response:
        root = request.scope.get("root_path", "").rstrip("/")
        page = get_swagger_ui_html(
            openapi_url=f"{root}/openapi.json",
            title="Finesmith: the API",
            swagger_js_url=f"{root}/docs/assets/swagger-ui-bundle.js",
            swagger_css_url=f"{root}/docs/assets/swagger-ui.css",
            swagger_favicon_url=f"{root}/static/finesmith.svg",
            swagger_ui_parameters=_SWAGGER_UI_OPTIONS,
        )
        page.headers.update({**_PAGE_HEADERS, "content-security-policy": _DOCS_POLICY})
        return page


class _CachedFiles(StaticFiles):
    """Files that hold nothing private: a browser may keep them, and asks whether they have changed."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """As the base class answers, with leave to keep it."""
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = "public, no-cache"
        return response


def _find_swagger_ui() -> Path:
    """Where the wheel keeps Swagger UI; found without importing it."""
    spec = find_spec("fastapi_swagger")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("the package fastapi-swagger is not installed: install the service with its dependencies")
    return Path(spec.submodule_search_locations[0]) / "resources"
