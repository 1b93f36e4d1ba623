"""Synthesis, piece by piece and against a real chat endpoint on a socket."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import pytest
from fastapi import Response
from fastapi.responses import StreamingResponse
from hypothesis import given
from hypothesis import strategies as st

from models.fake import FakeEncoder
from models.synthesis.ask import FAILURES_IN_A_ROW, Asking
from models.synthesis.chat import Chat, Endpoint, open_chat
from models.synthesis.corpus import draw, fingerprint, is_held_out, open_corpus, select
from models.synthesis.cost import Meter, Prices, estimate
from models.synthesis.found import round_trip
from models.synthesis.harvest import DUPLICATE, SURPLUS, Asked, harvest, write_dataset, write_failed, write_pairs
from models.synthesis.journal import Journal, Record
from models.synthesis.pace import Pace
from models.synthesis.prompt import FORMAT, STYLES, Prompt, read_examples, read_template
from models.synthesis.questions import COPIED, LONG, POINTING, SHORT, Malformed, fault, parse
from models.synthesis.types import Question, Stop, Unreachable, Unusable, Usage
from models.training.errors import TrainingError
from models.training.pairs import Passage, read_pairs
from tests.models.chat_server import Answer, ChatServer, Seen, chat_server, good, questions, refusal, reply, said

ANIMALS = ("badger", "heron", "otter", "weasel", "lizard", "falcon", "salmon", "beetle")
SEA = Passage(
    "sea", "salt", "Sea", "Rivers carry dissolved salts into the sea; the water evaporates and the salts stay."
)
KEY = "sk-very-secret-0123456789"


def passages(amount: int) -> list[Passage]:
    return [Passage("zoo", f"p{n}", f"{ANIMALS[n % 8]} {n}", f"Facts about animal number {n}.") for n in range(amount)]


def corpus_file(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def texts_of(path: Path) -> dict[str, str]:
    """The texts of a file of JSON lines, by id."""
    return {line["_id"]: line["text"] for line in map(json.loads, path.read_text(encoding="utf-8").splitlines())}


class Bench:
    """Runs a synthesis against one server with pauses too short to notice."""

    def __init__(self, folder: Path) -> None:
        self.journal = Journal(folder / "pairs.jsonl.answers", {"--model": "parrot"})
        self.prompt = Prompt(read_template(None, ()))
        self.meter = Meter()
        self.pace = Pace()
        self.told: list[str] = []

    async def run(self, server: ChatServer, asked: Sequence[Passage], at_once: int = 2, **endpoint: Any) -> Asking:
        place = replace(Endpoint(server.url, "parrot", pause=0.01), **endpoint)
        with self.journal.writing():
            async with open_chat(place, self.pace, self.told.append) as chat:
                asking = Asking(chat, self.prompt, self.journal, self.meter)
                await asking.run(asked, at_once)
        return asking


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as running:
        yield running


def first(times: int, answer: Answer) -> Answer:
    """Answers so for the first requests and well afterwards."""
    return lambda seen: answer(seen) if seen.number < times else good(seen)


# Passages


def test_a_corpus_is_read_packed_and_plain_with_both_kinds_of_ids(tmp_path: Path) -> None:
    corpus_file(
        tmp_path / "a.jsonl",
        {"_id": "x", "title": "T", "text": "one"},
        {"id": 7, "text": "two"},
        {"id": "e", "text": " "},
    )
    with gzip.open(tmp_path / "b.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(json.dumps({"_id": "ü", "text": "drei"}) + "\n\n")

    assert [*open_corpus(tmp_path, "s")] == [
        Passage("s", "x", "T", "one"),
        Passage("s", "7", "", "two"),
        Passage("s", "ü", "", "drei"),
    ]


def test_of_an_evaluation_folder_only_the_corpus_is_read(tmp_path: Path) -> None:
    corpus_file(tmp_path / "corpus.jsonl", {"_id": "x", "text": "one"})
    corpus_file(tmp_path / "queries.jsonl", {"_id": "q", "text": "a query"})

    assert [passage.id for passage in open_corpus(tmp_path, "s")] == ["x"]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([{"text": "no id"}], ":1 has no id"),
        ([{"_id": "a", "text": "x"}, {"_id": "a", "text": "y"}], ":2: the id 'a' is taken"),
        ([{"_id": "a", "title": "only"}], ":1 has no text"),
        ([{"_id": "a", "text": "half \ud83d"}], ":1 holds half of a surrogate"),
        (["words"], ":1 is not a JSON object"),
    ],
)
def test_a_line_that_is_no_passage_is_named(tmp_path: Path, lines: list[object], told: str) -> None:
    corpus = open_corpus(corpus_file(tmp_path / "c.jsonl", *lines), "s")

    with pytest.raises((Unusable, TrainingError), match=re.escape(told)):
        list(corpus)


def test_a_larger_sample_begins_with_the_smaller_one_and_equal_texts_count_once(tmp_path: Path) -> None:
    lines = [{"_id": f"p{n}", "text": f"text {n % 30}"} for n in range(60)]
    corpus = open_corpus(corpus_file(tmp_path / "c.jsonl", *lines), "s")

    ten, twenty, every, other = (select(corpus, *args) for args in ((10, 1), (20, 1), (None, 1), (10, 2)))

    assert twenty[:10] == ten
    assert every[:20] == twenty
    assert len({passage.text for passage in every}) == len(every) == 30
    assert other != ten


def test_of_equal_texts_under_several_titles_one_is_asked_about_and_all_fall_to_one_side(tmp_path: Path) -> None:
    lines = [{"_id": f"p{n}", "title": f"page {n}", "text": f"text {n % 30}"} for n in range(60)]
    corpus = open_corpus(corpus_file(tmp_path / "c.jsonl", *lines), "s")

    assert len(select(corpus, None, 1)) == 30
    sides = {(passage.text, is_held_out(passage, 0.5, 7)) for passage in corpus}
    assert len(sides) == 30
    assert {held for _, held in sides} == {True, False}


@given(st.integers(0, 10**6), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_a_passage_that_is_held_out_stays_so_under_a_larger_share(seed: int, one: float, other: float) -> None:
    small, large = sorted((one, other))

    assert 0 <= draw(SEA, seed) < 1
    assert is_held_out(SEA, small, seed) <= is_held_out(SEA, large, seed)
    assert is_held_out(SEA, 1.0, seed)
    assert not is_held_out(SEA, 0.0, seed)


# Prompts


def test_a_prompt_holds_the_passage_the_styles_and_examples_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "queries.txt").write_text("salt??\n\nwhy sea salty\nsalt??\n")
    examples = read_examples(tmp_path / "queries.txt")

    prompt = Prompt(read_template(None, examples), 2, examples).fill(SEA)

    assert examples == ("salt??", "why sea salty")
    assert "- why sea salty" in prompt
    assert "Title: Sea\nPassage:\nRivers carry" in prompt
    assert "Write 2 search queries" in prompt
    assert prompt.endswith(FORMAT)
    assert "{" not in prompt.removesuffix(FORMAT)


def test_braces_of_a_passage_and_of_a_template_stay_as_they_are() -> None:
    prompt = Prompt('{text} {"json": 1} {unknown}').fill(replace(SEA, text="{title} {count}"))

    assert prompt.startswith('{title} {count} {"json": 1} {unknown}')


def test_of_a_long_passage_the_model_is_shown_the_beginning() -> None:
    assert Prompt("{text}", longest=6).fill(SEA) == f"Rivers\n\n{FORMAT}"


def test_all_styles_are_asked_for_about_equally_often() -> None:
    counts = Counter(style for passage in passages(400) for style in Prompt("{text}", 2).styles(passage))

    assert counts.keys() == STYLES.keys()
    assert max(counts.values()) < 1.5 * min(counts.values())


def test_a_template_without_a_place_for_the_passage_or_for_given_examples_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("Write {count} questions.")
    (tmp_path / "text.txt").write_text("Write questions about {text}.")

    with pytest.raises(Unusable, match=re.escape("has no {text}")):
        read_template(tmp_path / "empty.txt", ())
    with pytest.raises(Unusable, match=re.escape("has no {examples}")):
        read_template(tmp_path / "text.txt", ("a query",))
    assert read_template(tmp_path / "text.txt", ()) == "Write questions about {text}."


# Answers

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
ENTRIES = st.lists(st.fixed_dictionaries({"style": TEXTS, "query": TEXTS}), max_size=5)


@given(
    ENTRIES,
    st.sampled_from(
        ["{}", "```json\n{}\n```", "Here you are:\n```\n{}\n```\nDone.", "<think>hm {{}} ```\nx\n```</think>\n{}"]
    ),
)
def test_whatever_is_asked_for_is_understood_bare_fenced_and_after_thoughts(
    entries: list[dict[str, str]], dress: str
) -> None:
    entries = [{name: text.replace("`", "'") for name, text in entry.items()} for entry in entries]
    answer = dress.replace("{{}}", "").replace("{}", json.dumps({"questions": entries}))

    found = parse(answer)

    assert len(found) == len(entries)
    for question, entry in zip(found, entries, strict=True):
        assert question.query == " ".join(entry["query"].split()).strip('"“”„ ')


@given(TEXTS)
def test_any_other_text_is_questions_or_malformed_and_nothing_else(answer: str) -> None:
    try:
        found = parse(answer)
    except Malformed:
        return
    assert all(isinstance(question, Question) for question in found)


@pytest.mark.parametrize(
    "answer",
    ["", "I can't.", "{", '{"question": []}', '{"questions": "one?"}', '{"questions": [1]}', '"a"', '[{"style": "x"}]'],
)
def test_an_answer_that_is_not_what_was_asked_for_is_malformed(answer: str) -> None:
    with pytest.raises(Malformed):
        parse(answer)


def test_a_bare_list_and_bare_strings_are_understood() -> None:
    assert parse('["why is it?", {"question": "how so?", "style": "Question "}]') == (
        Question("why is it?"),
        Question("how so?", "question"),
    )


@pytest.mark.parametrize(
    ("query", "rule"),
    [
        ("salt", SHORT),
        ("??", SHORT),
        ("why " * 61, LONG),
        ("What does the passage say about salt?", POINTING),
        ("According to the text, what stays?", POINTING),
        ("How do salts come to the sea in this document?", POINTING),
        ("Was bleibt laut dem Text im Meer zurück?", POINTING),
        ("Qu'est-ce qui reste selon le texte ?", POINTING),
        ("rivers CARRY dissolved salts into the sea, the water", COPIED),
        ("why do rivers carry dissolved salts into the sea", None),
        ("sea salt", None),
        ("Warum ist das Meer salzig?", None),
        ("海水为什么是咸的", None),
    ],
)
def test_each_rule_drops_what_it_is_for_and_no_more(query: str, rule: str | None) -> None:
    assert fault(query, SEA) == rule


def test_a_passage_about_documents_may_be_asked_about_documents() -> None:
    manual = replace(SEA, text="Open a document, choose Share, and enter an address.")

    assert fault("how do I send the document to somebody", manual) is None
    assert fault("what is described in the document", manual) == POINTING


QUERIES = st.lists(
    st.one_of(
        st.sampled_from(["why is the sea salty", "Why is the sea salty?", SEA.text, "the text", "x"]),
        st.text(st.characters(codec="utf-8"), max_size=80),
    ),
    max_size=8,
)


@given(QUERIES, QUERIES, st.integers(1, 4))
def test_every_question_is_either_kept_or_counted_and_what_is_kept_breaks_no_rule(
    one: list[str], other: list[str], most: int
) -> None:
    lake = replace(SEA, id="lake")
    answers = {fingerprint(each): record(each, *said) for each, said in ((SEA, one), (lake, other))}

    found = harvest([SEA, lake], answers, most)

    assert len(found.kept) + found.dropped.total() == len(one) + len(other)
    assert max(Counter(each.passage.id for each in found.kept).values(), default=0) <= most
    assert all(fault(each.query, each.passage) is None for each in found.kept)
    again = {fingerprint(p): record(p, *(e.query for e in found.kept if e.passage == p)) for p in (SEA, lake)}
    assert harvest([SEA, lake], again, most).kept == [replace_style(each) for each in found.kept]


def test_what_was_dropped_is_counted_by_rule() -> None:
    answers = {
        fingerprint(SEA): record(SEA, "why is the sea salty", "Why is the sea salty?", "x", "sea salt", "salty sea")
    }

    found = harvest([SEA, *passages(3)], answers, 2)

    assert [each.query for each in found.kept] == ["why is the sea salty", "sea salt"]
    assert found.dropped == {DUPLICATE: 1, SHORT: 1, SURPLUS: 1}
    assert found.barren == 0


def record(passage: Passage, *queries: str) -> Record:
    return Record(fingerprint(passage), passage.id, tuple(map(Question, queries)))


def replace_style(each: Asked) -> Asked:
    return replace(each, style="other")


# The endpoint


async def test_every_passage_is_asked_about_once_and_its_answer_kept(server: ChatServer, bench: Bench) -> None:
    asked = passages(7)

    asking = await bench.run(server, asked, key=KEY, options={"temperature": 0.5})

    assert sorted(server.titles) == sorted(passage.title for passage in asked)
    assert not asking.stopped
    assert bench.journal.answered.keys() == {fingerprint(passage) for passage in asked}
    assert bench.meter.spent == bench.journal.spent == Usage(700, 280)
    request = server.seen[0]
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.body["model"] == "parrot"
    assert request.body["temperature"] == 0.5
    assert request.body["response_format"]["type"] == "json_schema"


async def test_without_a_key_no_header_is_sent(server: ChatServer, bench: Bench) -> None:
    await bench.run(server, passages(1))

    assert "authorization" not in server.seen[0].headers


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503])
async def test_a_busy_server_is_asked_again(bench: Bench, status: int) -> None:
    with chat_server(first(2, lambda seen: refusal(status, "not now"))) as server:
        await bench.run(server, passages(1))

    assert len(server.seen) == 3
    assert len(bench.journal.answered) == 1


@pytest.mark.parametrize(
    "value",
    ["1", format_datetime(datetime.now(UTC) + timedelta(hours=-1), usegmt=True)],
    ids=["in a second", "since an hour ago"],
)
async def test_nobody_asks_before_the_server_said_so(bench: Bench, value: str) -> None:
    told = first(1, lambda seen: refusal(429, "slow down", retry_after=value))
    with chat_server(told) as server:
        await bench.run(server, passages(4), at_once=1)

    assert len(server.seen) == 5
    if value == "1":
        assert server.seen[1].at - server.seen[0].at > 0.9
    assert len(bench.journal.answered) == 4


@pytest.mark.parametrize("value", ["0", "-5", "nan", "inf", "Wed, 21 Oct 2015 07:28:00 GMT"])
async def test_a_server_that_names_no_pause_gets_one_all_the_same(bench: Bench, value: str) -> None:
    told = first(1, lambda seen: refusal(429, "slow down", retry_after=value))
    with chat_server(told) as server:
        await bench.run(server, passages(1), pause=0.6)

    assert server.seen[1].at - server.seen[0].at >= 0.3


async def test_a_pause_holds_back_all_that_have_not_left(bench: Bench) -> None:
    def answer(seen: Seen) -> Response:
        return refusal(429, "slow down", retry_after="1") if seen.number == 0 else good(seen)

    bench.pace = Pace(requests=60_000)
    with chat_server(answer) as server:
        await bench.run(server, passages(30), at_once=3)

    late = [seen for seen in server.seen if seen.at - server.seen[0].at > 0.9]
    assert len(server.seen) == 31
    assert len(late) > 5


async def test_a_server_that_asks_for_hours_ends_the_run(bench: Bench) -> None:
    with (
        chat_server(lambda seen: refusal(429, "quota is used up", retry_after="7200")) as server,
        pytest.raises(Stop, match=r"quota is used up. It asks to come back in 120 minutes"),
    ):
        await bench.run(server, passages(3), at_once=1)
    assert len(server.seen) == 1


async def test_what_is_under_way_when_the_run_ends_is_awaited_and_kept(bench: Bench) -> None:
    def answer(seen: Seen) -> Response:
        sleep(0.1 if seen.title == "weasel 3" else 0.5)
        return refusal(429, "quota is used up", retry_after="7200") if seen.title == "weasel 3" else good(seen)

    with chat_server(answer) as server, pytest.raises(Stop, match="quota is used up"):
        await bench.run(server, passages(9), at_once=4)

    assert len(server.seen) == 4
    assert sorted(record.id for record in bench.journal.answered.values()) == ["p0", "p1", "p2"]
    assert bench.journal.spent == bench.meter.spent == Usage(300, 120)


async def test_ctrl_c_leaves_nothing_behind_that_was_paid_for(bench: Bench) -> None:
    def slow(seen: Seen) -> Response:
        sleep(0.5)
        return good(seen)

    with chat_server(slow) as server:
        running = asyncio.create_task(bench.run(server, passages(9), at_once=3))
        while len(server.seen) < 3:  # noqa: ASYNC110  # the server is in another thread
            await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    assert len(server.seen) == len(bench.journal.answered) == 3
    assert bench.journal.spent == Usage(300, 120)
    assert "Ctrl-C again gives them up" in bench.told[0]


async def test_whoever_waits_to_ask_again_when_the_run_ends_does_not_wait_any_longer(bench: Bench) -> None:
    def answer(seen: Seen) -> Response:
        if seen.title == "badger 0":
            return refusal(500, "broken")
        sleep(0.3)
        return refusal(402, "no money left")

    began = monotonic()
    with chat_server(answer) as server, pytest.raises(Stop, match="no money left"):
        await bench.run(server, passages(9), at_once=2, pause=30)

    assert len(server.seen) == 2
    assert monotonic() - began < 10


async def test_what_malformed_answers_cost_is_counted_when_the_run_ends_too(bench: Bench) -> None:
    def answer(seen: Seen) -> Response:
        return said("a poem") if seen.number < 2 else refusal(402, "no money left")

    with chat_server(answer) as server, pytest.raises(Stop, match="no money left"):
        await bench.run(server, passages(3), at_once=1)

    assert len(server.seen) == 3
    assert bench.journal.spent == bench.meter.spent == Usage(200, 80)
    assert "not JSON" in bench.journal.failed[fingerprint(passages(1)[0])].error


async def test_an_answer_that_takes_too_long_is_given_up_and_asked_for_again(bench: Bench) -> None:
    def slow(seen: Seen) -> Response:
        sleep(2)
        return good(seen)

    with chat_server(first(1, slow)) as server:
        await bench.run(server, passages(1), timeout=1)
        answered = len(bench.journal.answered)

    assert answered == 1
    assert len(server.seen) > 1


async def test_an_answer_that_trickles_in_is_given_up_too(bench: Bench) -> None:
    def drops() -> Iterator[bytes]:
        for _ in range(15):
            sleep(0.2)
            yield b" "

    with chat_server(first(1, lambda seen: StreamingResponse(drops()))) as server:
        await bench.run(server, passages(1), timeout=1)
        answered = len(bench.journal.answered)

    assert answered == 1
    assert len(server.seen) > 1


async def test_an_answer_that_is_not_json_is_asked_for_again(bench: Bench) -> None:
    with chat_server(first(2, lambda seen: said("Sorry, here is a poem."))) as server:
        await bench.run(server, passages(1))

    assert len(server.seen) == 3
    assert bench.journal.answered[fingerprint(passages(1)[0])].usage == Usage(300, 120)


async def test_a_passage_that_fails_for_good_is_recorded_and_the_rest_goes_on(bench: Bench, tmp_path: Path) -> None:
    def answer(seen: Seen) -> Response:
        return said("No.", finish_reason="length") if seen.title == "otter 2" else good(seen)

    with chat_server(answer) as server:
        asking = await bench.run(server, passages(6))

    assert not asking.stopped
    assert len(bench.journal.answered) == 5
    assert write_failed(bench.journal.failed.values(), tmp_path / "failed") == 1
    failed = json.loads((tmp_path / "failed").read_text())
    assert failed["id"] == "p2"
    assert "not JSON" in failed["error"]
    assert "raise that in --options" in failed["error"]


async def test_attempts_are_bounded_and_many_failures_in_a_row_end_the_run(bench: Bench) -> None:
    with chat_server(lambda seen: refusal(500, "broken")) as server:
        asking = await bench.run(server, passages(40), at_once=1, retries=1)

    assert len(server.seen) == 2 * FAILURES_IN_A_ROW
    assert "10 passages in a row failed" in asking.stopped
    assert "the server answered 500: broken (2 attempts)" in asking.stopped


async def test_a_refused_response_format_is_left_out_from_then_on_and_that_is_said_once(bench: Bench) -> None:
    def answer(seen: Seen) -> Response:
        if "response_format" in seen.body:
            return refusal(400, "Unrecognized request argument: response_format")
        return said("```json\n" + questions("what is the use of it") + "\n```")

    with chat_server(answer) as server:
        await bench.run(server, passages(5), at_once=1)

    assert len(bench.journal.answered) == 5
    assert len(server.seen) == 6
    assert len(bench.told) == 1
    assert "refuses response_format" in bench.told[0]


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (400, "no such model. Check --model, --options and --prompt"),
        (401, "no such model. Put a valid key into the environment variable MY_KEY"),
        (403, "no such model. The key in MY_KEY may not do this"),
        (404, "no such model. Check --url, which usually ends in /v1, and --model"),
        (308, "no such model. Check --url: it must be the final address"),
    ],
)
async def test_a_refusal_that_concerns_all_requests_ends_the_run_at_once(bench: Bench, status: int, told: str) -> None:
    with (
        chat_server(lambda seen: refusal(status, "no such model")) as server,
        pytest.raises(Stop, match=re.escape(f"the server answered {status}: {told}")),
    ):
        await bench.run(server, passages(20), at_once=1, key=KEY, key_from="MY_KEY")

    assert len(server.seen) == (2 if status == 400 else 1)
    assert not bench.journal.failed


@pytest.mark.parametrize(("status", "why"), [(400, "context length exceeded"), (403, "flagged by moderation")])
async def test_a_refusal_after_good_answers_is_the_fault_of_its_passage(bench: Bench, status: int, why: str) -> None:
    def answer(seen: Seen) -> Response:
        return refusal(status, why) if seen.title == "weasel 3" else good(seen)

    with chat_server(answer) as server:
        await bench.run(server, passages(6), at_once=1)

    assert [record.id for record in bench.journal.failed.values()] == ["p3"]
    assert len(bench.journal.answered) == 5


async def test_that_answers_were_good_before_is_remembered_by_the_next_run(bench: Bench, server: ChatServer) -> None:
    await bench.run(server, passages(1))
    server.answer = lambda seen: refusal(400, "context length exceeded") if seen.title == "heron 1" else good(seen)
    await bench.run(server, passages(4)[1:], at_once=1)

    assert [record.id for record in bench.journal.failed.values()] == ["p1"]
    assert len(bench.journal.answered) == 3


async def test_an_address_where_nobody_listens_is_said_at_once(bench: Bench, server: ChatServer) -> None:
    server.url = "http://127.0.0.1:9/v1"

    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9/v1 can't be reached"):
        await bench.run(server, passages(3))


async def test_a_page_that_is_no_chat_endpoint_is_said_to_be_none(bench: Bench) -> None:
    with (
        chat_server(lambda seen: reply({"hello": "world"})) as server,
        pytest.raises(Stop, match="does not answer as a chat endpoint"),
    ):
        await bench.run(server, passages(3))


@pytest.mark.parametrize("key", ["", KEY])
async def test_an_answer_in_parts_is_read_and_one_that_is_no_text_ends_the_run(bench: Bench, key: str) -> None:
    def parts(*content: Any) -> Response:
        return reply({"choices": [{"message": {"content": list(content)}}]})

    def answer(seen: Seen) -> Response:
        text = questions("what is the use of it")
        thought = {"type": "thinking", "thinking": "hm"}
        return parts(thought, {"type": "text", "text": text[:9]}, {"type": "text", "text": text[9:]})

    with chat_server(answer) as server:
        await bench.run(server, passages(1), key=key)
    assert len(bench.journal.answered) == 1

    fresh = Bench(bench.journal.path.parent / "fresh")
    with (
        chat_server(lambda seen: parts("bare", 7)) as server,
        pytest.raises(Stop, match="does not answer as a chat endpoint"),
    ):
        await fresh.run(server, passages(1), key=key)


async def test_a_server_that_never_takes_the_call_is_said_at_once_to_be_out_of_reach(bench: Bench) -> None:
    tried: list[httpx.Request] = []

    def deaf(request: httpx.Request) -> httpx.Response:
        tried.append(request)
        raise httpx.ConnectTimeout("timed out", request=request)

    place = Endpoint("http://192.0.2.1/v1", "parrot", pause=0.01)
    async with httpx.AsyncClient(base_url=place.url, transport=httpx.MockTransport(deaf)) as http:
        with pytest.raises(Unreachable, match=r"192\.0\.2\.1/v1 can't be reached: timed out"):
            await Chat(place, bench.pace, http, bench.told.append).ask("why?", 1)

    assert len(tried) == 1


async def test_a_key_never_stands_in_a_message_or_file(bench: Bench) -> None:
    with chat_server(lambda seen: refusal(401, f"Incorrect API key {KEY}")) as server:
        with pytest.raises(Stop) as stop:
            await bench.run(server, passages(1), key=KEY)
        server.answer = lambda seen: refusal(500, f"crashed on {seen.headers['authorization']}")
        await bench.run(server, passages(1), key=KEY, retries=0)
        server.answer = lambda seen: refusal(500, "x" * 290 + KEY)
        await bench.run(server, passages(2)[1:], key=KEY, retries=0)

    assert "Incorrect API key …" in str(stop.value)
    assert KEY not in repr(Endpoint(server.url, "parrot", KEY))
    assert "crashed on Bearer …" in bench.journal.path.read_text()
    assert KEY[:5] not in bench.journal.path.read_text()


@pytest.mark.parametrize(
    "url",
    [
        "localhost:11434/v1",
        "ftp://host/v1",
        "http://",
        "http://user:pass@host/v1",
        "http://host/v1?key=abc",
        "http://[::",
    ],
)
def test_an_address_that_can_not_be_used_is_refused(url: str) -> None:
    with pytest.raises(Unusable):
        Endpoint(url, "parrot")


@pytest.mark.parametrize("key", ["schlüssel", "two\nlines"])
def test_a_key_that_no_header_can_hold_is_refused_without_being_told(key: str) -> None:
    with pytest.raises(Unusable) as refused:
        Endpoint("http://host/v1", "parrot", key)
    assert key not in str(refused.value)


# Pace and cost


@pytest.mark.parametrize("pace", [Pace(requests=1200), Pace(tokens=1200 * 140)])
async def test_no_window_holds_more_requests_than_the_limit_allows(
    server: ChatServer, bench: Bench, pace: Pace
) -> None:
    bench.pace = pace
    # After the first answer the server's own count, 140 tokens, is what a request is taken for.
    await bench.run(server, passages(1), at_once=1)
    await bench.run(server, passages(30)[1:], at_once=4)

    times = [seen.at for seen in server.seen]
    assert len(times) == 30
    # Ten and one for the fence; those that were under way before may all arrive late, and there are four at most.
    assert max(sum(start <= at < start + 0.5 for at in times) for start in times) <= 11 + 4


async def test_a_run_ends_before_it_costs_more_than_allowed(server: ChatServer, bench: Bench) -> None:
    bench.meter = Meter(prices=Prices(1000, 5000), limit=2.0)  # an answer costs 0.1 + 0.2

    asking = await bench.run(server, passages(40), at_once=3)

    assert "--max-cost" in asking.stopped
    assert bench.meter.cost is not None
    assert 1.4 < bench.meter.cost <= 2.0
    assert len(server.seen) == len(bench.journal.answered) == 5


async def test_what_a_failed_passage_cost_is_kept_when_the_limit_ends_its_attempts(bench: Bench) -> None:
    bench.meter = Meter(prices=Prices(1000, 5000), limit=0.9)
    with chat_server(lambda seen: said("no")) as server:
        asking = await bench.run(server, passages(3), at_once=1)

    assert "--max-cost" in asking.stopped
    assert len(bench.journal.failed) == 1
    assert bench.journal.spent == bench.meter.spent == Usage(100 * len(server.seen), 40 * len(server.seen))


async def test_tokens_that_a_server_does_not_count_are_guessed_and_that_is_known(bench: Bench) -> None:
    with chat_server(lambda seen: reply({"choices": [{"message": {"content": questions("a b c")}}]})) as server:
        asking = await bench.run(server, passages(2))

    assert asking.uncounted == 2
    assert bench.meter.spent.prompt > 100


def test_an_estimate_counts_every_prompt() -> None:
    found = estimate(["x" * 400] * 10, 2, Pace(requests=60))

    assert found.requests == 10
    assert found.usage == Usage(1000, 850)
    assert found.seconds == 10
    assert Prices(1, 10).cost(found.usage) == pytest.approx(0.0095)
    assert estimate(["x" * 400] * 10, 2, Pace(tokens=1850)).seconds == pytest.approx(60)


# The journal


def test_a_torn_line_is_mended_and_the_rest_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a", {"--model": "parrot"})
    with journal.writing():
        journal.add(record(SEA, "why salty"))
        journal.add(Record("other", "o", usage=Usage(5, 6), error="broken"))
    whole = journal.path.read_bytes()

    ends = [at + offset for at, byte in enumerate(whole) if byte == ord("\n") for offset in (0, 1)]
    for kept in [*range(0, len(whole), 13), *ends]:
        journal.path.write_bytes(whole[:kept])
        again = Journal(journal.path, journal.settings)
        with again.writing():
            again.add(record(replace(SEA, id="lake"), "why not salty"))
        lines = journal.path.read_bytes().splitlines()
        assert json.loads(lines[0]) == {"settings": {"--model": "parrot"}}
        assert all(json.loads(line) for line in lines)
        assert len(lines) == max(1, whole[:kept].count(b"\n")) + 1


def test_a_later_answer_takes_the_place_of_a_failure(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a", {})
    with journal.writing():
        journal.add(Record(fingerprint(SEA), "salt", usage=Usage(5, 6), error="broken"))
        assert journal.failed
        journal.add(replace(record(SEA, "why salty"), usage=Usage(1, 1)))

    again = Journal(journal.path, {})
    again.read()
    assert not again.failed
    assert (
        again.answered == journal.answered == {fingerprint(SEA): replace(record(SEA, "why salty"), usage=Usage(1, 1))}
    )
    assert again.spent == Usage(6, 7)


def test_other_settings_are_refused_once_there_are_answers(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a", {"--model": "parrot"})
    with journal.writing():
        pass
    other = Journal(journal.path, {"--model": "raven"})
    with other.writing():
        other.add(record(SEA, "why salty"))

    with pytest.raises(Unusable, match="--model was 'raven' and is 'parrot'"):
        journal.read()


def test_two_runs_never_write_one_journal(tmp_path: Path) -> None:
    one, other = Journal(tmp_path / "a", {}).writing(), Journal(tmp_path / "a", {}).writing()

    with one, pytest.raises(Unusable, match="Another run"), other:
        pass


@pytest.mark.parametrize("content", ["{}\n", "[1]\n", "not json\n", '{"settings": {}}\n{"passage": "x"}\n'])
def test_a_file_that_is_no_journal_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a").write_text(content)

    with pytest.raises(Unusable, match="name another output"):
        Journal(tmp_path / "a", {}).read()
    assert (tmp_path / "a").read_text() == content


# What comes of it


def test_pairs_are_read_by_the_training(tmp_path: Path) -> None:
    asked = [Asked("why salty", "question", SEA), Asked("sea salt", "keywords", SEA)]

    assert write_pairs(asked, "parrot", tmp_path / "pairs.jsonl") == 2

    assert [(pair.query, pair.passage) for pair in read_pairs(tmp_path / "pairs.jsonl")] == [
        ("why salty", SEA),
        ("sea salt", SEA),
    ]
    assert json.loads((tmp_path / "pairs.jsonl").read_text().splitlines()[1])["style"] == "keywords"


def test_an_evaluation_set_counts_every_passage_of_the_same_words_as_an_answer(tmp_path: Path) -> None:
    lines = [{"_id": f"p{n}", "title": "", "text": f"text {n % 4}"} for n in range(6)]
    corpus = open_corpus(corpus_file(tmp_path / "c.jsonl", *lines), "s")
    chosen = select(corpus, None, 1)
    asked = [Asked(f"what is {each.text}", "question", each) for each in chosen for _ in range(2)]

    write_dataset(asked, corpus, {"--model": "parrot"}, tmp_path / "set")

    head, *rows = [line.split("\t") for line in (tmp_path / "set/qrels/test.tsv").read_text().splitlines()]
    texts, held = texts_of(tmp_path / "set/queries.jsonl"), texts_of(tmp_path / "set/corpus.jsonl")
    assert head == ["query-id", "corpus-id", "score"]
    assert len(texts) == 8
    assert len(held) == 6
    assert len(rows) == 12
    assert all(texts[query] == f"what is {held[answer]}" and score == "1" for query, answer, score in rows)


def test_a_question_stays_if_the_encoder_finds_its_passage(tmp_path: Path) -> None:
    lines = [{"_id": name, "title": name, "text": f"{name} " * (3 + n)} for n, name in enumerate(ANIMALS)]
    corpus = open_corpus(corpus_file(tmp_path / "c.jsonl", *lines), "s")
    chosen = select(corpus, None, 1)
    right = [Asked(f"{each.title} please", "question", each) for each in chosen]
    wrong = [Asked(f"{other.title} {other.title}", "question", each) for each, other in pairwise(chosen)]
    read: list[int] = []

    found = round_trip([*right, *wrong], corpus, FakeEncoder(256), 1, read.append)
    every = round_trip([*right, *wrong], corpus, FakeEncoder(256, max_tokens=4), len(ANIMALS), read.append)

    assert found.found == right
    assert (found.missed, found.cut) == (len(wrong), 0)
    assert (every.found, every.missed, every.cut) == ([*right, *wrong], 0, len(ANIMALS))
    assert read == [len(ANIMALS)] * 2
