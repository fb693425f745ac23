"""The schema of data.json: complete and documented."""

import json
from dataclasses import fields
from pathlib import Path

from icnet.run.data_findings import SECTIONS, DataFindings, Duplicate, write_findings
from icnet.run.schema import tables

PAGE = Path(__file__).parents[2] / "docs" / "data-check.md"


def test_page_describes_exactly_the_schema():
    ours = tables(SECTIONS).rstrip() + "\n"
    assert PAGE.read_text(encoding="utf-8").endswith(ours), "copy the output of 'python -m icnet.run.data_findings'"
    assert all(one.metadata["meaning"] for _, schema in SECTIONS for one in fields(schema))


def test_file_holds_every_key_and_what_was_found(tmp_path):
    path = write_findings(tmp_path / "new", DataFindings(data="own", duplicates=[Duplicate(first="a", second="b")]))
    found = json.loads(path.read_text())
    assert found.keys() == {one.name for one in fields(DataFindings)}
    assert (found["data"], found["duplicates"]) == ("own", [{"first": "a", "second": "b"}])
