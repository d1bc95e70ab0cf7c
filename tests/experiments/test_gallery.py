"""The gallery shows what the runs wrote, and a record prints its numbers as they are read."""

import json

import pytest
from matplotlib.figure import Figure

from experiments import gallery
from experiments.record import Record, table


def test_the_page_is_what_the_records_say():
    assert gallery.PAGE.read_text() == gallery.page(), "run python -m experiments.gallery"


def test_figures_are_there_and_small():
    records = list(gallery.RESULTS.glob("*/record.json"))
    assert records
    for path in records:
        for figure in json.loads(path.read_text())["figures"]:
            assert 1000 < (path.parent / figure["file"]).stat().st_size < 200_000


def test_a_run_is_taken_unless_it_was_quick(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gallery, "RESULTS", tmp_path / "results")
    for name, flags in (("one", []), ("two", ["--quick"])):
        record = Record(f"experiments.{name}", f"Is it {name}?\n\nmore", [*flags, "--output", str(tmp_path / "runs")])
        record.number("spread", [1.0, 1.5, 2.0], "%", known=1.5, source="by hand")
        record.number("count", 16_000_000_000)
        record.claim("it is", True)
        record.figure(Figure(), "nothing")
        record.finish()
    assert gallery.take(tmp_path / "runs") == ["one"]
    page = gallery.page()
    assert "- [Is it one?](#is-it-one)" in page and "## Is it one?" in page and "Is it two?" not in page
    assert "| spread | 1.50 (sd 0.50, 3 seeds) % | 1.5 % | by hand |" in page
    assert "| count | 16,000,000,000 |  |  |" in page and "- Confirmed: it is" in page
    assert "![nothing](results/one/figure.png)" in page


def test_a_claim_that_fails_ends_the_run_with_an_error(tmp_path, capsys):
    record = Record("experiments.one", "Is it?", ["--output", str(tmp_path)])
    record.claim("it is", False)
    with pytest.raises(SystemExit, match="1 of 1 claims don't hold: it is"):
        record.finish()
    assert "FAILS: it is" in capsys.readouterr().out
    assert table(json.loads((tmp_path / "one" / "record.json").read_text()))[2:] == []
