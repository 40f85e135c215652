"""The computation below a chat for any family, by the model's own forward pass.

A shared module, no backend. Each prompt is run once and its cache copied to its K answers; chosen
and rejected share their prompt where the family allows (`packing`). Sequences are laid out here
with position ids of their own, so left padding, mixed picture sizes and packed answers give what
each prompt gives alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import pad

from groundling.errors import ImageError
from groundling.images import OpenImage
from groundling.losses import token_logprobs
from groundling.models.decoding import THIN, Answers, Drawn, choose
from groundling.models.engines import Ask
from groundling.models.families import Family
from groundling.models.families.base import fit_area
from groundling.models.packing import Layout, Row, TokenIds, lay_out, visibility
from groundling.models.wording import Wording
from groundling.records import Failure
from groundling.team import team

_PER_TOKEN = "cross_attention_mask"
"""The one input that has a row for every token and is not ours to make (Mllama)."""

_OURS = {"input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids", _PER_TOKEN}


@dataclass(frozen=True, slots=True)
class StockPrompt:
    """One prompt as the stock processor made it.

    ids: its tokens. positions: (3, length). picture: the processor's picture inputs, each with a
    first dimension of 1 or of patches. sight: (length, 1, tiles) what each token may see of the
    picture, where the family says so token by token.
    """

    ids: TokenIds
    positions: NDArray[np.int64]
    picture: dict[str, torch.Tensor] = field(repr=False)
    sight: torch.Tensor | None = field(default=None, repr=False)


class StockEngine:
    """Implements `engines.Engine` over any `Family`."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        family: Family,
        wording: Wording,
        open_image: OpenImage,
        *,
        max_pixels: int | None,
    ) -> None:
        self._model = model
        self._processor = processor
        self._family = family
        self._wording = wording
        self._open = open_image
        limited = max_pixels is not None and family.limit_pixels(model, processor, max_pixels)
        self._max_pixels = None if limited else max_pixels

    def keep(self, images: Sequence[str]) -> dict[str, Failure]:
        """Nothing: pictures are read when they are used."""
        del images
        return {}

    def prompts(self, asks: Sequence[Ask]) -> list[StockPrompt | Failure]:
        """One prompt a question, its picture read, or a Failure (`image`, `prompt`)."""
        return [self._prompt(ask) for ask in asks]

    def _prompt(self, ask: Ask) -> StockPrompt | Failure:
        text = self._wording.rendered(ask.subject)
        if isinstance(text, Failure):
            return text
        try:
            picture = self._open(ask.image)
            if self._max_pixels is not None:
                picture = fit_area(picture, self._max_pixels)
            self._family.given_wh_px(self._processor, picture.size)  # or why it cannot be given
            made = self._processor(
                text=[text],
                images=[[picture]],
                add_special_tokens=self._wording.adds_specials,
                return_tensors="pt",
            )
        except ImageError as fault:
            return Failure(str(fault), "image")
        except ValueError as fault:  # a picture of a shape that the processor refuses
            return Failure(f"{ask.image}: {str(fault).splitlines()[0]}", "image")
        sight = made.get(_PER_TOKEN)
        return StockPrompt(
            ids=tuple(made["input_ids"][0].tolist()),
            positions=self._family.positions(self._model, made),
            picture={name: part for name, part in made.items() if name not in _OURS},
            sight=None if sight is None else sight[0],
        )

    def draw(
        self,
        prompts: Sequence[StockPrompt],
        noise: NDArray[np.float64] | None,
        temperature: float,
        steps: int,
    ) -> list[list[Drawn]]:
        """K answers a prompt: each prompt is run once, then its cache is copied K times."""
        device = self._model.device
        k = 1 if noise is None else noise.shape[1]
        uniforms = None if noise is None else torch.from_numpy(noise).to(device)
        answers = Answers(len(prompts), k, steps, self._wording.ends, device)
        grown = _Grown(self, prompts, k)
        for step in range(steps):
            drawn = None if uniforms is None else uniforms[:, :, step][answers.growing]
            holders = grown.rows_of(answers.growing)
            tokens, logprobs = choose(grown.logits.float(), holders, drawn, temperature)
            tokens = team().agreed(tokens)
            on = answers.add(step, tokens, logprobs)
            if step + 1 == steps or not bool(on.any()):
                break
            grown.extend(holders, tokens, answers.growing)
        return answers.result()

    def answer_logprobs(
        self, rows: Sequence[Row[StockPrompt]], checkpointing: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """log π of every answer token, (N,), and its answer (N,): row · answers + index."""
        if not self._family.packs:
            rows = [Row(row.prompt, (answer,)) for row in rows for answer in row.answers]
        layout = lay_out(rows, 0).to(self._model.device)
        apart = any(len(row.answers) > 1 for row in rows)
        mask = visibility(layout, 0, True) if apart else (layout.segments >= 0).long()
        with recomputing(self._model, checkpointing):
            hidden = self.run(
                layout.ids, layout.positions, mask, self._seen(rows, layout), use_cache=False
            ).last_hidden_state
        places = torch.arange(len(rows), device=hidden.device)[:, None]
        kept = hidden[places, layout.kept].flatten(0, 1)
        logits = self._model.lm_head(kept[layout.sources])
        return token_logprobs(logits, layout.targets), layout.owners

    def run(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor,
        seen: dict[str, torch.Tensor],
        **settings: Any,
    ) -> Any:
        """The model below its head on ids (B, T) at positions (3, B, T)."""
        return self._model.model(
            input_ids=ids,
            position_ids=self._family.position_ids(positions),
            attention_mask=mask,
            **seen,
            **settings,
        )

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states (…, hidden) to vocabulary logits (…, V)."""
        logits: torch.Tensor = self._model.lm_head(hidden)
        return logits

    def pictures(self, prompts: Sequence[StockPrompt]) -> dict[str, torch.Tensor]:
        """The picture inputs of a batch, in the model's precision, on its device."""
        stacked = {
            name: _stack([prompt.picture[name] for prompt in prompts])
            for name in prompts[0].picture
        }
        return {
            name: part.to(
                self._model.device, self._model.dtype if part.is_floating_point() else None
            )
            for name, part in stacked.items()
        }

    def _seen(self, rows: Sequence[Row[StockPrompt]], layout: Layout) -> dict[str, torch.Tensor]:
        prompts = [row.prompt for row in rows]
        seen = self.pictures(prompts)
        if prompts[0].sight is not None:
            width = layout.ids.shape[1]
            seen[_PER_TOKEN] = torch.stack(
                [_longer(prompt, 0, width - len(prompt.ids)) for prompt in prompts]
            ).to(layout.ids.device)
        return seen


@contextmanager
def recomputing(model: Any, wanted: bool) -> Iterator[None]:
    """Inside, layers are computed again in the backward pass; that asks for training mode."""
    if not wanted:
        yield
        return
    new = hasattr(model, "activation_checkpointing_enable")  # from transformers 5.23 on
    kind = "activation" if new else "gradient"
    getattr(model, f"{kind}_checkpointing_enable")({"use_reentrant": False})
    model.disable_input_require_grads()  # set for all embeddings: a frozen tower would store all
    model.train()
    try:
        yield
    finally:
        getattr(model, f"{kind}_checkpointing_disable")()
        model.eval()


class _Grown:
    """The answers that grow from a batch of prompts: their cache and the logits after them.

    Before the first token there is one row a prompt; after it one row an answer, and those of
    answers that have ended leave once enough have.
    """

    def __init__(self, engine: StockEngine, prompts: Sequence[StockPrompt], k: int) -> None:
        self._engine = engine
        self._k = k
        device = engine._model.device
        width = max(len(prompt.ids) for prompt in prompts)
        short = [width - len(prompt.ids) for prompt in prompts]
        ids = [[0] * gap + list(one.ids) for gap, one in zip(short, prompts, strict=True)]
        mask = [[0] * gap + [1] * (width - gap) for gap in short]
        spots = [
            np.pad(one.positions, ((0, 0), (gap, 0)))
            for gap, one in zip(short, prompts, strict=True)
        ]
        positions = torch.from_numpy(np.stack(spots, axis=1)).to(device)
        self._mask = torch.tensor(mask, device=device)
        self._next = positions.amax(dim=(0, 2)) + 1
        self._sight: torch.Tensor | None = None
        seen = engine.pictures(prompts)
        if prompts[0].sight is not None:
            sight = [_longer(one, gap, 0) for gap, one in zip(short, prompts, strict=True)]
            seen[_PER_TOKEN] = torch.stack(sight).to(device)
            self._sight = seen[_PER_TOKEN]
        output = engine.run(
            torch.tensor(ids, device=device), positions, self._mask, seen, use_cache=True
        )
        self._cache = output.past_key_values
        self.logits = engine.logits(output.last_hidden_state[:, -1])
        self._held: torch.Tensor | None = None

    def rows_of(self, growing: torch.Tensor) -> torch.Tensor:
        """The row of each growing answer of (B, K): (A,)."""
        wanted = growing.flatten().nonzero()[:, 0]
        if self._held is None:
            return wanted // self._k
        return torch.searchsorted(self._held, wanted)

    def extend(self, holders: torch.Tensor, tokens: torch.Tensor, growing: torch.Tensor) -> None:
        """Append the tokens (A,) of the answers in rows `holders`; `growing` (B, K) go on."""
        alive = growing.flatten().nonzero()[:, 0]
        if self._held is None:
            rows, following = alive // self._k, tokens[alive]
        else:
            following = tokens.new_zeros(len(self._held)).index_copy(0, holders, tokens)
            rows = torch.searchsorted(self._held, alive)
        if self._held is None or len(alive) < THIN * len(self._held):
            following = following if self._held is None else following[rows]
            self._cache.reorder_cache(rows)
            self._mask, self._next = self._mask[rows], self._next[rows]
            self._sight = None if self._sight is None else self._sight[rows]
            self._held = alive
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], dim=1)
        if self._sight is not None:  # whole, as `generate` grows it: releases slice it differently
            self._sight = torch.cat([self._sight, self._sight[:, -1:]], dim=1)
        output = self._engine.run(
            following[:, None],
            self._next.expand(3, -1)[:, :, None],
            self._mask,
            {} if self._sight is None else {_PER_TOKEN: self._sight},
            past_key_values=self._cache,
            use_cache=True,
        )
        self._next = self._next + 1
        self.logits = self._engine.logits(output.last_hidden_state[:, -1])


def _stack(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Tensors one below the other; where other dimensions differ, padded with zeros at the end."""
    largest = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    padded = []
    for part in parts:
        gaps = [size - had for size, had in zip(largest, part.shape[1:], strict=True)]
        padded.append(pad(part, [room for gap in reversed(gaps) for room in (0, gap)]))
    return torch.cat(padded)


def _longer(prompt: StockPrompt, before: int, after: int) -> torch.Tensor:
    """A prompt's sight with room before it, unseeing, and after it, as its last token sees."""
    assert prompt.sight is not None
    sight, shape = prompt.sight, prompt.sight.shape[1:]
    return torch.cat([sight.new_zeros(before, *shape), sight, sight[-1:].expand(after, *shape)])
