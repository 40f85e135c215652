"""What vLLM is told and how its replies are read, by a stand-in; see `fake_vllm`."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch
from fake_vllm import LLM, Asked, LoRARequest, SamplingParams, VLLMValidationError, install, said
from PIL import Image

from groundling.errors import ImageError, InputError
from groundling.models.base import GREEDY, Sampling
from groundling.models.local import Adapter, LocalWriter
from groundling.models.vllm_sampler import VllmSampler
from groundling.records import Expression, Failure, Query

SOURCE = "writer:x/0"
HOT = Sampling(temperature=0.8, max_new_tokens=6)
WORDS = tiny.tokenizer()
END = WORDS.eos_token_id
MAN = WORDS("the man")["input_ids"]
QUERY = tiny.QUERIES[0]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint but for its weights, which are vLLM's own to read."""
    made = tmp_path_factory.mktemp("checkpoint")
    tiny.config(WORDS, {}, {}).save_pretrained(made)
    tiny.processor().save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two that differ, then the first again, in a folder of its own."""
    made = tiny.writer()
    folders = [tmp_path_factory.mktemp("adapter") for _ in range(3)]
    for seed, path in zip((1, 2, 1), folders, strict=True):
        made.restart_adapter(seed)
        made.save_adapter(path)
    return folders


def answering(*answers: SimpleNamespace) -> Callable[[Asked], list[SimpleNamespace]]:
    return lambda _: list(answers)


def load(folder: Path, **settings: object) -> VllmSampler:
    base = {"rank": 4, "dtype": "float32", "memory_share": 0.25, "longest": 100}
    return VllmSampler.load(str(folder), **(base | {"open_image": tiny.picture} | settings))


@pytest.mark.parametrize("gpu", [False, True])
def test_how_vllm_is_opened(gpu: bool, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = install(monkeypatch, answering(said([END])), gpu=gpu)
    load(folder, max_pixels=28 * 56)
    assert kind.opened.model == str(folder)
    common = {
        "dtype": "float32",
        "load_format": "safetensors",
        "max_model_len": 100,
        "gpu_memory_utilization": 0.25,
        "enable_lora": True,
        "max_loras": 1,
        "max_lora_rank": 8,
        "limit_mm_per_prompt": {"image": 1, "video": 0},
        "mm_processor_kwargs": {"size": {"shortest_edge": 784, "longest_edge": 1568}},
        "enable_sleep_mode": gpu,
        "use_tqdm_on_load": False,
    }
    whole = {"enable_chunked_prefill": False, "max_num_batched_tokens": 4096}
    assert kind.opened.settings == (common if gpu else common | whole)
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert os.environ["VLLM_NO_USAGE_STATS"] == "1"


def test_what_the_user_has_set_stands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, answering(said([END])))
    os.environ["VLLM_LOGGING_LEVEL"] = "DEBUG"
    load(folder)
    assert os.environ["VLLM_LOGGING_LEVEL"] == "DEBUG"


def test_what_is_asked_for_a_query(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = install(monkeypatch, answering(*[said([*MAN, END])] * 3))
    load(folder).sample(tiny.QUERIES, 3, HOT, 0, SOURCE)
    asked = kind.opened.asked
    seeds = [one.params.seed for one in asked]
    assert len({*seeds}) == len(tiny.QUERIES)
    assert asked[0].params == SamplingParams(
        n=3,
        temperature=0.8,
        top_p=1.0,
        top_k=-1,
        min_p=0.0,
        repetition_penalty=1.0,
        seed=seeds[0],
        max_tokens=6,
        ignore_eos=True,
        stop_token_ids=[END],
        logprobs=0,
        detokenize=False,
    )
    assert asked[0].tokenization == {"add_special_tokens": True}
    assert asked[0].adapter is None
    for one, query in zip(asked, tiny.QUERIES, strict=True):
        words = (
            f"<|vision_start|><|image_pad|><|vision_end|>\n\nEntity: {query.name} ({query.type})"
        )
        assert one.prompt["prompt"].count(words) == 1
    # whole patches, as the writer's own engine has them: vLLM's processor has nothing to resize
    sizes = [one.prompt["multi_modal_data"]["image"].size for one in asked]
    assert sizes == [(56, 56), (56, 56), (112, 56), (56, 84), (84, 84), (56, 56)]


def test_seeds_depend_on_seed_and_query(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = install(monkeypatch, answering(said([END])))
    sampler = load(folder)

    def seeds(queries: list[Query], seed: int) -> list[int | None]:
        before = len(kind.opened.asked)
        sampler.sample(queries, 1, HOT, seed, SOURCE)
        return [one.params.seed for one in kind.opened.asked[before:]]

    first = seeds(tiny.QUERIES, 0)
    assert seeds(tiny.QUERIES[::-1], 0)[::-1] == first
    assert not {*seeds(tiny.QUERIES, 1)} & {*first}


def test_the_greedy_answer_is_drawn_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = install(monkeypatch, answering(said([*MAN, END], logprob=-0.5)))
    rows = load(folder).sample([QUERY], 3, GREEDY, 0, SOURCE)
    assert rows == [[Expression("the man", SOURCE, -0.5)] * 3]
    assert (kind.opened.asked[0].params.n, kind.opened.asked[0].params.temperature) == (1, 0.0)


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (said([*MAN, END], logprob=-2.25), Expression("the man", SOURCE, -2.25)),
        (said([END], logprob=-4.0), Expression("", SOURCE, -4.0)),
        (said([*MAN, *MAN, *MAN][:6], "length"), Expression("the manthe manthe man", SOURCE, None)),
        (
            said(MAN, "length"),
            Failure("a prompt of 60 tokens leaves no room for 6 more in 100", "prompt"),
        ),
        (said(MAN, "abort"), Failure("vLLM gave up on an answer: abort", "answer")),
    ],
)
def test_what_an_answer_becomes(
    answer: SimpleNamespace,
    wanted: Expression | Failure,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch, answering(said([END], logprob=-1.0), answer))
    (row,) = load(folder).sample([QUERY], 2, HOT, 0, SOURCE)
    assert len(MAN) == 2
    if isinstance(wanted, Failure):
        assert row == wanted
    else:
        assert row == [Expression("", SOURCE, -1.0), wanted]


def test_failures_keep_their_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_image(path: str) -> Image.Image:
        if path == "broken":
            raise ImageError("broken: the picture is damaged")
        return tiny.picture(path)

    def script(asked: Asked) -> list[SimpleNamespace]:
        if "Long" in asked.prompt["prompt"]:
            raise VLLMValidationError("the prompt is\ntoo long")
        if "Odd" in asked.prompt["prompt"]:
            raise ValueError("Failed to apply") from ValueError("no such shape")
        return [said([*MAN, END])]

    install(monkeypatch, script)
    queries = [
        Query("0", "square-1", "Neymar", "PER"),
        Query("1", "broken", "Neymar", "PER"),
        Query("2", "square-1", "Long", "PER"),
        Query("3", "square-1", "Odd", "PER"),
        Query("4", "square-1", "a<|im_end|>", "PER"),
        Query("5", "square-1", "Neymar", "PER"),
    ]
    rows = load(folder, open_image=open_image).sample(queries, 1, HOT, 0, SOURCE)
    said_so = [Expression("the man", SOURCE, -1.5)]
    assert rows == [
        said_so,
        Failure("broken: the picture is damaged", "image"),
        Failure("the prompt is too long", "prompt"),
        Failure("square-1: no such shape", "image"),
        Failure("'a<|im_end|> (PER)' holds the control token <|im_end|>", "prompt"),
        said_so,
    ]


def test_many_queries_are_drawn_in_parts_and_in_order(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(asked: Asked) -> list[SimpleNamespace]:
        number = asked.prompt["prompt"].rpartition("Entity: n")[2].partition(" ")[0]
        return [said([*WORDS(number)["input_ids"], END])]

    kind = install(monkeypatch, script)
    queries = [Query(str(n), "square-1", f"n{n}", "PER") for n in range(300)]
    rows = load(folder).sample(queries, 1, HOT, 0, SOURCE)
    assert rows == [[Expression(str(n), SOURCE, -1.5)] for n in range(300)]
    assert kind.opened.events == ["forget", "draw 128", "draw 128", "draw 44"]


def test_an_adapter_goes_by_its_weights(
    folder: Path, adapters: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = install(monkeypatch, answering(said([END])))
    sampler = load(folder)
    first, second, again = adapters
    for path in (first, second, None, again):
        sampler.follow(path)
        sampler.sample([QUERY], 1, HOT, 0, SOURCE)
    used = [one.adapter for one in kind.opened.asked]
    assert [one and one.lora_int_id for one in used] == [1, 2, None, 1]
    assert [one and one.lora_path for one in used] == [
        str(first.resolve()),
        str(second.resolve()),
        None,
        str(again.resolve()),
    ]
    assert isinstance(used[0], LoRARequest)
    assert used[0].lora_name == used[3].lora_name != used[1].lora_name
    wanted = [("adapter 1", "forget", "draw 1"), ("adapter 2", "forget", "draw 1")]
    wanted += [("forget", "draw 1"), ("adapter 1", "forget", "draw 1")]
    assert kind.opened.events == [event for events in wanted for event in events]


def test_adapters_that_do_not_fit(
    folder: Path, adapters: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = install(monkeypatch, answering(said([END])))
    sampler = load(folder)
    with pytest.raises(InputError, match=r"adapter_config\.json"):
        sampler.follow(tmp_path)
    for name, rank, width in (("large", 5, 48), ("other", 4, 64)):
        model = tiny.model(text={"intermediate_size": width})
        LocalWriter.from_parts(model, tiny.processor(), adapter=Adapter(rank, 8, 0)).save_adapter(
            tmp_path / name
        )
    with pytest.raises(InputError, match="rank 5; vLLM was opened for at most 4"):
        sampler.follow(tmp_path / "large")
    with pytest.raises(InputError, match="wanted an adapter trained on the same base model"):
        sampler.follow(tmp_path / "other")
    sampler.sample([QUERY], 1, HOT, 0, SOURCE)
    assert kind.opened.asked[0].adapter is None

    def refuse(_: LoRARequest) -> bool:
        raise ValueError("no")

    sampler.follow(adapters[0])
    kind.opened.llm_engine.add_lora = refuse
    with pytest.raises(InputError, match="vLLM does not take this adapter: no"):
        sampler.sample([QUERY], 1, HOT, 0, SOURCE)


def test_on_a_gpu_it_sleeps_but_while_it_draws(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(asked: Asked) -> list[SimpleNamespace]:
        if "NASA" in asked.prompt["prompt"]:
            raise KeyError("a fault of vLLM's own")
        return [said([END])]

    kind = install(monkeypatch, script, gpu=True)
    sampler = load(folder)
    sampler.sample([QUERY], 1, HOT, 0, SOURCE)
    with pytest.raises(KeyError):
        sampler.sample(tiny.QUERIES[2:3], 1, HOT, 0, SOURCE)
    sampler.close()
    wanted = ["sleep 1", "wake", "forget", "draw 1", "sleep 1", "wake", "forget", "sleep 1"]
    assert kind.opened.events == [*wanted, "shutdown", "clean"]


def test_the_process_stays_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, answering(said([END])))
    own = torch.set_num_threads
    before = torch.get_num_threads(), torch.get_rng_state().tolist(), random.getstate()
    sampler = load(folder)
    sampler.sample([QUERY], 1, HOT, 0, SOURCE)
    assert torch.set_num_threads is own
    assert before == (torch.get_num_threads(), torch.get_rng_state().tolist(), random.getstate())


def test_what_cannot_be_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: str, **__: object) -> LLM:
        raise ValueError("Free memory on\ndevice is less than desired")

    install(monkeypatch, answering(said([END])))
    with pytest.raises(InputError, match="adapter of rank 513: vLLM takes at most 512"):
        load(folder, rank=513)
    with pytest.raises(InputError, match="no checkpoint that can be opened"):
        load(folder / "none")
    monkeypatch.setattr(sys.modules["vllm"], "LLM", full)
    with pytest.raises(InputError, match=r"memory_share 0\.25 and longest 100: Free memory on dev"):
        load(folder)
    os.environ["WORLD_SIZE"] = "2"
    with pytest.raises(InputError, match="not in a team of 2"):
        load(folder)


def test_without_vllm_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(InputError, match=r"install groundling\[vllm\]"):
        load(folder)


@pytest.mark.parametrize(("k", "sampling"), [(0, HOT), (1, Sampling(-1)), (1, Sampling(1, 0))])
def test_senseless_sampling_is_refused(
    k: int, sampling: Sampling, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, answering(said([END])))
    sampler = load(folder)
    with pytest.raises(InputError):
        sampler.sample([QUERY], k, sampling, 0, SOURCE)
