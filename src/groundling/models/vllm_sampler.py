"""vLLM in this process as the sampler of the rounds (the paper samples with vLLM, ISR §4.1).

It draws what the writer beside it would draw: the same prompts and pictures, the same end of an
answer, the adapter that it is told to follow. vLLM holds weights of its own; on a GPU they leave it
for the CPU's memory between draws (vLLM's sleep mode), so that training finds the room.

vLLM runs in this process, with none of its own, because only so are requests scheduled, and with
that rounded, the same way each time. `docs/vllm.md` says what was tried.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from groundling import team
from groundling.errors import InputError
from groundling.images import OpenImage, load_image
from groundling.models.adapters import adapter_name
from groundling.models.base import Sampling
from groundling.models.vllm_checkpoint import VllmCheckpoint
from groundling.records import Expression, Failure, Query

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM can make room for; an adapter of another rank fits into the next."""

_CHUNK = 128
"""Queries that are drawn together, and whose pictures are held at once."""

_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
"""In this process, quiet, and nothing told to anybody; what the user has set stands."""


class VllmSampler:
    """Draws expressions with a checkpoint's own weights and one adapter at a time.

    One in a process, and one thread at a time.
    """

    def __init__(
        self,
        llm: Any,
        known: VllmCheckpoint,
        *,
        rank: int,
        longest: int,
        sleeps: bool,
        threads: int,
    ) -> None:
        """Use `load`; `llm` is an awake `vllm.LLM`, which has computed with `threads` threads."""
        self._llm = llm
        self._known = known
        self._rank = rank
        self._longest = longest
        self._sleeps = sleeps
        self._threads = threads
        self._adapter: tuple[str, Path] | None = None
        self._numbers: dict[str, int] = {}
        self._rest()

    @classmethod
    def load(
        cls,
        checkpoint: str,
        *,
        rank: int,
        dtype: str = "bfloat16",
        max_pixels: int | None = None,
        memory_share: float = 0.3,
        longest: int = 4096,
        open_image: OpenImage = load_image,
    ) -> VllmSampler:
        """Open a checkpoint folder or hub name in vLLM; safetensors only, no code of others.

        rank: the largest rank of an adapter to follow. dtype: `float32`, `bfloat16` or `float16`.
        max_pixels: largest area of a picture after resizing, None as the checkpoint says; known to
        the Qwen-VL families alone. memory_share: share of the GPU's memory that vLLM takes for its
        weights and its cache while it draws, and that must be free then; on a CPU, of the
        machine's. longest: most tokens of a prompt, its picture and its answer together.
        open_image: reads a picture by its path.

        Raises InputError where vLLM is missing, in a team of several processes, for what is no
        checkpoint, and for one that vLLM cannot run or find the memory for.
        """
        if team.size() > 1:
            raise InputError(
                f"vLLM samples in one process, not in a team of {team.size()}; start one process, "
                "or sample with the writer itself"
            )
        vllm, platform = _import_vllm()
        sleeps = platform.is_sleep_mode_available()
        known = VllmCheckpoint(checkpoint, max_pixels, open_image)
        with _process_kept():
            try:
                llm = vllm.LLM(
                    checkpoint,
                    dtype=dtype,
                    load_format="safetensors",
                    max_model_len=longest,
                    gpu_memory_utilization=memory_share,
                    enable_lora=True,
                    max_loras=1,
                    max_lora_rank=_room_for(rank),
                    limit_mm_per_prompt={"image": 1, "video": 0},
                    mm_processor_kwargs=known.limits,
                    enable_sleep_mode=sleeps,
                    use_tqdm_on_load=False,
                    **(_cpu_settings(longest) if platform.is_cpu() else {}),
                )
            except (OSError, ValueError, torch.OutOfMemoryError) as fault:
                raise InputError(
                    f"{checkpoint}: vLLM does not run with memory_share {memory_share:g} and "
                    f"longest {longest}: {_line(fault)}"
                ) from fault
            threads = torch.get_num_threads()
        return cls(llm, known, rank=rank, longest=longest, sleeps=sleeps, threads=threads)

    def follow(self, adapter: Path | None, scratch: Path | None = None) -> None:
        """Draw with the adapter in the folder `adapter` (PEFT's layout) from now on; None: none.

        Nothing is kept in `scratch`. Raises InputError where the folder holds no adapter, one of
        another base model, or one of a larger rank.
        """
        del scratch
        if adapter is None:
            self._adapter = None
            return
        rank = self._known.check_adapter(adapter)
        if rank > self._rank:
            raise InputError(
                f"{adapter}: adapter of rank {rank}; vLLM was opened for at most {self._rank}"
            )
        self._adapter = (adapter_name(adapter), adapter.resolve())

    def sample(
        self, queries: Sequence[Query], k: int, sampling: Sampling, seed: int, source: str
    ) -> list[list[Expression] | Failure]:
        """K expressions a query (ISR eq. 6), in order; a Failure where the query cannot be run.

        As `models.base.Writer.sample`. A query's draws depend on `seed` and its id, not on its
        neighbours, as far as floating-point sums allow; they are not those of the writer, whose
        random numbers are others. `logprob` belongs to the tokens drawn and their end, at
        temperature 1; None where an answer was cut at `max_new_tokens` or ended with another token
        than the writer scores. Raises InputError for an
        adapter that does not fit, a negative temperature, and for fewer than one answer or token.
        """
        if sampling.temperature < 0 or min(k, sampling.max_new_tokens) < 1:
            raise InputError(f"cannot draw {k} answers with {sampling}; wanted at least one token")
        rows: list[list[Expression] | Failure] = []
        with _process_kept(), self._awake():
            torch.set_num_threads(self._threads)
            adapter = self._load_adapter()
            self._llm.reset_prefix_cache()  # what was asked before must not change a rounding
            for start in range(0, len(queries), _CHUNK):
                chunk = queries[start : start + _CHUNK]
                for outcome in self._draw(chunk, k, sampling, seed, adapter):
                    failed = isinstance(outcome, Failure)
                    rows.append(outcome if failed else self._row(outcome, k, sampling, source))
        return rows

    def close(self) -> None:
        """End vLLM and give its memory back."""
        from vllm.distributed import cleanup_dist_env_and_memory

        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        cleanup_dist_env_and_memory()

    @contextmanager
    def _awake(self) -> Iterator[None]:
        """Inside, vLLM's weights and cache are on the GPU."""
        if self._sleeps:
            torch.cuda.empty_cache()  # what training no longer uses but torch still holds
            self._llm.wake_up()
        try:
            yield
        finally:
            self._rest()

    def _rest(self) -> None:
        """Move the weights to the CPU's memory and drop the cache."""
        if self._sleeps:
            self._llm.sleep(level=1)

    def _load_adapter(self) -> Any:
        """The adapter to follow as vLLM knows it, read if it is not there; None for none."""
        if self._adapter is None:
            return None
        from vllm.lora.request import LoRARequest

        name, folder = self._adapter
        number = self._numbers.setdefault(name, len(self._numbers) + 1)
        adapter = LoRARequest(name, number, str(folder))
        try:
            self._llm.llm_engine.add_lora(adapter)
        except (ValueError, RuntimeError) as fault:
            raise InputError(
                f"{folder}: vLLM does not take this adapter: {_line(fault)}"
            ) from fault
        return adapter

    def _draw(
        self, queries: Sequence[Query], k: int, sampling: Sampling, seed: int, adapter: Any
    ) -> list[Any | Failure]:
        """What vLLM says to each query, all drawn together."""
        from vllm.exceptions import VLLMValidationError

        found: list[Any | Failure] = []
        asked: list[int] = []
        for place, query in enumerate(queries):
            prompt = self._known.prompt(query)
            if not isinstance(prompt, Failure):
                try:
                    self._llm.enqueue(
                        prompt,
                        self._settings(k, sampling, _seed(seed, query.id)),
                        lora_request=adapter,
                        use_tqdm=False,
                        tokenization_kwargs=self._known.tokenization,
                    )
                    asked.append(place)
                except VLLMValidationError as fault:
                    prompt = Failure(_line(fault), "prompt")
                except ValueError as fault:  # a picture of a shape that the processor refuses
                    prompt = Failure(f"{query.image}: {_line(fault.__cause__ or fault)}", "image")
            found.append(prompt)
        outputs = self._llm.wait_for_completion(use_tqdm=False)  # in the order of asking
        for place, output in zip(asked, outputs, strict=True):
            found[place] = output
        return found

    def _settings(self, k: int, sampling: Sampling, seed: int) -> Any:
        """How to draw; nothing is left for the checkpoint's own settings to fill in."""
        from vllm import SamplingParams

        return SamplingParams(
            n=1 if sampling.temperature == 0 else k,
            temperature=sampling.temperature,
            top_p=1.0,
            top_k=-1,
            min_p=0.0,
            repetition_penalty=1.0,
            seed=seed,
            max_tokens=sampling.max_new_tokens,
            ignore_eos=True,  # vLLM's notion of it; the writer's are the next line
            stop_token_ids=list(self._known.ends),
            logprobs=0,
            detokenize=False,
        )

    def _row(
        self, output: Any, k: int, sampling: Sampling, source: str
    ) -> list[Expression] | Failure:
        """The answers to one query."""
        row = []
        for answer in output.outputs:
            tokens = answer.token_ids
            ended = answer.finish_reason == "stop"
            if not ended and answer.finish_reason != "length":
                return Failure(f"vLLM gave up on an answer: {answer.finish_reason}", "answer")
            if not ended and len(tokens) < sampling.max_new_tokens:
                return Failure(
                    f"a prompt of {len(output.prompt_token_ids)} tokens leaves no room for "
                    f"{sampling.max_new_tokens} more in {self._longest}",
                    "prompt",
                )
            text = self._known.text(tokens[:-1] if ended else tokens)
            usual = ended and tokens[-1] == self._known.ends[0]
            row.append(Expression(text, source, answer.cumulative_logprob if usual else None))
        return row * (k if sampling.temperature == 0 else 1)


def _import_vllm() -> tuple[Any, Any]:
    """vLLM, and what it knows of this machine. Raises InputError where it is missing."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import vllm
        from vllm.platforms import current_platform
    except ImportError as fault:
        raise InputError(
            f"sampling with vLLM needs vLLM ({fault}); install groundling[vllm]"
        ) from fault
    return vllm, current_platform


def _cpu_settings(longest: int) -> dict[str, Any]:
    """Prompts in one piece: vLLM 0.32 fails on a CPU where one is cut and has a seed of its own."""
    return {"enable_chunked_prefill": False, "max_num_batched_tokens": max(4096, longest)}


def _room_for(rank: int) -> int:
    for room in RANKS:
        if room >= rank:
            return room
    raise InputError(f"adapter of rank {rank}: vLLM takes at most {RANKS[-1]}")


def _seed(seed: int, key: str) -> int:
    """A seed for the query named `key`; vLLM adds the number of the answer to it."""
    digest = hashlib.blake2b(f"{seed}\n{key}".encode(), digest_size=6).digest()
    return int.from_bytes(digest)


@contextmanager
def _process_kept() -> Iterator[None]:
    """On leaving, the process has the random states and the threads that it had before.

    vLLM seeds the former and sets the latter, on a CPU by putting another function in the place of
    torch's own.
    """
    states, array_states = random.getstate(), np.random.get_state()
    set_threads, threads = torch.set_num_threads, torch.get_num_threads()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            torch.set_num_threads = set_threads
            set_threads(threads)
            random.setstate(states)
            np.random.set_state(array_states)


def _line(fault: BaseException) -> str:
    """A fault in one line of bearable length."""
    words = " ".join(str(fault).split()) or type(fault).__name__
    return words if len(words) <= 300 else words[:299] + "…"
