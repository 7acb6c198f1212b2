"""The table of mutations fits the code, and the page of guarantees has each."""

import pytest

from tests.mutations.__main__ import ROOT
from tests.mutations.table import TABLE, Mutation


@pytest.mark.parametrize("mutation", TABLE, ids=lambda mutation: mutation.name)
def test_a_mutation_changes_one_line_and_names_a_test(mutation: Mutation):
    text = (ROOT / mutation.file).read_text()
    tests = (ROOT / mutation.test.partition("::")[0]).read_text()

    assert text.count(f"{mutation.line}\n") == text.count(mutation.line) == 1
    assert f"def {mutation.name}(" in tests


def test_the_page_of_guarantees_has_each():
    page = (ROOT / "docs" / "guarantees.md").read_text()

    assert {mutation.name for mutation in TABLE if mutation.name not in page} == set()
