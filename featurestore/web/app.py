"""The application: sessions, headers that keep a browser safe, errors as pages, static files."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import Response

import featurestore
from featurestore.errors import (
    FeatureStoreError,
    InvalidRequest,
    LimitExceeded,
    PermissionDenied,
    Unauthenticated,
)
from featurestore.serving.edge import codes_of, to_json
from featurestore.web import api, pages, pages_models, pages_runs, pages_sets
from featurestore.web.render import Renderer
from featurestore.web.sessions import COOKIE, SESSION_LIFE_US, Session

if TYPE_CHECKING:
    from featurestore.web.site import Site

FORM_BYTES_MAX = 64 * 1024
OPEN_PATHS = ("/static/", "/sign-in", "/healthz")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")
_FROM_ANYWHERE = (
    "A page of another site could have sent this; programs send the header "
    "content-type: application/json, or a bearer token"
)
_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
}


def build_app(
    site: Site, *, hosts: tuple[str, ...] = LOOPBACK_HOSTS, secure: bool = False
) -> FastAPI:
    """The application; it serves as long as `site` is open. `hosts` are the names that requests may
    call us by (`("*",)`: any), so that no other site's name leads here; `secure` keeps cookies to
    HTTPS."""
    app = FastAPI(
        title="featurestore",
        version=featurestore.__version__,
        description="Lineage, training sets, runs and models of one project.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    app.state.site, app.state.renderer = site, Renderer(site)
    static = Path(str(files("featurestore.web"))) / "static"
    app.mount("/static", StaticFiles(directory=static), name="static")
    for router in (pages.router, pages_sets.router, pages_runs.router, pages_models.router):
        app.include_router(router, include_in_schema=False)
    app.include_router(api.router)
    _add_sign_in(app, site, secure=secure)
    _add_errors(app)

    @app.middleware("http")
    async def guarded(
        request: Request, follow: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        return await _guarded(request, follow, site, secure=secure)

    if hosts != ("*",):
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    return app


async def _guarded(
    request: Request,
    follow: Callable[[Request], Awaitable[Response]],
    site: Site,
    *,
    secure: bool,
) -> Response:
    """Know who asks before anything is shown, and give everybody a session, for forms."""
    session = site.sessions.get(request.cookies.get(COOKIE))
    fresh = session is None
    session = session or site.sessions.begin()
    request.state.session = session
    request.state.token = bearer(request) or session.token
    request.state.who = ""
    try:
        if not request.url.path.startswith(OPEN_PATHS):
            request.state.who = site.who(request.state.token)
        if request.method not in SAFE_METHODS and not _of_a_program(request):
            if wants_json(request):
                raise PermissionDenied(_FROM_ANYWHERE)
            request.state.form = await _form(request)
            site.sessions.check(session, request.state.form.get("mark", ""))
        response = await follow(request)
    except Unauthenticated as error:
        response = _ask_to_sign_in(request, error)
    except FeatureStoreError as error:
        response = show_error(request, error)
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    if request.url.path.startswith("/static/"):
        response.headers["cache-control"] = "max-age=3600"
    elif fresh:
        _set_cookie(response, session, secure=secure)
    return response


def bearer(request: Request) -> str:
    """The token of the `authorization` header; empty without one."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _of_a_program(request: Request) -> bool:
    """Whether no page of another site can have sent it: browsers ask before they send a bearer
    token or JSON across sites, and we never allow it."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return bool(bearer(request)) or (wants_json(request) and kind == "application/json")


async def _form(request: Request) -> dict[str, str]:
    length = request.headers.get("content-length", "")
    if not length.isdigit():
        raise InvalidRequest("A form says its length")
    if int(length) > FORM_BYTES_MAX:
        raise LimitExceeded("FORM_BYTES_MAX", asked=int(length), allowed=FORM_BYTES_MAX)
    body = await request.body()
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=bool(body)))
    except ValueError as error:
        raise InvalidRequest(f"This is not a form: {error}") from error


def wants_json(request: Request) -> bool:
    """Whether a program asks."""
    return request.url.path.startswith("/api/")


def show_error(request: Request, error: FeatureStoreError) -> Response:
    """An error as JSON or as a page."""
    status = codes_of(error).http
    if wants_json(request):
        return JSONResponse({"error": to_json(error)}, status)
    renderer: Renderer = request.app.state.renderer
    return renderer.page(request, "error.html", status=status, error=error)


def _ask_to_sign_in(request: Request, error: Unauthenticated) -> Response:
    if wants_json(request):
        headers = {"www-authenticate": 'Bearer realm="featurestore"'}
        return JSONResponse({"error": to_json(error)}, 401, headers)
    target = request.url.path if request.method in SAFE_METHODS else "/"
    return RedirectResponse(f"/sign-in?next={quote(target)}", 303)


def _set_cookie(response: Response, session: Session, *, secure: bool) -> None:
    response.set_cookie(
        COOKIE,
        session.id,
        max_age=SESSION_LIFE_US // 1_000_000,
        httponly=True,
        samesite="strict",
        secure=secure,
    )


def _add_sign_in(app: FastAPI, site: Site, *, secure: bool) -> None:
    @app.get("/sign-in", include_in_schema=False)
    def ask(request: Request) -> HTMLResponse:
        renderer: Renderer = request.app.state.renderer
        target = _local(request.query_params.get("next", "/"))
        return renderer.page(request, "sign_in.html", next=target, problem="")

    @app.post("/sign-in", include_in_schema=False)
    def sign_in(request: Request) -> Response:
        form: dict[str, str] = request.state.form
        token, target = form.get("token", "").strip(), _local(form.get("next", "/"))
        try:
            site.who(token)
        except FeatureStoreError as error:
            renderer: Renderer = request.app.state.renderer
            return renderer.page(
                request, "sign_in.html", status=codes_of(error).http, next=target,
                problem=error.message,
            )  # fmt: skip
        site.sessions.end(request.state.session)
        response = RedirectResponse(target, 303)
        _set_cookie(response, site.sessions.begin(token), secure=secure)
        return response

    @app.post("/sign-out", include_in_schema=False)
    def sign_out(request: Request) -> Response:
        site.sessions.end(request.state.session)
        return RedirectResponse("/", 303)

    @app.get("/healthz", include_in_schema=False)
    def healthz() -> dict[str, str]:
        return {"status": "ok"}


def _local(target: str) -> str:
    """A path of ours, whatever was sent: never another site."""
    return target if target.startswith("/") and not target.startswith(("//", "/\\")) else "/"


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(FeatureStoreError)
    def ours(request: Request, error: FeatureStoreError) -> Response:
        return show_error(request, error)

    @app.exception_handler(RequestValidationError)
    def unfit(request: Request, error: RequestValidationError) -> Response:
        wrong = (
            f"{'.'.join(map(str, each['loc'][1:])) or 'the body'}: {each['msg']}"
            for each in error.errors()
        )
        return show_error(request, InvalidRequest("; ".join(wrong)))

    @app.exception_handler(HTTPException)
    def starlettes(request: Request, error: HTTPException) -> Response:
        if wants_json(request):
            found: dict[str, Any] = {"code": "not-found", "message": str(error.detail)}
            return JSONResponse({"error": found}, error.status_code)
        renderer: Renderer = request.app.state.renderer
        message = f"There is no page {request.url.path}." if error.status_code == 404 else ""
        return renderer.page(
            request, "error.html", status=error.status_code, error=message or error.detail
        )
