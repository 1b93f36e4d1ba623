from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.quality.html import digest
from app.quality.page import chance, finding, moment, render, signed
from app.quality.types import Latency
from tests.app.quality.reports import report

VOID = {"meta", "input", "br", "hr", "img", "link"}
ATTACK = "</title></style></script><script>alert('mine')</script><img src=x onerror=alert(1)>"


class Tree(HTMLParser):
    """Reads a page strictly: every tag that opens must close, in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def values(self, name: str) -> list[str]:
        return [value for _, found, value in self.attributes if found == name]


@pytest.fixture(scope="module")
def whole() -> str:
    return render(
        report(datasets=("scifact", "nfcorpus"), variants=("base", "dims=64"), warnings=("3 queries are few.",))
    )


def test_every_tag_is_closed_in_order(whole: str) -> None:
    tree = Tree(whole)
    assert tree.open == []
    assert tree.tags["svg"] > 10
    assert tree.tags["table"] > 10


def test_ids_are_unique_and_every_link_leads_to_one(whole: str) -> None:
    tree = Tree(whole)
    ids = tree.values("id")
    assert len(ids) == len(set(ids)) == 4
    assert {link.removeprefix("#") for link in tree.values("href")} <= set(ids)


def test_nothing_is_fetched_from_anywhere(whole: str) -> None:
    assert "//" not in re.sub(r"<!doctype html>", "", whole)
    tree = Tree(whole)
    assert not tree.values("src")
    assert not tree.tags["link"]
    assert "url(" not in whole
    assert "@import" not in whole


def test_the_policy_lets_no_other_script_run(whole: str) -> None:
    tree = Tree(whole)
    (script,), (style,) = tree.texts["script"], tree.texts["style"]
    (policy,) = [value for value in tree.values("content") if "default-src" in value]
    assert f"default-src 'none'; style-src '{digest(style)}'; script-src '{digest(script)}'" in policy
    assert not tree.values("style")
    assert not [name for _, name, _ in tree.attributes if name.startswith("on")]


@settings(max_examples=8)
@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=40))
def test_a_query_or_a_name_is_never_markup(text: str) -> None:
    hostile = f"{ATTACK}{text}&amp;"
    tree = Tree(render(report((hostile, "plain"), datasets=(hostile, "other"), variants=("base", hostile))))
    assert tree.open == []
    assert tree.tags["script"] == 1
    assert tree.tags["img"] == 0
    assert any(hostile in each for each in tree.texts["span"])
    assert any(hostile in each for each in tree.texts["a"])


def test_a_warning_and_a_setting_are_never_markup() -> None:
    made = report(warnings=(ATTACK,))
    hostile = replace(made.evaluations[0], settings={ATTACK: ATTACK})
    tree = Tree(render(replace(made, evaluations=(hostile,))))
    assert (tree.tags["script"], tree.tags["img"]) == (1, 0)
    assert ATTACK in tree.texts["p"]
    assert ATTACK in tree.texts["dd"]


def test_every_plot_is_told_in_words_as_well(whole: str) -> None:
    labels = [value for tag, name, value in Tree(whole).attributes if (tag, name) == ("svg", "aria-label")]
    assert len(labels) == Tree(whole).values("class").count("plot")
    assert all(len(label) > 10 for label in labels)


def test_every_measure_of_every_arm_is_in_a_table(whole: str) -> None:
    made = report(datasets=("scifact", "nfcorpus"), variants=("base", "dims=64"))
    text = " ".join(Tree(whole).texts["td"])
    for evaluation in made.evaluations:
        for arm in evaluation.arms:
            for measure in arm.measures:
                assert f"{measure.estimate.mean:.3f}" in text


def test_all_that_makes_it_repeatable_is_told(whole: str) -> None:
    for told in ("21 November 2026, 13:30 UTC", "3fa9", "0.1.0", "The seed was 7", "3 queries are few."):
        assert told in whole


def test_queries_are_shown_by_what_reranking_did_to_them() -> None:
    made = report([f"question number {place}" for place in range(40)])
    (evaluation,) = made.evaluations
    before, after = (evaluation.arm(arm).measure("nDCG@10").values for arm in ("dense", "dense+blend"))
    gains = [new - old for old, new in zip(before, after, strict=True)]
    most, least = gains.index(max(gains)), gains.index(min(gains))
    shown = [text for text in Tree(render(made)).texts["span"] if text.startswith("question")]
    assert shown[0] == f"question number {most}"
    assert f"question number {least}" in shown
    rise, fall = (sum(sign * gain > 0 for gain in gains) for sign in (1, -1))
    assert f"rises for {rise} queries, falls for {fall}" in render(made)


def test_without_a_second_stage_there_is_no_explorer() -> None:
    made = report()
    plain = replace(made.evaluations[0], served="dense", curves=(), ceilings=(), latencies=())
    page = render(replace(made, evaluations=(plain,)))
    assert "Query by query" not in page
    assert Tree(page).open == []


def test_a_cost_in_tokens_stands_in_for_an_unknown_rate() -> None:
    assert "tokens that the cross-encoder reads" in render(report(timed=False))
    assert "milliseconds of reranking" in render(report(timed=True))


def test_a_finding_says_what_is_served_and_whether_chance_could_do_it() -> None:
    (evaluation,) = report([f"q{place}" for place in range(60)]).evaluations
    found = evaluation.arm("dense+blend").versus_dense[0]
    assert signed(found.estimate.mean) in finding(evaluation)
    assert "chance alone" not in finding(evaluation)
    doubtful = replace(evaluation.arms[4], versus_dense=(replace(found, adjusted=0.4),))
    assert doubtful.name == "dense+blend"
    told = finding(replace(evaluation, arms=(*evaluation.arms[:4], doubtful)))
    assert told.endswith("p\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}0.40), which chance alone could do.")


def test_numbers_are_told_as_people_write_them() -> None:
    assert signed(-0.0214) == "\N{MINUS SIGN}0.021"
    assert signed(0.5) == "+0.500"
    assert [chance(p).replace("\N{NO-BREAK SPACE}", " ") for p in (0.0001, 0.0312, 0.25)] == [
        "p < 0.001",
        "p = 0.031",
        "p = 0.25",
    ]
    assert moment("2026-01-05T08:09:00+00:00") == "5 January 2026, 08:09 UTC"


def test_the_whole_of_a_service_is_no_part_of_its_bar() -> None:
    made = report()
    served = replace(made.evaluations[0], latencies=(Latency("embed", 2.0, 3.0, 9), Latency("total", 31.0, 44.0, 9)))
    page = render(replace(made, evaluations=(served,)))
    assert "in all 31.0 ms" in page
    assert "half of queries, embed: 2" in page
    assert "half of queries, total" not in page
