"""The page of all layers is what the code says."""

from tests.make_layer_table import PAGE, table


def test_the_table_of_layers_is_up_to_date():
    assert PAGE.read_text() == table(), "run: python tests/make_layer_table.py"


def test_every_layer_says_what_it_is():
    assert all(
        line.count("|") >= 3 and not line.endswith("|  |") for line in table().splitlines() if line.startswith("| `")
    )
