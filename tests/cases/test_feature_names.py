"""The user's table of names: what is read, what is told, and what is never touched."""

import pytest

from fgg.cases.feature_names import read_feature_names
from fgg.errors import FggError
from fgg.pipeline.parameters import Parameters

HEAD = "dataset,layer,feature,name\n"


def read(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "feature_names.csv"
    path.write_bytes(text.encode(encoding))
    found = read_feature_names(path)
    assert path.read_bytes() == text.encode(encoding), "the user's file is only read"
    return found


def test_names_by_dataset_layer_and_feature(tmp_path):
    found = read(tmp_path, HEAD + 'elpv,2,17,bus bar\nelpv,1,17,"dark, long  crack"\nother,2,17,x\nelpv,2,3,\n')
    assert found.names == {("elpv", 2, 17): "bus bar", ("elpv", 1, 17): "dark, long crack", ("other", 2, 17): "x"}
    assert found.of_layer("elpv", 2) == {17: "bus bar"}
    assert not found.remarks


@pytest.mark.parametrize("text", ["", "\n \n", HEAD])
def test_no_names(tmp_path, text):
    assert not read(tmp_path, text).names
    assert not read_feature_names(tmp_path / "absent.csv").names


def test_what_spreadsheets_make_of_a_table(tmp_path):
    rows = "Name;Feature;Layer;Dataset\r\n'=1+1;0;2;elpv\r\n'quoted';1;2;elpv\r\n@x;2;2;elpv\r\n"
    found = read(tmp_path, rows, "utf-8-sig")
    assert found.of_layer("elpv", 2) == {0: "=1+1", 1: "'quoted'", 2: "@x"}


def test_rows_that_cannot_be_used_are_told(tmp_path):
    found = read(tmp_path, HEAD + "elpv,two,1,a\nelpv,2,1.5,b\n,2,1,c\nelpv,2\nelpv,2,9,old\nelpv,2,9,new\n\n")
    assert found.names == {("elpv", 2, 9): "new"}
    told = "\n".join(found.remarks)
    for line in (2, 3, 4, 5):
        assert f"line {line} is left out" in told
    assert "line 7 replaces the name 'old'" in told and len(found.remarks) == 5


def test_rows_without_feature_pages_are_told(tmp_path):
    found = read(tmp_path, HEAD + "elpv,2,1,a\nelpv,7,1,b\nnone,2,1,c\nlater,2,1,d\n")
    told = found.unknown({"elpv": [1, 2]}, ["elpv", "later"])
    assert len(told) == 2
    assert "layer 7 of 'elpv'" in told[0] and "layer 1, 2" in told[0]
    assert "'none': there is no such dataset" in told[1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"dataset,layer,name\n", "lacks the column feature"),
        (b"\xff\xfe\x00", "not text in UTF-8"),
        (b"dataset,layer,feature,name\na,1,1,\0", "no text"),
    ],
)
def test_what_is_no_such_table_is_refused(tmp_path, data, message):
    path = tmp_path / "feature_names.csv"
    path.write_bytes(data)
    with pytest.raises(FggError, match=message):
        read_feature_names(path)


def test_only_a_changed_name_of_the_dataset_changes_the_parameter_of_its_pages(tmp_path, monkeypatch):
    """What Snakemake compares: an edit of another dataset's rows, or of blanks, redraws nothing."""
    from types import SimpleNamespace

    monkeypatch.chdir(tmp_path)
    own = SimpleNamespace(dataset="elpv")

    def parameter(text):
        read(tmp_path, HEAD + text)
        return Parameters.feature_names(None, own)

    first = parameter("elpv,2,17,bus bar\nother,2,1,x\n")
    assert first == parameter(" elpv , 2,17,  bus   bar\nother,2,1,y\n")
    assert first != parameter("elpv,2,17,bus\nother,2,1,x\n")
