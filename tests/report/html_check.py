"""What every page must be: balanced, self-contained, with alternative texts of images and links that have a target."""

import re
from html.parser import HTMLParser

VOID = {"meta", "img", "br", "wbr"}


class Page(HTMLParser):
    """The text of each element, in order; assertions on the way."""

    def __init__(self, html):
        super().__init__()
        self.open, self.texts, self.ids, self.links, self.images, self.cells = [], [], [], [], [], []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        assert html.startswith("<!DOCTYPE html>") and 'lang="en"' in html and 'charset="utf-8"' in html
        assert len(self.ids) == len(set(self.ids)) and set(self.links) <= set(self.ids)
        outside = re.sub(r"base64,[\w+/=]*", "", html)
        assert re.search(r"(?i)https?:|file:|@import|url\(", outside) is None

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        assert tag not in ("script", "link", "iframe", "object") and not any(name.startswith("on") for name in attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [attrs["id"]] if "id" in attrs else []
        if "href" in attrs:
            assert attrs["href"].startswith("#"), attrs
            self.links.append(attrs["href"][1:])
        if "src" in attrs:
            assert attrs["src"].startswith("data:image/"), attrs["src"][:40]
        if tag == "img":
            assert len(attrs["alt"]) > 10
            self.images.append((attrs["alt"], attrs["src"]))
        if tag in ("td", "th"):
            self.cells.append([attrs, ""])

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        if data.strip() and self.open and self.open[-1] != "style":
            self.texts.append(data.strip())
            if self.cells and any(tag in ("td", "th") for tag in self.open):
                self.cells[-1][1] += data

    @property
    def text(self):
        return " ".join(self.texts)

    @property
    def best(self):
        """Texts of the marked cells."""
        return [text for attrs, text in self.cells if "best" in attrs.get("class", "").split()]
