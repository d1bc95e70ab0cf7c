"""The page of all layers is what the code says."""

import re

from tests.make_layer_table import PAGE, table


def test_the_table_of_layers_is_up_to_date():
    assert PAGE.read_text() == table(), "run: python tests/make_layer_table.py"


def test_every_layer_says_what_it_is():
    assert all(
        line.count("|") >= 3 and not line.endswith("|  |") for line in table().splitlines() if line.startswith("| `")
    )


def test_every_layer_is_under_the_laws():
    laws = (PAGE.parents[2] / "tests" / "test_laws.py").read_text()
    names = re.findall(r"^\| `(\w+)", table(), re.M)
    forgotten = {name for name in names if not re.search(rf"jn\.{name}\b", laws)}
    assert len(names) > 50 and forgotten <= {"one_hot"}  # whose outputs are float32, whatever comes in
