"""The page in a real browser: searching, the slate, reasons, what if, hostile titles, and the keyboard alone."""

from __future__ import annotations

import pytest

from pipelines.explore.question import Question

ROWS = "return [...document.querySelectorAll('#slates > section > ol:not(.gone) .row')].map((one) => one.dataset.item)"
VERDICT = "return document.querySelector('[data-verdict]')?.dataset.verdict"


@pytest.fixture
def page(browser, address):
    browser.resize(1400, 900)
    browser.open("about:blank")
    browser.open(address)
    browser.wait("return document.activeElement.id === 'user-search'")
    yield browser
    assert browser.complaints() == []


def test_a_user_is_found_and_the_slate_explained_by_the_keyboard_alone(page, explorer):
    user = explorer.tables.users("customer-00001")[1].id
    page.type("customer-00001")
    page.wait("return document.querySelectorAll('#user-results li').length > 1")
    for key in ("ArrowDown", "ArrowDown", "Enter"):
        page.type(key)
    wanted = explorer.slate(Question(user=user))
    page.wait(f"return ({ROWS.removeprefix('return ')}).length === 10")
    assert page.run(ROWS) == [one.item.id for one in wanted.items]
    assert page.run("return document.getElementById('user-title').textContent") == f"User {user}"
    assert page.run("return document.querySelectorAll('#history .row').length") == len(explorer.user(user).history)

    page.run("document.querySelector('#slates .row').focus()")
    for key in ("ArrowDown", "Enter"):
        page.type(key)
    assert page.wait(VERDICT) == "shown"
    assert page.run("return document.querySelectorAll('.part').length") == 9
    page.run("document.getElementById('item-search').focus()")
    page.type(wanted.next[1].item.id)
    page.type("Enter")
    page.wait("return document.querySelector('[data-verdict]')?.dataset.verdict === 'outranked'")

    had = next(one.item_id for one in explorer.user(user).history if one.is_known)
    page.run("document.querySelector(`#history [data-item='${arguments[0]}']`).click()", had)
    page.wait("return document.querySelector('[data-verdict]')?.dataset.verdict === 'forbidden'")
    page.open(page.run("return location.href"))
    page.wait(f"return ({ROWS.removeprefix('return ')}).length === 10")
    assert page.wait(VERDICT) == "forbidden"


def test_the_first_screen_names_users_and_one_click_opens_one(page, explorer):
    named = "return [...document.querySelectorAll('#start button')].map((one) => one.textContent)"
    assert page.run(named) == explorer.tables.most_active(3)
    assert "the test period after it is held back" in page.run("return document.getElementById('about').textContent")
    page.run("document.querySelector('#start button').click()")
    page.wait(f"return ({ROWS.removeprefix('return ')}).length === 10")
    assert page.run("return document.getElementById('start').hidden")


def test_what_if_moves_the_slate_and_as_served_brings_it_back(page, explorer):
    user = explorer.tables.users("customer-00001")[1].id
    page.type(user)
    page.type("Enter")
    as_served = page.wait(f"const rows = {ROWS.removeprefix('return ')}; return rows.length === 10 && rows")
    page.run("document.querySelector('#slates .row').click()")
    page.wait(VERDICT)
    page.run(
        "[...document.querySelectorAll('.actions button')].find((one) => one.textContent === 'As if clicked').click()"
    )
    assert page.wait("return document.querySelector('.gone .row')?.dataset.item") == as_served[0]
    clicked = page.run(ROWS)
    assert clicked == [one.item.id for one in explorer.slate(Question(user=user, clicks=[as_served[0]])).items]
    assert page.run("return document.querySelectorAll('.mark.new').length") == len(set(clicked) - set(as_served))
    page.wait("return document.querySelector('[data-verdict]')?.dataset.verdict === 'forbidden'")

    def set_field(name: str, value: str) -> None:
        script = "const one = document.forms[0].elements[arguments[0]]; one.value = arguments[1]; "
        page.run(script + "one.dispatchEvent(new Event('change', {bubbles: true}))", name, value)

    set_field("rules", "price <")
    page.wait("return !document.getElementById('error').hidden")
    assert "price <" in page.run("return document.getElementById('error').textContent")
    assert all("400 (Bad Request)" in one for one in page.complaints())
    set_field("rules", "price <= 20")
    page.wait("return document.getElementById('error').hidden")
    set_field("k", "4")
    page.wait(f"return ({ROWS.removeprefix('return ')}).length === 4")
    wanted = explorer.slate(Question(user=user, clicks=[as_served[0]], rules=["price <= 20"], k=4))
    assert page.run(ROWS) == [one.item.id for one in wanted.items]
    page.run("document.querySelector('#what-if button[type=reset]').click()")
    page.wait(f"return ({ROWS.removeprefix('return ')}).join() === arguments[0]", ",".join(as_served))
    assert page.run("return document.querySelectorAll('.mark').length") == 0


def test_two_runs_stand_side_by_side_with_their_differences(page, address_of_both, explorer, diverse):
    user = explorer.tables.users("customer-00001")[1].id
    page.open(f"{address_of_both}#user={user}")
    page.wait("return document.querySelectorAll('#slates > section > ol .row').length === 20")
    sides = [[one.item.id for one in made.slate(Question(user=user)).items] for made in (explorer, diverse)]
    assert page.run(ROWS) == [*sides[0], *sides[1]]
    only = len(set(sides[0]) - set(sides[1]))
    assert 0 < only < 10
    assert page.run("return document.querySelectorAll('.mark.new').length") == 2 * only
    assert f"{10 - only} of 10 shared" in page.run("return document.querySelector('.slate p').textContent")
    page.run("document.querySelector('#slates .row').click()")
    page.wait("return document.querySelectorAll('[data-verdict]').length === 2")


def test_hostile_titles_stay_text(page, explorer):
    page.type(explorer.tables.users("customer-00001")[1].id)
    page.type("Enter")
    page.wait(f"return ({ROWS.removeprefix('return ')}).length === 10")
    page.run("document.querySelector('#slates .row').click()")
    page.wait(VERDICT)
    page.run(
        "[...document.querySelectorAll('.actions button')].find((one) => one.textContent === 'Similar items').click()"
    )
    page.wait("return document.querySelector('.similar .row')")
    assert page.run("return document.querySelector('#slates .title').textContent").startswith("<img src=x onerror=")
    assert page.run("return document.querySelectorAll('img, main script').length") == 0
    assert page.run("return document.title").startswith("Explore ")


@pytest.mark.parametrize("width", [360, 800, 1400])
def test_nothing_is_wider_than_the_screen(page, explorer, width):
    page.resize(width, 800)
    page.type(explorer.tables.users("customer-00001")[1].id)
    page.type("Enter")
    page.wait(f"return ({ROWS.removeprefix('return ')}).length === 10")
    page.run("document.querySelector('#slates .row').click()")
    page.wait(VERDICT)
    assert page.run("return document.documentElement.scrollWidth") <= width
    unnamed = "return [...document.querySelectorAll('input, textarea')].filter((one) => !one.labels.length).length"
    assert page.run(unnamed) == 0
