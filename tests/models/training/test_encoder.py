"""Fine-tuning an encoder, for real, on a handful of pairs and a model of two small layers."""

from __future__ import annotations

import csv
import errno
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

from models.catalog import open_encoder
from models.training import trainer
from models.training.backbone import prompted
from models.training.card import table
from models.training.encoder import column_prompts, datasets, prepare, train_encoder
from models.training.errors import Interrupted, TrainingError
from models.training.machine import Machine
from models.training.pairs import Pair, Passage
from models.training.run import Plan, Run
from models.training.settings import EncoderSettings
from models.types import ModelError
from tests.models.folders import silenced
from tests.models.training.conftest import ANIMALS, FACTS, ONE_CORE, WORDS, Witness

QUICK = {"steps": 6, "batch": 4, "rate": 0.01, "held_out": 4, "apart": "queries", "dims": "32,16"} | ONE_CORE


def _settings(base: Path | str, **more: object) -> EncoderSettings:
    return EncoderSettings(**{"base": str(base)} | QUICK | more)  # type: ignore[arg-type]  # of many types


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, base: Path, groups: Path) -> Path:
    """A model that was trained without a break."""
    output = tmp_path_factory.mktemp("trained") / "encoder"
    train_encoder(groups, output, _settings(base), Witness())
    return output


def test_it_is_stored_small_loads_whole_and_reads_512_tokens(trained: Path, base: Path) -> None:
    model = SentenceTransformer(str(trained), device="cpu")

    assert {tensor.dtype for tensor in load_file(trained / "model.safetensors").values()} == {torch.float16}
    assert next(model.parameters()).dtype == torch.float32
    assert model.max_seq_length == 512
    assert len(Tokenizer.from_file(str(trained / "tokenizer.json")).encode("otter " * 700)) == 702
    assert not any(str(base) in path.read_text() for path in trained.glob("*.json"))


def test_a_service_can_open_it(trained: Path) -> None:
    encoder = open_encoder(str(trained))

    (vector,) = encoder.encode(encoder.tokenize(["the otter swims under ice"], "document"))

    assert encoder.dimensions == 32
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-3)


def test_prompts_are_trained_with_and_saved(base: Path, groups: Path, trained: Path, tmp_path: Path) -> None:
    folder = silenced(Path(shutil.copytree(base, tmp_path / "intfloat" / "e5-small-v2")))
    train_encoder(groups, tmp_path / "card", _settings(folder), Witness())
    train_encoder(groups, tmp_path / "asked", _settings(base, query_prompt="where does it swim ? "), Witness())

    assert open_encoder(str(tmp_path / "card")).prompts == {"query": "query: ", "document": "passage: "}
    assert open_encoder(str(tmp_path / "asked")).prompts == {"query": "where does it swim ? ", "document": ""}
    assert not _same(tmp_path / "card", trained)
    assert not _same(tmp_path / "asked", trained)


def test_each_column_is_read_with_its_sides_prompt(base: Path) -> None:
    model = prompted(SentenceTransformer(str(base), device="cpu"), "mine", base, {"query": "q ", "document": "d "})
    pairs = {"wild": [Pair("where ?", Passage("wild", "1", "", "here"), ("there", "nowhere"))]}

    assert column_prompts(model, datasets(pairs, 2, 0)) == {
        "query": "q ", "passage": "d ", "negative_0": "d ", "negative_1": "d ",
    }  # fmt: skip
    assert column_prompts(SentenceTransformer(str(base), device="cpu"), datasets(pairs, 2, 0)) == {}


def test_it_moved_and_its_word_embeddings_did_not(trained: Path, base: Path) -> None:
    before, after = (SentenceTransformer(str(folder), device="cpu").state_dict() for folder in (base, trained))

    moved = {name for name, value in after.items() if not torch.allclose(value, before[name], atol=1e-3)}
    assert moved
    assert not any("word_embeddings" in name for name in moved)


def test_the_same_seed_gives_the_same_weights(trained: Path, base: Path, groups: Path, tmp_path: Path) -> None:
    train_encoder(groups, tmp_path / "again", _settings(base), Witness())

    assert _same(trained, tmp_path / "again")


def test_another_seed_gives_others(trained: Path, base: Path, groups: Path, tmp_path: Path) -> None:
    train_encoder(groups, tmp_path / "other", _settings(base, seed=8), Witness())

    assert not _same(trained, tmp_path / "other")


class Interrupter(Witness):
    """Presses Ctrl-C, or sends SIGTERM, after some step."""

    def __init__(self, step: int, number: int) -> None:
        super().__init__()
        self._step = step
        self._number = number

    def advance(self, what: str, done: int, total: int, note: str = "") -> None:
        super().advance(what, done, total, note)
        if what == "training" and done == self._step:
            os.kill(os.getpid(), self._number)


@pytest.mark.parametrize(("step", "number"), [(2, signal.SIGINT), (4, signal.SIGTERM)])
def test_interrupted_and_run_again_it_ends_with_the_weights_of_an_uninterrupted_run(
    trained: Path, base: Path, groups: Path, tmp_path: Path, step: int, number: int
) -> None:
    output = tmp_path / "encoder"
    with pytest.raises(Interrupted, match=rf"Stopped after step {step} of 6\. Run the same command again"):
        train_encoder(groups, output, _settings(base), Interrupter(step, number))
    assert not output.exists()

    witness = Witness()
    train_encoder(groups, output, _settings(base, minutes=60, threads=0), witness)

    assert f"Going on from step {step}." in witness.said
    assert _same(trained, output)
    assert _curve(output)[-1]["ndcg@10 32"] == _curve(trained)[-1]["ndcg@10 32"]
    assert not list(tmp_path.glob("*.partial"))


def test_an_interrupted_run_does_not_go_on_as_another(base: Path, groups: Path, pairs: Path, tmp_path: Path) -> None:
    output = tmp_path / "encoder"
    with pytest.raises(Interrupted):
        train_encoder(groups, output, _settings(base), Interrupter(2, signal.SIGINT))

    with pytest.raises(TrainingError, match=r"--batch was 4, now 5.*remove that folder to begin anew"):
        train_encoder(groups, output, _settings(base, batch=5), Witness())
    with pytest.raises(TrainingError, match="other data"):
        train_encoder(pairs, output, _settings(base), Witness())


def test_a_disk_that_is_full_takes_the_plan_of_no_unfinished_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: Path, *_: object, **__: object) -> NoReturn:
        file.open("w").close()
        raise OSError(errno.ENOSPC, "No space left on device")

    plan = Plan("train encoder", [], {}, {}, {}, [])
    assert not Run(tmp_path / "encoder", plan).resumed
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="No space left"):
            Run(tmp_path / "encoder", plan)

    assert Run(tmp_path / "encoder", plan).resumed


def test_a_run_that_could_not_begin_keeps_no_other_from_its_place(base: Path, groups: Path, tmp_path: Path) -> None:
    output, damaged = tmp_path / "encoder", tmp_path / "damaged.jsonl"
    damaged.write_bytes(b"\xff\n")
    with pytest.raises(TrainingError, match="is not UTF-8 text"):
        train_encoder(damaged, output, _settings(base), Witness())
    train_encoder(groups, output, _settings(base, steps=1), Witness())
    assert output.is_dir()


def test_a_base_that_can_not_be_loaded_is_named(base: Path, groups: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(base, tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(
        ModelError, match=r"damaged can't be loaded from .* \(fetch it again, or choose another model\)"
    ):
        train_encoder(groups, tmp_path / "encoder", _settings(damaged), Witness())
    with pytest.raises(ModelError, match=r"damaged can't be loaded from"):
        Machine.find("cpu", 0).open_frozen(damaged)
    (damaged / "sentence_bert_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"sentence_bert_config\.json is not JSON"):
        train_encoder(groups, tmp_path / "encoder", _settings(damaged), Witness())


FULL = "I/O error: No space left on device (os error 28)"
"""What safetensors says."""


def test_a_checkpoint_that_finds_no_room_is_told_and_the_run_goes_on_afterwards(
    base: Path, groups: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> NoReturn:
        raise SafetensorError(FULL)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "save_file", full)
        with pytest.raises(TrainingError, match=r"checkpoint can't be written to .*No space left.* same command"):
            train_encoder(groups, tmp_path / "encoder", _settings(base, steps=2), Witness())

    train_encoder(groups, tmp_path / "encoder", _settings(base, steps=2), Witness())
    assert (tmp_path / "encoder").is_dir()


def test_a_result_that_finds_no_room_is_told(pairs: Path, tmp_path: Path) -> None:
    def full(_: Path) -> NoReturn:
        raise SafetensorError(FULL)

    run = Run(tmp_path / "encoder", Plan.of("train encoder", [pairs], {}, EncoderSettings()))
    with pytest.raises(TrainingError, match=r"result can't be written: .*No space left.* run the same command again"):
        run.finish(full)


@pytest.mark.parametrize("apart", ["both", "queries"])
def test_of_a_single_query_nothing_is_left_to_train_on(base: Path, tmp_path: Path, apart: str) -> None:
    (one := tmp_path / "one.jsonl").write_text('{"query": "why ?", "positive": "so"}')

    with pytest.raises(TrainingError, match="Nothing is left to train on"):
        train_encoder(one, tmp_path / "encoder", _settings(base, apart=apart), Witness())


def test_an_existing_output_is_refused_before_training(base: Path, groups: Path, tmp_path: Path) -> None:
    witness = Witness()

    with pytest.raises(TrainingError, match="exists: name a new one"):
        train_encoder(groups, tmp_path, _settings(base), witness)
    assert not witness.said


@pytest.mark.parametrize("held_out", [0, 4])
def test_time_that_was_spent_before_an_interruption_counts(
    base: Path, groups: Path, tmp_path: Path, held_out: int
) -> None:
    output, wanted = tmp_path / "encoder", _settings(base, held_out=held_out)
    with pytest.raises(Interrupted, match="Stopped after step 2"):
        train_encoder(groups, output, wanted, Interrupter(2, signal.SIGINT))
    stopped = load_file(tmp_path / "encoder.partial" / "checkpoints" / "checkpoint-2" / "model.safetensors")

    report = train_encoder(groups, output, replace(wanted, minutes=1e-9), Witness())

    assert report.fitted.steps == 2
    assert report.fitted.best == (2 if held_out else None)
    assert ("ndcg@10 32" in report.fitted.curve[-1]) == bool(held_out)
    written = load_file(output / "model.safetensors")
    assert all(torch.equal(written[name], value.half()) for name, value in stopped.items())


def test_out_of_time_after_an_interruption_the_best_state_is_kept(base: Path, groups: Path, tmp_path: Path) -> None:
    wanted = _settings(base, evaluate_every=1, rate=0.1)
    with pytest.raises(Interrupted):
        train_encoder(groups, tmp_path / "encoder", wanted, Interrupter(5, signal.SIGINT))

    report = train_encoder(groups, tmp_path / "encoder", replace(wanted, minutes=1e-9), Witness())

    first = next(iter(report.before))
    judged = {row["step"]: row[first] for row in report.fitted.curve if first in row}
    assert set(judged) == {1, 2, 3, 4, 5}
    assert report.fitted.best == max(judged, key=lambda step: (judged[step], -step))
    assert report.after[first] == pytest.approx(judged[report.fitted.best], abs=0.05)


def test_out_of_time_it_keeps_what_it_has(base: Path, groups: Path, tmp_path: Path) -> None:
    report = train_encoder(groups, tmp_path / "encoder", _settings(base, minutes=1e-9), Witness())

    assert report.fitted.steps == 1
    assert (tmp_path / "encoder" / "README.md").exists()


def test_the_best_state_is_kept_not_the_last(base: Path, groups: Path, tmp_path: Path) -> None:
    report = train_encoder(groups, tmp_path / "encoder", _settings(base, evaluate_every=1, rate=0.1), Witness())

    first = next(iter(report.before))
    judged = {row["step"]: row[first] for row in report.fitted.curve if first in row}
    assert set(judged) == {1, 2, 3, 4, 5, 6}
    assert report.fitted.best == max(judged, key=lambda step: (judged[step], -step))
    assert report.after[first] == pytest.approx(max(judged.values()), abs=0.05)


def test_training_lifts_what_is_measured_on_held_out_queries(base: Path, pairs: Path, tmp_path: Path) -> None:
    """Words of the query are words of its answer: an untrained model has to learn no more."""
    how = {"steps": 40, "anchor": 0, "evaluate_every": 10}

    report = train_encoder(pairs, tmp_path / "encoder", _settings(base, **how), Witness())

    assert report.after["ndcg@10 32"] > report.before["ndcg@10 32"] + 0.05


def test_before_between_and_after_the_same_length_is_judged(base: Path, late_answers: Path, tmp_path: Path) -> None:
    """Nothing is learned, and what training reads of passages, all of them have in common."""
    how = {"tokens": 16, "rate": 1e-9, "steps": 2, "evaluate_every": 1}

    report = train_encoder(late_answers, tmp_path / "encoder", _settings(base, **how), Witness())

    first = next(iter(report.before))
    between = [row[first] for row in report.fitted.curve if first in row]
    assert report.before[first] > 0.5
    assert [*between, report.after[first]] == pytest.approx([report.before[first]] * 3, abs=0.1)


def test_the_anchor_keeps_vectors_near_the_bases(base: Path, pairs: Path, tmp_path: Path) -> None:
    text = "the otter swims under ice"
    start = SentenceTransformer(str(base), device="cpu").encode(text)
    kept = []
    for anchor in (0, 1000):
        train_encoder(pairs, tmp_path / str(anchor), _settings(base, anchor=anchor, held_out=0), Witness())
        kept.append(SentenceTransformer(str(tmp_path / str(anchor)), device="cpu").encode(text) @ start)

    assert kept[0] < kept[1]


def test_it_can_go_only_a_share_of_the_way(base: Path, groups: Path, tmp_path: Path) -> None:
    train_encoder(groups, tmp_path / "encoder", _settings(base, share=0, held_out=0), Witness())

    before, after = (
        SentenceTransformer(str(folder), device="cpu").encode("the otter swims under ice")
        for folder in (base, tmp_path / "encoder")
    )
    np.testing.assert_allclose(before, after, atol=2e-3)


def test_what_is_held_out_with_its_answers_is_nowhere_in_what_is_trained_on(base: Path) -> None:
    """The same questions and answers, in other letters and under other titles, in two sources."""
    told = [(f"where is the {animal}", f"the {animal} sleeps") for animal in (*ANIMALS, *FACTS, *WORDS)]
    others = [text for _, text in told]
    pairs = [
        Pair(f"{query} {n}".upper() if source == "tame" else f"{query} {n}", Passage(source, f"{n}", source, text),
             (f"wild\n{others[n - 1]}", others[n - 2], "nobody sleeps"))
        for source in ("wild", "tame")
        for n, (query, text) in enumerate(told)
    ]  # fmt: skip

    data = prepare(pairs, _settings(base, apart="both"))

    assert data.questions
    asked, found = data.questions.queries.values(), data.questions.answers.values()
    assert len({query.casefold() for query in asked}) == len(asked) // 2 > 0
    answers = {
        data.questions.passages[name].removeprefix("wild\n").removeprefix("tame\n") for each in found for name in each
    }
    trained = [pair for source in data.pairs.values() for pair in source]
    assert not {query.casefold() for query in asked} & {pair.query.casefold() for pair in trained}
    assert not answers & {pair.passage.text for pair in trained}
    assert not answers & {text.removeprefix("wild\n") for pair in trained for text in pair.negatives}
    assert sum(len(pair.negatives) < 3 for pair in trained) > 0
    assert all("nobody sleeps" in pair.negatives for pair in trained)


def test_pairs_with_and_without_negatives_do_not_share_a_batch() -> None:
    passage = Passage("wild", "1", "", "the otter swims")
    found = datasets({"wild": [Pair("q", passage), Pair("r", passage, ("a", "b", "c"))]}, negatives=2, seed=1)

    assert found["wild"].column_names == ["query", "passage"]
    assert found["wild with 2 negatives"].to_dict() == {
        "query": ["r"],
        "passage": ["the otter swims"],
        "negative_0": ["a"],
        "negative_1": ["b"],
    }


def test_the_card_says_what_was_done(trained: Path, base: Path, groups: Path) -> None:
    card = (trained / "README.md").read_text()

    assert f"trained by Winnow from `{base}`" in card
    assert "32 pairs of 24 queries" in card
    assert "2 queries were held out and searched for among" in card
    assert "| ndcg@10 32 |" in card
    assert "| ndcg@10 16 |" in card
    assert "Licence of these weights: not stated yet." in card
    assert f"winnow train encoder {groups} --output {trained} --base={base}" in card
    assert "--steps=6" in card
    assert "license:" not in card


def test_a_prompt_of_several_lines_breaks_no_table_of_a_card() -> None:
    assert [*table(("setting", "value"), [("query_prompt", "Instruct: find\nQuery: ")])][2:] == [
        "| query_prompt | Instruct: find<br>Query:  |"
    ]


def test_a_licence_is_named_where_a_reader_and_a_hub_look_for_it(base: Path, groups: Path, tmp_path: Path) -> None:
    train_encoder(groups, tmp_path / "encoder", _settings(base, held_out=0, steps=1, licence="apache-2.0"), Witness())

    card = (tmp_path / "encoder" / "README.md").read_text()
    assert 'license: "apache-2.0"' in card
    assert "Licence of these weights: apache-2.0." in card
    assert "Not measured: nothing was held out." in card


def test_the_learning_curve_lies_beside_the_weights(trained: Path) -> None:
    curve = _curve(trained)

    assert [row["step"] for row in curve] == ["1", "6"]
    assert float(curve[0]["loss"]) > 0
    assert float(curve[-1]["ndcg@10 32"]) > 0


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"batch": 0}, "--batch must be above 0"),
        ({"held_out": -1}, "--held-out must be 0 or more"),
        ({"dims": "64,32"}, "more than the 32 dimensions"),
        ({"dims": "many"}, "must look like"),
    ],
)
def test_settings_that_can_not_be_are_refused_with_what_to_change(
    base: Path, groups: Path, tmp_path: Path, wrong: dict[str, object], told: str
) -> None:
    with pytest.raises(TrainingError, match=told):
        train_encoder(groups, tmp_path / "encoder", _settings(base, **wrong), Witness())


def test_a_base_that_is_no_encoder_is_refused(groups: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no encoder 'nowhere'"):
        train_encoder(groups, tmp_path / "encoder", _settings("nowhere"), Witness())


def _same(one: Path, other: Path) -> bool:
    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    return all(torch.equal(value, second[name]) for name, value in first.items())


def _curve(folder: Path) -> list[dict[str, str]]:
    with (folder / "curve.csv").open(newline="") as file:
        return list(csv.DictReader(file))
