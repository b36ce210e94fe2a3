"""SIGKILLs of workers and of the whole service, over real folders, against an undisturbed run.

    python -m tests.torture.kills SCRATCH TREE... [--workers 10] [--daemons 1] [--seed 1]

Takes the trees in twice, in folders of its own below SCRATCH: once undisturbed with `run --once`,
once with random workers and the service killed at random moments of it. Then compares what each
came to: every file's state, lines and encoding, the blocks that hold words drawn from the trees
(the sources being the same, equal blocks are equal hits), and every copy byte for byte. Exits with
1 where they differ, or where no kill was made.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import apsw

from dropmill.index import ShardReader, shard_numbers

from ..agreement_with_rg import pairs
from ..dropmill_process import Place
from ..polling import eventually

ALIKE = ("kind", "state", "lines", "encoding", "size", "width", "height", "reason", "attempts")


def make_place(folder: Path, trees: list[Path]) -> Place:
    shutil.rmtree(folder, ignore_errors=True)
    place = Place(folder)
    roots = "".join(f"  - path: {tree}\n" for tree in trees)
    place.configuration.write_text(
        f"state: ./state\nworkers: 2\nwatch:\n{roots}images: {{output: ./grayscale}}\n"
    )
    return place


def disturb(place: Place, workers: int, daemons: int, chance: random.Random) -> dict[str, int]:
    """Runs the service to the end of its work, with that many kills on the way."""
    made = {"waiting": 0, "busy": 0, "service": 0}
    plan = ["worker"] * workers + ["service"] * daemons
    chance.shuffle(plan)
    place.start()
    while True:
        status = place.status()
        if not plan and place.is_settled() and status["files"]["done"]:
            return made
        if plan and not (status["files"]["done"] and place.is_settled()):
            time.sleep(chance.uniform(0.1, 1.5))
            if plan.pop() == "service":
                place.stop(signal.SIGKILL)
                made["service"] += 1
                place.start()
                continue
            alive = place.status()["workers"]
            if alive:
                victim = chance.choice(alive)
                os.kill(victim["pid"], signal.SIGKILL)
                made["busy" if victim["doing"] else "waiting"] += 1
        elif plan:
            print(f"the work was over before {len(plan)} kills were made")
            plan.clear()


def outcomes(place: Place) -> dict[str, dict[str, Any]]:
    return {path: {name: row.get(name) for name in ALIKE} for path, row in place.results().items()}


def copies(place: Place) -> dict[str, str]:
    folder = place.folder / "grayscale"
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def held(place: Place, words: list[str]) -> dict[str, str]:
    """Word → a digest of the places of all live blocks that hold it."""
    state = os.fsencode(place.folder / "state")
    database = apsw.Connection(os.fsdecode(state) + "/results.db")
    paths = {
        take: (folder, name)
        for take, folder, name in database.execute(
            "SELECT t.id, d.path, f.name FROM takes t JOIN files f ON f.id = t.file"
            " JOIN folders d ON d.id = f.folder WHERE t.state = 1"
        )
    }
    shards = [ShardReader(state, number) for number in shard_numbers(state)]
    found = {}
    for word in words:
        query = '"' + word.replace('"', '""') + '"'
        hits = (hit.block for shard in shards for hit in shard.find(query, ranked=False))
        places = sorted((paths[hit.take], hit.first) for hit in hits if hit.take in paths)
        found[word] = f"{len(places)} blocks, {hashlib.sha256(repr(places).encode()).hexdigest()}"
    return found


def compare(what: str, calm: Any, disturbed: Any) -> bool:
    same = bool(calm == disturbed)
    print(f"{what}: {len(calm)} in the undisturbed run, {'equal' if same else 'DIFFERENT'}")
    if not same:
        keys = sorted({key for key in (*calm, *disturbed) if calm.get(key) != disturbed.get(key)})
        for key in keys[:10]:
            print(f"  {key}: {calm.get(key)} / {disturbed.get(key)}")
    return same


def main() -> int:
    parser = argparse.ArgumentParser(description="Kills against an undisturbed run.")
    parser.add_argument("scratch", type=Path)
    parser.add_argument("trees", type=Path, nargs="+")
    parser.add_argument("--workers", type=int, default=10)
    parser.add_argument("--daemons", type=int, default=1)
    parser.add_argument("--words", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    trees = [tree.resolve() for tree in options.trees]
    chance = random.Random(options.seed)

    calm = make_place(options.scratch.resolve() / "calm", trees)
    calm.run("run", "--once", seconds=1800)
    disturbed = make_place(options.scratch.resolve() / "disturbed", trees)
    try:
        made = disturb(disturbed, options.workers, options.daemons, chance)
        eventually(disturbed.is_settled, seconds=600, what="everything is taken in")
        print(f"seed {options.seed}: kills: {made}")
        disturbed.stop()
        words = sorted({word for _, word in pairs(trees[0], options.words, options.seed)})
        ok = [
            compare("outcomes", outcomes(calm), outcomes(disturbed)),
            compare("copies", copies(calm), copies(disturbed)),
            compare("hits of words", held(calm, words), held(disturbed, words)),
        ]
    finally:
        disturbed.close()
    return 0 if all(ok) and any(made.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
