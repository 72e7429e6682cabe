"""Downloads from a server on this machine, which drops connections, is busy, and serves damaged files."""

import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import requests
from server import COMMIT, Server

from fgg.data import archives, transfer
from fgg.data import download as module
from fgg.data.download import download, find_row, main
from fgg.data.locations import Row
from fgg.errors import FggError

ROOT = Path(__file__).parents[2]
DATA = os.urandom(3 * 2**20)
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def server(monkeypatch):
    """A server, no waiting between attempts, and no proxy between it and us."""
    monkeypatch.setattr(transfer, "BACKOFF", 0.0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as own:
        own.files["/file.bin"] = DATA
        yield own


@pytest.fixture
def hub(server, monkeypatch):
    """The server as the hub; the library reads its address at import."""
    import huggingface_hub.constants

    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    server.hub["owner/set"] = {
        "README.md": b"read me",
        "data/validation-00000-of-00002.parquet": DATA,
        "data/validation-00001-of-00002.parquet": DATA[::-1],
        "data/train-00000-of-00001.parquet": b"not wanted",
    }
    server.datasets.add("owner/set")
    return server


def row(server, kind="http", path="/file.bin", **changes):
    return Row(**{"name": "it", "kind": kind, "address": server.url + path, "files": "file.bin"} | changes)


def hub_set(**changes):
    own = {
        "name": "set",
        "kind": "hub",
        "address": "datasets/owner/set",
        "files": "README.md data/validation-*.parquet",
    }
    return Row(**own | changes)


def left(folder):
    """All files below a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


COMPLETE = ["it/contents.json", "it/file.bin", "records/it.json"]


@pytest.mark.parametrize("kind", ["http", "drive"])
def test_a_dropped_connection_is_resumed(server, tmp_path, kind):
    server.faults["/file.bin"] = ["drop"]
    download(row(server, kind), tmp_path)
    assert left(tmp_path) == COMPLETE
    assert (tmp_path / "it/file.bin").read_bytes() == DATA
    assert resumed(server, "/file.bin")


def resumed(server, path):
    """Whether a path was asked for from where it had been dropped, but for what was in a buffer."""
    (asked,) = [each for each in server.ranges(path) if each]
    start = int(asked.removeprefix("bytes=").removesuffix("-"))
    return len(DATA) // 2 - transfer.CHUNK <= start <= len(DATA) // 2


@pytest.mark.parametrize("kind", ["http", "drive"])
def test_a_corrupted_file_is_refused_and_leaves_nothing(server, tmp_path, kind):
    server.faults["/file.bin"] = ["corrupt"]
    with pytest.raises(FggError, match=r"it: file\.bin is not the expected file: .*the table of sources says") as error:
        download(row(server, kind, sha256=SHA), tmp_path)
    assert SHA in str(error.value)
    assert left(tmp_path) == []
    download(row(server, kind, sha256=SHA), tmp_path)
    assert left(tmp_path) == COMPLETE


def test_the_checksum_of_the_first_download_is_enforced(server, tmp_path):
    first = download(row(server), tmp_path)
    assert first["fetched"] == {"file.bin": {"sha256": SHA, "size": len(DATA)}}
    (tmp_path / "it/file.bin").unlink()
    server.faults["/file.bin"] = ["corrupt"]
    with pytest.raises(FggError, match=r"records/it\.json, written at the first download") as error:
        download(row(server), tmp_path)
    assert "delete" in str(error.value)
    assert left(tmp_path) == ["it/contents.json", "records/it.json"], "the record stays, the file does not come"
    download(row(server), tmp_path)
    assert left(tmp_path) == COMPLETE


def test_what_is_there_is_checked_but_not_fetched_again(server, tmp_path, capsys):
    first = download(row(server), tmp_path)
    (tmp_path / "it/contents.json").unlink()  # as the workflow does before a job runs again
    asked = len(server.requests)
    assert download(row(server, licence="free"), tmp_path) == first | {"licence": "free"}
    assert len(server.requests) == asked
    assert "already there" in capsys.readouterr().out
    (tmp_path / "it/file.bin").write_bytes(DATA[:-1])
    download(row(server), tmp_path)
    assert (tmp_path / "it/file.bin").read_bytes() == DATA


@pytest.mark.parametrize("kind", ["http", "drive"])
@pytest.mark.parametrize("faults", [[503], [429, 500, "stall"]])
def test_a_busy_server_is_asked_again(server, tmp_path, faults, kind):
    if kind == "drive":  # gdown takes status 500 of Drive for a document of another kind
        faults = [503 if fault == 500 else fault for fault in faults]
    server.faults["/file.bin"] = list(faults)
    download(row(server, kind), tmp_path)
    assert left(tmp_path) == COMPLETE
    assert len(server.requests) == len(faults) + 1


@pytest.mark.parametrize("kind", ["http", "drive"])
def test_patience_starts_anew_with_every_byte(server, tmp_path, kind):
    server.faults["/file.bin"] = [503] * (transfer.ATTEMPTS - 1) + ["drop"] + [503] * (transfer.ATTEMPTS - 2)
    download(row(server, kind), tmp_path)
    assert (tmp_path / "it/file.bin").read_bytes() == DATA


def test_waiting_grows_and_heeds_the_server(server, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(transfer, "BACKOFF", 1.0)
    monkeypatch.setattr(transfer.time, "sleep", waits.append)
    server.faults["/file.bin"] = [503, 503, 503, 503, 503]
    download(row(server), tmp_path)
    assert waits == [1, 2, 4, 8, 16]
    waits.clear()
    answer = requests.Response()
    answer.status_code, answer.headers["Retry-After"] = 429, "7"
    assert transfer.explain(requests.HTTPError(response=answer), "it").wait == 7


def test_an_endlessly_busy_server_ends_in_one_message_and_keeps_what_came(server, tmp_path):
    server.faults["/file.bin"] = ["drop", *[503] * transfer.ATTEMPTS]
    with pytest.raises(
        FggError, match=r"the server is busy \(status 503\)\. Check the network, and run the same command"
    ):
        download(row(server), tmp_path)
    assert left(tmp_path) == ["parts/it/file.bin.part", "parts/it/file.bin.part.version"]
    download(row(server), tmp_path)  # another call, hours later
    assert server.ranges("/file.bin")[-1] == server.ranges("/file.bin")[-2] != None  # noqa: E711
    assert (tmp_path / "it/file.bin").read_bytes() == DATA


def test_a_server_that_cannot_go_on_is_asked_for_all(server, tmp_path):
    server.faults["/file.bin"] = ["drop", "deaf"]
    download(row(server), tmp_path)
    assert (tmp_path / "it/file.bin").read_bytes() == DATA


def test_a_file_that_changed_meanwhile_is_not_joined_to_the_old_bytes(server, tmp_path):
    part = tmp_path / "parts/it/file.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"the start of an older version")
    part.with_name("file.bin.part.version").write_text('"old"')
    download(row(server), tmp_path)
    assert (tmp_path / "it/file.bin").read_bytes() == DATA


def test_a_part_longer_than_the_file_is_thrown_away(server, tmp_path):
    part = tmp_path / "parts/it/file.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(len(DATA) + 1))
    download(row(server), tmp_path)
    assert (tmp_path / "it/file.bin").read_bytes() == DATA


@pytest.mark.parametrize(("status", "said"), [(404, "does not exist"), (403, "is refused"), (418, "cannot be fetched")])
def test_a_wrong_address_is_said_at_once(server, tmp_path, status, said):
    server.faults["/file.bin"] = [status]
    with pytest.raises(FggError, match=f"{said} .status {status}.; check the address"):
        download(row(server), tmp_path)
    assert len(server.requests) == 1


def test_no_connection_and_no_address(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "BACKOFF", 0.0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(FggError, match=r"the connection failed .*Check the network"):
        transfer.fetch("http://127.0.0.1:9/x", tmp_path / "x")
    with pytest.raises(FggError, match="is not an address"):
        transfer.fetch("nowhere", tmp_path / "x")


def test_a_certificate_that_cannot_be_verified_is_no_reason_to_go_on(tmp_path):
    error = requests.exceptions.SSLError("certificate verify failed: unable to get local issuer certificate")
    told = transfer.explain(error, "https://x/y")
    assert isinstance(told, FggError)
    assert "certificate" in str(told) and "--file" in str(told) and "REQUESTS_CA_BUNDLE" in str(told)
    assert "verify=False" not in Path(transfer.__file__).read_text()


@pytest.mark.parametrize("kind", ["http", "drive", "hub"])
def test_a_full_disk_is_noticed_before_the_first_byte(hub, tmp_path, monkeypatch, kind):
    own = hub_set() if kind == "hub" else row(hub, kind, unpack="yes")
    sizes = {"http": 2 * len(DATA), "drive": len(DATA), "hub": 2 * len(DATA) + 7}
    free = transfer.MARGIN + sizes[kind] - 1
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda path: type("Usage", (), {"free": free}))
    with pytest.raises(FggError, match=r"needs 0\.3 GB on the disk of .* but only 0\.3 GB are free; free some space"):
        download(own, tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < len(DATA)
    assert not (tmp_path / own.name).exists()


def test_the_tables_size_is_enough_to_notice(server, tmp_path, monkeypatch):
    with pytest.raises(FggError, match=r"it needs .* GB"):
        download(row(server, size=str(10**15)), tmp_path)
    assert server.requests == []


def test_an_archive_is_unpacked_and_a_bad_one_leaves_nothing(server, tmp_path, monkeypatch):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a/b.txt", "text")
    server.files["/it.zip"] = packed.getvalue()
    own = row(server, path="/it.zip", files="it.zip", unpack="yes")
    good = packed.getvalue()
    contents = download(own, tmp_path)
    assert left(tmp_path) == ["it/a/b.txt", "it/contents.json", "records/it.json"]
    assert contents["fetched"]["it.zip"]["size"] == len(packed.getvalue())
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("../b.txt", "text")
    server.files["/it.zip"] = packed.getvalue()
    with pytest.raises(FggError, match="path outside the folder"):
        download(Row(**vars(own) | {"name": "bad"}), tmp_path)
    assert not (tmp_path / "bad").exists() and not (tmp_path / "records/bad.json").exists()
    assert left(tmp_path / "parts") == [], "a bad archive is not kept to be unpacked again"
    server.files["/it.zip"] = good
    again = Row(**vars(own) | {"name": "again"})
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 3}))
    monkeypatch.setattr(module, "_copies", lambda row: 0)
    monkeypatch.setattr(transfer, "MARGIN", 0)
    with pytest.raises(FggError, match="does not fit on the disk"):
        download(again, tmp_path)
    assert left(tmp_path / "parts") == ["again/it.zip"], "a sound one is"


def test_drive_says_when_it_hands_nothing_out(server, tmp_path, monkeypatch):
    """The code of gdown, with Drive's address led to the server."""
    get = requests.Session.get

    def led(session, url, **options):
        answer = get(session, url.replace("https://drive.google.com", server.url), **options)
        return answer

    monkeypatch.setattr(requests.Session, "get", led)
    server.files["/uc"] = b'<p class="uc-error-subcaption">Too many users have viewed this file recently.</p>'
    server.headers["Content-Type"] = "text/html; charset=utf-8"
    with pytest.raises(FggError, match=r"Google Drive file ID cannot be fetched .*Too many users.* --file"):
        download(row(server, "drive", address="ID"), tmp_path)
    page = f'<p>Too large to be scanned for viruses.</p><form id="download-form" action="{server.url}/file.bin"><input type="hidden" name="id" value="ID"></form>'
    server.files["/uc"] = page.encode()
    server.disposed["/file.bin"] = 'attachment; filename="x.pth"'
    assert download(row(server, "drive", address="ID"), tmp_path)["fetched"]["file.bin"]["sha256"] == SHA


def test_a_file_fetched_by_hand_is_taken(server, tmp_path):
    own = tmp_path / "mine.bin"
    own.write_bytes(DATA)
    download(row(server, sha256=SHA), tmp_path / "out", own)
    assert server.requests == [] and (tmp_path / "out/it/file.bin").read_bytes() == DATA
    own.write_bytes(b"other")
    with pytest.raises(FggError, match="not the expected file"):
        download(row(server, name="other", sha256=SHA), tmp_path / "out", own)
    with pytest.raises(FggError, match="give the path of a file"):
        download(row(server, name="other"), tmp_path / "out", tmp_path)


# ---- the hub


def test_files_of_the_hub(hub, tmp_path):
    contents = download(hub_set(), tmp_path)
    assert left(tmp_path / "set") == [
        "README.md",
        "contents.json",
        "data/validation-00000-of-00002.parquet",
        "data/validation-00001-of-00002.parquet",
    ]
    assert contents["revision"] == COMMIT
    assert (tmp_path / "set/data/validation-00000-of-00002.parquet").read_bytes() == DATA
    assert contents["fetched"]["data/validation-00000-of-00002.parquet"]["sha256"] == SHA
    assert left(tmp_path / "parts") == []
    assert {headers["Authorization"] for _, _, headers in hub.requests} == {"Bearer hf_test"}


def test_the_hub_is_resumed_and_a_corrupted_file_is_refused(hub, tmp_path, monkeypatch):
    import huggingface_hub.file_download as library

    monkeypatch.setattr(library.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(library.constants, "DOWNLOAD_CHUNK_SIZE", transfer.CHUNK)
    path = f"/datasets/owner/set/resolve/{COMMIT}/data/validation-00000-of-00002.parquet"
    hub.faults[path] = ["drop", "corrupt"]
    with pytest.raises(FggError, match=r"validation-00000-of-00002\.parquet is not the expected file: .*the hub says"):
        download(hub_set(), tmp_path)
    assert resumed(hub, path)
    assert not (tmp_path / "set").exists()
    asked = len(hub.ranges(path.replace("00000-of", "00001-of")))
    download(hub_set(), tmp_path)
    assert (tmp_path / "set/data/validation-00000-of-00002.parquet").read_bytes() == DATA
    assert len(hub.ranges(path.replace("00000-of", "00001-of"))) == asked == 1, "the sound file is not fetched again"


def test_a_busy_hub_is_asked_again(hub, tmp_path):
    path = f"/datasets/owner/set/resolve/{COMMIT}/README.md"
    hub.faults[path] = [503, 503]
    download(hub_set(files="README.md"), tmp_path)
    assert len(hub.ranges(path)) == 3


GATES = {
    "no login": ((401, "GatedRepo"), "requires a login: open https://huggingface.co/datasets/owner/set, .*hf auth login"),
    "terms not accepted": ((403, "GatedRepo"), "your Hugging Face account has no access to owner/set: .*accept the terms"),
    "private": ((401, "RepoNotFound"), "does not exist, or is private: .*hf auth login"),
    "bad token": ((401, ""), "rejects the login .*HF_TOKEN"),
}  # fmt: skip


@pytest.mark.parametrize("case", GATES)
def test_the_hubs_refusals_say_what_to_do(hub, tmp_path, case):
    gate, said = GATES[case]
    hub.gates["owner/set"] = gate
    with pytest.raises(FggError, match=said):
        download(hub_set(), tmp_path)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"address": "datasets/owner/other"}, "datasets/owner/other does not exist, or is private"),
        ({"address": "owner/set"}, "huggingface.co/owner/set does not exist"),
        ({"address": "datasets/owner/set@nowhere"}, "has no revision 'nowhere'"),
        ({"files": "data/val-*"}, "has no file data/val-.; it holds README.md"),
        ({"files": "*.parquet"}, "has no file .*.parquet"),
        ({"address": "owner"}, "is not a repository on the hub"),
    ],
)
def test_what_the_hub_does_not_have(hub, tmp_path, changes, said):
    with pytest.raises(FggError, match=said):
        download(hub_set(**changes), tmp_path)


def test_offline_and_unreachable(hub, tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(FggError, match="Check the network"):
        download(hub_set(), tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FggError, match="HF_HUB_OFFLINE is set; unset it"):
        download(hub_set(), tmp_path)


def test_safetensors_stand_in_for_the_same_weights_as_a_pickle(hub, tmp_path):
    hub.hub["owner/clip"] = {"open_clip_config.json": b"{}", "open_clip_model.safetensors": b"s", "open_clip_pytorch_model.bin": b"b"}  # fmt: skip
    own = Row("hub/owner/clip", "hub", "owner/clip", "open_clip_*model.* open_clip_config.json")
    assert sorted(download(own, tmp_path)["fetched"]) == ["open_clip_config.json", "open_clip_model.safetensors"]
    assert (tmp_path / "hub/owner/clip/open_clip_model.safetensors").read_bytes() == b"s"


# ---- the command


def test_the_command_and_its_faults(server, tmp_path, capsys):
    table = tmp_path / "sources.csv"
    table.write_text(
        "name,kind,address,files,unpack,sha256,size,licence,citation\n"
        f"it,http,{server.url}/file.bin,file.bin,no,{SHA},,free,me\n"
    )
    arguments = ["--output", str(tmp_path / "out"), "--sources", str(table), "--name"]
    assert main([*arguments, "it"]) == 0
    assert "it: 1 files, 3.1 MB" in capsys.readouterr().out
    assert main([*arguments, "other"]) == 1
    assert "no source is named 'other'; known: it" in capsys.readouterr().err
    assert main([*arguments, "hub/owner/set"]) == 1
    assert "name the files of the repository" in capsys.readouterr().err
    assert find_row("hub/o/r", ["*.pt"], None).address == "o/r"


def test_the_command_alone_is_light_and_shows_progress(server, tmp_path):
    server.faults["/file.bin"] = [404]
    own = json.dumps({"name": "it", "kind": "http", "address": f"{server.url}/file.bin", "files": "file.bin"})
    program = (
        "import sys; from fgg.data.download import main; code = main(sys.argv[1:]);"
        "print(sorted({'torch', 'timm'} & set(sys.modules))); sys.exit(code)"
    )
    command = [sys.executable, "-c", program, "--name", "it", "--row", own, "--output", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    runs = [subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT) for _ in range(2)]
    assert [run.returncode for run in runs] == [1, 0]
    assert runs[0].stderr.count("error: ") == 1 and "Traceback" not in runs[0].stderr
    assert "fetching" in runs[1].stderr and "MB" in runs[1].stderr
    assert runs[1].stdout.endswith("[]\n")


def test_nothing_of_an_interrupted_end_is_taken_for_complete(server, tmp_path, monkeypatch):
    """Killed after the fetch, before the folder is in its place: the next call ends it without asking again."""

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_replace", killed)
    with pytest.raises(KeyboardInterrupt):
        download(row(server), tmp_path)
    assert not (tmp_path / "it").exists()
    monkeypatch.undo()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    download(row(server), tmp_path)
    assert left(tmp_path) == COMPLETE
