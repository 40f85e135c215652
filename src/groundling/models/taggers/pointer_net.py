"""An encoder–decoder that points at the words of its text (BARTNER: Yan et al. 2021).

Any encoder–decoder of Hugging Face. Each of its steps scores the end and the types by their vectors
in the embedding table, and each word by the mean of the embedding of its first piece and of the
encoder's vector there, the latter through a small network. The types are rows that are added to the
table; each begins as the mean of the vectors of its word's pieces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from groundling.models.taggers.pointers import END, START, Pointers

_WORDS = {"PER": "person", "LOC": "location", "ORG": "organization", "MISC": "others"}
"""What a type is called for its first vector (BARTNER); other types by their own names."""


@dataclass(frozen=True, slots=True)
class Source:
    """B posts as the encoder reads them, in W windows of at most P pieces.

    `ids`, `mask` (W, P); `windows` (B, R): each post's rows of them, −1 beyond its last one;
    `firsts` (B, T): each word's first piece as a place in the post's windows laid end to end, 0
    beyond its words; `words` (B): how many it has.
    """

    ids: Tensor
    mask: Tensor
    windows: Tensor
    firsts: Tensor
    words: Tensor


@dataclass(frozen=True, slots=True)
class Memory:
    """What the decoder looks at: `states` (B, M, D), `mask` (B, M), of B posts.

    `pointers` (B, T, D) are the words' vectors, `pieces` (B, T) the numbers of their first pieces,
    `words` (B) how many there are.
    """

    states: Tensor
    mask: Tensor
    pointers: Tensor
    pieces: Tensor
    words: Tensor

    def repeat(self, times: int) -> Memory:
        """Each post `times` times in a row."""
        parts = (self.states, self.mask, self.pointers, self.pieces, self.words)
        return Memory(*(part.repeat_interleave(times, dim=0) for part in parts))


class PointerNet(nn.Module):
    """See the module. `model` has the types' rows in its table already: the last ones."""

    named: Tensor

    def __init__(self, model: Any, symbols: Pointers, dropout: float) -> None:
        super().__init__()
        self.model = model
        self.symbols = symbols
        width = int(model.config.d_model)
        self.projection = nn.Sequential(
            nn.Linear(width, width), nn.Dropout(dropout), nn.ReLU(), nn.Linear(width, width)
        )
        self.dropout = nn.Dropout(dropout)
        # T5's vectors have length √D, not about 1: its own output layer scales them likewise
        self.scale = width**-0.5 if "t5" in model.config.model_type else 1.0
        rows = model.get_input_embeddings().num_embeddings
        named = [model.config.eos_token_id, *range(rows - len(symbols.types), rows)]
        self.register_buffer("named", torch.tensor(named), persistent=False)

    def read(self, source: Source) -> Memory:
        """Encode windows, and lay those of a post end to end."""
        encoder = self.model.get_encoder()
        read = encoder(input_ids=source.ids, attention_mask=source.mask).last_hidden_state
        rows = source.windows.clamp(min=0)
        states = read[rows].flatten(1, 2)
        mask = (source.mask[rows] * (source.windows >= 0)[..., None]).flatten(1, 2)
        pieces = source.ids[rows].flatten(1, 2).gather(1, source.firsts)
        posts = torch.arange(len(rows), device=rows.device)[:, None]
        embedded = self.dropout(self._rows(pieces))
        pointers = (self.projection(states[posts, source.firsts]) + embedded) / 2
        return Memory(states, mask, pointers, pieces, source.words)

    def forward(self, memory: Memory, before: Tensor) -> Tensor:
        """(B, L, V) of `before` (B, L): scores of what follows each symbol, all that may not −∞."""
        scores, _ = self._scores(memory, before)
        return scores.masked_fill(~self.symbols.allowed(before, memory.words), float("-inf"))

    @torch.no_grad()
    def search(self, memory: Memory, beams: int) -> list[list[int]]:
        """The most probable sequence of each post that a search with `beams` beams finds.

        Sequences are compared by their probability as they are: that of all of them is 1, so a
        longer one is less probable for a reason. One beam is greedy. Scores that are no numbers
        are taken as 0, so that the search ends; `forward` shows them.
        """
        posts, device = len(memory.words), memory.words.device
        memory = memory.repeat(beams)
        before = torch.full((posts * beams, 1), START, device=device)
        total = torch.full((posts, beams), float("-inf"), device=device)
        total[:, 0] = 0.0  # the beams are one at first
        past: Any = None
        while not (before.view(posts, beams, -1)[:, 0, -1] == END).all():
            scores, past = self._scores(memory, before[:, -1:], past, keep=True)
            allowed = self.symbols.allowed(before, memory.words)[:, -1]
            sound = scores[:, -1].nan_to_num(0.0, 0.0, 0.0)
            log_p = torch.log_softmax(sound.masked_fill(~allowed, float("-inf")), dim=-1)
            every = (total[..., None] + log_p.view(posts, beams, -1)).flatten(1)
            total, best = every.topk(beams, dim=1)
            first = torch.arange(posts, device=device)[:, None] * beams
            rows = (first + best // log_p.shape[-1]).flatten()
            past.reorder_cache(rows)
            before = torch.cat([before[rows], (best % log_p.shape[-1]).view(-1, 1)], dim=1)
        found: list[list[int]] = before.view(posts, beams, -1)[:, 0, 1:].tolist()
        return [symbols[: symbols.index(END) + 1] for symbols in found]

    def _scores(
        self, memory: Memory, before: Tensor, past: Any = None, keep: bool = False
    ) -> tuple[Tensor, Any]:
        """(B, L, V) of `before` (B, L), and what the decoder keeps of it; `past` is before that."""
        told = self.model(
            encoder_outputs=(memory.states,),
            attention_mask=memory.mask,
            decoder_input_ids=self._pieces(memory, before),
            past_key_values=past,
            use_cache=keep,
        )
        states = self.dropout(told.last_hidden_state) * self.scale
        named = states @ self.dropout(self._rows(self.named)).T
        words = states @ memory.pointers.transpose(1, 2)
        return torch.cat([named, words], dim=-1).float(), told.past_key_values

    def _rows(self, pieces: Tensor) -> Tensor:
        """Rows of the embedding table as they are, without a model's own scale."""
        return nn.functional.embedding(pieces, self.model.get_input_embeddings().weight)

    def _pieces(self, memory: Memory, symbols: Tensor) -> Tensor:
        """What the decoder reads for symbols: the types' own pieces, or a word's first one."""
        word = (symbols - self.symbols.first_word).clamp(min=0)
        pieces = torch.where(
            symbols < self.symbols.first_word,
            self.named[symbols.clamp(min=0, max=len(self.named) - 1)],
            memory.pieces.gather(1, word),
        )
        return pieces.masked_fill(symbols == START, self.model.config.decoder_start_token_id)


def add_types(model: Any, tokenizer: Any, symbols: Pointers) -> None:
    """Add a row for each type to the embedding table, as the module says."""
    table = model.get_input_embeddings().weight.detach()
    rows = [
        table[tokenizer(_WORDS.get(kind, kind), add_special_tokens=False)["input_ids"]].mean(0)
        for kind in symbols.types
    ]
    model.resize_token_embeddings(len(table) + len(rows), mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[-len(rows) :] = torch.stack(rows)
