"""Texts in tables: no spreadsheet computes them, and what is read is what was written."""

from __future__ import annotations

import csv

import numpy as np
import pandas as pd
import pytest
from hostile import refused

from fgg.tables import read_csv, write_csv

FORMULAS = [
    "=1+2", "=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "=HYPERLINK(\"http://x\")", "-0.5",
    "+", "-", "=", "@", "'=1", "''=1", "'-1", "-x,y", '-"', "=1;2",
]  # fmt: skip
PLAIN = [
    "disc", "'quoted'", "a=b", "1-2", " =1", "Größe", "a,b", 'a"b', "a\nb", "a\rb", "a\r\nb", "NA", "nan", "null", "None", "#N/A",
    "<b>x</b>", "\u202eabc", "\x1b[31m", "'", "true", "01", "1e5", "\\", "\\n", "🙂",
]  # fmt: skip


def read_back(tmp_path, frame, texts=("name",)):
    write_csv(tmp_path / "t.csv", frame)
    return read_csv(tmp_path / "t.csv", texts=texts)


@pytest.mark.parametrize("text", FORMULAS + PLAIN)
def test_a_text_comes_back(tmp_path, text):
    found = read_back(tmp_path, pd.DataFrame({"name": ["other", text], "value": [-0.5, 1.0]}))
    assert found["name"].tolist() == ["other", text]
    assert found["value"].tolist() == [-0.5, 1.0]


@pytest.mark.parametrize("text", ["=1", "a\rb", "NA"])
def test_categories_and_heads(tmp_path, text):
    frame = pd.DataFrame({"name": pd.Categorical(["b", text, "b"]), text: [1, 2, 3]})
    found = read_back(tmp_path, frame)
    assert found["name"].tolist() == ["b", text, "b"] and list(found) == ["name", text]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_begins_like_a_formula(tmp_path, text):
    frame = pd.DataFrame({"name": ["other", text], text: ["a", text], "value": [-0.5, -1e-300]})
    read_back(tmp_path, frame)
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        head, *rows = list(csv.reader(file))
    assert rows[1][0] == f"'{text}" and rows[1][1] == f"'{text}" and head[1] == f"'{text}"
    assert [row[2] for row in rows] == ["-0.5", "-1e-300"], "numbers stay numbers"


def test_many_columns_at_once_and_their_names(tmp_path):
    values = [*FORMULAS, *PLAIN]
    frame = pd.DataFrame({"name": values, "=head": values[::-1], "n": np.arange(len(values)) - 3})
    frame["mixed"] = [None if i % 3 else "-x" for i in range(len(values))]
    frame["some"] = [np.nan if i % 2 else -float(i) for i in range(len(values))]
    found = read_back(tmp_path, frame, ("name", "=head", "mixed"))
    assert list(found) == list(frame)
    for name in ("name", "=head", "n", "some"):
        pd.testing.assert_series_equal(found[name], frame[name], check_dtype=False)
    assert found["mixed"].isna().tolist() == frame["mixed"].isna().tolist()
    assert set(found["mixed"].dropna()) == {"-x"}


def test_a_table_without_such_texts_is_written_as_pandas_writes_it(tmp_path):
    frame = pd.DataFrame(
        {"name": ["a", 'b"c', None, "x,y"], "value": [-1.5, np.nan, np.inf, 3.0], "is": [True, False] * 2}
    )
    write_csv(tmp_path / "t.csv", frame)
    assert (tmp_path / "t.csv").read_text() == frame.to_csv(index=False, lineterminator="\n")
    pd.testing.assert_frame_equal(read_csv(tmp_path / "t.csv"), frame)


DAMAGED = {
    "not UTF-8": b"\xff\xfe\x00", "a row longer than the head": b"a,b\n1,2,3,4\n", "a quote without end": b'a,b\n"1,2\n',
    "nothing": b"", "a long quote without end": b'a\n"' + b"x" * 2**22,
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGED)
def test_what_is_no_table(tmp_path, kind):
    (tmp_path / "t.csv").write_bytes(DAMAGED[kind])
    with refused("t.csv cannot be read as a table", 64):
        read_csv(tmp_path / "t.csv")
