"""The page on which people rank, in a real browser: by keys, by dragging, in two languages, reloaded."""

import json

import httpx
import pytest

from experiments.web.access import Access
from experiments.web.rank.app import rank_app
from experiments.web.rank.ledger import Ledger
from experiments.web.rank.session import Session
from tests.browsing import chromium, findings, new_page, served
from tests.ranking import item, session

EVIL = "<script>document.title='run'</script><img src=x onerror=\"document.title='run'\">"


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


class Room:
    """A session behind a server, and pages of it."""

    def __init__(self, browser, url, people):
        self.browser, self.url, self.people = browser, url, people
        self.problems = []

    def page(self, name="Ann", unanswered=0, **options):
        page = new_page(self.browser, **options)
        if unanswered:  # from before it loads: Chromium would let a first request pass that follows at once
            page.route("**/rank/answer", lambda route: route.abort(), times=unanswered)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", lambda message: self.problems.append(message.text))
        page.goto(self.url)
        page.fill("#person", name)
        page.keyboard.press("Enter")
        page.wait_for_selector("#work .card")
        return page

    @property
    def lines(self):
        return self.people.answers.lines


@pytest.fixture
def room(browser, tmp_path):
    people = session(tmp_path, count=4)
    with served(rank_app(people, Access(port=0))) as url:
        room = Room(browser, url, people)
        yield room
    assert room.problems == []
    people.answers.close()


def answered(page, count):
    from playwright.sync_api import expect

    expect(page.locator("#bar")).to_have_js_property("value", count)


def changed(page, text, back):
    from playwright.sync_api import expect

    expected = expect(page.locator("#turns"))
    (expected.to_have_text if back else expected.not_to_have_text)(text, use_inner_text=True)


def letters(page, place):
    """The letters of the replies in the ranking at a place."""
    return page.locator(f"#ranked .card:nth-child({place}) .text").inner_text().split()[1]


def shown(room, line):
    """The letters of a line's replies in the order of display, with their ratings."""
    return [(line["replies"][card].split()[1], line["ratings"][card]) for card in line["shown"]]


def test_numbers_rank_and_enter_goes_on(room):
    page = room.page()
    for key in ("3", "1", "=", "4", "Enter"):  # the second, which is left, goes last
        page.keyboard.press(key)
    answered(page, 1)
    (line,) = room.lines
    assert [rating for _, rating in shown(room, line)] == [3.0, 1.0, 3.0, 2.0]
    assert line["seconds"] >= 0
    assert page.inner_text("#count") == "1 answered, 3 left"
    page.keyboard.press("2")
    page.keyboard.press("Enter")  # three are left: that is no ranking
    assert "3 replies are not ranked yet" in page.inner_text("#alert")
    page.locator("#done").click(trial=True)  # it does not lie over what is to be pressed
    page.keyboard.press("2")  # taken out again
    assert page.locator("#alert").is_hidden()
    assert page.locator("#ranked .card").count() == 0
    assert len(room.lines) == 1


def test_arrows_go_and_move_and_are_told_to_who_cannot_see(room):
    page = room.page()
    for key in "1234":
        page.keyboard.press(key)
    last = letters(page, 4)
    for key in ("ArrowDown", "ArrowUp", "ArrowDown", "ArrowDown", "ArrowDown", "Shift+ArrowUp"):
        page.keyboard.press(key)
    assert (letters(page, 3), page.inner_text("#live")) == (last, "Reply 4: place 3 of 4")
    page.keyboard.press("=")
    assert page.inner_text("#live") == "Reply 4: tied at place 2"
    page.keyboard.press("Shift+ArrowUp")  # out of the tie, above it
    assert (letters(page, 2), page.inner_text("#live")) == (last, "Reply 4: place 2 of 4")
    page.keyboard.press("Backspace")
    assert page.locator("#open .card").count() == 1
    page.keyboard.press("Enter")
    answered(page, 1)
    assert [rating for _, rating in shown(room, room.lines[0])] == [4.0, 2.0, 1.0, 3.0]


def drag(page, card, onto, part):
    """Drags a card by its grip to a part of another element's height."""
    grip = page.locator(f'.card[data-card="{card}"] .grip').bounding_box()
    box = page.locator(onto).bounding_box()
    page.mouse.move(grip["x"] + 8, grip["y"] + 8)
    page.mouse.down()
    page.mouse.move(box["x"] + 40, box["y"] + box["height"] * part, steps=5)
    page.mouse.up()


def test_dragging_ranks_ties_and_takes_out(room):
    page = room.page(viewport={"width": 900, "height": 1200})
    drag(page, 2, "#drop", 0.5)
    drag(page, 0, '.card[data-card="2"]', 0.1)
    drag(page, 1, '.card[data-card="2"]', 0.5)
    drag(page, 3, '.card[data-card="0"]', 0.1)
    drag(page, 0, '.card[data-card="1"]', 0.95)
    page.click("#done")
    answered(page, 1)
    assert [rating for _, rating in shown(room, room.lines[0])] == [1.0, 2.0, 2.0, 3.0]
    drag(page, 1, "#drop", 0.5)
    drag(page, 1, '.card[data-card="3"]', 0.9)
    assert page.locator("#ranked .card").count() == 0


def test_a_finger_drags_and_buttons_do_the_same(room):
    page = room.page(viewport={"width": 360, "height": 1200}, has_touch=True, is_mobile=True)
    # clicked, not tapped: on a busy machine a tap lasts so long that the browser takes it for a long press
    for card in (3, 2, 1, 0):
        page.locator(f'.card[data-card="{card}"] .put').click()
    page.locator('.card[data-card="2"] .tie').click()
    page.locator('.card[data-card="0"] .up').click()
    page.locator('.card[data-card="1"] .out').click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    grip = page.locator('.card[data-card="1"] .grip').bounding_box()
    top = page.locator('.card[data-card="3"]').bounding_box()
    touch = page.context.new_cdp_session(page)
    at = {"x": grip["x"] + 8, "y": grip["y"] + 8}
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [at]})
    for step in (0.5, 1.0):
        y = at["y"] + (top["y"] + 3 - at["y"]) * step
        touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [{"x": at["x"], "y": y}]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.locator("#done").click()
    answered(page, 1)
    assert [rating for _, rating in shown(room, room.lines[0])] == [1.0, 3.0, 2.0, 2.0]


def test_a_reload_finds_the_ranking_the_remark_and_the_time(room):
    page = room.page()
    for key in ("2", "4", "=", "f"):
        page.keyboard.press(key)
    page.keyboard.type("cuts 1 off")
    first = page.inner_text("#turns")
    page.evaluate("spent += 100")
    page.reload()
    page.wait_for_selector("#work .card")
    assert page.inner_text("#turns") == first
    assert page.locator("#ranked .card").evaluate_all("all => all.map(card => card.dataset.card)") == [
        "1",
        "3",
    ]
    assert page.input_value("#remark") == "cuts 1 off"
    page.keyboard.press("1")
    page.keyboard.press("3")
    page.keyboard.press("Enter")
    answered(page, 1)
    assert [rating for _, rating in shown(room, room.lines[0])] == [2.0, 3.0, 1.0, 3.0]
    assert 100 <= room.lines[0]["seconds"] < 200


def test_an_answer_that_does_not_arrive_is_told_and_can_be_sent_again(room):
    page = room.page(unanswered=1)
    for key in "1234":
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    page.wait_for_selector("#alert:not([hidden])")
    assert "The server does not answer." in page.inner_text("#alert")
    assert room.problems.pop().startswith("Failed to load resource")
    page.locator("#done").click()
    answered(page, 1)
    assert len(room.lines) == 1
    assert page.locator("#alert").is_hidden()


def test_what_cannot_be_ranked_can_be_said_skipped_flagged_and_undone(room):
    page = room.page()
    page.keyboard.press("c")
    answered(page, 1)
    page.keyboard.press("f")
    page.keyboard.type("rude s u c")  # letters are text here
    page.click("#flagging button[type=submit]")
    answered(page, 2)
    later = page.inner_text("#turns")
    page.keyboard.press("s")
    changed(page, later, False)
    assert [(line["verdict"], line["remark"]) for line in room.lines] == [
        ("cannot say", ""),
        ("flagged", "rude s u c"),
        ("skipped", ""),
    ]
    page.keyboard.press("u")
    changed(page, later, True)
    page.keyboard.press("u")
    answered(page, 1)
    assert page.input_value("#remark") == "rude s u c"
    for count in (2, 3, 4):
        page.keyboard.press("c")
        answered(page, count)
    assert "You have answered 4 prompts" in page.inner_text("#end")
    assert findings(page) == []


def test_two_people_do_not_get_the_same_prompt_and_a_name_is_one_however_it_is_typed(room):
    ann, ben = room.page("Ann"), room.page("Ben")
    assert ann.inner_text("#turns") != ben.inner_text("#turns")
    again = room.page("  Ann ")
    assert again.inner_text("#turns") == ann.inner_text("#turns")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_languages_are_whole_and_axe_finds_nothing_serious(room, scheme):
    page = room.page(color_scheme=scheme)
    for key in ("1", "2", "="):
        page.keyboard.press(key)
    page.click("#keys summary")
    page.keyboard.press("f")
    assert findings(page) == []
    english = set(page.inner_text("body").split("\n"))
    page.click("#language")
    assert page.title() == "给回答排名"
    assert page.locator("html").get_attribute("lang") == "zh-CN"
    chinese = set(page.inner_text("body").split("\n"))
    same = {"Ann", "0:00", "0:01", "0:02", *"1234↑↓=×+", "↑ ↓", "Shift + ↑ ↓", "Question 0", ""}
    assert {line for line in english & chinese if not line.startswith("reply ")} <= same
    assert findings(page) == []
    page.close()


def test_what_models_and_people_wrote_is_text_and_never_tells_the_model(browser, tmp_path):
    evil = item(0, f"a {EVIL}", f"b {EVIL}", models=("secret-one", "secret-two"))
    evil.prompt["instruction"] = EVIL
    people = Session([evil], Ledger(tmp_path / "ranks.jsonl"), 1, 0)
    with served(rank_app(people, Access(port=0))) as url:
        room = Room(browser, url, people)
        page = room.page(EVIL[:50])
        assert page.title() == "Rank replies"
        assert EVIL in page.inner_text("#turns")
        assert page.locator("#work img, #who img").count() == 0
        told = httpx.post(f"{url}/rank/next", json={"person": EVIL[:50]}).text
        assert "secret" not in told + page.content()
        assert room.problems == []


def test_the_server_refuses_what_is_no_answer(room):
    def status(path, **body):
        return httpx.post(room.url + path, json=body).status_code

    name = httpx.post(f"{room.url}/rank/next", json={"person": "Ann"}).json()["item"]
    asked = {"person": "Ann", "item": name, "answer": "ranked"}
    for levels in ([1, 2, 3], [0, 1, 2, 3], [1, 2, 3, 1.5], ["a"] * 4, [1] * 5):
        assert status("/rank/answer", **asked, levels=levels) == 400
    for person in ("", "   ", "x" * 61, 3, None):
        assert status("/rank/next", person=person) == 400
    assert status("/rank/answer", **{**asked, "item": "other"}) == 409
    assert status("/rank/answer", **{**asked, "answer": "bought"}) == 400
    assert room.lines == []
    assert status("/rank/answer", **asked, levels=[7, 7, 9, 2]) == 200
    assert status("/rank/answer", **asked, levels=[1, 2, 3, 4]) == 200  # sent twice: taken once
    assert json.dumps(sorted(room.lines[0]["ratings"])) == "[1.0, 2.0, 2.0, 3.0]"
    assert len(room.lines) == 1
