"""The torture bench: scenarios that break what can break, each with an audit from outside.

    python -m tests.torture [SCENARIO...] [--seed N] [--seconds 15] [--scratch DIR] [--list]

Each row says how often its fault really happened. Exits with 1 when an audit found a difference or
a fault did not happen; seed and differences are printed then. `--seconds` is about how long each
scenario makes faults: the short form takes minutes in all, `--seconds 600` hours.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import ModuleType

from . import __path__ as here
from .bench import Bench, Findings

PREFIX = "scenario_"


def scenarios() -> list[str]:
    names = [module.name for module in pkgutil.iter_modules(here)]
    return sorted(name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX))


def run_one(module: ModuleType, options: argparse.Namespace) -> Findings:
    bench = Bench(options.scratch, options.seed, options.seconds)
    try:
        findings: Findings = module.run(bench)
    except Exception:
        logs = [path.read_text()[-3000:] for path in bench.folder.rglob("log")]
        return Findings({}, [traceback.format_exc(), *logs])
    finally:
        bench.close()
    return findings


def verdict(findings: Findings) -> str:
    if findings.skipped:
        return "skipped"
    happened = findings.faults and all(findings.faults.values())
    return "holds" if happened and not findings.problems else "FAILED"


def main() -> int:
    parser = argparse.ArgumentParser(description="Breaks what can break, and audits.")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--list", action="store_true", help="the scenarios, and what must hold")
    options = parser.parse_args()
    failed = 0
    for name in options.scenarios or scenarios():
        module = importlib.import_module(f"{__package__}.{PREFIX}{name}")
        promise = (module.__doc__ or "").strip().splitlines()[0]
        if options.list:
            print(f"{name:24} {promise}")
            continue
        began = time.monotonic()
        findings = run_one(module, options)
        faults = ", ".join(f"{count} {kind}" for kind, count in findings.faults.items())
        seconds = time.monotonic() - began
        print(
            f"{name:24} {verdict(findings):8} {seconds:6.1f} s  {faults}"
            f"  {findings.note}{findings.skipped}",
            flush=True,
        )
        if verdict(findings) == "FAILED":
            failed += 1
            print(f"  seed {options.seed}; {promise}")
            for problem in findings.problems[:20]:
                print("  " + problem.replace("\n", "\n  "))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
