from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.words import LANGUAGES, Language, query_words, text_words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The quick Foxes", ["the", "quick", "fox"]),
        ("get_user_name(self)", ["get", "user", "name", "self"]),
        ("ISO-8601, 3.5 %", ["iso", "8601", "3", "5"]),
        ("Café crème", ["cafe", "creme"]),
        ("\u91cf\u5b50\u529b\u5b66 physics", ["\u91cf", "\u5b50", "\u529b", "\u5b66", "physic"]),
        ("…!?", []),
    ],
)
def test_words_are_letters_and_numbers_cut_down_to_their_stems(text: str, expected: list[str]) -> None:
    assert text_words(text, "english") == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("getUserName()", ["getusername", "get", "user", "name"]),
        ("HttpServer", ["httpserver", "http", "server"]),
        ("parseHTTPHeader", ["parsehttpheader", "parse", "http", "header"]),
        ("S3Bucket", ["s3bucket", "s3", "bucket"]),
        ("get_userName", ["get", "username", "user", "name"]),
        ("HTTP", ["http"]),
        ("Straße", ["straße"]),
        ("straßenName", ["straßenname"]),
    ],
)
def test_a_name_of_code_that_is_written_together_is_itself_and_its_words(name: str, expected: list[str]) -> None:
    assert text_words(name, "none") == query_words(name, "none") == expected


def test_without_a_language_words_are_taken_as_they_are() -> None:
    assert text_words("Cafés and foxes", "none") == ["cafés", "and", "foxes"]
    assert query_words("the cafés", "none") == ["the", "cafés"]


@pytest.mark.parametrize(
    ("language", "written", "meant"),
    [
        ("german", "U\u0308berschwemmung", "Überschwemmung"),
        ("german", "Über\u00adschwem\u00admung", "Überschwemmung"),
        ("german", "Haeuser Muenchen", "Häuser München"),
        ("german", "STRASSE", "Straße"),
        ("none", "Cafe\u0301", "café"),
        ("none", "\ufb01le", "file"),
        ("none", "\uff21\uff22\uff23\uff11\uff12 \u5168\u89d2", "abc12 \u5168\u89d2"),
        ("turkish", "\u0130stanbul", "istanbul"),
        ("arabic", "\u0643\u0650\u062a\u064e\u0627\u0628", "\u0643\u062a\u0627\u0628"),
    ],
)
def test_what_is_written_in_two_ways_is_one_word(language: Language, written: str, meant: str) -> None:
    assert text_words(written, language) == query_words(meant, language) != []


def test_stop_words_are_left_out_of_a_query_unless_it_has_no_others() -> None:
    assert query_words("who is the king of Spain", "english") == ["who", "king", "spain"]
    assert query_words("to be or not to be", "english") == ["to", "be", "or", "not", "to", "be"]


def test_every_language_has_its_own_stems() -> None:
    assert text_words("Häuser", "german") == text_words("Haus", "german")
    assert text_words("книги", "russian") == text_words("книга", "russian")


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_that_is_offered_is_there(language: Language) -> None:
    assert query_words("zebra", language) == text_words("zebra", language) != []


def test_what_is_no_word_is_left_out() -> None:
    assert text_words("see " + "x" * 1000, "english") == ["see"]


@given(st.text(max_size=200), st.sampled_from(LANGUAGES))
def test_any_text_has_words_or_none(text: str, language: Language) -> None:
    assert all(word and not word.isspace() for word in text_words(text, language))


def test_words_are_found_in_many_threads_at_once() -> None:
    with ThreadPoolExecutor(8) as threads:
        found = set(threads.map(lambda _: tuple(text_words("the quick brown foxes jump " * 50, "english")), range(200)))
    assert len(found) == 1
