"""A page over two cameras and a video, with the model of `standin`."""

import pytest

pytest.importorskip("fastapi", reason="the page needs the extra app")

from fastapi.testclient import TestClient

from psdiff_jax.app.desk import Desk
from psdiff_jax.app.gallery import Gallery
from psdiff_jax.app.indexing import Indexing
from psdiff_jax.app.security import Gate
from psdiff_jax.app.server import create_app

from . import standin

RED, BLUE, GREEN, YELLOW = range(4)
SCENES = {
    "north/1.jpg": {RED: 20, BLUE: 100},
    "north/2.jpg": {GREEN: 60},
    "south/1.jpg": {RED: 150, GREEN: 220},
    "south/a b.jpg": {YELLOW: 10, BLUE: 80, RED: 240},
    "top.jpg": {BLUE: 50},
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("app") / "photos"
    for name, people in SCENES.items():
        standin.draw(people, root / name)
    standin.film([{YELLOW: 30}, {YELLOW: 60, RED: 200}, {BLUE: 90}], root / "film" / "walk.webm")
    (root.parent / "secret.jpg").write_bytes((root / "top.jpg").read_bytes())
    return root


@pytest.fixture(scope="session")
def index(folder):
    return standin.make_index(folder, folder.parent / "index")


@pytest.fixture
def desk(index):
    return Desk(standin.ColorSearch(), Indexing(Gallery(index, 0.5)), Gate("127.0.0.1", 8000))


class Browser(TestClient):
    """A client that sends what a browser sends: the cookie, the host and, with writes, the origin."""

    def __init__(self, app, address="http://127.0.0.1:8000"):
        super().__init__(app, base_url=address, headers={"Origin": address})

    def open(self):
        assert self.get("/").status_code == 200
        return self

    def upload(self, content, name="query.png"):
        return self.post("/api/images", params={"name": name}, content=content)

    def choose(self, person=0, people=(RED,)):
        """Uploads an image of `people` and chooses one; the state."""
        state = self.upload(standin.png({each: 20 + 60 * i for i, each in enumerate(people)})).json()
        return self.post("/api/choose", json={"image": state["images"][-1]["id"], "person": person}).json()


@pytest.fixture
def browser(desk):
    return Browser(create_app(desk)).open()


def found(state):
    """[(image, similarity rounded)] of the hits."""
    return [(hit["image"], round(hit["similarity"], 2)) for hit in state["hits"]]
