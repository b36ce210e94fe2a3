"""From the tables of an older `results.db` to those of the next version, one step a version.

A step is SQL as it was when its version came out: it does not change when the tables do. All steps
that a database needs are one transaction, so that it is never between two versions.
"""

from __future__ import annotations

_NUMBERS_USED_ONCE = """
ALTER TABLE files RENAME TO files_1;

CREATE TABLE files(
    id INTEGER PRIMARY KEY AUTOINCREMENT, folder INTEGER NOT NULL, name BLOB NOT NULL,
    state INTEGER NOT NULL, kind INTEGER NOT NULL, lane INTEGER NOT NULL, seq INTEGER NOT NULL,
    inode INTEGER NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL, device INTEGER NOT NULL, version INTEGER NOT NULL,
    attempts INTEGER NOT NULL, spared INTEGER NOT NULL, alone INTEGER NOT NULL,
    unhurried INTEGER NOT NULL, in_parts INTEGER NOT NULL DEFAULT 0, kept_to INTEGER,
    moved_from INTEGER, retry_ns INTEGER, queued_ns INTEGER, started_ns INTEGER,
    finished_ns INTEGER, reason TEXT, encoding TEXT, lines INTEGER, digest BLOB, output BLOB,
    width INTEGER, height INTEGER, keyworded INTEGER
);

INSERT INTO files SELECT id, folder, name, state, kind, lane, seq, inode, size, mtime_ns, ctime_ns,
    device, version, attempts, spared, alone, unhurried, part IS NOT NULL,
    CASE WHEN part >= 0 THEN part END, moved_from, retry_ns, queued_ns, started_ns, finished_ns,
    reason, encoding, lines, digest, output, width, height, keyworded FROM files_1;

DROP TABLE files_1;

CREATE UNIQUE INDEX files_by_path ON files(folder, name);
CREATE INDEX files_queued ON files(lane, seq) WHERE state = 1;
CREATE INDEX files_by_state ON files(state, finished_ns);
CREATE INDEX files_by_mtime ON files(mtime_ns) WHERE state IN (2, 6);

DELETE FROM sqlite_sequence WHERE name = 'files';
INSERT INTO sqlite_sequence(name, seq) VALUES('files', max(
    coalesce((SELECT max(id) FROM files), 0), coalesce((SELECT max(file) FROM takes), 0)
));
"""

_COMPARISONS = """
ALTER TABLE files ADD COLUMN compare_ns INTEGER;
CREATE INDEX files_to_compare ON files(compare_ns) WHERE compare_ns IS NOT NULL;
"""

_RULES = """
CREATE TABLE rules(digest BLOB NOT NULL);
"""

_BY_SIZE = """
DROP INDEX files_by_mtime;
CREATE INDEX files_by_mtime ON files(mtime_ns, size) WHERE state IN (2, 6);
"""

_DATASETS = """
ALTER TABLE files ADD COLUMN rules BLOB;
ALTER TABLE takes ADD COLUMN rules BLOB;
ALTER TABLE takes ADD COLUMN partial TEXT;
CREATE TABLE aggregates(
    file INTEGER NOT NULL, rule TEXT NOT NULL, content TEXT NOT NULL, output BLOB,
    PRIMARY KEY(file, rule)
);
CREATE INDEX aggregates_by_rule ON aggregates(rule);
CREATE INDEX files_datasets ON files(id) WHERE kind = 3;
"""

STEPS = {1: _NUMBERS_USED_ONCE, 2: _COMPARISONS, 3: _RULES, 4: _BY_SIZE, 5: _DATASETS}
"""Version → the SQL that makes the next one of it."""
