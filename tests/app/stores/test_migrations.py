"""A database of an earlier version goes on under this one."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import apsw
import numpy as np

from app.stores import collections, documents, log, readings
from app.stores.sqlite import Database


def test_documents_from_before_there_were_files_are_plain_and_without_pages(tmp_path: Path) -> None:
    migrations = resources.files("app.stores").joinpath("schema.sql").read_text().split("-- migration ")[1:3]
    with apsw.Connection(str(tmp_path / "winnow.db")) as old:
        for number, migration in enumerate(migrations, 1):
            old.execute("--" + migration)
            old.pragma("user_version", number)
        old.execute(
            "INSERT INTO collections VALUES (1, 'default', 'fake', 'fake', '{}', 64, 'f', 0, 'then', 'english')"
        )
        old.execute(
            "INSERT INTO documents (number, collection, id, state, content, title, text, metadata, created_at, chunks,"
            " bytes) VALUES (1, 1, 'a', 'live', x'00', '', 'old text', '{}', 'then', 1, 8)"
        )
        old.execute("""INSERT INTO chunks (document, start, "end", tokens, text) VALUES (1, 0, 8, 2, 'old text')""")
    old.close()
    database = Database(tmp_path / "winnow.db")
    stored = database.read_here(lambda db: documents.find(db, 1, "a"))
    database.close()
    assert stored is not None
    assert (stored.document.format, stored.document.pages) == ("plain", ())
    assert [(piece.start, piece.end, piece.place.page, piece.place.heading) for piece in stored.chunks] == [
        (0, 8, None, "")
    ]


def test_collections_from_before_there_were_sparse_vectors_have_none(tmp_path: Path) -> None:
    migrations = resources.files("app.stores").joinpath("schema.sql").read_text().split("-- migration ")[1:5]
    with apsw.Connection(str(tmp_path / "winnow.db")) as old:
        for number, migration in enumerate(migrations, 1):
            old.execute("--" + migration)
            old.pragma("user_version", number)
        old.execute(
            "INSERT INTO collections VALUES (1, 'default', 'fake', 'fake', '{}', 64, 'f', 0, 'then', 'english')"
        )
    old.close()
    database = Database(tmp_path / "winnow.db")
    (held,) = database.read_here(collections.every)
    assert (held.sparse, held.sparse_fingerprint) == ("", "")
    assert database.read_here(lambda db: list(log.living_expansions(db, 1, 10))) == []
    database.close()


def test_chunks_from_before_their_ids_were_kept_have_none_and_are_known_to_lack_them(tmp_path: Path) -> None:
    migrations = resources.files("app.stores").joinpath("schema.sql").read_text().split("-- migration ")[1:7]
    with apsw.Connection(str(tmp_path / "winnow.db")) as old:
        for number, migration in enumerate(migrations, 1):
            old.execute("--" + migration)
            old.pragma("user_version", number)
        old.execute(
            "INSERT INTO collections VALUES (1, 'default', 'fake', 'fake', '{}', 64, 'f', 0, 'then', 'english', '', '')"
        )
        old.execute(
            "INSERT INTO documents (number, collection, id, state, content, title, text, metadata, created_at, chunks,"
            " bytes) VALUES (1, 1, 'a', 'live', x'00', '', 'old text', '{}', 'then', 1, 8)"
        )
        old.execute("""INSERT INTO chunks (document, start, "end", tokens, text) VALUES (1, 0, 8, 2, 'old text')""")
    old.close()
    database = Database(tmp_path / "winnow.db")
    (found,) = database.read_here(lambda db: documents.load(db, 1, np.array([1]), b"any mark"))
    assert (found.reads, found.ids) == ("old text", None)
    assert database.read_here(lambda db: readings.complete(db, 1)) is None
    assert [each.chunk for each in database.read_here(lambda db: readings.unread(db, 1, b"any mark", "", 9))] == [1]
    database.close()
