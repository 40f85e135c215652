"""Several taggers that differ by their seeds, as one (Lakshminarayanan et al. 2017).

On disk: `tagger.json`, with the temperature, and a folder `member-N` for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from groundling import team
from groundling.config_gmner import TaggerConfig
from groundling.errors import InputError
from groundling.models.base import FittedTagger
from groundling.models.taggers.crf import Lattice
from groundling.models.taggers.paths import PathTagger
from groundling.models.taggers.saved import Facts, read_facts, write_facts
from groundling.records import Failure, Post, Scheme


class EnsembleTagger(PathTagger):
    """What its members believe on average; implements `groundling.models.base.FittedTagger`."""

    def __init__(self, members: Sequence[PathTagger], scheme: Scheme, config: TaggerConfig) -> None:
        super().__init__(scheme, config)
        self.members = tuple(members)

    @classmethod
    def load(
        cls,
        folder: Path,
        scheme: Scheme,
        config: TaggerConfig,
        open_member: Callable[[Path], FittedTagger],
    ) -> EnsembleTagger:
        """An ensemble that `save` wrote. Raises InputError."""
        facts = read_facts(folder, scheme, config)
        count = facts.config.uncertainty.count
        members = [member(open_member(member_folder(folder, number))) for number in range(count)]
        ensemble = cls(members, scheme, facts.config)
        ensemble.temperature = facts.temperature
        return ensemble

    def save(self, folder: Path) -> None:
        """Write all members, with safetensors, and what is common to them."""
        for number, one in enumerate(self.members):
            one.save(member_folder(folder, number))
        facts = Facts(self.scheme.name, self.labels.types, self.config, self.temperature)
        if team.leads():
            write_facts(folder, facts)

    def lattices(self, posts: Sequence[Post]) -> list[Lattice]:
        """A lattice a member."""
        return [lattice for one in self.members for lattice in one.lattices(posts)]

    def length(self, post: Post) -> int:
        """Tokens that a post takes in a batch; the members agree."""
        return self.members[0].length(post)

    def fault(self, post: Post) -> Failure | None:
        """Why a post cannot be tagged; the members agree."""
        return self.members[0].fault(post)


def member(tagger: FittedTagger) -> PathTagger:
    """A tagger that can be in an ensemble. Raises InputError for another."""
    if not isinstance(tagger, PathTagger):
        raise InputError("tagger.uncertainty: only taggers that score labels word by word average")
    return tagger


def member_folder(folder: Path, number: int) -> Path:
    """Where a member lies, counted from 0."""
    return folder / f"member-{number}"
