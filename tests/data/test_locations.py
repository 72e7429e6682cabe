"""Addresses and paths of what is downloaded: the table of sources, hf:// addresses, wildcards."""

import csv
from pathlib import Path

import pytest

from fgg.data import locations
from fgg.data.locations import Row, fetched, hub_rows, local, local_settings, locate, of_layer, read_sources
from fgg.data.sources.registry import sources
from fgg.errors import FggError
from fgg.pipeline.user_files import missing_files, own_files

TABLE = Path(__file__).parents[2] / "workflow" / "sources.csv"
COLUMNS = ["name", "kind", "address", "files", "unpack", "sha256", "size", "licence", "citation"]
GOOD = ["it", "http", "https://x/y", "y", "no", "", "", "free", "me"]


def table(folder, *lines, columns=COLUMNS):
    path = folder / "sources.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *lines])
    return path


def settings(**changes):
    own = {"source": "elpv", "path": None, "model": {"weights": "train"}, "sae": {"weights": "train", "layers": [1, 2]}}
    return own | changes


# ---- the table


def test_the_projects_table_has_every_study_with_licence_and_citation():
    rows = read_sources(TABLE)
    assert {name for name, entry in sources().items() if entry.downloaded} <= set(rows)
    assert all(row.licence and row.citation for row in rows.values())
    assert not [row.address for row in rows.values() if row.kind == "http" and not row.address.startswith("https://")]


def test_a_line_of_the_table(tmp_path):
    (row,) = read_sources(table(tmp_path, GOOD)).values()
    assert row == Row(*GOOD)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("name", "hub", "must be a valid folder name"),
        ("name", "a/b", "must be a valid folder name"),
        ("name", "..", "must be a valid folder name"),
        ("name", "", "must be a valid folder name"),
        ("kind", "ftp", "kind 'ftp' is unknown; choose from: http, drive, hub"),
        ("unpack", "maybe", "unpack 'maybe' is unknown"),
        ("address", "", "address and files must not be empty"),
        ("files", "../y", "is not the name of one file"),
        ("files", "..", "is not the name of one file"),
        ("sha256", "abc", "sha256 is not 64 hexadecimal digits"),
        ("size", "3 GB", "size '3 GB' is not a number of bytes"),
    ],
)
def test_faulty_lines_are_named(tmp_path, key, value, said):
    line = list(GOOD)
    line[COLUMNS.index(key)] = value
    with pytest.raises(FggError, match=said) as error:
        read_sources(table(tmp_path, line))
    assert "sources.csv" in str(error.value)


def test_faulty_tables_are_named(tmp_path):
    with pytest.raises(FggError, match="the name occurs twice"):
        read_sources(table(tmp_path, GOOD, GOOD))
    with pytest.raises(FggError, match="too many or too few fields"):
        read_sources(table(tmp_path, GOOD[:-1]))
    with pytest.raises(FggError, match="must be"):
        read_sources(table(tmp_path, columns=COLUMNS[1:]))
    with pytest.raises(FggError, match="does not exist"):
        read_sources(tmp_path / "absent.csv")


# ---- addresses


def test_addresses_of_the_hub_become_paths():
    assert local("hf://owner/name/a/b.pt") == "data/downloads/hub/owner/name/a/b.pt"
    assert local("train") == "train" and local("/own/x.pt") == "/own/x.pt"
    assert local("hf://owner/name", parts=2) == "data/downloads/hub/owner/name"
    for address in ("hf://owner/name", "hf://owner//x", "hf://owner/name/../x", "hf:///a/b/c"):
        with pytest.raises(FggError, match="write hf://OWNER/REPOSITORY/FILE"):
            local(address)


def test_paths_of_downloads_are_known_again():
    assert fetched("data/downloads/hub/owner/name/a/b.pt") == ("hub/owner/name", "a/b.pt")
    assert fetched("data/downloads/hub/owner/name") == ("hub/owner/name", "")
    assert fetched("data/downloads/it/sweep/layer_1/**/*.pt") == ("it", "sweep/layer_1/**/*.pt")
    assert fetched("data/downloads") is None and fetched("data/downloads/hub/owner") is None
    assert fetched("other/data/downloads/x") is None and fetched("") is None


def test_saes_by_layer():
    assert of_layer("s/{layer}", 3) == "s/{layer}"
    weights = {"default": "a/{layer}", "2": "b"}
    assert [of_layer(weights, layer) for layer in (1, 2, "2")] == ["a/{layer}", "b", "b"]
    with pytest.raises(FggError, match="no entry for layer 1, and no default"):
        of_layer({"2": "b"}, 1)


def test_what_a_repository_must_bring():
    own = settings(
        model={"weights": "hf://laion/clip/open_clip_*model.*", "zero_shot": {"open_clip": "hf://laion/clip"}},
        sae={"weights": {"default": "hf://p/sae-{layer}/*.pt", "2": "hf://p/lens/layer_2"}, "layers": [1, 2]},
    )
    rows = hub_rows([local_settings(own)])
    assert {name: row.files for name, row in rows.items()} == {
        "hub/laion/clip": "open_clip_*model.* open_clip_config.json",
        "hub/p/sae-1": "*.pt optional:config.json optional:config.yaml",
        "hub/p/lens": "layer_2/cfg.json layer_2/sae_weights.safetensors",
    }
    assert rows["hub/p/sae-1"].address == "p/sae-1" and rows["hub/p/sae-1"].kind == "hub"
    assert own["model"]["weights"].startswith("hf://"), "the settings are left as they came"
    with pytest.raises(FggError, match=r"^sae\.weights: 'hf://p' is not"):
        local_settings(settings(sae={"weights": "hf://p", "layers": [1]}))


def test_jobs_wait_for_downloads_and_for_own_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert own_files("data/downloads/it/x.pth") == ["data/downloads/it/contents.json"]
    assert own_files({"default": "data/downloads/hub/o/r-{layer}/*.pt", "2": "own"}, [1, 2]) == [
        "data/downloads/hub/o/r-1/contents.json",
        "own",
    ]
    for name in ("a", "b"):
        (tmp_path / "sweep" / name).mkdir(parents=True)
        (tmp_path / "sweep" / name / "n_1.pt").write_bytes(b"")
    assert own_files("sweep/**/n_*.pt") == ["sweep/a/n_1.pt", "sweep/b/n_1.pt"]
    assert own_files("sweep/**/m_*.pt") == ["sweep/**/m_*.pt"]


def test_what_a_rule_makes_is_not_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = settings(source="imagenet", model={"weights": "data/downloads/it/x.pth"})
    assert missing_files("mine", own, {"it", "imagenet"}) == []
    assert missing_files("mine", own, {"imagenet"}) == [
        "datasets.mine.model.weights: data/downloads/it/x.pth does not exist (the table of sources has no 'it')"
    ]
    (fault,) = missing_files("mine", own, {"it"})
    assert fault == "datasets.mine.source: the table of sources has no 'imagenet'; set `path`"
    (fault,) = missing_files("mine", own | {"path": "nowhere"}, {"it"})
    assert fault.startswith("datasets.mine.path: nowhere does not exist")


# ---- wildcards


def test_one_match_is_found(tmp_path):
    (tmp_path / "layer_1" / "x" / "y").mkdir(parents=True)
    file = tmp_path / "layer_1" / "x" / "y" / "n_images_10.pt"
    file.write_bytes(b"")
    assert locate(tmp_path / "layer_1/**/n_images_*.pt", "sae.weights") == file
    assert locate(file, "sae.weights") == file
    assert locate("absent", "sae.weights") == Path("absent"), "who reads it says that it is missing"
    odd = tmp_path / "a[1].pt"
    odd.write_bytes(b"")
    assert locate(odd, "sae.weights") == odd


def test_no_match_and_several_name_what_is_there(tmp_path):
    (tmp_path / "layer_1").mkdir()
    for number in (10, 20):
        (tmp_path / "layer_1" / f"n_images_{number}.pt").write_bytes(b"")
    with pytest.raises(FggError, match=r"sae\.weights: .* matches 2 files \(.*n_images_10\.pt, .*n_images_20\.pt\)"):
        locate(tmp_path / "**/n_images_*.pt", "sae.weights")
    with pytest.raises(FggError, match=r"matches nothing; .*layer_1 holds n_images_10\.pt, n_images_20\.pt"):
        locate(tmp_path / "layer_1/**/*.pth", "sae.weights")
    with pytest.raises(FggError, match=r"the folder .*layer_7 does not exist"):
        locate(tmp_path / "layer_7/**/*.pt", "sae.weights")
    assert locations.contents("it") == "data/downloads/it/contents.json"
