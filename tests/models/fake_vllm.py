"""A stand-in for the package vllm: keeps what it is asked and answers by a script.

It shows what vLLM is told and how its replies are read, no more. That vLLM means the same by it is
shown in `tests/with_vllm`.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch


class VLLMValidationError(Exception):
    """No ValueError, as in vLLM 0.32."""


@dataclass
class SamplingParams:
    """The fields that may be set here, with vLLM's own defaults."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    max_tokens: int | None = 16
    ignore_eos: bool = False
    stop_token_ids: Sequence[int] = ()
    logprobs: int | None = None
    detokenize: bool = True


@dataclass(frozen=True)
class LoRARequest:
    """An adapter by name, number and folder."""

    lora_name: str
    lora_int_id: int
    lora_path: str


@dataclass
class Asked:
    """One request."""

    prompt: dict[str, Any]
    params: SamplingParams
    adapter: LoRARequest | None
    tokenization: dict[str, Any]


def said(tokens: Sequence[int], finish: str = "stop", logprob: float = -1.5) -> SimpleNamespace:
    """One answer as vLLM returns it."""
    return SimpleNamespace(
        token_ids=list(tokens), finish_reason=finish, cumulative_logprob=logprob, text=""
    )


Script = Callable[[Asked], list[SimpleNamespace]]


class LLM:
    """Answers each request by `script`, which may raise what vLLM would raise on being asked."""

    script: Script
    opened: LLM

    def __init__(self, model: str, **settings: Any) -> None:
        self.model, self.settings = model, settings
        self.asked: list[Asked] = []
        self.events: list[str] = []
        self._waiting: list[tuple[Asked, list[SimpleNamespace]]] = []
        core = SimpleNamespace(shutdown=lambda: self.events.append("shutdown"))
        self.llm_engine = SimpleNamespace(add_lora=self._add_lora, engine_core=core)
        type(self).opened = self
        random.seed(0)  # as vLLM does in this process
        torch.manual_seed(0)
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.set_num_threads = lambda _: None

    def _add_lora(self, adapter: LoRARequest) -> bool:
        self.events.append(f"adapter {adapter.lora_int_id}")
        return True

    def enqueue(
        self,
        prompt: dict[str, Any],
        params: SamplingParams,
        *,
        lora_request: LoRARequest | None,
        use_tqdm: bool,
        tokenization_kwargs: dict[str, Any],
    ) -> list[str]:
        """Take one request."""
        assert not use_tqdm
        asked = Asked(prompt, params, lora_request, tokenization_kwargs)
        self._waiting.append((asked, type(self).script(asked)))
        self.asked.append(asked)
        return ["an id that answers do not carry"]

    def wait_for_completion(self, *, use_tqdm: bool) -> list[SimpleNamespace]:
        """Answer what was taken, in its order."""
        assert not use_tqdm
        self.events.append(f"draw {len(self._waiting)}")
        waiting, self._waiting = self._waiting, []
        return [
            SimpleNamespace(prompt_token_ids=[0] * 60, outputs=answers) for _, answers in waiting
        ]

    def reset_prefix_cache(self) -> bool:
        """Note that it was asked for."""
        self.events.append("forget")
        return True

    def sleep(self, level: int) -> None:
        """Note that it was asked for."""
        self.events.append(f"sleep {level}")

    def wake_up(self) -> None:
        """Note that it was asked for."""
        self.events.append("wake")


def install(patch: pytest.MonkeyPatch, script: Script, *, gpu: bool = False) -> type[LLM]:
    """Put the stand-in in the place of vLLM; returns the class of which `opened` is the last."""
    kind = type("LLM", (LLM,), {"script": staticmethod(script)})
    platform = SimpleNamespace(is_cpu=lambda: not gpu, is_sleep_mode_available=lambda: gpu)
    contents: dict[str, dict[str, Any]] = {
        "vllm": {"LLM": kind, "SamplingParams": SamplingParams},
        "vllm.platforms": {"current_platform": platform},
        "vllm.lora.request": {"LoRARequest": LoRARequest},
        "vllm.exceptions": {"VLLMValidationError": VLLMValidationError},
        "vllm.distributed": {
            "cleanup_dist_env_and_memory": lambda: kind.opened.events.append("clean")
        },
    }
    for name, parts in contents.items():
        module = ModuleType(name)
        vars(module).update(parts)
        patch.setitem(sys.modules, name, module)
    return kind
