"""Tables as pictures, whatever their size."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from html.parser import HTMLParser

from tables import PAGE, table
from test_python_image import snapshots

from s2pt import Stage2
from s2pt.image import Image
from s2pt.view import MOST_STRIPS, svg


class Balanced(HTMLParser):
    """Refuses tags that do not match."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def check(self, text):
        self.feed(text)
        assert not self.open


def texts(picture):
    root = ET.fromstring(picture)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert not any("href" in name or name.startswith("on") for each in root.iter() for name in each.attrib)
    return [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]


def test_pictures_show_what_is_mapped():
    s2 = table()
    said = texts(s2._repr_svg_())
    assert "Stage-2 table: 40-bit IPA, 4KiB granule, 2 root pages" in said
    assert {"0x80000000", "0x80601000"} <= set(said)
    assert any(text.startswith("RW 3.99MiB") for text in said)
    assert "1 x 2MiB" in said
    page = s2._repr_html_()
    Balanced().check(page)
    assert "<td>2</td><td>2MiB</td><td>1</td><td>1</td><td>2MiB</td>" in page
    assert "<td>1</td><td>1GiB</td><td>2</td><td>0</td><td>0B</td>" in page
    image = s2.image()
    assert image._repr_svg_() == s2._repr_svg_()
    Balanced().check(image._repr_html_())
    assert "nothing is mapped" in texts(svg(Stage2()))
    Balanced().check(s2.explain(0)._repr_html_())
    Balanced().check(s2.explain(1 << 40)._repr_html_())


def test_pictures_of_every_snapshot_are_of_one_size():
    for name, (dump, _) in snapshots().items():
        picture = svg(Image.from_bytes(dump))
        said = texts(picture)
        assert len(picture) < 150_000, name
        assert len([text for text in said if text.startswith("0x")]) <= 2 * MOST_STRIPS


def test_pictures_of_large_tables():
    s2 = Stage2(ipa_bits=48)
    s2.map(0, "512MiB", pa=0)
    s2.split(0, "512MiB")
    for page in range(0, 131072, 37):
        s2.write_protect(page * PAGE, PAGE)
    for island in range(40):
        s2.map((1 << 40) + (island << 37), PAGE, pa=0)
    assert sum(s2.stats().leaves.values()) > 100_000
    picture = svg(s2)
    assert len(picture) < 300_000
    assert len([text for text in texts(picture) if text.startswith("0x")]) <= 2 * MOST_STRIPS
    for rectangle in ET.fromstring(picture).iter("{http://www.w3.org/2000/svg}rect"):
        assert float(rectangle.get("width")) > 0
        assert float(rectangle.get("height")) > 0
