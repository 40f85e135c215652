from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from groundling.config import (
    DataConfig,
    DirectConfig,
    GrounderConfig,
    IsrConfig,
    Optimiser,
    SamplerConfig,
    ToyworldData,
    describe,
    dump_yaml,
    load_config,
    read_overrides,
)
from groundling.config_gmner import RefinegConfig
from groundling.config_tagger import TaggingConfig
from groundling.errors import ConfigError
from groundling.settings import Section, decisive, read_yaml


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "isr.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def read(tmp_path: Path, text: str) -> IsrConfig:
    """A recipe of the embedded world, unless it names its data."""
    data = {} if "data:" in text else {"data.toyworld": {}}
    return load_config(IsrConfig, written(tmp_path, text), data)


def problems(tmp_path: Path, text: str, **overrides: object) -> tuple[str, ...]:
    data = {} if "data:" in text else {"data.toyworld": {}}
    with pytest.raises(ConfigError) as caught:
        load_config(IsrConfig, written(tmp_path, text), {**data, **overrides})
    assert "\n" not in str(caught.value)
    return caught.value.problems


def test_the_defaults_are_the_papers() -> None:
    config = load_config(IsrConfig, None, {"data.toyworld": {}})
    assert (config.rounds, config.samples, config.temperature) == (4, 4, 0.8)
    assert (config.lora.rank, config.lora.alpha) == (32, 64)
    assert (config.sft.lr, config.sft.batch_size, config.sft.warmup) == (1e-4, 32, 0.03)
    assert config.sft.schedule == "cosine"
    assert (config.dpo.lr, config.dpo.batch_size, config.dpo.warmup) == (5e-6, 32, 0.1)
    assert (config.dpo.beta, config.dpo.schedule, config.dpo.epochs) == (0.5, "linear", 1)
    assert (config.grounder_tuning.lr, config.grounder_tuning.batch_size) == (3e-5, 4)
    assert config.sft_queries == 1457
    assert config.data.toyworld is not None
    assert config.data.toyworld.train_queries - config.sft_queries == 10000


def test_a_partial_section_keeps_its_own_defaults(tmp_path: Path) -> None:
    config = read(tmp_path, "dpo: {lr: 5e-5}\nlora: {alpha: 6e1}\n")
    assert (config.dpo.lr, config.dpo.beta, config.dpo.warmup) == (5e-5, 0.5, 0.1)
    assert config.lora.alpha == 60


def test_overrides_win_and_make_their_sections(tmp_path: Path) -> None:
    path = written(tmp_path, "seed: 1\ndata: {toyworld: {}}\ndpo: {lr: 5e-5}\nsft:\n")
    config = load_config(
        IsrConfig, path, read_overrides(["dpo.lr=1e-5", "sft.epochs=2", "prompts_per_round=null"])
    )
    assert (config.seed, config.dpo.lr, config.sft.epochs) == (1, 1e-5, 2)
    assert config.prompts_per_round is None


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    text = """
seed: -1
sed: 2
lr: 1e-4
dpo: {lr: fast, bata: 1, epochs: 1.5, warmup: 2, schedule: staircase}
reward_box: smallest
writer: tiny
rounds: true
seed: 3
temperature: .nan
1: 4
"""
    assert set(problems(tmp_path, text, **{"rounds.x": 3, "samples": 0})) == {
        "line 9: seed is already given on line 2",
        "rounds.x: cannot be set, because rounds is true",
        "sed: unknown key; did you mean seed?",
        "lr: unknown key; did you mean grounder_tuning.lr or sft.lr or dpo.lr?",
        "dpo.lr: got 'fast'; wanted a number > 0",
        "dpo.bata: unknown key; did you mean dpo.beta?",
        "dpo.epochs: got 1.5; wanted a whole number ≥ 1",
        "dpo.warmup: got 2; wanted a number ≥ 0 and ≤ 1",
        "dpo.schedule: got 'staircase'; wanted cosine | linear | constant",
        "reward_box: got 'smallest'; wanted largest | any",
        "writer: got 'tiny'; wanted a section of device, dtype, batch_size, max_pixels, "
        "checkpointing, load_in_4bit, backend, path",
        "rounds: got true; wanted a whole number ≥ 0",
        "samples: got 0; wanted a whole number ≥ 1",
        "temperature: got nan; wanted a number > 0",
        "1: the key is not text; put it in quotes or remove it",
    }


def test_the_value_of_an_unknown_key_is_not_told(tmp_path: Path) -> None:
    assert "sk-1234" not in str(problems(tmp_path, "api_key: sk-1234\n"))


def test_data_is_exactly_one_source(tmp_path: Path) -> None:
    both = "data: {toyworld: {}, gmner: {source: a, images: b}}"
    assert problems(tmp_path, both) == (
        "data: wanted exactly one of toyworld or gmner, got toyworld and gmner",
    )
    assert "got none" in problems(tmp_path, "data: {}")[0]
    assert problems(tmp_path, "data: {gmner: {source: a}}") == (
        "data.gmner.images: missing; wanted text",
    )
    config = load_config(IsrConfig, written(tmp_path, "data: {gmner: {source: a, images: b}}"))
    assert config.data.toyworld is None


def test_preference_learning_needs_queries_of_its_own(tmp_path: Path) -> None:
    text = "data: {toyworld: {train_queries: 100}}\nsft_queries: 100\n"
    assert "wanted fewer than data.toyworld.train_queries (100)" in problems(tmp_path, text)[0]


def test_lora_targets_are_a_list_of_names(tmp_path: Path) -> None:
    assert read(tmp_path, "").lora.targets is None
    config = read(tmp_path, "lora: {targets: [q_proj, v_proj]}")
    assert config.lora.targets == ["q_proj", "v_proj"]
    for wrong in ("q_proj", "[]"):
        (told,) = problems(tmp_path, f"lora: {{targets: {wrong}}}")
        assert told.endswith("wanted a list of text or null")


@pytest.mark.parametrize(
    ("grounder", "idle"),
    [
        ("backend: tiny, device: cuda, batch_size: 8", "device 'cuda', batch_size 8"),
        ("backend: tiny, dtype: bfloat16, beams: 1", "dtype 'bfloat16', beams 1"),
        ("backend: ofa, path: x, load_in_4bit: true", "load_in_4bit true"),
        ("backend: ofa, path: x, max_pixels: 99, lora: {rank: 2}", "max_pixels 99, lora …"),
        ("backend: vlm, path: x, beams: 3, drop_path: 0.1", "beams 3, drop_path 0.1"),
        ("backend: dino, path: x, load_in_4bit: true", "load_in_4bit true"),
        ("backend: dino, path: x, checkpointing: true", "checkpointing true"),
        ("backend: florence2, tune: false, path: x, max_pixels: 99", "max_pixels 99"),
        ("backend: florence2, tune: false, path: x, checkpointing: true", "checkpointing true"),
    ],
)
def test_what_a_grounder_cannot_act_on_is_refused(grounder: str, idle: str, tmp_path: Path) -> None:
    (told,) = problems(tmp_path, f"grounder: {{{grounder}}}")
    assert told.startswith(f"grounder: got {idle}; {grounder.split()[1].rstrip(',')} acts on path")
    assert told.rpartition("; ")[2].startswith("leave out ")


@pytest.mark.parametrize(
    "grounder",
    [
        "backend: tiny, device: cpu, path: x, tune: false",
        "backend: ofa, path: x, checkpointing: true, beams: 1, label_smoothing: 0, drop_path: 0",
        "backend: vlm, path: x, load_in_4bit: true, checkpointing: true, max_pixels: 99",
        "backend: dino, path: x, max_pixels: 99, dtype: bfloat16, device: cuda, batch_size: 2",
        "backend: florence2, path: x, tune: false, beams: 1, batch_size: 2",
    ],
)
def test_what_a_grounder_acts_on_is_taken_and_read_back(grounder: str, tmp_path: Path) -> None:
    config = read(tmp_path, f"grounder: {{{grounder}}}")
    assert load_config(IsrConfig, written(tmp_path, dump_yaml(config))) == config


def test_florence_decodes_as_published_unless_told() -> None:
    florence = {"backend": "florence2", "path": "x", "tune": False}
    assert GrounderConfig(**florence).beams == 3  # type: ignore[arg-type]
    assert GrounderConfig(**florence, beams=5).beams == 5  # type: ignore[arg-type]
    assert GrounderConfig(backend="ofa", path="x").beams == 5


def test_what_a_sampler_cannot_act_on_is_refused(tmp_path: Path) -> None:
    for sampler, idle in (
        ("memory: 0.5", "memory 0.5; writer acts on no such key"),
        ("tolerate: 0.5", "tolerate 0.5; writer"),
        ("backend: vllm, settings: {x: 1}", "settings {'x': 1}; vllm acts on memory"),
        ("backend: endpoint, url: http://h/v1, memory: 0.5", "memory 0.5; endpoint acts on url"),
    ):
        (told,) = problems(tmp_path, f"sampler: {{{sampler}}}\nwriter: {{backend: local, path: x}}")
        assert told.startswith(f"sampler: got {idle}")


@pytest.mark.parametrize(
    ("kind", "text", "keys"),
    [
        (IsrConfig, "writer: {backend: local}\ngrounder: {backend: ofa}", ["writer", "grounder"]),
        (DirectConfig, "model: {backend: local}", ["model"]),
    ],
)
def test_a_model_without_a_path_is_told_by_its_own_key(
    kind: type[IsrConfig | DirectConfig], text: str, keys: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(kind, written(tmp_path, text), {"data.toyworld": {}})
    wanted = "missing; wanted the folder or hub name of its weights"
    assert caught.value.problems == tuple(f"{key}.path: {wanted}" for key in keys)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1", "not valid YAML"),
        ("- 1", "wanted `key: value` lines"),
        ("a: &x [*x]", "line 1: an alias that holds itself"),
        ("? [a]\n: 3", "not valid YAML"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
        ("2001-99-99", "not valid YAML"),
        pytest.param("[" * 100_000, "not valid YAML: nested too deeply", id="deep"),
    ],
)
def test_files_that_are_no_settings(tmp_path: Path, text: str, words: str) -> None:
    assert words in problems(tmp_path, text)[0]


def test_missing_and_undecodable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config(IsrConfig, tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"seed: \xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(IsrConfig, tmp_path / "latin.yaml")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(IsrConfig, tmp_path)


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "{}", "seed: 1\n", "rounds: 2\n"])
@pytest.mark.parametrize("kind", [IsrConfig, DirectConfig, RefinegConfig, TaggingConfig])
def test_field_r3_a_recipe_must_say_its_data(
    kind: type[Section], text: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(kind, written(tmp_path, text))
    (told,) = (problem for problem in caught.value.problems if problem.startswith("data"))
    assert told.startswith("data: missing; wanted a section of ")


def test_the_world_at_its_own_sizes_is_named_in_a_word(tmp_path: Path) -> None:
    data = read(tmp_path, "data: {toyworld: {}}").data
    assert data == DataConfig(toyworld=ToyworldData())


def test_overrides_say_what_they_cannot_read() -> None:
    with pytest.raises(ConfigError, match=r"got 'dpo\.lr'; wanted KEY=VALUE.*not a YAML value"):
        read_overrides(["dpo.lr", "seed=[1"])
    with pytest.raises(ConfigError, match=r"'2001-99-99' is not a YAML value \("):
        read_overrides(["seed=2001-99-99"])
    with pytest.raises(ConfigError, match=r"\.\.\. is not a YAML value \(nested too deeply\)$"):
        read_overrides(["seed=" + "[" * 100_000])


def test_a_dump_is_read_back_equal(tmp_path: Path) -> None:
    config = IsrConfig(
        seed=7, data=DataConfig(toyworld=ToyworldData(train_queries=20)), sft_queries=5
    )
    path = written(tmp_path, dump_yaml(config))
    assert load_config(IsrConfig, path) == config
    assert dump_yaml(load_config(IsrConfig, path)) == dump_yaml(config)


def test_every_field_has_help_with_type_and_default() -> None:
    lines = describe(IsrConfig).splitlines()
    assert "  dpo.beta: a number > 0 (default 0.5)" in lines
    assert "  prompts_per_round: a whole number ≥ 1 or null (default null)" in lines
    assert "  data.gmner.source: text (required)" in lines
    assert "  lora.targets: a list of text or null (default null)" in lines
    for key, help_text in zip(lines[::2], lines[1::2], strict=True):
        assert help_text.strip(), key


def test_settings_are_frozen_and_required_fields_stay_required() -> None:
    with pytest.raises(ValidationError):
        IsrConfig(data=DataConfig(toyworld=ToyworldData())).seed = 3  # type: ignore[misc]
    with pytest.raises(ConfigError, match="lr: missing; wanted a number > 0; batch_size: missing"):
        load_config(Optimiser)


def test_what_decides_results_leaves_out_what_does_not() -> None:
    sampler = SamplerConfig(backend="endpoint", url="http://host/v1", tolerate=0.5)
    world = DataConfig(toyworld=ToyworldData())
    config = IsrConfig(data=world, checkpoint_every_s=1, sampler=sampler)
    kept = decisive(IsrConfig, config.model_dump(mode="json"))
    assert kept["sampler"] == {"backend": "endpoint", "memory": 0.4}
    assert not {"checkpoint_every_s", "check_memory"} & kept.keys()
    assert kept["dpo"] == config.dpo.model_dump(mode="json")


def laughs(levels: int = 9, width: int = 9) -> str:
    """Aliases of aliases: a short text that unfolds to width ** levels values."""
    lines = [f"a0: &a0 [{', '.join(['x'] * width)}]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


def merges(levels: int = 30) -> str:
    """Merge keys of merge keys."""
    lines = ["m0: &m0 {k: 1}"]
    lines += [f"m{n}: &m{n} {{<<: [*m{n - 1}, *m{n - 1}]}}" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("text", [laughs(), merges(), laughs(30, 2)])
def test_aliases_that_unfold_beyond_bounds_are_refused_at_once(tmp_path: Path, text: str) -> None:
    (told,) = problems(tmp_path, text)
    assert "aliases unfold to more than 100000 values" in told


def test_an_alias_may_repeat_a_part(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: &x {k: [1, 2]}\nb: *x\nc: {<<: *x}\n")
    assert read_yaml(path) == {"a": {"k": [1, 2]}, "b": {"k": [1, 2]}, "c": {"k": [1, 2]}}


def test_settings_beyond_a_mebibyte_are_refused(tmp_path: Path) -> None:
    (told,) = problems(tmp_path, "a: " + "x" * (1 << 20))
    assert "wanted settings of 1048576 at most" in told


def test_a_key_of_a_thousand_parts_is_refused() -> None:
    with pytest.raises(ConfigError, match="wanted KEY=VALUE") as told:
        read_overrides(["a" + ".a" * 5000 + "=1"])
    assert len(str(told.value)) < 300


@pytest.mark.parametrize("value", ["[" * 5000, "&x [*x]", "9" * 5000, "!!binary é", "? {a: b}: c"])
def test_an_override_that_is_no_value_is_one_line(value: str) -> None:
    with pytest.raises(ConfigError) as told:
        read_overrides([f"seed={value}"])
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 600
