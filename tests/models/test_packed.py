"""That texts in one row give what they give with padding, whatever lies beside them; and what a recording must do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from structlog.testing import capture_logs
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AttentionInterface, AutoConfig, AutoModel

from models.catalog import open_encoder, open_reranker, open_sparse
from models.packed_attention import Scope, at_once, one_by_one
from models.packed_batch import PART, Shape, parts
from models.packed_graphs import MOST_GRAPHS, Forward, Graphs, Made, Recording
from models.packed_runtime import PackedEncoder, PackedReranker
from models.torch_device import to_bfloat16
from models.types import ModelError, ModelOptions, OutOfMemory, Role, Tokens
from tests.models import tiny
from tests.models.folders import edit

PADDED = ModelOptions(device="cpu", precision="float32", runtime="torch")
PACKED = replace(PADDED, runtime="packed")
LONG = "interest rate of the river bank " * 200
# Padding tokens that stand in a text are taken for words by some models, and are passed over by others.
TEXTS = [*tiny.TEXTS, "", "...", "bank", "a <pad> b [PAD] c", LONG]
QUERY = "which bank is near"
PACKABLE = [family for family in tiny.ENCODERS if family != "mpnet"]

GPU = replace(PACKED, device="cuda", precision="auto")

without_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def same_tokens(ours: Sequence[Tokens], theirs: Sequence[Tokens]) -> bool:
    return [each.ids.tolist() for each in ours] == [each.ids.tolist() for each in theirs]


@pytest.mark.parametrize("role", ["query", "document"])
@pytest.mark.parametrize("family", PACKABLE)
def test_vectors_and_all_facts_are_those_with_padding(encoders: dict[str, str], family: str, role: Role) -> None:
    ours, theirs = open_encoder(encoders[family], PACKED), open_encoder(encoders[family], PADDED)
    assert (ours.runtime, theirs.runtime) == ("packed", "torch")
    for fact in ("name", "fingerprint", "dimensions", "capacity", "prompts", "device"):
        assert getattr(ours, fact) == getattr(theirs, fact), fact
    tokens = ours.tokenize(TEXTS, role)
    assert same_tokens(tokens, theirs.tokenize(TEXTS, role))
    np.testing.assert_allclose(ours.encode(tokens), theirs.encode(tokens), atol=2e-6)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_scores_and_all_facts_are_those_with_padding(rerankers: dict[str, str], family: str) -> None:
    ours, theirs = open_reranker(rerankers[family], PACKED), open_reranker(rerankers[family], PADDED)
    assert (ours.runtime, theirs.runtime) == ("packed", "torch")
    for fact in ("name", "fingerprint", "blends", "capacity", "prompts", "device"):
        assert getattr(ours, fact) == getattr(theirs, fact), fact
    tokens = ours.tokenize(QUERY, TEXTS)
    assert same_tokens(tokens, theirs.tokenize(QUERY, TEXTS))
    np.testing.assert_allclose(ours.score(tokens), theirs.score(tokens), atol=1e-5)


def test_the_embedded_models_say_what_they_say_with_padding() -> None:
    texts = ["", LONG]
    packed, padded = (open_encoder("embedded", options) for options in (PACKED, PADDED))
    tokens = padded.tokenize(texts, "document")
    np.testing.assert_allclose(packed.encode(tokens), padded.encode(tokens), atol=2e-6)
    reranker, judge = (open_reranker("embedded", options) for options in (PACKED, PADDED))
    pairs = judge.tokenize(QUERY, texts)
    np.testing.assert_allclose(reranker.score(pairs), judge.score(pairs), atol=1e-4)


def test_a_head_that_reads_all_tokens_gets_all_of_them(rerankers: dict[str, str], tmp_path: Path) -> None:
    folder = tiny.save_reranker("modernbert", tmp_path / "mean")
    edit(folder / "config.json", classifier_pooling="mean")
    ours, theirs = open_reranker(str(folder), PACKED), open_reranker(str(folder), PADDED)
    tokens = ours.tokenize(QUERY, TEXTS)
    np.testing.assert_allclose(ours.score(tokens), theirs.score(tokens), atol=1e-5)
    first = open_reranker(rerankers["modernbert"], PADDED)
    assert np.abs(ours.score(tokens) - first.score(tokens)).max() > 1e-3


@pytest.mark.parametrize("pooling", ["cls", "max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens"])
def test_every_pooling_is_that_with_padding(encoders: dict[str, str], tmp_path: Path, pooling: str) -> None:
    model = SentenceTransformer(encoders["bert"], device="cpu")
    model[1] = Pooling(32, pooling)
    model.save(str(tmp_path), create_model_card=False)
    ours, theirs = open_encoder(str(tmp_path), PACKED), open_encoder(str(tmp_path), PADDED)
    tokens = ours.tokenize(TEXTS, "document")
    np.testing.assert_allclose(ours.encode(tokens), theirs.encode(tokens), atol=2e-6)


@cache
def opened(name: str) -> PackedEncoder:
    encoder = open_encoder(name, PACKED)
    assert isinstance(encoder, PackedEncoder)
    return encoder


def of_lengths(encoder: PackedEncoder, lengths: Sequence[int]) -> list[Tokens]:
    """Texts of so many tokens, each with words of its own."""
    (words,) = encoder.tokenize(["river bank rate spring near graph " * 60], "document")
    starts = [number % 5 for number in range(len(lengths))]
    return [
        replace(words, ids=words.ids[start : start + length], types=words.types[start : start + length])
        for start, length in zip(starts, lengths, strict=True)
    ]


@settings(max_examples=50)
@given(st.lists(st.integers(1, 55), min_size=1, max_size=12), st.sampled_from(PACKABLE))
def test_batches_of_any_size_and_order_give_what_each_text_gives_alone(
    encoders: dict[str, str], lengths: list[int], family: str
) -> None:
    encoder = opened(encoders[family])
    batch = of_lengths(encoder, lengths)
    alone = {text.ids.tobytes(): encoder.encode([text])[0] for text in batch}
    np.testing.assert_allclose(encoder.encode(batch), [alone[text.ids.tobytes()] for text in batch], atol=2e-6)


def test_a_text_of_no_tokens_has_a_vector_of_its_own(encoders: dict[str, str]) -> None:
    encoder = opened(encoders["bert"])
    nothing, *others = of_lengths(encoder, [0, 9, 30])
    alone = encoder.encode([nothing])
    np.testing.assert_allclose(encoder.encode([others[0], nothing, others[1]])[1:2], alone, atol=2e-6)
    np.testing.assert_allclose(encoder.encode([others[1], nothing])[1:], alone, atol=2e-6)


def test_a_batch_that_is_computed_in_parts_is_in_its_order(encoders: dict[str, str]) -> None:
    encoder = opened(encoders["bert"])
    distinct = of_lengths(encoder, [50, 10, 55, 3])
    batch = distinct * (PART // 100)
    assert len(list(parts(batch))) > 1
    np.testing.assert_allclose(encoder.encode(batch)[-4:], encoder.encode(distinct), atol=2e-6)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=30), st.integers(1, 60))
def test_parts_are_as_large_as_they_may_be(lengths: list[int], most: int) -> None:
    batch = [Tokens(np.full(length, number, np.int32), np.zeros(length, np.int32), length)
             for number, length in enumerate(lengths)]  # fmt: skip
    pieces = list(parts(batch, most))
    assert [text for piece in pieces for text in piece] == batch
    sizes = [sum(map(len, piece)) for piece in pieces]
    assert all(size <= most or len(piece) == 1 for size, piece in zip(sizes, pieces, strict=True))
    firsts = [len(piece[0]) for piece in pieces[1:]]
    assert all(size + first > most for size, first in zip(sizes, firsts, strict=False))


@given(st.integers(1, 10**5), st.integers(1, 5000), st.integers(1, 9000))
def test_a_rounded_shape_has_room_and_little_too_much(tokens: int, texts: int, longest: int) -> None:
    rounded = Shape(tokens, texts, longest).rounded
    assert tokens < rounded.tokens <= max(1.125 * tokens + 8, 64)
    assert texts < rounded.texts <= max(2 * texts, 8)
    assert longest <= rounded.longest <= max(2 * longest, 64)


def attend_at_once(_: Any, query: Tensor, key: Tensor, value: Tensor, mask: None, **told: Any) -> tuple[Tensor, None]:
    query, key, value = (each[0].transpose(0, 1) for each in (query, key, value))
    return at_once(query, key, value, Scope(told["cu_seq_lens_q"], told["max_length_q"]))[None], mask


def emptied(module: torch.nn.Module) -> None:
    """Leaves of its weights nothing but their shapes."""
    for each in module.modules():
        for name, weight in each.named_parameters(recurse=False):
            shape = torch.empty(weight.shape, dtype=weight.dtype)
            setattr(each, name, torch.nn.Parameter(shape, requires_grad=False))
        for name, buffer in each.named_buffers(recurse=False):
            setattr(each, name, torch.empty(buffer.shape, dtype=buffer.dtype))


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("model", [*PACKABLE, *(f"reranker {family}" for family in tiny.FAMILIES)])
def test_a_forward_pass_can_be_told_to_a_gpu_in_advance(
    encoders: dict[str, str], rerankers: dict[str, str], model: str, rounded: bool
) -> None:
    """It never looks at a number: tensors that have shapes alone go all the way, with the GPU's own attention."""
    kind, _, family = model.rpartition(" ")
    opened = open_reranker(rerankers[family], PACKED) if kind else open_encoder(encoders[family], PACKED)
    assert isinstance(opened, PackedEncoder | PackedReranker)
    to_bfloat16(opened.body.transformer.model)
    AttentionInterface.register("at_once", attend_at_once)
    opened.body.transformer.model.set_attn_implementation("at_once")
    shape = Shape(100, 5, 40).rounded if rounded else Shape(100, 5, 40)
    with FakeTensorMode(), torch.no_grad():
        for module in opened.body.modules:
            emptied(module)
        rows, *_ = opened.packed.forward(torch.empty(shape.numbers, dtype=torch.int64), shape)
    assert (len(rows), rows.dtype) == (shape.texts, torch.float32)


class Computed:
    """Stands for a recording where there is no GPU: computes again, in the shape that was recorded."""

    def __init__(self, forward: Forward, numbers: Tensor, shape: Shape) -> None:
        self._forward, self._shape, self.replays = forward, shape, 0
        assert numbers.shape == (shape.numbers,)

    def replay(self, numbers: Tensor) -> Made:
        self.replays += 1
        return self._forward(numbers, self._shape)


# The second has 63 tokens and leaves one, the third fills 64 and so needs a larger array.
SIZES = [[3, 40, 17], [30, 33], [32, 32], [1] * 7, [1] * 8, [55] * 9]


@pytest.mark.parametrize("family", PACKABLE)
def test_shapes_that_are_rounded_up_give_the_same_vectors(encoders: dict[str, str], family: str) -> None:
    encoder = open_encoder(encoders[family], PACKED)
    assert isinstance(encoder, PackedEncoder)
    batches = [of_lengths(encoder, lengths) for lengths in SIZES]
    expected = [encoder.encode(batch) for batch in batches]
    made = recorded_with(encoder)
    for batch, vectors in zip(batches, expected, strict=True):
        for _ in range(3):
            np.testing.assert_allclose(encoder.encode(batch), vectors, atol=2e-6)
    assert {each.replays for each in made} >= {2}


@pytest.mark.parametrize("family", [*tiny.FAMILIES, "mean"])
def test_shapes_that_are_rounded_up_give_the_same_scores(family: str, tmp_path: Path) -> None:
    folder = tiny.save_reranker(family if family != "mean" else "modernbert", tmp_path / "r")
    if family == "mean":
        edit(folder / "config.json", classifier_pooling="mean")
    reranker = open_reranker(str(folder), PACKED)
    assert isinstance(reranker, PackedReranker)
    tokens = reranker.tokenize(QUERY, TEXTS)
    expected = reranker.score(tokens)
    made = recorded_with(reranker)
    for _ in range(3):
        np.testing.assert_allclose(reranker.score(tokens), expected, atol=1e-5)
    assert [each.replays for each in made] == [2]


def recorded_with(model: PackedEncoder | PackedReranker) -> list[Computed]:
    """Lets a model record; what it has recorded is added to the list."""
    made: list[Computed] = []

    def record(forward: Forward, numbers: Tensor, shape: Shape) -> Recording:
        made.append(Computed(forward, numbers, shape))
        return made[-1]

    model.packed.record(record)
    return made


def doubled(numbers: Tensor, _: Shape) -> Made:
    return (2.0 * numbers[:, None],)


def offer(graphs: Graphs, shape: Shape, rows: Tensor | None = None) -> None:
    numbers = torch.arange(shape.numbers)
    graphs.offer(shape, lambda: numbers, doubled(numbers, shape) if rows is None else (rows,))


def test_a_shape_is_recorded_when_it_comes_again() -> None:
    graphs = Graphs("m", doubled, Computed)
    shape, other = Shape(8, 2, 4), Shape(16, 2, 8)
    offer(graphs, shape)
    offer(graphs, other)
    assert graphs.get(shape) is graphs.get(other) is None
    offer(graphs, shape)
    assert graphs.get(shape) is not None
    assert graphs.get(other) is None


def test_recordings_are_bounded() -> None:
    graphs = Graphs("m", doubled, Computed)
    for tokens in range(MOST_GRAPHS + 5):
        for _ in range(2):
            offer(graphs, Shape(tokens, 1, 1))
    assert len(graphs) == MOST_GRAPHS


def no_capture(forward: Forward, numbers: Tensor, shape: Shape) -> Recording:
    raise RuntimeError("operation not permitted when stream is capturing\nand so on")


@pytest.mark.parametrize(
    ("record", "rows", "reason"),
    [
        (no_capture, None, "operation not permitted when stream is capturing"),
        (Computed, torch.ones(41, 1), "replayed, a batch differs by"),
        (Computed, torch.full((41, 1), torch.nan), "replayed, a batch differs by nan"),
    ],
)
def test_what_can_not_be_replayed_rightly_is_told_once_and_no_longer_tried(
    record: Callable[..., Recording], rows: Tensor | None, reason: str
) -> None:
    graphs = Graphs("m", doubled, record)
    with capture_logs() as lines:
        for shape in (Shape(8, 8, 4), Shape(8, 8, 4), Shape(16, 8, 8), Shape(16, 8, 8)):
            offer(graphs, shape, rows)
    (line,) = lines
    assert line["event"] == "model runs without CUDA graphs, which is slower"
    assert line["reason"].startswith(reason)
    assert len(graphs) == 0


def test_a_failed_recording_leaves_the_model_at_work(encoders: dict[str, str]) -> None:
    encoder = open_encoder(encoders["bert"], PACKED)
    assert isinstance(encoder, PackedEncoder)
    tokens = encoder.tokenize(TEXTS, "document")
    expected = encoder.encode(tokens)
    encoder.packed.record(no_capture)
    with capture_logs() as lines:
        for _ in range(4):
            np.testing.assert_array_equal(encoder.encode(tokens), expected)
    assert len(lines) == 1


def test_a_device_without_room_for_a_batch_says_what_would_be_smaller(encoders: dict[str, str]) -> None:
    """The error is torch's own; only the device that would raise it is not there."""
    encoder = open_encoder(encoders["bert"], PACKED)
    assert isinstance(encoder, PackedEncoder)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    encoder.body.transformer.register_forward_pre_hook(full)
    with pytest.raises(OutOfMemory, match=r"no memory for 2 texts of 8 tokens in .+: let WINNOW_BATCH_TOKENS"):
        encoder.encode(of_lengths(encoder, [3, 8]))


def save_mixing(folder: Path) -> Path:
    """MobileBERT reads each token with the two beside it: at the edge of a text, those are another's."""
    torch.manual_seed(1)
    body = folder.with_name("mixing-body")
    tokenizer = tiny._TOKENIZERS["bert"]
    shape = tiny._SHAPE | tiny._SETTINGS["bert"]
    opened: Any = AutoModel
    opened.from_config(AutoConfig.for_model("mobilebert", vocab_size=len(tokenizer), **shape)).save_pretrained(body)
    tokenizer.save_pretrained(body)
    modules = [Transformer(str(body), **tiny._PLAIN), Pooling(32, "mean")]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)
    return folder


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_model_whose_texts_see_each_other_is_refused(tmp_path: Path, precision: Any) -> None:
    folder = str(save_mixing(tmp_path / "mixing"))
    with pytest.raises(ModelError, match=r"can't run packed: without padding it differs by .+ is allowed in float32"):
        open_encoder(folder, replace(PACKED, precision=precision))


def test_packed_by_name_never_gives_padding(
    encoders: dict[str, str], rerankers: dict[str, str], sparse_encoders: dict[str, str]
) -> None:
    with pytest.raises(ModelError, match="can't run packed: its kind of attention can't be had without padding"):
        open_encoder(encoders["mpnet"], PACKED)
    with pytest.raises(ModelError, match="can't run packed: late interaction needs torch"):
        open_reranker(rerankers["late"], PACKED)
    with pytest.raises(ModelError, match="can't run packed: a sparse encoder needs torch"):
        open_sparse(sparse_encoders["splade"], PACKED)
    with pytest.raises(ModelError, match="can't run in int8"):
        open_reranker("embedded", replace(PACKED, precision="int8"))


def test_a_device_that_is_not_there_is_an_error(encoder_folder: Path) -> None:
    with pytest.raises(ModelError, match="choose `auto` or `cpu`"):
        open_encoder(str(encoder_folder), replace(PACKED, device="cuda:99"))


def test_a_cpu_is_left_to_openvino_unless_packed_is_asked_for(encoder_folder: Path) -> None:
    assert open_encoder(str(encoder_folder), replace(PACKED, runtime="auto")).runtime == "openvino"


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_bfloat16_keeps_scores_where_they_are(rerankers: dict[str, str], family: str) -> None:
    exact, rough = (
        open_reranker(rerankers[family], replace(PACKED, precision=precision)) for precision in ("float32", "bfloat16")
    )
    tokens = exact.tokenize(QUERY, tiny.TEXTS)
    np.testing.assert_allclose(rough.score(tokens), exact.score(tokens), atol=0.03)
    assert not np.array_equal(rough.score(tokens), exact.score(tokens))


@pytest.mark.gpu
@without_a_gpu
@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
@pytest.mark.parametrize("window", [(-1, -1), (-1, 0), (5, 5), (5, 0)])
def test_on_a_gpu_one_kernel_attends_as_each_text_alone(window: tuple[int, int], heads: tuple[int, int]) -> None:
    ends = torch.tensor([0, 7, 8, 8, 200, 203, 203], dtype=torch.int32, device="cuda")
    torch.manual_seed(1)
    query, key, value = (
        torch.randn(210, count, 32, dtype=torch.bfloat16, device="cuda") for count in (heads[0], heads[1], heads[1])
    )
    scope = Scope(ends, 256, 0.2, window)
    expected = one_by_one(query.float(), key.float(), value.float(), scope)
    torch.testing.assert_close(at_once(query, key, value, scope)[:203].float(), expected[:203], atol=2e-2, rtol=2e-2)


@pytest.mark.gpu
@without_a_gpu
@pytest.mark.parametrize("family", [*PACKABLE, "embedded"])
def test_on_a_gpu_vectors_are_those_with_padding_however_often_they_are_asked(
    encoders: dict[str, str], family: str
) -> None:
    ours, theirs = open_encoder(encoders[family], GPU), open_encoder(encoders[family], PADDED)
    assert (ours.runtime, ours.device, ours.fingerprint) == ("packed", "cuda:0", theirs.fingerprint)
    tokens = ours.tokenize(TEXTS, "document")
    expected = theirs.encode(tokens)
    for _ in range(4):
        assert (ours.encode(tokens) * expected).sum(axis=1).min() > 0.99


@pytest.mark.gpu
@without_a_gpu
@pytest.mark.parametrize("family", [*tiny.FAMILIES, "embedded"])
def test_on_a_gpu_scores_are_those_with_padding_however_often_they_are_asked(
    rerankers: dict[str, str], family: str
) -> None:
    ours, theirs = open_reranker(rerankers[family], GPU), open_reranker(rerankers[family], PADDED)
    tokens = ours.tokenize(QUERY, TEXTS)
    for _ in range(4):
        np.testing.assert_allclose(ours.score(tokens), theirs.score(tokens), atol=0.1)


@pytest.mark.gpu
@without_a_gpu
@pytest.mark.parametrize("family", PACKABLE)
def test_on_a_gpu_recordings_say_what_is_computed_whatever_was_replayed_before(
    encoders: dict[str, str], family: str
) -> None:
    encoder = open_encoder(encoders[family], GPU)
    assert isinstance(encoder, PackedEncoder)
    batches = [of_lengths(encoder, lengths) for lengths in SIZES]
    with capture_logs() as lines:
        computed, *_, replayed = ([encoder.encode(batch) for batch in batches] for _ in range(4))
    assert lines == []
    for one, other in zip(computed, replayed, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-2)


@pytest.mark.gpu
@without_a_gpu
@pytest.mark.parametrize("family", PACKABLE)
def test_on_a_gpu_a_vector_does_not_depend_on_its_neighbours(encoders: dict[str, str], family: str) -> None:
    encoder = open_encoder(encoders[family], GPU)
    assert isinstance(encoder, PackedEncoder)
    batch = of_lengths(encoder, [3, 55, 20, 1, 41])
    together = encoder.encode(batch)
    alone = np.concatenate([encoder.encode([text]) for text in batch])
    backwards = encoder.encode(batch[::-1])[::-1]
    np.testing.assert_allclose(together, alone, atol=3e-2)
    np.testing.assert_allclose(together, backwards, atol=3e-2)


@pytest.mark.gpu
@without_a_gpu
def test_on_a_gpu_batches_of_several_parts_are_in_their_order(encoders: dict[str, str]) -> None:
    encoder = open_encoder(encoders["bert"], GPU)
    assert isinstance(encoder, PackedEncoder)
    distinct = of_lengths(encoder, [50, 10, 55, 3])
    expected = encoder.encode(distinct)
    for _ in range(3):
        np.testing.assert_allclose(encoder.encode(distinct * (PART // 40))[-4:], expected, atol=3e-2)


@pytest.mark.gpu
@without_a_gpu
def test_on_a_gpu_what_can_not_be_packed_is_padded_and_the_log_says_why(encoders: dict[str, str]) -> None:
    with capture_logs() as lines:
        encoder = open_encoder(encoders["mpnet"], replace(GPU, runtime="auto"))
    assert encoder.runtime == "torch"
    assert lines[-1]["event"] == "model runs with padding, which is slower on a GPU"
    assert "without padding" in lines[-1]["reason"]
    assert open_encoder(encoders["bert"], replace(GPU, runtime="auto")).runtime == "packed"
    with pytest.raises(ModelError, match="it computes in bfloat16, and the precision is float32"):
        open_encoder(encoders["bert"], replace(GPU, precision="float32"))
