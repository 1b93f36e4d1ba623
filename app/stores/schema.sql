-- Each migration is one block, applied once, in order, each in a transaction of its own. Never edit one that has been
-- released: add the next.

-- migration 1

-- `floor` is the last change that has been pruned: an index that has not seen it must be rebuilt.
CREATE TABLE collections (
  number      INTEGER PRIMARY KEY AUTOINCREMENT,
  name        TEXT    NOT NULL UNIQUE,
  encoder     TEXT    NOT NULL,
  reranker    TEXT    NOT NULL,
  recipe      TEXT    NOT NULL,
  dimensions  INTEGER NOT NULL,
  fingerprint TEXT    NOT NULL,
  floor       INTEGER NOT NULL DEFAULT 0,
  created_at  TEXT    NOT NULL
) STRICT;

-- Counts that say what an ingest was given; what became of it is read off its documents.
CREATE TABLE jobs (
  number      INTEGER PRIMARY KEY AUTOINCREMENT,
  id          TEXT    NOT NULL UNIQUE,
  collection  INTEGER NOT NULL REFERENCES collections(number) ON DELETE CASCADE,
  documents   INTEGER NOT NULL,
  created_at  TEXT    NOT NULL
) STRICT;
CREATE INDEX jobs_by_collection ON jobs(collection);

-- A version of a document. A new version is pending beside the live one until its vectors are there; then it takes its
-- place in one transaction. A version that the encoder can't embed has failed, and says why.
CREATE TABLE documents (
  number      INTEGER PRIMARY KEY AUTOINCREMENT,
  collection  INTEGER NOT NULL REFERENCES collections(number) ON DELETE CASCADE,
  id          TEXT    NOT NULL,
  state       TEXT    NOT NULL CHECK (state IN ('live', 'pending', 'failed')),
  content     BLOB    NOT NULL,
  title       TEXT    NOT NULL,
  text        TEXT    NOT NULL,
  metadata    TEXT    NOT NULL,
  job         INTEGER REFERENCES jobs(number) ON DELETE SET NULL,
  error       TEXT,
  created_at  TEXT    NOT NULL,
  chunks      INTEGER NOT NULL,
  bytes       INTEGER NOT NULL
) STRICT;
-- Covers the question how much a collection holds, which would otherwise read every text.
CREATE INDEX documents_sizes ON documents(collection, state, chunks, bytes);
CREATE UNIQUE INDEX documents_live ON documents(collection, id) WHERE state = 'live';
CREATE UNIQUE INDEX documents_next ON documents(collection, id) WHERE state <> 'live';
-- The planner takes neither of those two where the state is not asked for, and would read every document instead.
CREATE INDEX documents_by_id ON documents(collection, id);
CREATE INDEX documents_waiting ON documents(collection, number) WHERE state = 'pending';
CREATE INDEX documents_unfinished ON documents(job) WHERE state <> 'live';

-- AUTOINCREMENT: a chunk's number is its label in every index and is never given to a second chunk.
CREATE TABLE chunks (
  number      INTEGER PRIMARY KEY AUTOINCREMENT,
  document    INTEGER NOT NULL REFERENCES documents(number) ON DELETE CASCADE,
  start       INTEGER NOT NULL,
  "end"       INTEGER NOT NULL,
  tokens      INTEGER NOT NULL,
  text        TEXT    NOT NULL
) STRICT;
CREATE INDEX chunks_by_document ON chunks(document);

CREATE TABLE vectors (
  chunk       INTEGER PRIMARY KEY REFERENCES chunks(number) ON DELETE CASCADE,
  vector      BLOB    NOT NULL
) STRICT;

-- The log that indexes follow. No foreign key: a chunk's removal outlives the chunk.
CREATE TABLE changes (
  sequence    INTEGER PRIMARY KEY AUTOINCREMENT,
  collection  INTEGER NOT NULL,
  chunk       INTEGER NOT NULL,
  kind        TEXT    NOT NULL CHECK (kind IN ('add', 'remove'))
) STRICT;
CREATE INDEX changes_by_collection ON changes(collection, sequence);

-- Metadata laid flat, so that every condition of a filter is a look-up in the primary key.
CREATE TABLE metadata_values (
  collection  INTEGER NOT NULL,
  path        TEXT    NOT NULL,
  kind        TEXT    NOT NULL,
  value       ANY,
  document    INTEGER NOT NULL REFERENCES documents(number) ON DELETE CASCADE,
  PRIMARY KEY (collection, path, kind, value, document)
) STRICT, WITHOUT ROWID;
CREATE INDEX metadata_values_by_document ON metadata_values(document);

-- migration 2

-- Whose stems and stop words the lexical index takes.
ALTER TABLE collections ADD COLUMN language TEXT NOT NULL DEFAULT 'english';

-- migration 3

-- Converted files: how the text is written, where its pages begin, and what a chunk's reader is told of its place.
ALTER TABLE documents ADD COLUMN format TEXT NOT NULL DEFAULT 'plain';
ALTER TABLE documents ADD COLUMN pages TEXT NOT NULL DEFAULT '[]';
ALTER TABLE chunks ADD COLUMN page INTEGER;
ALTER TABLE chunks ADD COLUMN last_page INTEGER;
ALTER TABLE chunks ADD COLUMN heading TEXT NOT NULL DEFAULT '';

-- migration 4

-- What labels taught about scores: of each mode (kind) the maps to probabilities, a blend, and whether to rerank; with the
-- fingerprints of the models that it holds for.
CREATE TABLE calibrations (
  collection  INTEGER NOT NULL REFERENCES collections(number) ON DELETE CASCADE,
  kind        TEXT    NOT NULL,
  encoder     TEXT    NOT NULL,
  reranker    TEXT    NOT NULL,
  content     TEXT    NOT NULL,
  measured    TEXT    NOT NULL,
  created_at  TEXT    NOT NULL,
  PRIMARY KEY (collection, kind)
) STRICT, WITHOUT ROWID;

-- migration 5

-- A second encoder, whose vectors are terms with weights; nothing for a collection without one.
ALTER TABLE collections ADD COLUMN sparse TEXT NOT NULL DEFAULT '';
ALTER TABLE collections ADD COLUMN sparse_fingerprint TEXT NOT NULL DEFAULT '';

-- Terms as 32-bit integers, then their weights as 16-bit floats.
CREATE TABLE sparse_vectors (
  chunk       INTEGER PRIMARY KEY REFERENCES chunks(number) ON DELETE CASCADE,
  vector      BLOB    NOT NULL
) STRICT;

-- migration 6

-- Files that could not be read, by what they hold: with the same reader and the same limits (tried) they would fail again.
CREATE TABLE refusals (
  number      INTEGER PRIMARY KEY AUTOINCREMENT,
  sha256      TEXT    NOT NULL,
  kind        TEXT    NOT NULL,
  tried       TEXT    NOT NULL,
  reason      TEXT    NOT NULL,
  created_at  TEXT    NOT NULL,
  UNIQUE (sha256, kind)
) STRICT;

-- migration 7

-- Chunks as a reranker's token ids, so that searches need not make them; so many bytes each, and eight bytes that stand
-- for the tokenizer. Those of another tokenizer than is asked are left aside until they are made anew.
CREATE TABLE readings (
  chunk        INTEGER PRIMARY KEY REFERENCES chunks(number) ON DELETE CASCADE,
  tokenisation BLOB    NOT NULL,
  width        INTEGER NOT NULL,
  ids          BLOB    NOT NULL
) STRICT;

-- By which tokenizer all of its chunks have been read; nothing where some may not have been.
ALTER TABLE collections ADD COLUMN tokenisation BLOB;

-- migration 8

-- What people made of answers: of a document for a query, and perhaps of one span of it. By the document's id, so that it
-- outlives versions; content says which version was meant. The index is what makes the same feedback count once, and what
-- an export follows.
CREATE TABLE feedback (
  number      INTEGER PRIMARY KEY AUTOINCREMENT,
  collection  INTEGER NOT NULL REFERENCES collections(number) ON DELETE CASCADE,
  query       TEXT    NOT NULL,
  document    TEXT    NOT NULL,
  kind        TEXT    NOT NULL CHECK (kind IN ('judged', 'clicked')),
  request     TEXT    NOT NULL,
  grade       INTEGER NOT NULL CHECK (grade BETWEEN 0 AND 3),
  start       INTEGER,
  "end"       INTEGER,
  content     BLOB    NOT NULL,
  created_at  TEXT    NOT NULL,
  UNIQUE (collection, query, document, kind, request)
) STRICT;

-- migration 9

-- A standby holds the documents of another collection, made ready for other models; the number of the one it follows.
ALTER TABLE collections ADD COLUMN follows INTEGER;
CREATE UNIQUE INDEX collections_by_followed ON collections(follows) WHERE follows IS NOT NULL;

-- What the settings said when models were switched that the settings name: as long as they say the same, the switch holds.
ALTER TABLE collections ADD COLUMN overrules TEXT NOT NULL DEFAULT '';

-- Documents that a standby has yet to look at. A change gives a document a new ticket, and a ticket is never given twice.
CREATE TABLE stale (
  ticket      INTEGER PRIMARY KEY AUTOINCREMENT,
  collection  INTEGER NOT NULL REFERENCES collections(number) ON DELETE CASCADE,
  id          TEXT    NOT NULL,
  UNIQUE (collection, id)
) STRICT;
CREATE INDEX stale_in_order ON stale(collection, ticket);

-- Triggers, so that no way to change a document can be forgotten.
CREATE TRIGGER document_came AFTER INSERT ON documents BEGIN
  INSERT OR REPLACE INTO stale (collection, id) SELECT number, NEW.id FROM collections WHERE follows = NEW.collection;
END;
CREATE TRIGGER document_changed AFTER UPDATE OF metadata ON documents BEGIN
  INSERT OR REPLACE INTO stale (collection, id) SELECT number, NEW.id FROM collections WHERE follows = NEW.collection;
END;
CREATE TRIGGER document_went AFTER DELETE ON documents BEGIN
  INSERT OR REPLACE INTO stale (collection, id) SELECT number, OLD.id FROM collections WHERE follows = OLD.collection;
END;

-- migration 10

-- What stands for the vectors of tokens that its chunks have; nothing for a collection whose chunks have none.
ALTER TABLE collections ADD COLUMN late TEXT NOT NULL DEFAULT '';

-- A chunk's tokens, one behind the other: a byte for each number of each, of whose vector the direction alone counts.
CREATE TABLE token_vectors (
  chunk       INTEGER PRIMARY KEY REFERENCES chunks(number) ON DELETE CASCADE,
  numbers     BLOB    NOT NULL
) STRICT;

-- migration 11

-- A refusal belongs to the collection that a file was sent to: who may not see that one is not told of it.
DROP TABLE refusals;
CREATE TABLE refusals (
  number      INTEGER PRIMARY KEY AUTOINCREMENT,
  collection  INTEGER NOT NULL REFERENCES collections(number) ON DELETE CASCADE,
  sha256      TEXT    NOT NULL,
  kind        TEXT    NOT NULL,
  tried       TEXT    NOT NULL,
  reason      TEXT    NOT NULL,
  created_at  TEXT    NOT NULL,
  UNIQUE (collection, sha256, kind)
) STRICT;

-- migration 12

-- The order in which a collection's documents are listed: each page would otherwise put all of them in order.
CREATE INDEX documents_in_order ON documents(collection);
