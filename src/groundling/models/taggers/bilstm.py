"""A BiLSTM-CRF over word vectors and characters, trained from scratch (Ma and Hovy 2016).

It stands for the HBiLSTM-CRF of the GMNER papers, whose pre-trained vectors are optional here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from groundling import team
from groundling.config_gmner import TaggerConfig
from groundling.errors import DataError, InputError
from groundling.models.taggers.characters import Characters, alphabet_of
from groundling.models.taggers.crf import Transitions
from groundling.models.taggers.labels import Labels
from groundling.models.taggers.pictures import Pictures, Seen, open_pictures
from groundling.models.taggers.saved import read_facts, read_filled, texts
from groundling.models.taggers.sequence import SequenceTagger, WordScorer
from groundling.models.taggers.sight import sight_of
from groundling.models.taggers.words import PAD, UNKNOWN, Vocabulary, read_vectors
from groundling.records import Post, Scheme
from groundling.strict_json import read_object

VOCABULARY = "vocabulary.json"


@dataclass(frozen=True, slots=True)
class BilstmInputs:
    """`words` (B, T), `characters` (B, T, C), `lengths` in words (B), on the CPU; and pictures."""

    words: Tensor
    characters: Tensor
    lengths: Tensor
    seen: Seen | None


class BilstmNet(WordScorer[BilstmInputs]):
    """Word vectors beside characters, a BiLSTM, what is seen, projection.

    Dropout before and after the LSTM.
    """

    def __init__(
        self,
        labels: Labels,
        config: TaggerConfig,
        vocabulary: Vocabulary,
        alphabet: Sequence[str],
        pictures: Pictures | None = None,
    ) -> None:
        super().__init__()
        self.unknown_share = config.word_dropout
        self.embedding = nn.Embedding(len(vocabulary), config.word_size, padding_idx=PAD)
        self.characters = Characters(alphabet)
        self.lstm = nn.LSTM(
            config.word_size + self.characters.width,
            config.hidden_size,
            batch_first=True,
            bidirectional=True,
        )
        self.dropout = nn.Dropout(config.dropout)
        width = 2 * config.hidden_size
        self.sight = sight_of(config.vision, width, pictures)
        width += 0 if self.sight is None else self.sight.width
        self.projection = nn.Linear(width, len(labels))
        self.transitions = Transitions(labels, learned=config.head == "crf")

    def forward(self, inputs: BilstmInputs) -> Tensor:
        """(B, T, L)."""
        words = inputs.words
        if self.training and self.unknown_share:
            kept = torch.rand(words.shape, device=words.device) >= self.unknown_share
            words = torch.where(kept | (words == PAD), words, UNKNOWN)
        read = torch.cat([self.embedding(words), self.characters(inputs.characters)], dim=-1)
        packed = pack_padded_sequence(
            self.dropout(read), inputs.lengths, batch_first=True, enforce_sorted=False
        )
        states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        if self.sight is not None and inputs.seen is not None:
            states = self.sight(states, inputs.seen)
        scores: Tensor = self.projection(self.dropout(states))
        return scores


class BilstmTagger(SequenceTagger[BilstmInputs]):
    """See the module. Its vocabulary is that of the posts it was made for."""

    net: BilstmNet

    def __init__(
        self,
        net: BilstmNet,
        vocabulary: Vocabulary,
        scheme: Scheme,
        config: TaggerConfig,
        pictures: Pictures | None = None,
    ) -> None:
        super().__init__(net, scheme, config, pictures)
        self.vocabulary = vocabulary

    @classmethod
    def fresh(
        cls, scheme: Scheme, config: TaggerConfig, device: str, seed: int, posts: Sequence[Post]
    ) -> BilstmTagger:
        """Random weights, and the vocabulary of `posts`; vectors from `config.vectors`.

        Raises InputError without posts, DataError for a file that holds no such vectors.
        """
        if not any(post.tokens for post in posts):
            raise InputError("bilstm is trained from scratch: give it posts to take its words from")
        vocabulary = Vocabulary.of(post.tokens for post in posts)
        alphabet = alphabet_of(word for post in posts for word in post.tokens)
        pictures = open_pictures(config.vision, device, posts=posts)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = BilstmNet(Labels(scheme.types), config, vocabulary, alphabet, pictures)
        if config.vectors is not None:
            found = read_vectors(Path(config.vectors), vocabulary, config.word_size)
            with torch.no_grad():
                net.embedding.weight[list(found)] = torch.tensor(list(found.values()))
        return cls(net.to(device), vocabulary, scheme, config, pictures)

    @classmethod
    def load(cls, folder: Path, scheme: Scheme, config: TaggerConfig, device: str) -> BilstmTagger:
        """A tagger that `save` wrote. Raises InputError."""
        facts = read_facts(folder, scheme, config)
        try:
            told = read_object(folder / VOCABULARY)
            words, alphabet = texts(told["words"]), texts(told["alphabet"])
        except (DataError, KeyError, TypeError) as fault:
            raise InputError(f"{folder / VOCABULARY}: no vocabulary ({fault})") from fault
        pictures = open_pictures(facts.config.vision, device, folder=folder)
        vocabulary, labels = Vocabulary(words), Labels(scheme.types)
        net = read_filled(
            folder, lambda: BilstmNet(labels, facts.config, vocabulary, alphabet, pictures)
        )
        tagger = cls(net.to(device), vocabulary, scheme, facts.config, pictures)
        tagger.temperature = facts.temperature
        return tagger

    def write_own(self, folder: Path) -> None:
        """Words and characters."""
        if team.leads():
            told = {"words": self.vocabulary.words, "alphabet": self.net.characters.alphabet}
            (folder / VOCABULARY).write_text(json.dumps(told) + "\n", encoding="utf-8")

    def length(self, post: Post) -> int:
        """Words."""
        return len(post.tokens)

    def inputs(self, posts: Sequence[Post]) -> BilstmInputs:
        """Words and characters by number."""
        lengths = torch.tensor([len(post.tokens) for post in posts])
        words = torch.full((len(posts), int(lengths.max())), PAD)
        for row, post in enumerate(posts):
            numbers = [self.vocabulary.number(word) for word in post.tokens]
            words[row, : len(numbers)] = torch.tensor(numbers)
        characters = self.net.characters.numbers([post.tokens for post in posts], self.device)
        return BilstmInputs(words.to(self.device), characters, lengths, self.seen(posts))
