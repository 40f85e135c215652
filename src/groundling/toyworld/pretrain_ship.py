"""Cuts a finished ISR run down to what `groundling ground` needs, to ship with the package.

    python -m groundling.toyworld.pretrain_ship RUN OUT

OUT becomes a small run directory: configuration, the chosen adapter, the tuned grounder in half
precision, and the metrics that say which round was chosen.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
import yaml

from groundling.models.tiny import TinyGrounder


def ship(run: Path, out: Path) -> None:
    """Write the cut-down run; `out` must not exist."""
    out.mkdir(parents=True)
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    chosen = metrics["selected"]
    round_ = 0 if chosen == "sft" else int(chosen.removeprefix("round-"))
    shutil.copytree(run / f"writer/round-{round_}", out / f"writer/round-{round_}")
    TinyGrounder.load(run / "grounder").save_as(out / "grounder", torch.float16)
    stages = [stage for stage in metrics["stages"] if stage["name"] in ("sft", chosen)]
    kept = {"stages": stages, "selected": chosen, "floors": metrics["floors"]}
    text = json.dumps(kept, ensure_ascii=False, indent=1) + "\n"
    (out / "metrics.json").write_text(text, encoding="utf-8")
    identity = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    versions = identity["provenance"]["versions"]
    identity["provenance"] = {"versions": versions}
    text = yaml.safe_dump(identity, sort_keys=False, allow_unicode=True, width=100)
    (out / "config.yaml").write_text(text, encoding="utf-8")


def main() -> None:
    """Parse the two folders and ship."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    ship(options.run, options.out)


if __name__ == "__main__":
    main()
