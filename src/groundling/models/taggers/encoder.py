"""A tagger on any encoder of Hugging Face: its first piece of each word, projected to labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from groundling import team
from groundling.config_gmner import TaggerConfig
from groundling.errors import DataError, InputError
from groundling.models.opening import OPENING_FAULTS
from groundling.models.quiet import quiet_library
from groundling.models.taggers.characters import Characters, alphabet_of
from groundling.models.taggers.crf import Transitions
from groundling.models.taggers.labels import Labels
from groundling.models.taggers.pictures import Pictures, Seen, open_pictures
from groundling.models.taggers.pieces import Pieces
from groundling.models.taggers.saved import read_facts, read_filled, texts
from groundling.models.taggers.sequence import SequenceTagger, WordScorer
from groundling.models.taggers.sight import sight_of
from groundling.models.taggers.words import WordDropout
from groundling.models.weights import demand_numbers, demand_sizes
from groundling.records import Post, Scheme
from groundling.strict_json import read_json

ALPHABET = "alphabet.json"


@dataclass(frozen=True, slots=True)
class EncoderInputs:
    """W windows of at most P pieces, and where the words of B posts are in them.

    `ids`, `segments`, `mask` (W, P); `firsts` (B, T): each word's first piece as a place in the
    windows laid end to end, 0 beyond a post's words; `characters` (B, T, C) where they are read,
    and the posts' pictures where they are.
    """

    ids: Tensor
    segments: Tensor | None
    mask: Tensor
    firsts: Tensor
    characters: Tensor | None
    seen: Seen | None


class EncoderNet(WordScorer[EncoderInputs]):
    """Encoder, first pieces, characters and what is seen beside them, dropout, projection."""

    def __init__(
        self,
        encoder: Any,
        labels: Labels,
        config: TaggerConfig,
        alphabet: Sequence[str],
        pictures: Pictures | None = None,
    ) -> None:
        super().__init__()
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None  # nothing reads it, so nothing would train it
        self.encoder = encoder
        self.characters = Characters(alphabet) if config.characters else None
        width = int(encoder.config.hidden_size)
        if self.characters is not None:
            width += self.characters.width
        self.sight = sight_of(config.vision, width, pictures)
        if self.sight is not None:
            width += self.sight.width
        self.dropout = nn.Dropout(config.dropout)
        self.word_dropout = WordDropout(config.word_dropout)
        self.projection = nn.Linear(width, len(labels))
        self.transitions = Transitions(labels, learned=config.head == "crf")

    def forward(self, inputs: EncoderInputs) -> Tensor:
        """(B, T, L)."""
        given = {"input_ids": inputs.ids, "attention_mask": inputs.mask}
        if inputs.segments is not None:
            given["token_type_ids"] = inputs.segments
        pieces = self.encoder(**given).last_hidden_state
        words = pieces.flatten(0, 1)[inputs.firsts]
        if self.characters is not None and inputs.characters is not None:
            words = torch.cat([words, self.characters(inputs.characters)], dim=-1)
        if self.sight is not None and inputs.seen is not None:
            words = self.sight(words, inputs.seen)
        scores: Tensor = self.projection(self.word_dropout(self.dropout(words)))
        return scores


class EncoderTagger(SequenceTagger[EncoderInputs]):
    """See the module; posts of any length, and what is told of them, are cut by `Pieces`."""

    net: EncoderNet

    def __init__(
        self,
        net: EncoderNet,
        tokenizer: Any,
        scheme: Scheme,
        config: TaggerConfig,
        pictures: Pictures | None = None,
    ) -> None:
        super().__init__(net, scheme, config, pictures)
        self.pieces = Pieces(tokenizer, config.max_length, config.knowledge)

    @classmethod
    def fresh(
        cls,
        checkpoint: str | Path,
        scheme: Scheme,
        config: TaggerConfig,
        device: str,
        seed: int = 0,
        posts: Sequence[Post] = (),
    ) -> EncoderTagger:
        """A published encoder in float32 under a random head; characters are those of `posts`.

        Raises InputError for what is no encoder.
        """
        encoder, tokenizer = open_encoder(checkpoint)
        return cls.from_parts(encoder, tokenizer, scheme, config, device, seed, posts)

    @classmethod
    def from_parts(
        cls,
        encoder: nn.Module,
        tokenizer: Any,
        scheme: Scheme,
        config: TaggerConfig,
        device: str = "cpu",
        seed: int = 0,
        posts: Sequence[Post] = (),
    ) -> EncoderTagger:
        """The same of an encoder in memory."""
        words = (word for post in posts for word in post.tokens)
        alphabet = alphabet_of(words) if config.characters else ()
        pictures = open_pictures(config.vision, device, posts=posts)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = EncoderNet(encoder, Labels(scheme.types), config, alphabet, pictures)
        return cls(net.to(device), tokenizer, scheme, config, pictures)

    @classmethod
    def load(cls, folder: Path, scheme: Scheme, config: TaggerConfig, device: str) -> EncoderTagger:
        """A tagger that `save` wrote. Raises InputError."""
        facts = read_facts(folder, scheme, config)
        alphabet = _read_alphabet(folder) if facts.config.characters else ()
        try:
            with quiet_library():
                found = AutoConfig.from_pretrained(folder)
                tokenizer = AutoTokenizer.from_pretrained(folder)
        except OPENING_FAULTS as fault:
            reason = str(fault).partition("\n")[0]
            raise InputError(f"{folder}: its encoder cannot be opened: {reason}") from fault
        demand_sizes(folder)
        pictures = open_pictures(facts.config.vision, device, folder=folder)
        labels = Labels(scheme.types)

        def build() -> EncoderNet:
            with quiet_library():
                encoder = AutoModel.from_config(found, dtype=torch.float32)
            return EncoderNet(encoder, labels, facts.config, alphabet, pictures)

        net = read_filled(folder, build)
        tagger = cls(net.to(device), tokenizer, scheme, facts.config, pictures)
        tagger.temperature = facts.temperature
        return tagger

    def write_own(self, folder: Path) -> None:
        """The encoder's configuration, the tokenizer, the alphabet."""
        if not team.leads():
            return
        self.net.encoder.config.save_pretrained(folder)
        self.pieces.tokenizer.save_pretrained(folder)
        if self.net.characters is not None:
            text = json.dumps(self.net.characters.alphabet, ensure_ascii=True) + "\n"
            (folder / ALPHABET).write_text(text, encoding="utf-8")

    def length(self, post: Post) -> int:
        """Pieces of the post's longest row."""
        return self.pieces.length(post) if post.tokens else 0

    def inputs(self, posts: Sequence[Post]) -> EncoderInputs:
        """Windows of all posts, padded to the longest of them."""
        cut = [self.pieces.windows(post) for post in posts]
        rows = [window for windows in cut for window in windows]
        longest = max(len(window.ids) for window in rows)
        firsts = torch.zeros(len(posts), max(len(post.tokens) for post in posts), dtype=torch.long)
        row = 0
        for number, windows in enumerate(cut):
            for window in windows:
                for word, place in window.words:
                    firsts[number, word] = row * longest + place
                row += 1

        def table(lines: list[list[int]], fill: int) -> Tensor:
            padded = [line + [fill] * (longest - len(line)) for line in lines]
            return torch.tensor(padded, device=self.device)

        characters = self.net.characters
        return EncoderInputs(
            ids=table([window.ids for window in rows], self.pieces.pad),
            segments=table([w.segments for w in rows], 0) if self.pieces.has_segments else None,
            mask=table([[1] * len(window.ids) for window in rows], 0),
            firsts=firsts.to(self.device),
            characters=None
            if characters is None
            else characters.numbers([post.tokens for post in posts], self.device),
            seen=self.seen(posts),
        )


def open_encoder(checkpoint: str | Path) -> tuple[Any, Any]:
    """The encoder and tokenizer of a checkpoint folder or hub name, safetensors only.

    Raises InputError for what is no encoder and where weights are missing.
    """
    try:
        with quiet_library():
            tokenizer = AutoTokenizer.from_pretrained(checkpoint, add_prefix_space=True)
            demand_sizes(checkpoint)
            encoder, told = AutoModel.from_pretrained(
                checkpoint, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
    except OPENING_FAULTS as fault:
        reason = str(fault).partition("\n")[0]
        raise InputError(f"{checkpoint}: no encoder that can be opened: {reason}") from fault
    missing = sorted(name for name in told["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise InputError(
            f"{checkpoint}: {len(missing)} weights are missing, first {missing[0]}; "
            "transformers would leave them random"
        )
    demand_numbers(checkpoint, encoder.named_parameters())
    return encoder, tokenizer


def _read_alphabet(folder: Path) -> tuple[str, ...]:
    try:
        return tuple(texts(read_json(folder / ALPHABET)))
    except (DataError, TypeError) as fault:
        raise InputError(f"{folder / ALPHABET}: not a list of characters ({fault})") from fault
