import base64
import http.server
import json
import re
import threading
from typing import ClassVar

import numpy as np
import pytest
import torch

from cpvae import CPVAE, hub
from cpvae.checkpoint import RunFolder


@pytest.fixture
def run(blobs, tmp_path):
    model = CPVAE(n_components=3, max_epochs=3, random_state=0).fit(blobs[0])
    model.save(tmp_path / "blobs")
    return tmp_path / "blobs", model


def test_a_shared_folder_gives_the_model_back(run, tmp_path, blobs, monkeypatch):
    path, model = run
    shared = hub.save_pretrained(path, tmp_path / "shared")
    again = hub.from_pretrained(shared)
    for name, tensor in again.state_dict().items():
        torch.testing.assert_close(tensor, RunFolder(path).read_weights()[name], rtol=0, atol=0)
    np.testing.assert_array_equal(CPVAE.load(shared).predict(blobs[0]), model.predict(blobs[0]))
    config = json.loads((shared / "config.json").read_text())
    assert config["n_components"] == 3
    assert config["library_name"] == "cpvae"
    card = (shared / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: cpvae\n")
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code[1], (seen := {}))  # the card's own words work
    assert seen["probabilities"].shape == (8, 3)


def test_what_is_shared_does_not_tell_where_the_data_lay(run, tmp_path):
    path, _ = run
    folder = RunFolder(path)
    data = {"source": "/home/someone/private/table.csv", "n_train": 5, "label": None, "drop": []}
    folder.write_info({**folder.read_info(), "data": data})
    shared = hub.save_pretrained(path, tmp_path / "shared")
    for file in shared.iterdir():
        assert b"someone" not in file.read_bytes(), file
    assert "5 examples of `table`" in (shared / "README.md").read_text()


def test_figures_of_the_card_are_those_of_the_evaluation(run, tmp_path):
    path, _ = run
    folder = RunFolder(path)
    figures = {
        "n_examples": 60,
        "importance_samples": 7,
        "elbo_exact_nats": -12.3456,
        "elbo_exact_se_nats": 0.5,
        "reconstruction_nats": -9.5,
    }
    (path / "evaluation.json").write_text(
        json.dumps({**figures, "best_epoch": folder.read_info().get("best_epoch")})
    )
    card = (hub.save_pretrained(path, tmp_path / "shared") / "README.md").read_text()
    assert "Means over 60 test examples with their standard errors; 7 importance samples" in card
    assert "| Bound on log p(x) | -12.346 | 0.500 | nats |" in card
    rows = [line for line in card.splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {6}  # a bar in a cell is escaped


def test_refusals(run, tmp_path):
    path, _ = run
    with pytest.raises(ValueError, match="is the run itself"):
        hub.save_pretrained(path, path)
    with pytest.raises(ValueError, match="is not a run folder"):
        hub.save_pretrained(tmp_path, tmp_path / "shared")


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub as an upload and a download need, in memory."""

    files: ClassVar[dict[str, bytes]] = {}
    commit = "0123456789abcdef0123456789abcdef01234567"

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        path = self.path.split("?")[0]
        head = {"content-type": "application/json", "x-repo-commit": self.commit}
        if path.endswith("/repos/create"):
            told = {"url": f"http://{self.headers['host']}/someone/blobs"}
        elif "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            told = {
                "files": [
                    {"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names
                ]
            }
        elif "/commit/" in path:
            lines = [json.loads(line) for line in body.splitlines()]
            for line in lines:
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            told = {
                "commitUrl": f"http://{self.headers['host']}/someone/blobs/commit/{self.commit}",
                "commitOid": self.commit,
            }
        elif "/resolve/" in path:
            content = self.files[path.rsplit("/", 1)[1]]
            self.reply(content, {**head, "etag": f'"{hash(content)}"'})
            return
        elif "/tree/" in path:
            told = [
                {"type": "file", "path": name, "size": len(content), "oid": "0"}
                for name, content in self.files.items()
            ]
        else:
            siblings = [{"rfilename": name} for name in self.files]
            told = {"id": "someone/blobs", "sha": self.commit, "siblings": siblings}
        self.reply(json.dumps(told).encode(), head)

    def reply(self, content: bytes, head: dict[str, str]) -> None:
        self.send_response(200)
        for key, value in {**head, "content-length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_POST = do_HEAD = answer

    def log_message(self, *arguments) -> None:
        pass


def test_a_run_goes_to_the_hub_and_comes_back(run, tmp_path, monkeypatch):
    import huggingface_hub

    path, model = run
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    api, fetch = huggingface_hub.HfApi, huggingface_hub.snapshot_download
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api(endpoint=endpoint, token="hf_test"))
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, **given: fetch(name, endpoint=endpoint, cache_dir=tmp_path / "hf", **given),
    )
    assert hub.push_to_hub(path, "someone/blobs") == f"{endpoint}/someone/blobs"
    assert {"config.json", "README.md", "model.safetensors", "run.json"} <= set(Hub.files)
    assert b'from_pretrained("someone/blobs")' in Hub.files["README.md"]
    Hub.files["evil.pkl"] = b"never fetched"
    again = hub.from_pretrained("someone/blobs")
    assert not list(tmp_path.rglob("evil.pkl"))
    assert list(tmp_path.rglob("hf/**/model.safetensors"))
    for name, tensor in again.state_dict().items():
        torch.testing.assert_close(tensor, RunFolder(path).read_weights()[name], rtol=0, atol=0)
    server.shutdown()
    server.server_close()


def test_share_from_the_command_line(run, tmp_path, capsys, monkeypatch):
    from cpvae.cli import main as cli

    path, _ = run
    monkeypatch.setattr("sys.argv", ["cpvae", "share", str(path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert "shared run -> " in capsys.readouterr().out
    assert (tmp_path / "blobs-shared" / "config.json").is_file()
    monkeypatch.setattr(hub, "push_to_hub", lambda run, name, private: f"{name} {private}")
    monkeypatch.setattr("sys.argv", ["cpvae", "share", str(path), "--push", "a/b", "--private"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert "shared run -> a/b True" in capsys.readouterr().out
