"""What a name opens, and what it says when it opens nothing."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from huggingface_hub import close_session

from models import catalog
from models.catalog import open_encoder, open_reranker
from models.fake import FakeEncoder, FakeReranker
from models.types import ModelError, ModelOptions
from tests.models import tiny
from tests.models.folders import edit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_fakes_are_opened_by_name_without_torch() -> None:
    code = (
        "import sys; from models.catalog import open_encoder, open_reranker; "
        "open_encoder('fake:32'); open_reranker('fake'); "
        "print([name for name in ('torch', 'transformers', 'huggingface_hub') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_fake_has_the_dimensions_of_its_name() -> None:
    encoder = open_encoder("fake:32")
    assert isinstance(encoder, FakeEncoder)
    assert encoder.dimensions == 32
    assert open_encoder("fake").dimensions == 64
    assert isinstance(open_reranker("fake"), FakeReranker)


@pytest.mark.parametrize(
    "name",
    [
        "/no/such/folder",
        "./missing",
        "~/missing",
        "~nobody/missing",
        "nothing",
        "a/b/c",
        "",
        "fake:x",
        "a" * 300,
        "a\0",
    ],
    ids=lambda name: name[:20],
)
def test_a_name_that_opens_nothing_says_what_would(name: str) -> None:
    for open_one in (open_encoder, open_reranker):
        with pytest.raises(ModelError, match=r"name an existing folder, a hub model \(.+\) or `embedded`"):
            open_one(name)


def test_offline_a_hub_model_that_is_not_on_disk_is_an_error(tmp_path: Path) -> None:
    options = ModelOptions(cache=tmp_path, offline=True)
    with pytest.raises(ModelError, match="asking the hub is switched off"):
        open_encoder("acme/small-encoder", options)


def test_a_proxy_that_refuses_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            self.send_error(407, "Proxy Authentication Required")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        Thread(target=server.serve_forever).start()
        for name in ("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        for name in ("HTTPS_PROXY", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_port}")
        close_session()  # which has the proxy that it was made with
        try:
            with pytest.raises(ModelError, match=r"can't be fetched from the hub: 407 Proxy Authentication"):
                open_encoder("acme/small-encoder", ModelOptions(cache=tmp_path))
        finally:
            close_session()
            server.shutdown()


def test_offline_a_hub_model_comes_from_the_cache(tmp_path: Path, encoder_folder: Path) -> None:
    home = tmp_path / "models--acme--small-encoder"
    shutil.copytree(encoder_folder, home / "snapshots" / COMMIT)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    encoder = open_encoder("acme/small-encoder", ModelOptions(cache=tmp_path, offline=True))
    assert encoder.name == "acme/small-encoder"
    assert encoder.fingerprint == open_encoder(str(encoder_folder)).fingerprint


def test_missing_embedded_models_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "_WEIGHTS", tmp_path)
    for open_one in (open_encoder, open_reranker):
        with pytest.raises(ModelError, match="install Winnow again"):
            open_one("embedded")


def test_each_kind_is_refused_in_the_others_place(encoder_folder: Path, reranker_folder: Path) -> None:
    with pytest.raises(ModelError, match="is a CrossEncoder, which can't serve as encoder"):
        open_encoder(str(reranker_folder))
    with pytest.raises(ModelError, match="is a SentenceTransformer, which can't serve as reranker"):
        open_reranker(str(encoder_folder))


def test_a_cross_encoder_saved_by_transformers_alone_is_known_as_one(tmp_path: Path) -> None:
    tiny.save_reranker("bert", tmp_path / "r")
    plain = tmp_path / "r-body"
    assert not (plain / "modules.json").exists()
    assert np.isfinite(open_reranker(str(plain)).score(open_reranker(str(plain)).tokenize("a", ["b"]))).all()
    with pytest.raises(ModelError, match="is a CrossEncoder"):
        open_encoder(str(plain))


def test_a_language_model_without_pooling_is_neither(tmp_path: Path) -> None:
    tiny.save_encoder("bert", tmp_path / "e")
    for open_one in (open_encoder, open_reranker):
        with pytest.raises(ModelError, match=r"is no sentence-transformers model"):
            open_one(str(tmp_path / "e-body"))


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no sentence-transformers model"):
        open_encoder(str(tmp_path))


class Trap:
    """Says so if anybody unpickles it."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("a pickle was opened",)


@pytest.mark.parametrize("module", ["", "2_Dense"])
def test_pickled_weights_are_refused_unopened(tmp_path: Path, encoder_folder: Path, module: str) -> None:
    folder = shutil.copytree(encoder_folder, tmp_path / "e")
    (folder / module / "model.safetensors").unlink()
    (folder / module / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ModelError, match="pickles can run code"):
        open_encoder(str(folder))


def test_a_folder_without_weights_is_an_error(tmp_path: Path, reranker_folder: Path) -> None:
    folder = shutil.copytree(reranker_folder, tmp_path / "r")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no safetensors weights"):
        open_reranker(str(folder))


def test_damaged_weights_are_an_error(tmp_path: Path, reranker_folder: Path) -> None:
    folder = shutil.copytree(reranker_folder, tmp_path / "r")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:1000])
    with pytest.raises(ModelError, match="can't be loaded"):
        open_reranker(str(folder))


@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_a_folder_without_its_tokenizer_is_refused_since_all_words_would_be_one(
    rerankers: dict[str, str], tmp_path: Path, family: str
) -> None:
    folder = shutil.copytree(rerankers[family], tmp_path / "r")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match=r"tokenizer knows no word: its files \(tokenizer\.json.* are missing"):
        open_reranker(str(folder))


def test_a_file_that_can_not_be_read_is_named_in_a_sentence(tmp_path: Path, encoder_folder: Path) -> None:
    folder = shutil.copytree(encoder_folder, tmp_path / "e")
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    with pytest.raises(ModelError, match=r"can't be read: .*config\.json.*let whoever runs Winnow read its files"):
        open_encoder(str(folder))


@pytest.mark.parametrize("file", ["config.json", "modules.json", "config_sentence_transformers.json"])
def test_a_damaged_configuration_is_an_error(tmp_path: Path, encoder_folder: Path, file: str) -> None:
    folder = shutil.copytree(encoder_folder, tmp_path / "e")
    (folder / file).write_text("{")
    with pytest.raises(ModelError, match=file):
        open_encoder(str(folder))


def test_code_that_comes_with_a_model_is_never_run(tmp_path: Path, encoder_folder: Path) -> None:
    folder = shutil.copytree(encoder_folder, tmp_path / "e")
    (folder / "custom.py").write_text("raise SystemExit('the code ran')")
    modules = json.loads((folder / "modules.json").read_text())
    modules[-1]["type"] = "custom.Normalize"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match=r"needs code of its own \(custom\.Normalize\)"):
        open_encoder(str(folder))


def test_an_architecture_that_comes_as_code_is_refused(tmp_path: Path, encoder_folder: Path) -> None:
    folder = shutil.copytree(encoder_folder, tmp_path / "e")
    (folder / "custom.py").write_text("raise SystemExit('the code ran')")
    auto = {"AutoConfig": "custom.Config", "AutoModel": "custom.Model"}
    edit(folder / "config.json", model_type="custom", auto_map=auto)
    with pytest.raises(ModelError, match="needs code of its own"):
        open_encoder(str(folder))


def test_what_a_transformer_calls_its_own_activation_is_no_code(tmp_path: Path, encoder_folder: Path) -> None:
    folder = shutil.copytree(encoder_folder, tmp_path / "e")
    edit(folder / "config.json", activation_function="gelu_new", activation_fn="swiglu")
    assert open_encoder(str(folder)).dimensions == 24
    edit(folder / "2_Dense" / "config.json", activation_function="custom.Activation")
    with pytest.raises(ModelError, match=r"needs code of its own \(custom\.Activation\)"):
        open_encoder(str(folder))


def test_an_activation_that_comes_as_code_is_refused(tmp_path: Path, reranker_folder: Path) -> None:
    folder = shutil.copytree(reranker_folder, tmp_path / "r")
    edit(folder / "config_sentence_transformers.json", activation_fn="custom.Activation")
    with pytest.raises(ModelError, match=r"needs code of its own \(custom\.Activation\)"):
        open_reranker(str(folder))
