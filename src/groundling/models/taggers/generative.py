"""A tagger that writes mentions with an encoder–decoder: words and types, by pointers (BARTNER).

The decoder cannot write what is no tagging (`pointers`), in use or in training: the probabilities
of all taggings of a text add up to 1, and the loss is −log of that of the gold one. Yan et al.
(2021) let it write anything and leave out what cannot be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from groundling import team
from groundling.calibration import choose_temperature
from groundling.config_gmner import TaggerConfig
from groundling.errors import InputError
from groundling.metrics import Floats
from groundling.models.opening import OPENING_FAULTS
from groundling.models.quiet import quiet_library
from groundling.models.taggers.encoder import open_encoder
from groundling.models.taggers.labels import Labels, Span
from groundling.models.taggers.pieces import Pieces
from groundling.models.taggers.pointer_net import Memory, PointerNet, Source, add_types
from groundling.models.taggers.pointers import END, START, Pointers
from groundling.models.taggers.saved import Facts, read_facts, read_filled, write_tagger
from groundling.models.weights import demand_sizes
from groundling.records import Failure, Mention, Post, Scheme


class GenerativeTagger:
    """See the module; implements `groundling.models.base.TrainableTagger`.

    A confidence is the probability of a mention's symbols, its words and its type, given the text
    and the mentions before it. `temperature` divides the scores that it is made of; the search is
    always at 1, so that mentions stay as they are.
    """

    def __init__(
        self, net: PointerNet, tokenizer: Any, scheme: Scheme, config: TaggerConfig
    ) -> None:
        self.net = net
        self.scheme = scheme
        self.config = config
        self.temperature = 1.0
        self.labels = Labels(scheme.types)
        self.pieces = Pieces(tokenizer, config.max_length, config.knowledge)

    @classmethod
    def fresh(
        cls,
        checkpoint: str | Path,
        scheme: Scheme,
        config: TaggerConfig,
        device: str,
        seed: int = 0,
    ) -> GenerativeTagger:
        """A published encoder–decoder in float32. Raises InputError for what is none."""
        model, tokenizer = open_encoder(checkpoint)
        if not model.config.is_encoder_decoder:
            raise InputError(
                f"{checkpoint}: has no decoder; tagger.backend generative wants one, as BART and "
                "T5 have"
            )
        return cls.from_parts(model, tokenizer, scheme, config, device, seed)

    @classmethod
    def from_parts(
        cls,
        model: Any,
        tokenizer: Any,
        scheme: Scheme,
        config: TaggerConfig,
        device: str = "cpu",
        seed: int = 0,
    ) -> GenerativeTagger:
        """The same of a model in memory, whose embedding table it makes larger."""
        symbols = Pointers(scheme.types)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            add_types(model, tokenizer, symbols)
            net = PointerNet(model, symbols, config.dropout)
        return cls(net.to(device), tokenizer, scheme, config)

    @classmethod
    def load(
        cls, folder: Path, scheme: Scheme, config: TaggerConfig, device: str
    ) -> GenerativeTagger:
        """A tagger that `save` wrote. Raises InputError."""
        facts = read_facts(folder, scheme, config)
        try:
            with quiet_library():
                found = AutoConfig.from_pretrained(folder)
                tokenizer = AutoTokenizer.from_pretrained(folder)
        except OPENING_FAULTS as fault:
            reason = str(fault).partition("\n")[0]
            raise InputError(f"{folder}: its model cannot be opened: {reason}") from fault
        demand_sizes(folder)

        def build() -> PointerNet:
            with quiet_library():
                model = AutoModel.from_config(found, dtype=torch.float32)
            return PointerNet(model, Pointers(scheme.types), facts.config.dropout)

        net = read_filled(folder, build)
        tagger = cls(net.to(device), tokenizer, scheme, facts.config)
        tagger.temperature = facts.temperature
        return tagger

    def save(self, folder: Path) -> None:
        """Write `tagger.json`, `model.safetensors`, the model's configuration, the tokenizer."""
        scheme = self.scheme
        facts = Facts(scheme.name, scheme.types, self.config, self.temperature)
        write_tagger(folder, facts, self.net)
        if team.leads():
            self.net.model.config.save_pretrained(folder)
            self.pieces.tokenizer.save_pretrained(folder)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.net.parameters()).device

    def trainable(self) -> dict[str, nn.Parameter]:
        """Every weight, by name: `model.` of the encoder–decoder, `projection.` of the words."""
        return dict(self.net.named_parameters())

    def module(self) -> nn.Module:
        """The network."""
        return self.net

    def length(self, post: Post) -> int:
        """Pieces of the post's longest row."""
        return self.pieces.length(post) if post.tokens else 0

    # ---------------------------------------------------------------------------------- training

    def loss(self, batch: Sequence[Post]) -> Tensor:
        """Mean over the posts of −log p(tagging | text), summed over its symbols.

        Raises InputError for a batch without words, and for a post with more mentions than the
        decoder has places for.
        """
        posts = [post for post in batch if post.tokens]
        if not posts:
            raise InputError("a batch of posts without words; leave them out of the training")
        gold = [self.net.symbols.encode(self._gold(post)) for post in posts]
        for post, symbols in zip(posts, gold, strict=True):
            if len(symbols) > self._places:
                raise InputError(
                    f"post {post.id}: its mentions take {len(symbols)} places of {self._places} "
                    "that the decoder has; leave it out of the training"
                )
        self.net.train()
        with self._matrix_products():
            memory = self.net.read(self._source(posts))
            log_p = self._steps(memory, gold).log_p(1.0)
        return -log_p.sum() / len(batch)

    def _gold(self, post: Post) -> list[Span]:
        """A post's entities as words that do not overlap."""
        return self.labels.decode(self.labels.encode(post))

    @property
    def _places(self) -> float:
        """Symbols that the decoder can have before it."""
        return getattr(self.net.model.config, "max_position_embeddings", None) or float("inf")

    def _matrix_products(self) -> AbstractContextManager[Any]:
        """In which they run in `config.dtype`."""
        dtype = torch.bfloat16 if self.config.dtype == "bfloat16" else torch.float32
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    def _steps(self, memory: Memory, written: Sequence[Sequence[int]]) -> _Steps:
        """The scores at every step of writing given sequences."""
        longest = max(map(len, written))
        rows = [[*symbols] + [END] * (longest - len(symbols)) for symbols in written]
        taken = torch.tensor(rows, device=self.device)
        before = nn.functional.pad(taken[:, :-1], (1, 0), value=START)
        return _Steps(self.net(memory, before), taken)

    def _source(self, posts: Sequence[Post]) -> Source:
        """Windows of posts that all have words, padded to the longest of them."""
        cut = [self.pieces.windows(post) for post in posts]
        flat = [window for windows in cut for window in windows]
        longest = max(len(window.ids) for window in flat)
        ids = torch.full((len(flat), longest), self.pieces.pad)
        mask = torch.zeros(len(flat), longest, dtype=torch.long)
        own = torch.full((len(posts), max(map(len, cut))), -1)
        firsts = torch.zeros(len(posts), max(len(post.tokens) for post in posts), dtype=torch.long)
        row = 0
        for post, windows in enumerate(cut):
            for number, window in enumerate(windows):
                ids[row, : len(window.ids)] = torch.tensor(window.ids)
                mask[row, : len(window.ids)] = 1
                own[post, number] = row
                for word, place in window.words:
                    firsts[post, word] = number * longest + place
                row += 1
        words = torch.tensor([len(post.tokens) for post in posts])
        return Source(*(part.to(self.device) for part in (ids, mask, own, firsts, words)))

    # ----------------------------------------------------------------------------------- tagging

    def tag(self, posts: Sequence[Post]) -> list[list[Mention] | Failure]:
        """The mentions of the most probable sequence that the search finds for each post."""
        found = dict(self._written([post for post in posts if post.tokens]))
        written = iter([found[place] for place in range(len(found))])
        return [self._mentions(next(written)) if post.tokens else [] for post in posts]

    def _mentions(self, written: _Written | Failure) -> list[Mention] | Failure:
        if isinstance(written, Failure):
            return written
        log_p = written.steps.log_p(self.temperature)[0]
        return [
            Mention(*span, _confidence(log_p[part]))
            for span, part in self.net.symbols.decode(written.symbols)
        ]

    @torch.no_grad()
    def _written(self, posts: Sequence[Post]) -> Iterator[tuple[int, _Written | Failure]]:
        """The place of each post and what is written of it, in batches of like length."""
        self.net.eval()
        order = sorted(range(len(posts)), key=lambda place: self.length(posts[place]))
        for start in range(0, len(order), self.config.batch_size):
            places = order[start : start + self.config.batch_size]
            fitting = [place for place in places if self._fits(posts[place])]
            for place in set(places) - set(fitting):
                words = len(posts[place].tokens)
                yield place, Failure(f"{words} words are too many for this decoder", "tag")
            if fitting:
                written = self._write([posts[place] for place in fitting])
                yield from zip(fitting, written, strict=True)

    def _fits(self, post: Post) -> bool:
        """Whether the decoder has places for a mention at every word."""
        return 2 * len(post.tokens) + 1 <= self._places

    def _write(self, posts: Sequence[Post]) -> list[_Written | Failure]:
        with self._matrix_products():
            memory = self.net.read(self._source(posts))
            found = self.net.search(memory, self.config.beams)
            steps = self._steps(memory, found)
        sound = steps.log_p(1.0).isfinite().all(dim=1)
        return [
            _Written(symbols, _Steps(steps.scores[row, None].double(), steps.taken[row, None]))
            if sound[row]
            else Failure("a score is not finite", "tag")
            for row, symbols in enumerate(found)
        ]

    # ------------------------------------------------------------------------------- calibration

    def calibrate(self, posts: Sequence[Post]) -> None:
        """Choose the temperature under which confidences fit best how often mentions are right."""
        posts = [post for post in posts if post.tokens]
        right, mentions = [], []
        for place, written in self._written(posts):
            if isinstance(written, _Written):
                gold = self._gold(posts[place])
                for span, part in self.net.symbols.decode(written.symbols):
                    right.append(span in gold)
                    mentions.append(written.steps.part(part))

        def confidences(temperature: float) -> Floats:
            return np.array([_confidence(one.log_p(temperature)) for one in mentions])

        self.temperature = choose_temperature(confidences, np.array(right, dtype=bool))


@dataclass(frozen=True, slots=True)
class _Steps:
    """Scores (B, L, V) at each step, −∞ for what may not follow, and the symbols taken (B, L)."""

    scores: Tensor
    taken: Tensor

    def part(self, places: slice) -> _Steps:
        """Some of the steps."""
        return _Steps(self.scores[:, places], self.taken[:, places])

    def log_p(self, temperature: float) -> Tensor:
        """(B, L): log-probabilities of the symbols taken; 0 behind the end."""
        log_p = torch.log_softmax(self.scores / temperature, dim=-1)
        return log_p.gather(-1, self.taken[..., None])[..., 0]


@dataclass(frozen=True, slots=True)
class _Written:
    """The symbols of a post, and the steps that led to them."""

    symbols: list[int]
    steps: _Steps


def _confidence(log_p: Tensor) -> float:
    return float(log_p.sum().exp().clamp(max=1.0))
