"""That OpenVINO says what torch says, opens without it, and is left aside where it can't; and what is kept on disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from _thread import interrupt_main
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from models import network
from models.arithmetic import computes_bfloat16
from models.batch import Inputs, padded
from models.catalog import open_encoder, open_reranker, open_sparse
from models.conversions import check, converted, home_of, key_of
from models.converted import Source
from models.network import MICRO_BATCH, STEP, Network, width_of
from models.runtimes import Unavailable
from models.types import NO_PROMPTS, BiEncoder, ModelError, ModelOptions, Role, Tokens
from tests.models import tiny
from tests.models.folders import edit
from tests.models.test_torch_runtime import CHANGES

TORCH = ModelOptions(precision="float32", runtime="torch")
EXACT = ModelOptions(precision="float32", runtime="openvino")
ROUGH = ModelOptions(precision="bfloat16", runtime="openvino")
LONG = "interest rate of the river bank " * 200
TEXTS = [*tiny.TEXTS, "", "...", "bank", LONG]
QUERY = "which bank is near"

needs_bfloat16 = pytest.mark.skipif(not computes_bfloat16(), reason="this CPU does not compute in bfloat16")


@pytest.fixture
def kept(tmp_path: Path) -> ModelOptions:
    """With conversions of one's own."""
    return replace(EXACT, conversions=tmp_path / "kept")


def entries(options: ModelOptions) -> list[Path]:
    assert options.conversions
    return sorted((options.conversions / "openvino").iterdir())


def vectors(encoder: BiEncoder) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return encoder.encode(encoder.tokenize(TEXTS, "document"))


@pytest.mark.parametrize("role", ["query", "document"])
@pytest.mark.parametrize("family", [*tiny.ENCODERS, "minilm", "embedded"])
def test_vectors_and_all_facts_are_those_of_torch(encoders: dict[str, str], family: str, role: Role) -> None:
    ours, torchs = open_encoder(encoders[family], EXACT), open_encoder(encoders[family], TORCH)
    assert (ours.runtime, torchs.runtime) == ("openvino", "torch")
    for fact in ("name", "fingerprint", "dimensions", "capacity", "prompts", "device"):
        assert getattr(ours, fact) == getattr(torchs, fact), fact
    tokens = ours.tokenize(TEXTS, role)
    for one, other in zip(tokens, torchs.tokenize(TEXTS, role), strict=True):
        assert (one.ids.tolist(), one.types.tolist(), one.total) == (
            other.ids.tolist(),
            other.types.tolist(),
            other.total,
        )
    np.testing.assert_allclose(ours.encode(tokens), torchs.encode(tokens), atol=2e-6)


@pytest.mark.parametrize("family", [*tiny.FAMILIES, "embedded"])
def test_scores_and_all_facts_are_those_of_torch(rerankers: dict[str, str], family: str) -> None:
    ours, torchs = open_reranker(rerankers[family], EXACT), open_reranker(rerankers[family], TORCH)
    assert (ours.runtime, torchs.runtime) == ("openvino", "torch")
    for fact in ("name", "fingerprint", "blends", "capacity", "prompts", "device", "tokenisation"):
        assert getattr(ours, fact) == getattr(torchs, fact), fact
    tokens = ours.tokenize(QUERY, TEXTS)
    for one, other in zip(tokens, torchs.tokenize(QUERY, TEXTS), strict=True):
        assert (one.ids.tolist(), one.types.tolist(), one.total) == (
            other.ids.tolist(),
            other.types.tolist(),
            other.total,
        )
    np.testing.assert_allclose(ours.score(tokens), torchs.score(tokens), atol=1e-5)


@needs_bfloat16
def test_bfloat16_keeps_vectors_and_scores_where_they_are(encoders: dict[str, str], rerankers: dict[str, str]) -> None:
    exact, rough = (vectors(open_encoder(encoders["embedded"], options)) for options in (TORCH, ROUGH))
    assert not np.array_equal(exact, rough)
    assert (exact * rough).sum(axis=1).min() >= 0.999
    judge, fast = (open_reranker(rerankers["embedded"], options) for options in (TORCH, ROUGH))
    tokens = judge.tokenize(QUERY, TEXTS)
    np.testing.assert_allclose(fast.score(tokens), judge.score(tokens), atol=0.1)


def test_the_saved_activation_is_applied(tmp_path: Path) -> None:
    folder = tiny.save_reranker("bert", tmp_path / "squashed", activation_fn=torch.nn.Sigmoid())
    ours, torchs = open_reranker(str(folder), EXACT), open_reranker(str(folder), TORCH)
    scores = ours.score(ours.tokenize(QUERY, TEXTS))
    assert (scores > 0).all()
    assert (scores < 1).all()
    np.testing.assert_allclose(scores, torchs.score(torchs.tokenize(QUERY, TEXTS)), atol=1e-6)
    assert ours.fingerprint == torchs.fingerprint


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=80))
def test_batches_of_any_size_and_order_give_what_each_text_gives_alone(
    encoders: dict[str, str], lengths: list[int]
) -> None:
    encoder = open_once(encoders["bert"])
    (word,) = encoder.tokenize(["bank " * 60], "document")
    batch = [replace(word, ids=word.ids[:length], types=word.types[:length]) for length in lengths]
    alone = {length: encoder.encode([tokens])[0] for length, tokens in zip(lengths, batch, strict=True)}
    expected = np.stack([alone[length] for length in lengths])
    np.testing.assert_allclose(encoder.encode(batch), expected, atol=2e-6)


OPENED: dict[str, BiEncoder] = {}


def open_once(name: str) -> BiEncoder:
    """Opening costs more than an example of a property."""
    if name not in OPENED:
        OPENED[name] = open_encoder(name, EXACT)
    return OPENED[name]


def test_a_text_longer_than_a_micro_batch_is_one_of_its_own(encoders: dict[str, str]) -> None:
    encoder = open_once(encoders["embedded"])
    assert len(encoder.tokenize([LONG], "document")[0]) * 2 > MICRO_BATCH
    batch = encoder.tokenize([LONG, "bank", LONG, "river"], "document")
    np.testing.assert_allclose(encoder.encode(batch)[[0, 1]], encoder.encode(batch[2:] + batch[1:2])[[0, 2]], atol=2e-6)


def test_threads_that_compute_at_once_get_what_each_would_alone(encoders: dict[str, str]) -> None:
    encoder = open_once(encoders["embedded"])
    texts = encoder.tokenize([f"{LONG[: 40 * number]} number {number}" for number in range(12)], "document")
    alone = [encoder.encode([each])[0] for each in texts]
    with ThreadPoolExecutor(2 * encoder.grain.abreast) as threads:
        for _ in range(5):
            np.testing.assert_array_equal(list(threads.map(lambda each: encoder.encode([each])[0], texts)), alone)


def test_a_batch_that_failed_spoils_none_that_comes_later(
    encoders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that there was no memory for; inputs that don't go together are easier to come by."""

    def unfit(batch: Sequence[Tokens], padding: int, *, with_types: bool, width: int) -> Inputs:
        inputs = padded(batch, padding, with_types=with_types, width=width)
        return inputs | {"attention_mask": inputs["attention_mask"][:, :3]}

    encoder = open_encoder(encoders["embedded"], EXACT)
    batch = encoder.tokenize(["bank " * 30] * 60, "document")
    expected = encoder.encode(batch)
    with monkeypatch.context() as patch:
        patch.setattr(network, "padded", unfit)
        with pytest.raises(RuntimeError):
            encoder.encode(batch)
    np.testing.assert_allclose(encoder.encode(batch), expected, atol=2e-6)


def test_what_was_computed_beside_an_error_is_believed_by_nobody(
    encoders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = open_encoder(encoders["bert"], EXACT)
    one, other = encoder.tokenize(["bank " * 30, "river"], "document")

    def beside(batch: Sequence[Tokens], padding: int, *, with_types: bool, width: int) -> Inputs:
        if len(batch[0]) == len(other):
            raise RuntimeError("no memory")
        with pytest.raises(RuntimeError, match="no memory"):
            encoder.encode([other])
        return padded(batch, padding, with_types=with_types, width=width)

    for batch in ([one], [one] * 60):  # alone, and shared out
        expected = encoder.encode(batch)
        with monkeypatch.context() as patch:
            patch.setattr(network, "padded", beside)
            with pytest.raises(RuntimeError, match="an error beside this batch"):
                encoder.encode(batch)
        np.testing.assert_allclose(encoder.encode(batch), expected, atol=2e-6)


SHORT = """
import resource, sys
import numpy as np
from models.catalog import open_encoder
from models.types import ModelOptions

exact = ModelOptions(precision="float32", runtime="openvino", threads=1)
encoder, roomy = open_encoder("embedded", exact), open_encoder("embedded", exact)
texts = encoder.tokenize([f"{'the river bank ' * number} {number}" for number in range(1, 60)], "document")
batches = [[text] for text in texts] + [texts]
expected = [roomy.encode(batch) for batch in batches]

def told():
    for batch, rows in zip(batches, expected, strict=True):
        try:
            yield "right" if np.allclose(encoder.encode(batch), rows, atol=1e-5) else "wrong"
        except (RuntimeError, MemoryError):
            yield "error"

encoder.encode(batches[0])
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + int(sys.argv[1]), resource.RLIM_INFINITY))
print(*sorted(set(told())))
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(*sorted(set(told())))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited in the way of Linux")
@pytest.mark.parametrize("more", [300_000, 3_000_000])
def test_where_memory_is_short_there_are_errors_and_no_wrong_answers(more: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHORT, str(more)], capture_output=True, text=True, check=False, timeout=120
    )
    while_short, afterwards = done.stdout.splitlines()[-2:]
    assert set(while_short.split()) in ({"error"}, {"error", "right"}), done.stderr
    assert afterwards == "right"


def test_what_can_not_be_read_of_a_result_is_told_and_ends_no_process(
    encoders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> NoReturn:
        raise MemoryError

    encoder = open_encoder(encoders["bert"], EXACT)
    batch = encoder.tokenize(["bank " * 30] * 60, "document")
    expected = encoder.encode(batch)
    with monkeypatch.context() as patch:
        patch.setattr(network, "_rows", full)
        with pytest.raises(MemoryError):
            encoder.encode(batch)
    np.testing.assert_allclose(encoder.encode(batch), expected, atol=2e-6)


@contextmanager
def heeding_interrupts() -> Iterator[None]:
    """What a shell starts in the background ignores them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def test_who_is_interrupted_leaves_nothing_behind_that_computes(
    monkeypatch: pytest.MonkeyPatch, encoders: dict[str, str]
) -> None:
    """It would call back into an interpreter that ends meanwhile, which ends by SIGABRT."""
    began, ended, read = [], [], network._rows

    def slow(request: object, texts: Sequence[Tokens]) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
        began.append(texts)
        if len(began) == 1:
            interrupt_main()
        time.sleep(0.3)
        ended.append(texts)
        return read(request, texts)

    encoder = open_encoder(encoders["bert"], EXACT)
    batch = encoder.tokenize(["bank " * 30] * 60, "document")
    with monkeypatch.context() as patch:
        patch.setattr(network, "_rows", slow)
        with heeding_interrupts(), pytest.raises(KeyboardInterrupt):
            encoder.encode(batch)
        assert len(began) == len(ended)
    assert len(encoder.encode(batch)) == len(batch)


SERVICE = """
import asyncio, socket, sys
from pathlib import Path

def audit(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise RuntimeError(f"somebody went to the network: {arguments}")

sys.addaudithook(audit)

async def main():
    from app.engine import open_engine
    from app.settings import Settings
    from app.telemetry import Metrics

    async with open_engine(Settings(data_dir=Path(sys.argv[1]), runtime="openvino"), Metrics()) as engine:
        while engine.readiness.reasons():
            await asyncio.sleep(0.01)

asyncio.run(main())
print([name for name in ("torch", "transformers", "sentence_transformers") if name in sys.modules])
print(sys.modules["openvino_telemetry"], "openvino" in sys.modules)
"""


def test_once_converted_a_service_starts_without_torch_and_tells_nobody(tmp_path: Path) -> None:
    for opens in (open_encoder, open_reranker):
        opens("embedded", EXACT)
    home = {**os.environ, "HOME": str(tmp_path / "home")}
    (tmp_path / "home").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SERVICE, str(tmp_path / "data")], capture_output=True, text=True, env=home, check=False
    )
    assert done.stdout.splitlines()[-2:] == ["[]", "None True"], done.stderr
    assert list((tmp_path / "home").iterdir()) == []


def test_signals_are_survived_when_models_have_come_and_gone(encoder_folder: Path) -> None:
    open_encoder(str(encoder_folder), EXACT)
    code = (
        "import os, signal, sys; from models.catalog import open_encoder; from models.types import ModelOptions; "
        "opens = lambda: open_encoder(sys.argv[1], ModelOptions(runtime='openvino')); "
        "first = opens(); second = opens(); del first; third = opens(); del second, third; "
        "signal.signal(signal.SIGINT, lambda *_: print('heard')); os.kill(os.getpid(), signal.SIGINT)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(encoder_folder)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["heard"]), done.stderr


def test_a_conversion_is_reported_to_nobody(kept: ModelOptions, encoder_folder: Path) -> None:
    open_encoder(str(encoder_folder), kept)
    from openvino.tools.ovc import telemetry_utils

    assert telemetry_utils.tm.__name__ == "openvino.tools.ovc.telemetry_stub"


def test_a_model_is_converted_once_and_its_network_serves_every_precision(
    kept: ModelOptions, encoder_folder: Path
) -> None:
    with capture_logs() as first:
        before = vectors(open_encoder(str(encoder_folder), kept))
    with capture_logs() as second:
        np.testing.assert_array_equal(vectors(open_encoder(str(encoder_folder), kept)), before)
        open_encoder(str(encoder_folder), replace(kept, precision="auto"))
    assert [line["event"] for line in first] == ["converting model for OpenVINO, once"]
    assert second == []
    assert len(entries(kept)) == 1


def _flip(entry: Path, file: str) -> None:
    content = bytearray((entry / file).read_bytes())
    content[len(content) // 2] ^= 1
    (entry / file).write_bytes(content)


def _cut(entry: Path) -> None:
    (entry / "network.bin").write_bytes((entry / "network.bin").read_bytes()[:-1000])


def _foreign(entry: Path) -> None:
    """Whole in itself, and another model's."""
    manifest = json.loads((entry / "manifest.json").read_text()) | {"key": "0" * 40}
    (entry / "manifest.json").write_text(json.dumps(manifest))


DAMAGES: dict[str, Callable[[Path], object]] = {
    **{f"a flipped bit in {file}": lambda entry, file=file: _flip(entry, file)  # type: ignore[misc]
       for file in ("network.xml", "network.bin", "tokenizer.json", "facts.json", "manifest.json")},
    "a network cut short": _cut,
    "another model's entry": _foreign,
    "no manifest": lambda entry: (entry / "manifest.json").unlink(),
    "a file too many": lambda entry: (entry / "note.txt").write_text("hello"),
}  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, encoders: dict[str, str]) -> ModelOptions:
    options = replace(EXACT, conversions=tmp_path_factory.mktemp("sound"))
    open_encoder(encoders["bert"], options)
    return options


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_noticed_and_made_anew(
    sound: ModelOptions, kept: ModelOptions, encoder_folder: Path, damage: str
) -> None:
    assert sound.conversions
    assert kept.conversions
    shutil.copytree(sound.conversions, kept.conversions)
    (entry,) = entries(kept)
    DAMAGES[damage](entry)
    with capture_logs() as lines:
        again = vectors(open_encoder(str(encoder_folder), kept))
    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("converted model is damaged and made anew", "warning")
    ]
    np.testing.assert_array_equal(again, vectors(open_encoder(str(encoder_folder), sound)))
    assert entries(kept) == [entry]
    with capture_logs() as lines:
        open_encoder(str(encoder_folder), kept)
    assert lines == []


def test_two_processes_may_convert_the_same_model_at_once(kept: ModelOptions, encoder_folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from models.catalog import open_encoder; "
        "from models.types import ModelOptions; "
        "print(open_encoder(sys.argv[1], ModelOptions(runtime='openvino', conversions=Path(sys.argv[2]))).runtime)"
    )
    command = [sys.executable, "-c", code, str(encoder_folder), str(kept.conversions)]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [racer.communicate()[0].splitlines()[-1] for racer in racers] == ["openvino"] * 2
    assert len(entries(kept)) == 1
    with capture_logs() as lines:
        open_encoder(str(encoder_folder), kept)
    assert lines == []


def test_where_nothing_can_be_written_a_model_opens_all_the_same_and_says_so(
    tmp_path: Path, encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with capture_logs() as lines:
        encoder = open_encoder(str(encoder_folder), replace(EXACT, conversions=tmp_path / "file" / "below"))
    assert lines[-1]["event"] == "converted model can't be kept, every start converts anew"
    assert lines[-1]["change"] == "WINNOW_CONVERSIONS"
    np.testing.assert_array_equal(vectors(encoder), vectors(open_encoder(str(encoder_folder), EXACT)))
    assert not list((tmp_path / "temporary").glob("winnow-*"))


def test_what_nobody_opened_for_long_is_removed_and_nothing_else(
    sound: ModelOptions, kept: ModelOptions, reranker_folder: Path
) -> None:
    assert sound.conversions
    assert kept.conversions
    shutil.copytree(sound.conversions, kept.conversions)
    (old,) = entries(kept)
    foreign = old.with_name("not-ours")
    foreign.mkdir()
    for folder in (old, foreign):
        os.utime(folder, (time.time() - 10**7,) * 2)
    open_reranker(str(reranker_folder), kept)
    assert not old.exists()
    assert foreign.exists()
    assert len(entries(kept)) == 2


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_shapes_a_vector_asks_for_another_conversion(
    tmp_path: Path, encoder_folder: Path, change: str
) -> None:
    other = CHANGES[change](encoder_folder, tmp_path / "other")
    assert key_of(source(other)) != key_of(source(encoder_folder))


def test_a_link_to_nothing_beside_a_model_is_passed_over(tmp_path: Path, encoder_folder: Path) -> None:
    folder = shutil.copytree(encoder_folder, tmp_path / "e")
    (folder / "onnx.json").symlink_to(tmp_path / "gone")
    assert open_encoder(str(folder), EXACT).runtime == "openvino"


def test_prompts_that_are_asked_for_go_into_the_conversion(encoder_folder: Path) -> None:
    asked = replace(EXACT, prompts={str(encoder_folder): {"query": "ask: ", "document": ""}})
    assert key_of(source(encoder_folder, asked)) != key_of(source(encoder_folder))
    ours = open_encoder(str(encoder_folder), asked)
    assert ours.prompts["query"] == "ask: "
    assert ours.fingerprint == open_encoder(str(encoder_folder), replace(asked, runtime="torch")).fingerprint


def source(folder: Path, options: ModelOptions = EXACT) -> Source:
    return Source(str(folder), folder, "encoder", options, NO_PROMPTS)


def test_a_conversion_that_differs_from_torch_is_refused(encoder_folder: Path) -> None:
    model = converted(source(encoder_folder))
    network = Network(model.network, model.facts.padding, model.facts.limit, EXACT)
    check(network, model.facts)
    turned = [row[::-1] for row in model.facts.expected]
    with pytest.raises(Unavailable, match=r"differs from torch by .+, where 0\.0001 is allowed"):
        check(network, replace(model.facts, expected=turned))


@pytest.fixture
def unconvertible(tmp_path: Path) -> str:
    """Its activation has no counterpart in OpenVINO."""
    return str(tiny.save_reranker("bert", tmp_path / "hard", activation_fn=torch.nn.Hardshrink()))


def test_what_can_not_be_converted_runs_in_torch_and_the_log_says_why(unconvertible: str, kept: ModelOptions) -> None:
    with capture_logs() as lines:
        reranker = open_reranker(unconvertible, replace(kept, runtime="auto", device="cpu"))
    assert reranker.runtime == "torch"
    assert np.isfinite(reranker.score(reranker.tokenize(QUERY, TEXTS))).all()
    assert lines[-1]["event"] == "model runs in torch, which is slower on a CPU"
    assert "hardshrink" in lines[-1]["reason"]
    assert entries(kept) == []


def test_openvino_by_name_never_gives_torch(
    unconvertible: str, kept: ModelOptions, rerankers: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"can't run in OpenVINO: it can't be converted: .*hardshrink"):
        open_reranker(unconvertible, kept)
    with pytest.raises(ModelError, match="late interaction needs torch"):
        open_reranker(rerankers["late"], kept)
    with pytest.raises(ModelError, match="it runs on a CPU alone, and the device is cuda"):
        open_encoder("embedded", replace(kept, device="cuda"))
    with pytest.raises(ModelError, match="a sparse encoder needs torch"):
        open_sparse(str(tiny.save_sparse(tmp_path / "sparse")), kept)


def test_without_openvino_models_run_in_torch_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, encoder_folder: Path
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with capture_logs() as lines:
        assert open_encoder(str(encoder_folder), ModelOptions(device="cpu")).runtime == "torch"
    assert lines[-1]["reason"] == "openvino is not installed"
    with pytest.raises(ModelError, match="openvino is not installed"):
        open_encoder(str(encoder_folder), EXACT)


def test_what_torch_refuses_is_refused_in_the_same_words(tmp_path: Path, encoder_folder: Path) -> None:
    folder = shutil.copytree(encoder_folder, tmp_path / "e")
    edit(folder / "sentence_bert_config.json", max_seq_length=3)
    with pytest.raises(ModelError, match="leaves no room for text"):
        open_encoder(str(folder), ModelOptions(device="cpu"))


def test_conversion_is_silent(kept: ModelOptions, encoder_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with capture_logs():
        open_encoder(str(encoder_folder), kept)
    assert capfd.readouterr() == ("", "")


def test_it_is_where_the_user_keeps_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert home_of(source(Path("anywhere"))) == tmp_path / "winnow" / "openvino"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home_of(source(Path("anywhere"))) == tmp_path / ".cache" / "winnow" / "openvino"


@given(st.integers(1, 600), st.integers(1, 600))
def test_texts_of_nearly_the_same_length_make_batches_of_the_same_width(longest: int, limit: int) -> None:
    """Each width is compiled for, and stays in memory."""
    longest = min(longest, limit)
    width = width_of(longest, limit)
    assert longest <= width <= min(longest + STEP - 1, limit)
    assert width % STEP == 0 or width == limit


def test_a_text_as_long_as_the_limit_is_read_where_that_is_no_multiple_of_a_step(
    encoder_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(encoder_folder, tmp_path / "odd")
    settings = next(folder.glob("sentence_*_config.json"))
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"max_seq_length": 2 * STEP + 3}))
    ours, torchs = (open_encoder(str(folder), options) for options in (EXACT, TORCH))
    batch = ours.tokenize(["red fox " * 50, "red fox"], "document")
    assert max(map(len, batch)) == 2 * STEP + 3
    np.testing.assert_allclose(ours.encode(batch), torchs.encode(batch), atol=1e-4)
