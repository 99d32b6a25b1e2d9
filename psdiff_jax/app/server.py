"""The routes. Reading changes nothing; every write answers with the state of the session, which the page draws."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import Depends, FastAPI, Form, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as AnyHTTPException

from psdiff_jax.app import exports, uploads
from psdiff_jax.app.desk import MOST_HITS, Desk
from psdiff_jax.app.security import UPLOADS, Gate, Guard
from psdiff_jax.app.sessions import Box, Example, Filters, Judgement, QueryImage, Session, new_id
from psdiff_jax.errors import InputError

HERE = Path(__file__).parent
LONGEST = {"small": 400, "large": 1600}  # pixels of a frame
KEPT = "private, max-age=86400"  # pictures: their address changes with the index


def create_app(desk: Desk) -> FastAPI:
    """The page as an ASGI application."""
    app = FastAPI(title="Person search", openapi_url=None)  # its own docs would load from elsewhere
    app.state.desk = desk
    app.state.templates = Jinja2Templates(HERE / "templates")
    app.add_middleware(Guard, gate=desk.gate)
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    for name, function in ROUTES:
        method, path = name.split()
        app.add_api_route(path, function, methods=[method], response_model=None)
    for kind in (AnyHTTPException, InputError, RequestValidationError, Exception):
        app.add_exception_handler(kind, _one_line)
    return app


def _desk(request: Request) -> Desk:
    return request.app.state.desk


Here = Annotated[Desk, Depends(_desk)]


def _session(request: Request, desk: Here) -> Session:
    session = desk.gate.session(request.cookies.get(desk.gate.cookie))
    if session is None:
        raise HTTPException(401, "This page has lost its session; load it again")
    return desk.sessions.get(session) if request.method == "GET" else desk.sessions.keep(session)


Mine = Annotated[Session, Depends(_session)]


class Choice(BaseModel):
    """A person found in an image, by number, or any box of it, in its pixels."""

    image: str
    person: int | None = Field(None, ge=0)
    box: Box | None = None


class Verdict(BaseModel):
    hit: str
    is_them: bool | None


class Wanted(BaseModel):
    folder: str | None = Field(None, max_length=4096)
    after: float | None = Field(None, ge=0, allow_inf_nan=False)
    before: float | None = Field(None, ge=0, allow_inf_nan=False)
    similarity: float = Field(0.0, ge=-1, le=1)
    top: int = Field(ge=1, le=MOST_HITS)


def page(request: Request, desk: Here) -> Response:
    gate = desk.gate
    known = gate.session(request.cookies.get(gate.cookie)) is not None
    if not known and gate.token:
        return RedirectResponse("/sign-in", 303)
    limits = {"max_bytes": uploads.MAX_BYTES, "max_pixels": uploads.MAX_PIXELS, "most_hits": MOST_HITS}
    response = request.app.state.templates.TemplateResponse(request, "index.html.jinja", limits)
    return response if known else _with_cookie(response, gate)


def sign_in(request: Request) -> HTMLResponse:
    return request.app.state.templates.TemplateResponse(request, "sign_in.html.jinja", {"wrong": False})


def signed_in(request: Request, desk: Here, token: Annotated[str, Form()] = "") -> Response:
    if not desk.gate.accepts(token):
        content = {"wrong": True}
        return request.app.state.templates.TemplateResponse(request, "sign_in.html.jinja", content, status_code=403)
    return _with_cookie(RedirectResponse("/", 303), desk.gate)


def state(desk: Here, session: Mine) -> dict[str, Any]:
    return desk.state(session)


async def add_image(request: Request, desk: Here, session: Mine, name: str = "") -> dict[str, Any]:
    name = uploads.checked_name(name)
    data = await uploads.read_limited(request.stream(), request.headers.get("content-length"), name)

    def detect() -> dict[str, Any]:
        pixels = uploads.decode(data, name)
        people = desk.search.detect(pixels)
        order = np.argsort(people.boxes[:, 0], kind="stable")  # from left to right, as the keyboard goes
        order = order[people.scores[order] >= desk.search.threshold]
        height, width = pixels.shape[:2]
        session.add(QueryImage(new_id(), name, uploads.encode(pixels), (height, width), *(p[order] for p in people)))
        return desk.state(session)

    return await run_in_threadpool(detect)


def remove_image(image: str, desk: Here, session: Mine) -> dict[str, Any]:
    session.remove(image)
    return desk.state(session)


def image(image: str, session: Mine) -> Response:
    if image not in session.images:
        raise HTTPException(404, "There is no such image in this search")
    return _picture(session.images[image].jpeg)


def choose(choice: Choice, desk: Here, session: Mine) -> dict[str, Any]:
    image = session.image(choice.image)
    if choice.person is not None and choice.person < len(image.boxes):
        x1, y1, x2, y2 = (float(v) for v in image.boxes[choice.person])
        example = Example(image.id, (x1, y1, x2, y2), image.embeddings[choice.person])
    elif choice.box is not None:
        pixels = uploads.decode(image.jpeg, image.name)
        example = Example(image.id, choice.box, desk.search.embed(pixels, choice.box))
    else:
        raise InputError("Choose one of the people that were found, or draw a box")
    session.change(lambda query: query.with_example(example))
    return desk.state(session)


def judge(verdict: Verdict, desk: Here, session: Mine) -> dict[str, Any]:
    if not session.query.examples:
        raise InputError("Choose a person first; then say which hits are them")
    gallery = desk.gallery
    place, embedding = gallery.place(verdict.hit), gallery.embedding(verdict.hit)
    judgement = None if verdict.is_them is None else Judgement(place, verdict.is_them, embedding)
    session.change(lambda query: query.judged(judgement, place))
    return desk.state(session)


def undo(desk: Here, session: Mine) -> dict[str, Any]:
    session.undo()
    return desk.state(session)


def clear(desk: Here, session: Mine) -> dict[str, Any]:
    session.clear()
    return desk.state(session)


def filters(wanted: Wanted, desk: Here, session: Mine) -> dict[str, Any]:
    if wanted.folder is not None and wanted.folder not in desk.gallery.folders:
        raise InputError(f"There is no folder {wanted.folder} in the index; choose one of the list")
    session.filters = Filters(**wanted.model_dump())
    return desk.state(session)


def crop(hit: str, desk: Here, _: Mine) -> Response:
    return _picture(uploads.encode(desk.gallery.crop(hit)))


def frame(hit: str, size: Literal["small", "large"], desk: Here, _: Mine) -> Response:
    return _picture(uploads.encode(desk.gallery.frame(hit, LONGEST[size])))


def media(hit: str, desk: Here, _: Mine) -> FileResponse:
    """The image or video a hit is in; a video's player asks for byte ranges."""
    return FileResponse(desk.gallery.file(hit), headers={"Cache-Control": KEPT})


def export(kind: Literal["csv", "json", "zip"], desk: Here, session: Mine) -> Response:
    hits = desk.hits(session)
    content, media_type = {
        "csv": lambda: (exports.as_csv(hits), "text/csv"),
        "json": lambda: (exports.as_json(hits), "application/json"),
        "zip": lambda: (exports.as_zip(hits, lambda hit: uploads.encode(desk.gallery.crop(hit))), "application/zip"),
    }[kind]()
    disposition = f'attachment; filename="hits.{kind}"'
    return Response(content, media_type=media_type, headers={"Content-Disposition": disposition})


ROUTES = (
    ("GET /", page),
    ("GET /sign-in", sign_in),
    ("POST /sign-in", signed_in),
    ("GET /api/state", state),
    (f"POST {UPLOADS}", add_image),
    ("GET /api/images/{image}", image),
    ("DELETE /api/images/{image}", remove_image),
    ("POST /api/choose", choose),
    ("POST /api/judge", judge),
    ("POST /api/undo", undo),
    ("POST /api/clear", clear),
    ("POST /api/filters", filters),
    ("GET /api/hits/{hit}/crop", crop),
    ("GET /api/hits/{hit}/frame/{size}", frame),
    ("GET /api/hits/{hit}/media", media),
    ("GET /export/{kind}", export),
)


def _with_cookie(response: Response, gate: Gate) -> Response:
    # lax: whoever follows a link to the page keeps the search; writes from elsewhere are refused by their origin
    secure = gate.public_url.startswith("https:")
    response.set_cookie(gate.cookie, gate.new_cookie(), httponly=True, secure=secure, samesite="lax")
    return response


def _picture(jpeg: bytes) -> Response:
    return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": KEPT})


async def _one_line(_: Request, error: Exception) -> JSONResponse:
    """{"error": one line} for whatever the user can cause."""
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return JSONResponse({"error": f"{where or 'the request'}: {first['msg']}"}, 422)
    if isinstance(error, AnyHTTPException):
        return JSONResponse({"error": str(error.detail)}, error.status_code)
    if isinstance(error, InputError):
        return JSONResponse({"error": str(error)}, getattr(error, "status", 400))
    line = "The program has failed; the terminal where this page was started shows why"
    return JSONResponse({"error": line}, 500)  # the traceback is printed there
