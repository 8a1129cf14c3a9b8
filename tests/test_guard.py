"""The explorer's page answers its own machine and its own page alone, and leaves nothing behind."""

import asyncio
import functools
import http.client
import json
import os
import socket
import tempfile
from pathlib import Path

import pytest
import torch

from cpvae.checkpoint import RunFolder
from cpvae.data import Schema
from cpvae.report import app, guard
from cpvae.report.explorer import Explorer

pytestmark = pytest.mark.filterwarnings("default")  # of gradio


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A page that is served, its explorer, its port, and the names that were looked up for it."""
    from cpvae.models.build import build

    place = tmp_path_factory.mktemp("served")
    model = build(shape=(2,), likelihood="gaussian", n_components=2, latent_dim=2, hidden=(4,))
    looked_up, loops = [], []
    with pytest.MonkeyPatch.context() as patched:
        find, new = socket.getaddrinfo, asyncio.new_event_loop
        patched.setattr(asyncio, "new_event_loop", lambda: loops.append(new()) or loops[-1])
        patched.setattr(
            socket,
            "getaddrinfo",
            lambda host, *of, **more: looked_up.append(host) or find(host, *of, **more),
        )
        patched.delenv(guard.FOLDER, raising=False)
        patched.setattr(tempfile, "tempdir", str(place))
        patched.setattr(app, "Guard", functools.partial(guard.Guard, most=10_000))
        with guard.temporary():
            explorer = Explorer(model.eval(), torch.rand(40, 2), Schema((2,)), RunFolder(place))

            def read(file):
                raise FileNotFoundError(2, "No such file", "/home/someone/private/t.csv")

            blocks = app.page(explorer, "a run", read)
            address = app.serve(blocks, None, False, wait=False)
            yield explorer, int(address.rstrip("/").rpartition(":")[2]), looked_up
            blocks.close(verbose=False)
    assert [f for f in place.iterdir() if f.name.startswith("cpvae-app")] == []
    for loop in loops:
        loop.close()


def ask(port, method="GET", path="/", body=None, **headers):
    """One request; its status, headers and text."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    connection.request(method, path, body, named)
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read().decode(errors="replace")
    connection.close()
    return found


def upload(port, size, **headers):
    part = b"--x\r\nContent-Disposition: form-data; name=files; filename=a.csv\r\n\r\n"
    body = part + b"a" * size + b"\r\n--x--\r\n"
    given = {"content_type": "multipart/form-data; boundary=x", **headers}
    return ask(port, "POST", "/gradio_api/upload", body, **given)


def test_other_machines_and_pages_are_refused_and_its_own_is_not(served):
    explorer, port, looked_up = served
    own = f"http://127.0.0.1:{port}"
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", "localhost"):
        assert ask(port, Host=host)[0] == 200
    for host in ("evil.example", f"evil.example:{port}", f"127.0.0.1.evil.example:{port}", ""):
        status, _, text = ask(port, Host=host)
        assert (status, text.count("\n")) == (403, 1), host
    for origin in (
        "http://evil.example",
        "null",
        f"http://127.0.0.1:{port + 1}",
        "http://localhost",
    ):
        assert ask(port, origin=origin)[0] == 403, origin
        assert upload(port, 10, origin=origin)[0] == 403, origin
    assert ask(port, sec_fetch_site="cross-site", sec_fetch_mode="no-cors")[0] == 403
    assert ask(port, sec_fetch_site="cross-site", sec_fetch_mode="navigate")[0] == 200
    assert ask(port, "POST", sec_fetch_site="cross-site", sec_fetch_mode="navigate")[0] == 403
    assert upload(port, 10, origin=own)[0] == 200
    assert set(looked_up) <= {"127.0.0.1", "localhost", "0.0.0.0", None}


def test_no_other_page_may_show_it_and_it_loads_nothing_from_elsewhere(served):
    _, port, _ = served
    for host in ("localhost", "evil.example"):
        headers = {key.lower(): value for key, value in ask(port, Host=host)[1].items()}
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["content-security-policy"].startswith("default-src 'self'")
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"


def test_what_is_uploaded_is_limited_and_files_of_others_are_not_shown(served, tmp_path):
    _, port, _ = served
    assert upload(port, 9_000)[0] == 200
    assert upload(port, 11_000)[0] == 413
    (tmp_path / "secret.txt").write_text("hidden words")
    for file in ("/etc/passwd", tmp_path / "secret.txt", "../../../etc/passwd"):
        status, _, text = ask(port, path=f"/gradio_api/file={file}")
        assert status in (403, 404)
        assert "hidden words" not in text
        assert "root:" not in text


def called(port, name, given):
    """What a function of the page answers over its interface."""
    body = json.dumps({"data": given})
    head = {"content_type": "application/json"}
    _, _, text = ask(port, "POST", f"/gradio_api/call/{name}", body, **head)
    event = json.loads(text)["event_id"]
    return ask(port, path=f"/gradio_api/call/{name}/{event}")[2]


def test_errors_do_not_tell_where_files_lie(served):
    _, port, _ = served
    said = called(port, "export", [])
    assert "No such file: t.csv" in said
    assert "someone" not in said
    error = ValueError("/home/some one/a/t.csv has no column 'd' (C:\\Users\\someone\\t.csv, a/b)")
    assert "/home" not in guard.without_paths(error)
    assert "Users" not in guard.without_paths(error)
    assert "t.csv has no column 'd'" in guard.without_paths(error)


def test_a_run_that_was_written_anew_gets_no_names_of_the_one_before(served, tmp_path):
    explorer, _, _ = served
    (tmp_path / "model.safetensors").write_text("one")
    mine = Explorer(explorer.model, explorer.x, explorer.schema, RunFolder(tmp_path))
    mine.rename(["a", "b"])
    os.replace(tmp_path / "model.safetensors", tmp_path / "old")
    (tmp_path / "model.safetensors").write_text("two")
    with pytest.raises(ValueError, match="written anew since this page was opened"):
        mine.rename(["c", "d"])
    assert json.loads((tmp_path / "names.json").read_text()) == {"0": "a", "1": "b"}


def test_a_request_of_unknown_length_is_cut_off():
    async def reading(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        raise AssertionError("all was read")

    async def parts():
        return {"type": "http.request", "body": b"a" * 600, "more_body": True}

    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "headers": [(b"host", b"localhost:1")]}
    loop = asyncio.new_event_loop()
    loop.run_until_complete(guard.Guard(reading, most=1000)(scope, parts, send))
    loop.close()
    assert sent[0]["status"] == 413


def test_what_a_killed_page_left_is_removed_by_the_next_one(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv(guard.FOLDER, raising=False)
    left, living = tmp_path / f"cpvae-app-{2**22 + 1}-x", tmp_path / f"cpvae-app-{os.getpid()}-y"
    (left / "sub").mkdir(parents=True)
    living.mkdir()
    with guard.temporary():
        mine = Path(os.environ[guard.FOLDER])
        (mine / "labels.csv").write_text("a")
        assert not left.exists()
    assert [f.name for f in tmp_path.iterdir()] == [living.name]
    assert guard.FOLDER not in os.environ
