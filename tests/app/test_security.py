"""Who may use the page: hosts, origins, cookies and the token."""

import re

import pytest

from psdiff_jax.app.security import HEADERS, Gate
from psdiff_jax.app.server import ROUTES, create_app

from .conftest import RED, Browser, found
from .standin import png

WRITES = [route for route, _ in ROUTES if not route.startswith("GET")]


@pytest.mark.parametrize("route", WRITES)
@pytest.mark.parametrize(
    "origin", [None, "null", "http://evil.example", "http://127.0.0.1:8001", "https://127.0.0.1:8000"]
)
def test_writes_come_from_the_page(browser, route, origin):
    browser.choose(people=(RED,))
    before = browser.get("/api/state").json()
    method, path = route.split()
    browser.headers.pop("origin")
    headers = {} if origin is None else {"Origin": origin}
    answer = browser.request(method, path.format(image=before["images"][0]["id"]), headers=headers)
    assert answer.status_code == 403 and answer.json()["error"].startswith("A write must come from this page")
    assert browser.get("/api/state").json() == before


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "localhost.evil:8000", "["]
)
def test_foreign_host_names(browser, host):
    """A name that was pointed at this machine may not even read (DNS rebinding)."""
    for path in ("/", "/api/state", "/static/app.js"):
        answer = browser.get(path, headers={"Host": host})
        assert answer.status_code == 403 and "not served under the name" in answer.json()["error"]
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "host", ["localhost:8000", "127.0.0.1:8000", "[::1]:8000", "192.168.1.7:8000", "LOCALHOST:8000"]
)
def test_names_of_this_machine(browser, host):
    assert browser.get("/", headers={"Host": host}).status_code == 200


def test_reading_changes_nothing(browser, desk):
    """Not even the first visit of a browser leaves a session behind."""
    first = browser.get("/api/state").json()
    assert not desk.sessions._sessions
    state = browser.choose(people=(RED,))
    hit = state["hits"][0]["id"]
    for path in ("/", "/sign-in", "/api/state", f"/api/hits/{hit}/crop", f"/api/hits/{hit}/media", "/export/csv"):
        assert browser.get(path).status_code == 200
    assert browser.get("/api/state").json() == state != first
    for route, _ in ROUTES:  # no write hides behind GET
        method, path = route.split()
        if method != "GET" and path not in ("/sign-in",) and "GET " + path not in dict(ROUTES):
            assert browser.get(path.format(image="x")).status_code == 405


def test_cookies(browser, desk):
    answer = Browser(browser.app).get("/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=lax" in cookie and cookie.startswith("psdiff_8000=")
    value = re.match(r"psdiff_8000=([^;]+)", cookie)[1]
    assert desk.gate.session(value) and Gate("127.0.0.1", 8000).session(value) is None  # of another process
    session, _, signature = value.partition(".")
    for forged in (
        "",
        session,
        f"{session}.",
        f"x{session}.{signature}",
        f"{session}.{signature[:-1]}",
        f"é.{signature}",
    ):
        assert desk.gate.session(forged) is None


def test_without_a_session_nothing_is_told(browser):
    stranger = Browser(browser.app)
    hit = browser.choose(people=(RED,))["hits"][0]["id"]
    for path in ("/api/state", f"/api/hits/{hit}/crop", f"/api/hits/{hit}/media", "/export/csv"):
        answer = stranger.get(path)
        assert answer.status_code == 401 and "load it again" in answer.json()["error"]
    assert stranger.upload(png({RED: 20})).status_code == 401


def test_browsers_do_not_see_each_others_searches(browser):
    image = browser.choose(people=(RED,))["images"][0]["id"]
    other = Browser(browser.app).open()
    assert other.get("/api/state").json()["images"] == [] and other.get(f"/api/images/{image}").status_code == 404
    assert other.post("/api/choose", json={"image": image, "person": 0}).status_code == 400
    assert found(browser.get("/api/state").json())


def test_every_answer_has_the_headers(browser):
    for path in ("/", "/api/state", "/static/app.js", "/nothing"):
        headers = browser.get(path).headers
        assert {name: headers[name] for name in HEADERS} == HEADERS
    page = browser.get("/").text
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\son\w+=|https?:", page)  # what the policy forbids
    assert "no-store" in browser.get("/api/state").headers["cache-control"]
    assert browser.get("/openapi.json").status_code == browser.get("/docs").status_code == 404


@pytest.mark.parametrize("host", ["search.example.org", "127.0.0.1:8000"])
def test_behind_a_proxy(desk, host):
    """Which keeps the name that the browser has, or not; the page itself is asked by http."""
    desk.gate = Gate("127.0.0.1", 8000, "https://Search.example.org/")
    assert desk.gate.address == f"https://search.example.org/#token={desk.gate.token}"
    browser = Browser(create_app(desk), "http://127.0.0.1:8000")
    browser.headers.update({"Host": host, "Origin": "https://search.example.org"})
    assert browser.get("/", follow_redirects=False).headers["location"] == "/sign-in"
    answer = browser.post("/sign-in", data={"token": desk.gate.token}, follow_redirects=False)
    assert answer.status_code == 303 and "Secure" in answer.headers["set-cookie"]
    browser.headers["cookie"] = answer.headers["set-cookie"].partition(";")[0]
    assert browser.choose(people=(RED,))["hits"]
    for origin in ("https://evil.example.org", "http://example.org", "null"):
        assert browser.post("/api/undo", headers={"Origin": origin}).status_code == 403
    assert browser.get("/api/state", headers={"Host": "evil.example.org"}).status_code == 403


@pytest.fixture
def open_desk(desk):
    desk.gate = Gate("0.0.0.0", 8000)
    return desk


def test_an_open_address_asks_for_the_token(open_desk):
    stranger = Browser(create_app(open_desk), "http://192.168.1.7:8000")
    assert stranger.get("/", follow_redirects=False).headers["location"] == "/sign-in"
    assert "set-cookie" not in stranger.get("/sign-in").headers
    assert stranger.get("/api/state").status_code == 401 == stranger.post("/api/undo").status_code
    wrong = stranger.post("/sign-in", data={"token": "guess"})
    assert wrong.status_code == 403 and "This is not the token" in wrong.text and "set-cookie" not in wrong.headers
    assert stranger.post("/sign-in").status_code == 403
    assert stranger.post("/sign-in", data={"token": "é"}).status_code == 403
    right = stranger.post("/sign-in", data={"token": open_desk.gate.token}, follow_redirects=False)
    assert right.status_code == 303 and right.headers["location"] == "/"
    assert stranger.open().get("/api/state").status_code == 200


def test_which_addresses_ask_for_a_token():
    for host in ("127.0.0.1", "127.3.2.1", "::1", "localhost", "LocalHost"):
        gate = Gate(host, 80)
        assert gate.token is None and gate.accepts("anything") and "token" not in gate.address
    for host in ("0.0.0.0", "::", "192.168.1.7", "example.org"):
        gate = Gate(host, 80)
        assert len(gate.token) >= 32 and f"#token={gate.token}" in gate.address and not gate.accepts("")
    assert Gate("::1", 80).address == "http://[::1]:80/" and Gate("example.org", 80).serves("example.org:80")
