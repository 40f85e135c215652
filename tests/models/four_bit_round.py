"""A writer in 4 bits through a round, by one process or, under torchrun, by several.

python four_bit_round.py CHECKPOINT FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

for place in (Path(__file__).parent, Path(__file__).parents[1]):
    sys.path.insert(0, str(place))

import tiny  # noqa: E402
import torch  # noqa: E402
from team_jobs import whole_round  # noqa: E402

from groundling.models.local import Adapter, LocalWriter, Resources  # noqa: E402
from groundling.team import team  # noqa: E402


def main(checkpoint: Path, folder: Path) -> None:
    """Fit, save, draw, score, load, start over, prefer: see `whole_round`."""
    torch.set_num_threads(1)
    team()  # waits for the others, before a model is opened
    writer = LocalWriter.load(
        checkpoint,
        adapter=Adapter(4, 8.0, 0),
        four_bit=True,
        resources=Resources(open_image=tiny.picture),
    )
    writer.save_adapter(folder / "start")
    team().barrier()
    whole_round(writer, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
