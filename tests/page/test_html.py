"""HTML that is made of values: a reader gets back the very text that was put in, whatever it was."""

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from server.page.html import Html, document, joined, tag

TEXTS = st.text(st.characters(exclude_characters="\r\0", exclude_categories=["Cs"]), max_size=30)


class Reader(HTMLParser):
    """What a browser makes of it."""

    def __init__(self, html: Html) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: list[str] = []
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.feed(html.text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@given(text=TEXTS, value=TEXTS)
def test_text_and_attributes_come_back_as_they_were(text: str, value: str) -> None:
    read = Reader(tag("p", "x", text, title=value))
    assert "".join(read.texts) == f"x{text}"
    assert read.tags == [("p", [("title", value)])]


def test_html_is_not_escaped_twice_and_text_always_once() -> None:
    inner = tag("b", "<&>")
    assert tag("p", inner, " & ", [inner, "<"]).text == "<p><b>&lt;&amp;&gt;</b> &amp; <b>&lt;&amp;&gt;</b>&lt;</p>"
    assert joined("a", (each for each in (inner, Html("<br>")))).text == "a<b>&lt;&amp;&gt;</b><br>"


def test_attributes_are_named_valued_and_left_out() -> None:
    assert tag("p", class_="a", aria_label="b", tabindex=0, hidden=True, id=None, defer=False).text == (
        '<p class="a" aria-label="b" tabindex="0" hidden></p>'
    )


def test_what_has_no_contents_ends_itself() -> None:
    assert tag("rect", width="10%").text == '<rect width="10%"/>'
    assert document(tag("meta", charset="utf-8")) == b'<!doctype html>\n<meta charset="utf-8"/>\n'
