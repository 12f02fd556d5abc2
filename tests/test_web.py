"""Whom the pages' server answers, and that a page is one file in which nothing else runs."""

import argparse
import json

import httpx
import pytest

from experiments.cli.user_errors import UserError
from experiments.web.access import Access, access_of, add_options
from experiments.web.guard import host_name
from experiments.web.page import Page
from experiments.web.replies import Refusal
from experiments.web.server import create_app, listen
from tests.browsing import chromium, findings, new_page, served

EVIL = "</script><script>document.title='run'</script><img src=x onerror=\"document.title='run'\">"


def app_for(access, **options):
    app = create_app(access, **options)

    @app.post("/echo")
    async def echo(body: dict):
        return body

    @app.get("/refused")
    async def refused():
        raise Refusal("no\nsuch thing", 404, "model", "model_not_found")

    @app.get("/mistake")
    async def mistake():
        raise UserError("FILE, row 3: is wrong")

    @app.get("/bug")
    async def bug():
        raise KeyError("x")

    return app


@pytest.fixture(scope="module")
def open_server():
    with served(
        app_for(Access(port=0, hosts=("my.lab",), origins=("https://ok.example",)), limit=1000)
    ) as url:
        yield url


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *(("localhost:1", 200), ("127.0.0.1", 200), ("[::1]:8000", 200), ("MY.LAB:80", 200)),
        *(("evil.example", 403), ("127.0.0.1.evil.example", 403), ("localhost@evil.example", 403), ("", 403)),
        *(("evil.example/localhost", 403), ("10.1.2.3", 403), ("[::1", 403)),
    ],
)
def test_a_server_answers_to_its_own_names_alone(open_server, host, status):
    answer = httpx.post(f"{open_server}/echo", json={"a": 1}, headers={"Host": host})
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["error"]["code"] == "unknown_host"


def test_a_name_is_read_from_the_header_as_a_browser_writes_it():
    assert host_name("A.example:80") == "a.example"
    assert host_name("[::1]:8000") == "::1"


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        *((None, True), ("same", True), ("https://ok.example", True)),
        *(("https://ok.example.evil", False), ("http://ok.example", False), ("null", False)),
        ("http://localhost:1", False),
    ],
)
def test_pages_of_other_sites_may_not_call(open_server, origin, allowed):
    headers = {} if origin is None else {"Origin": open_server if origin == "same" else origin}
    answer = httpx.post(f"{open_server}/echo", json={}, headers=headers)
    assert answer.status_code == (200 if allowed else 403)
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    preflight = httpx.options(f"{open_server}/echo", headers={**headers, **asked})
    named = preflight.headers.get("access-control-allow-origin")
    assert named == ("https://ok.example" if origin == "https://ok.example" else None)


def test_a_body_is_bounded_whether_or_not_it_tells_its_length(open_server):
    large = json.dumps({"a": "x" * 1000}).encode()
    for content in (large, iter([large[:500], large[500:]])):
        answer = httpx.post(
            f"{open_server}/echo", content=content, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 413
        assert "1,000 bytes" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("GET", "/refused", 404, {"message": "no such thing", "param": "model", "code": "model_not_found"}),
        ("GET", "/mistake", 400, {"message": "FILE, row 3: is wrong", "param": None, "code": None}),
        ("GET", "/bug", 500, {"message": "KeyError in the server: its terminal says more"}),
        ("GET", "/nowhere", 404, {"message": "there is no GET /nowhere here"}),
        ("GET", "/echo", 405, {"message": "there is no GET /echo here"}),
        ("POST", "/echo", 400, {"code": "invalid_json"}),
    ],
)
def test_errors_are_json_of_one_line(open_server, method, path, status, error, capfd):
    answer = httpx.request(
        method, open_server + path, content=b"{", headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == status
    assert error.items() <= answer.json()["error"].items()
    assert "\n" not in answer.json()["error"]["message"]


def test_a_token_opens_once_by_link_then_by_a_cookie_of_this_site():
    access = Access(port=0, token="geheim")
    app = app_for(access)

    @app.get("/")
    async def home():
        return "home"

    with served(app, access) as url, httpx.Client(base_url=url) as browser:
        for headers in (
            {},
            {"Authorization": "Bearer gehei"},
            {"Authorization": "geheim"},
            {"Cookie": "a=b"},
        ):
            answer = httpx.get(url, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        assert httpx.get(f"{url}/?token=x").status_code == 401
        assert httpx.get(url, headers={"Authorization": "bearer geheim"}).status_code == 200
        cookie = browser.get("/?token=geheim").headers["set-cookie"]
        assert "HttpOnly; SameSite=Strict" in cookie
        assert "geheim" not in cookie
        assert browser.get("/").json() == "home"


def options_of(*argv):
    parser = argparse.ArgumentParser()
    add_options(parser)
    return access_of(parser.parse_args(argv))


def test_an_address_that_others_reach_needs_a_token():
    assert options_of().token is None
    assert options_of("--host", "localhost").token is None
    made = [options_of("--host", "0.0.0.0").token for _ in range(2)]
    assert len(set(made)) == 2
    assert min(map(len, made)) >= 32
    assert options_of("--host", "192.168.1.5", "--token", "abc").token == "abc"
    access = options_of("--host", "0.0.0.0", "--allow-host", "My.lab")
    assert [access.answers_to(name) for name in ("10.0.0.7", "my.lab", "evil.example")] == [True, True, False]
    assert access.url(80).endswith(f":80/?token={access.token}")


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--port", "70000"], "--port is 70000: give 0 to 65535"),
        (["--token", "a b"], "--token: give ASCII letters"),
        (["--token", ""], "--token: give ASCII letters"),
        (["--host", " "], "--host is ' ': give an address"),
        (["--allow-origin", "*"], "--allow-origin is '*': give each site as"),
        (["--allow-origin", "https://a.example/"], "--allow-origin is 'https://a.example/'"),
        (["--allow-host", "http://a"], "--allow-host is 'http://a': give a name without scheme"),
    ],
)
def test_options_that_cannot_be_meant_are_told(argv, line):
    with pytest.raises(UserError) as error:
        options_of(*argv)
    assert str(error.value).startswith(line)


def test_a_port_that_is_taken_is_told_in_a_line():
    with listen(Access(port=0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"--host 127.0.0.1 --port {port}: address already in use: give"):
            listen(Access(port=port))
    with pytest.raises(UserError, match="--host no.such.name --port 1: "):
        listen(Access("no.such.name", 1))


@pytest.fixture(scope="module")
def page_url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    (folder / "toy.yaml").write_text("title: {en: Toy, zh: 玩具}\nsay: {en: Say it, zh: 说吧}\n", "utf-8")
    (folder / "toy.css").write_text("")
    (folder / "toy.html.j2").write_text(
        '{% extends "base.html.j2" %}{% block main %}<button id="say" data-t="say"></button>'
        '<p id="said"></p>{% endblock %}'
    )
    (folder / "toy.js").write_text(
        'find("say").onclick = () => find("said").append(make("b", {text: DATA.said}))'
    )
    access = Access(port=0, token="t")
    app, page = create_app(access), Page("toy", {"said": EVIL}, folder)
    app.get("/")(page.response)
    with served(app, access) as url:
        yield url


def test_a_page_speaks_two_languages_and_runs_nothing_that_a_text_brings(page_url):
    with chromium() as browser:
        page = new_page(browser, locale="zh-CN", viewport={"width": 360, "height": 640})
        problems = []
        page.on("console", lambda message: problems.append(message.text))
        page.goto(f"{page_url}/?token=t")
        assert page.url == f"{page_url}/"  # the token is gone from the address
        assert page.locator("#say").inner_text() == "说吧"
        page.click("#language")
        page.reload()
        assert page.locator("#say").inner_text() == "Say it"
        page.click("#say")
        assert page.locator("#said").inner_text() == EVIL
        assert page.title() == "Toy"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        script = "Object.assign(document.createElement('script'), {text: 'document.title = 1'})"
        page.evaluate(f"document.body.append({script})")
        assert page.title() == "Toy"
        assert "Content Security Policy" in problems[-1]
        assert len(problems) == 1
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert findings(page) == []
