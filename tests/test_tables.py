"""Tables and records: written whole or not at all, the same bytes each time, and marked with what made them."""

import hashlib
import json
import os
import stat
import threading

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fgg.errors import FggError
from fgg.tables import (
    SCHEMA_VERSION,
    atomic,
    column,
    matrix,
    read_json,
    read_settings,
    read_table,
    write_csv,
    write_json,
    write_table,
)

SETTINGS = {"seed": 3, "name": "ü", "gate": {"layers": [1, 2], "clamp_max": 10.0}}


def columns(n=5):
    draw = np.random.default_rng(0)
    return {
        "image_id": [f"image {i}" for i in range(n)],
        "label": np.arange(n),
        "relevance": draw.random((n, 7)).astype(np.float32),
    }


def files(folder):
    return sorted(file.name for file in folder.iterdir())


@pytest.fixture
def umask():
    """A function that sets the umask, which is put back afterwards."""
    before = os.umask(0)
    os.umask(before)
    yield os.umask
    os.umask(before)


# ---- atomic


def test_the_target_appears_when_all_went_well(tmp_path):
    target = tmp_path / "a" / "b" / "x.txt"
    with atomic(target) as temporary:
        temporary.write_text("all")
        assert not target.exists() and temporary.parent == target.parent
    assert target.read_text() == "all" and files(target.parent) == ["x.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_midway_leaves_nothing(tmp_path, error):
    target = tmp_path / "x.txt"
    with pytest.raises(error), atomic(target) as temporary:
        temporary.write_text("half")
        raise error
    assert files(tmp_path) == []


def test_an_error_midway_leaves_what_was_there(tmp_path):
    target = tmp_path / "x.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old" and files(tmp_path) == ["x.txt"]


def test_a_target_is_replaced_whole(tmp_path):
    target = tmp_path / "x.txt"
    target.write_text("a long old text")
    with atomic(target) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new"


def test_writers_at_the_same_time_do_not_mix(tmp_path):
    target, barrier = tmp_path / "x.txt", threading.Barrier(4)

    def write(letter):
        with atomic(target) as temporary:
            temporary.write_text(letter * 1000)
            barrier.wait()

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_text() in [letter * 1000 for letter in "abcd"] and files(tmp_path) == ["x.txt"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_permissions_follow_the_umask(tmp_path, umask, mask, mode):
    umask(mask)
    write_table(tmp_path / "t.parquet", columns(), SETTINGS)
    write_json(tmp_path / "r.json", {}, SETTINGS)
    assert [stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()] == [mode, mode]
    assert os.umask(mask) == mask, "the umask is left as it was"


@pytest.mark.parametrize("writer", ["table", "json", "csv"])
def test_every_writer_is_atomic(tmp_path, monkeypatch, writer):
    target = tmp_path / "target"
    target.write_text("old")

    class Full(Exception):
        pass

    def fail(*args, **kwargs):
        raise Full

    with pytest.raises(Full):
        if writer == "table":
            monkeypatch.setattr(pq, "write_table", fail)
            write_table(target, columns(), SETTINGS)
        elif writer == "json":
            monkeypatch.setattr(type(target), "write_text", fail)
            write_json(target, {"a": 1}, SETTINGS)
        else:
            monkeypatch.setattr(pd.DataFrame, "to_csv", fail)
            write_csv(target, pd.DataFrame({"a": [1]}))
    assert target.read_text() == "old" and files(tmp_path) == ["target"]


# ---- tables


def test_a_table_comes_back(tmp_path):
    write_table(tmp_path / "t.parquet", columns(), SETTINGS)
    table = read_table(tmp_path / "t.parquet")
    assert table["image_id"].to_pylist() == columns()["image_id"]
    assert table["label"].to_pylist() == list(range(5)) and table.schema.field("label").type == pa.int64()
    relevance = matrix(table, "relevance")
    assert relevance.dtype == np.float32 and np.array_equal(relevance, columns()["relevance"])
    assert table.schema.field("relevance").type == pa.list_(pa.float32(), 7)
    assert read_table(tmp_path / "t.parquet", ["label"]).column_names == ["label"]


def test_a_matrix_of_several_chunks_and_of_a_slice(tmp_path):
    values = columns()["relevance"]
    table = pa.table({"relevance": column(values)})
    both = pa.concat_tables([table, table])
    assert np.array_equal(matrix(both, "relevance"), np.concatenate([values, values]))
    assert np.array_equal(matrix(table.slice(2, 2), "relevance"), values[2:4])
    assert matrix(table.slice(0, 0), "relevance").shape == (0, 7)


def test_a_column_does_not_depend_on_memory_layout():
    values = np.arange(12.0).reshape(3, 4)
    assert column(np.asfortranarray(values)) == column(values)
    assert column(values[:, ::2]).to_pylist() == values[:, ::2].tolist()


def test_nan_survives_in_tables(tmp_path):
    write_table(tmp_path / "t.parquet", {"score": np.array([1.0, np.nan])}, {})
    back = np.asarray(read_table(tmp_path / "t.parquet")["score"])
    assert back[0] == 1 and np.isnan(back[1])


def test_tables_carry_what_made_them(tmp_path):
    write_table(tmp_path / "t.parquet", columns(), SETTINGS)
    note = json.loads(pq.read_schema(tmp_path / "t.parquet").metadata[b"fgg"])
    assert note == {"schema": SCHEMA_VERSION, "settings": SETTINGS}
    assert read_settings(tmp_path / "t.parquet") == SETTINGS


def test_an_arrow_table_keeps_its_own_metadata(tmp_path):
    table = pa.table({"a": [1]}).replace_schema_metadata({"huggingface": "x"})
    write_table(tmp_path / "t.parquet", table, SETTINGS)
    metadata = pq.read_schema(tmp_path / "t.parquet").metadata
    assert metadata[b"huggingface"] == b"x" and b"fgg" in metadata


@pytest.mark.parametrize("kind", ["parquet", "json", "csv"])
def test_equal_content_gives_equal_bytes(tmp_path, kind):
    def write(name):
        path = tmp_path / name / f"x.{kind}"
        if kind == "parquet":
            write_table(path, columns(), SETTINGS)
        elif kind == "json":
            write_json(path, {"b": [0.1, 1e-300], "ä": None}, SETTINGS)
        else:
            write_csv(path, pd.DataFrame({"a": [0.1, np.nan], "b": ["x", "y"]}))
        return hashlib.sha256(path.read_bytes()).hexdigest()

    assert write("one") == write("two")


def test_the_order_of_settings_does_not_enter_a_table(tmp_path):
    write_table(tmp_path / "a", columns(), SETTINGS)
    write_table(tmp_path / "b", columns(), dict(reversed(SETTINGS.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# ---- damaged files


@pytest.mark.parametrize(
    "content", [b"", b"no table", b"PAR1" + bytes(40) + b"PAR1", None], ids=["empty", "text", "zeros", "cut"]
)
def test_a_damaged_table_is_named(tmp_path, content):
    path = tmp_path / "t.parquet"
    write_table(path, columns(), SETTINGS)
    path.write_bytes(path.read_bytes()[:-20] if content is None else content)
    with pytest.raises(
        FggError, match=r"(?s)t\.parquet cannot be read as a table .* delete it and run the workflow again"
    ):
        read_table(path)


def test_a_table_with_damaged_pages_is_named(tmp_path):
    path = tmp_path / "t.parquet"
    write_table(path, {"x": np.random.default_rng(0).random(5000)}, SETTINGS)
    data = bytearray(path.read_bytes())
    data[10:200] = bytes(190)
    path.write_bytes(data)
    with pytest.raises(FggError, match=r"(?s)t\.parquet cannot be read as a table"):
        read_table(path)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(FggError, match=r"none\.parquet does not exist; run the workflow"):
        read_table(tmp_path / "none.parquet")


def test_a_missing_column_is_named(tmp_path):
    write_table(tmp_path / "t.parquet", columns(), SETTINGS)
    with pytest.raises(FggError, match=r"t\.parquet .*relevanz"):
        read_table(tmp_path / "t.parquet", ["relevanz"])


def test_a_missing_record_is_named(tmp_path):
    with pytest.raises(FggError, match=r"none\.json does not exist; run the workflow"):
        read_json(tmp_path / "none.json")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{}"], ids=["empty", "cut", "not utf-8"])
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / "r.json").write_bytes(content)
    with pytest.raises(FggError, match=r"r\.json is damaged .* delete it and run the workflow again"):
        read_json(tmp_path / "r.json")


# ---- records


def test_a_record_comes_back_and_carries_what_made_it(tmp_path):
    record = {"b": 0.1, "a": [1, None, "ä"]}
    write_json(tmp_path / "r.json", record, SETTINGS)
    back = read_json(tmp_path / "r.json")
    assert back.pop("fgg") == {"schema": SCHEMA_VERSION, "settings": SETTINGS}
    assert back == record and list(back) == ["b", "a"], "the order is for the reader"
    assert "ä" in (tmp_path / "r.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_holds_no_nan(tmp_path, value):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "r.json", {"a": value}, SETTINGS)
    assert files(tmp_path) == []


def test_csv_reads_back_the_same(tmp_path):
    frame = pd.DataFrame({"name": ["a, b", "ü"], "value": [0.1 + 0.2, 1e-17], "count": [1, 2]})
    write_csv(tmp_path / "t.csv", frame)
    assert b"\r" not in (tmp_path / "t.csv").read_bytes()
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "t.csv", float_precision="round_trip"), frame, check_exact=True
    )


def test_the_settings_of_a_foreign_table(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "t.parquet")
    with pytest.raises(FggError, match=r"t\.parquet"):
        read_settings(tmp_path / "t.parquet")
