"""The page in a real browser: no error, nothing fetched, every figure with its data, a table that sorts and filters."""

import base64
import contextlib
import json
import re
import sys

import numpy as np
import pytest

import jaxnet as jn
from jaxnet.search.report import contents
from tests.search import made

FIGURES = [
    "best",
    "curves",
    "hyperparameters",
    "importances",
    "parallel",
    "resources",
]  # of a search where all goes well


@contextlib.contextmanager
def opened(browser, result, folder, width=1280, **options):
    """The page once all is drawn; leaving it checks that nothing went wrong and nothing was asked of the network."""
    path = folder / "search.html"
    result.report(path, **options)
    page = browser.new_page(viewport={"width": width, "height": 900})
    wrong, asked = [], []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(f"dialog {dialog.message}") or dialog.dismiss())
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-ready]", timeout=120_000)
    yield page
    assert wrong == [] and [url for url in asked if not url.startswith(("blob:", "data:"))] == [path.as_uri()]
    page.close()


def drawn(page):
    return sorted(
        page.evaluate("[...document.querySelectorAll('.plot[data-drawn]')].map(e => e.id.replace('-plot', ''))")
    )


def traces(page, figure):
    """Of each trace of a figure its name and how many different trials are in it."""
    return page.evaluate(
        "id => document.getElementById(id + '-plot').data.map(t => [t.name ?? t.type, "
        "new Set([...(t.customdata ?? [])].filter(i => i !== null)).size])",
        figure,
    )


def cells(page, name):
    """The column of the table as it stands."""
    heads = page.eval_on_selector_all("#trials-table thead tr:first-child th", "all => all.map(e => e.dataset.name)")
    return page.eval_on_selector_all(
        f"#trials-table tbody td:nth-child({heads.index(name) + 1})", "all => all.map(e => e.textContent)"
    )


@pytest.mark.parametrize("width", [1280, 360])
def test_ten_trials(browser, tmp_path, width):
    result = made.result(10, 5, diverging=False)
    with opened(browser, result, tmp_path, width, title="Ten trials") as page:
        assert page.title() == page.text_content("h1") == "Ten trials"
        assert drawn(page) == FIGURES
        assert page.evaluate("document.documentElement.scrollWidth") == width  # nothing sticks out
        assert dict(traces(page, "curves")) == {"10 best": 9, "the best": 1, "chosen": 0}
        best = result.best
        assert f"trial {best['id']} with validation error {best['score']:.4g}" in page.text_content("#lead")
        assert "No trial diverged." in page.text_content("#divergences")
        assert page.text_content("#count") == "10 trials, page 1 of 1"
        assert cells(page, "id") == [str(row["id"]) for row in result.ranked()]
        heads = page.eval_on_selector_all("#trials-table thead tr:first-child th", "all => all.map(e => e.textContent)")
        assert heads[:6] == ["rank", "id", "status", "units", "validation error", "learning rate"]
        # Every figure says in words what it shows, and every section is in the list of links.
        assert all(map(len, page.eval_on_selector_all(".plot", "all => all.map(e => e.getAttribute('aria-label'))")))
        page.set_viewport_size({"width": 700, "height": 900})
        page.wait_for_function("document.querySelector('#curves-plot .main-svg').getAttribute('width') < 700")
        page.wait_for_function("document.documentElement.scrollWidth === 700")
        links = page.eval_on_selector_all("nav a", "all => all.map(e => e.getAttribute('href').slice(1))")
        assert links == page.eval_on_selector_all("main > section", "all => all.map(e => e.id)")


def test_ten_thousand_trials(browser, tmp_path):
    result = made.result(10_000, 5)
    with opened(browser, result, tmp_path) as page:
        assert (tmp_path / "search.html").stat().st_size < 15e6
        assert drawn(page) == sorted([*FIGURES, "divergences"])
        diverged = result.counts["diverged"]
        density = page.evaluate(
            "document.getElementById('curves-plot').data[0].customdata.flat().reduce((a, b) => a + b)"
        )
        finite = np.isfinite(result.curves).sum()
        assert 0.99 * finite < density <= finite  # the uppermost half percent is cut off
        panel = {name: count for name, count in traces(page, "hyperparameters") if count}
        assert panel == {"completed": 9990 - diverged, "diverged": diverged, "10 best": 9, "the best": 1}
        assert len(page.query_selector_all("#trials-table tbody tr")) == 25  # a page of it, so that it stays quick
        page.click('th[data-name="dropout"] button')
        order = np.argsort(result.table["dropout"], kind="stable")
        assert cells(page, "id") == order[:25].astype(str).tolist()
        page.click("#next")
        assert cells(page, "id") == order[25:50].astype(str).tolist()
        page.click("#every")
        page.wait_for_function("document.getElementById('curves-plot').data[0].type === 'scattergl'")
        assert traces(page, "curves")[0] == ["completed", 9990 - diverged]


def test_a_search_by_hyperband(browser, tmp_path):
    result = made.result(143, 81, jn.search.hyperband())
    table = result.table
    with opened(browser, result, tmp_path) as page:
        assert drawn(page) == sorted([*FIGURES, "divergences", "rungs"])
        # Li et al. (2018), Table 1's neighbours by Algorithm 1: what each bracket starts with, and its units.
        rows = page.eval_on_selector_all(
            "#rungs-table tbody tr", "all => all.map(r => [...r.cells].map(c => c.textContent))"
        )
        starts = [(int(row[2]), int(row[3])) for row in rows if row[1] == "1"]
        assert starts == [(1, 81), (3, 34), (9, 15), (27, 8), (81, 5)]
        assert [row[4] for row in rows if row[0] == "1"] == ["27", "9", "3", "1", "0"]

        def wanted(name, text):
            page.fill(f'[data-filter="{name}"]', text)
            return int(re.match(r"[\d,]+", page.text_content("#count"))[0].replace(",", ""))

        assert wanted("status", "STOPPED") == result.counts["stopped"]
        assert wanted("units", ">=27") == (few := ((table["status"] == "stopped") & (table["units"] >= 27)).sum()) > 0
        assert set(cells(page, "units")) == {"27"} and len(cells(page, "units")) == min(few, 25)
        assert wanted("status", "") == (table["units"] >= 27).sum()
        assert wanted("units", "") == 143
        rate = table["learning_rate"]
        assert wanted("learning_rate", "0.01..0.1") == ((rate >= 0.01) & (rate <= 0.1)).sum()
        assert wanted("learning_rate", "many") == 0
        assert wanted("learning_rate", "") == 143

        page.click('th[data-name="learning_rate"] button')
        assert cells(page, "id") == np.argsort(rate)[:25].astype(str).tolist()
        assert page.get_attribute('th[data-name="learning_rate"]', "aria-sort") == "ascending"
        page.click('th[data-name="learning_rate"] button')
        assert cells(page, "id") == np.argsort(rate)[::-1][:25].astype(str).tolist()
        page.click('th[data-name="score"] button')
        page.click('th[data-name="score"] button')  # downwards, and what diverged is last all the same
        assert cells(page, "id")[0] == str(np.nanargmax(table["score"]))

        page.click("text=See them in the table")
        assert set(cells(page, "id")) == {str(i) for i in np.flatnonzero(table["status"] == "diverged")}
        page.fill('[data-filter="status"]', "")
        page.fill('[data-filter="id"]', str(result.best["id"]))
        page.click("#trials-table tbody tr")
        assert page.is_visible(".selection") and f"Trial {result.best['id']}:" in page.text_content(".selection")
        page.wait_for_function("document.getElementById('curves-plot').data.at(-1).y.length > 0")
        marked = page.evaluate("Array.from(document.getElementById('curves-plot').data.at(-1).y)")
        np.testing.assert_allclose(marked, result.curves[result.best["id"]], rtol=1e-6)
        page.select_option("#measure", "train_loss")
        page.wait_for_function("document.getElementById('curves-plot').layout.yaxis.title.text === 'train loss'")
        with page.expect_download() as download:
            page.click("text=Save these as CSV")
        assert download.value.path().read_text().splitlines()[1].split(",")[0] == str(result.best["id"])


@pytest.mark.parametrize(
    "case", ["one trial", "all diverged", "failed", "higher is better", "one unit", "bare", "branches"]
)
def test_searches_at_the_edge(browser, tmp_path, case):
    result = made.result(
        1 if case == "one trial" else 12, 1 if case == "one unit" else 3, maximize=case == "higher is better"
    )
    if case == "branches":
        result = made.result(40, 3, space=made.BRANCHES)
    table = result.table
    if case == "all diverged":
        table |= {"status": np.full(12, "diverged"), "score": np.full(12, np.nan), "diverged": np.arange(12)}
        table |= {"validation_error": table["score"], "train_loss": table["score"]}
        for history in result.history.values():
            history[:] = np.nan
    if case == "failed":
        gone = np.arange(12) < 3
        table |= {"status": np.where(gone, "failed", "completed"), "score": np.where(gone, np.nan, 0.5 + np.arange(12))}
        result.messages.update(dict.fromkeys(range(3), "dense: expected <b>x</b>"))
    if case == "bare":  # as made of tables alone
        result = jn.search.SearchResult(table, result.history, result.names)
    with opened(browser, result, tmp_path) as page:
        expected = set(FIGURES) | ({"divergences"} if "diverged" in result.counts else set())
        if case in ("one trial", "all diverged", "failed"):
            expected -= {"importances"}
            assert "They need" not in page.text_content("#importances-note")
            assert re.search(
                r"Importances need at least 10 trials with a score, got [019]\.", page.text_content("#importances")
            )
        if case == "all diverged":
            expected -= {"best", "parallel"}
            assert page.text_content("#lead") == "None of 12 trials ended with a score."
            assert cells(page, "status") == ["diverged"] * 12
        if case == "bare":
            expected -= {"resources"}
        if case == "branches":
            absent = ["–" if value is None else f"{value:,}" for value in table["width"]]
            assert cells(page, "width") == [absent[int(i)] for i in cells(page, "id")]
            page.fill('[data-filter="optimizer.momentum"]', ">=0.5")
            assert set(cells(page, "optimizer.name")) == {"sgd"}
        if case == "failed":
            assert "3 trials failed: dense: expected <b>x</b>" in page.text_content("#divergences")
        if case == "higher is better":
            assert cells(page, "id")[0] == str(np.nanargmax(table["score"]))
            assert "higher is better" in page.text_content(".facts")
        assert drawn(page) == sorted(expected)


def test_names_and_values_are_text_whatever_they_say(browser, tmp_path):
    bad = [
        "</script><script>window.hacked = 1</script>",
        "<img src=x onerror='window.hacked = 1'>",
        "&lt;b&gt; \u2028 ${1} %{y}",
    ]
    names = ['<img src="x" onerror="hacked = 1">', "a <a href='javascript:alert(1)'>link</a>", "__proto__"]
    space = jn.Space(**{names[0]: jn.choice(*bad), names[1]: jn.uniform(0, 1), names[2]: jn.uniform(0, 1)})
    result = made.result(12, 3, space=space)
    result.history[bad[0]] = result.history.pop("train_loss") * 3
    with opened(browser, result, tmp_path, title=bad[0]) as page:
        assert page.text_content("h1") == page.title() == bad[0]
        assert page.evaluate("window.hacked") is None
        assert page.query_selector_all("img") == page.query_selector_all("main a[href^=javascript]") == []
        assert page.query_selector_all("main svg a, main script") == []
        assert set(cells(page, names[0])) == set(result.table[names[0]])
        assert page.evaluate("document.getElementById('hyperparameters-plot').layout.xaxis.title.text").startswith(
            "&lt;img"
        )
        shown = page.eval_on_selector_all("#hyperparameters-plot text", "all => all.map(e => e.textContent)")
        assert names[0] in shown and names[1] in shown
        page.click("#trials-table tbody tr")
        assert names[0] in page.text_content(".selection")


def test_the_page_holds_what_the_result_does():
    result = made.result(200, 9)
    page = contents(result)
    json.dumps(page | {"best": None, "groups": None, "rungs": None})  # plain, but for these arrays
    assert [column["name"] for column in page["columns"]][:4] == ["id", "status", "units", "score"]
    assert "validation_error" not in [column["name"] for column in page["columns"]]  # it's the score
    assert page["score"] == "validation error" and page["counts"] == result.counts
    assert (
        page["importances"]["units"] == 9
        and max(page["importances"]["shares"], key=page["importances"]["shares"].get) == "learning_rate"
    )
    assert page["scales"]["kernel"] == {"kind": "linear", "bounds": (1, 7), "values": []}
    assert page["scales"]["batch"] == {"kind": "category", "bounds": None, "values": [32, 64, 128]}


def test_importances_are_left_out_with_a_word_where_their_library_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert "They need the extra “report”" in contents(made.result(12, 2))["importances"]["reason"]


def test_curves_that_are_too_many_are_sampled_with_the_best(monkeypatch):
    monkeypatch.setattr("jaxnet.search.report.MOST_VALUES", 900)
    result = made.result(1000, 3)
    ids = np.frombuffer(base64.b64decode(contents(result)["curves"]["ids"]["i4"]), "<i4")
    assert len(ids) <= 300 and {row["id"] for row in result.ranked(100)} <= set(ids.tolist())
    assert np.diff(ids).max() < 10  # and evenly over the others
