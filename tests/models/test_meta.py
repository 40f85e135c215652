from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
import saved
import tiny
import tiny_families
import tiny_ofa
import torch

from groundling.config import GrounderConfig, WriterConfig
from groundling.errors import InputError
from groundling.models import chat, lora, meta, qwen2vl
from groundling.models.box_text import BoxForm, BoxText
from groundling.models.coordinates import Convention
from groundling.models.families import family_of
from groundling.models.ofa import OFAModel
from groundling.planning import ofa, stages, terms
from groundling.planning.outline import ChatOutline, OfaOutline, PlainOutline
from groundling.planning.terms import Work

PUBLISHED = {
    file: facts
    for file in sorted((Path(meta.__file__).parents[1] / "assets" / "configs").glob("*/*.json"))
    if "_hub" in (facts := json.loads(file.read_text(encoding="utf-8")))
}
NOT_CHATS = ("grounding-dino", "florence2")
RANK, ROWS = 4, 4
ATTENTION = ["q_proj", "v_proj"]
MEASURED = [name for name in tiny_families.FAMILIES if name != "qwen3_5"]


def second_token_layer(text: dict[str, int]) -> int:
    """Parameters of the layer of Qwen3.5 that transformers leaves out (`mtp`)."""
    hidden, head = text["hidden_size"], text["head_dim"]
    queries, keys = text["num_attention_heads"] * head, text["num_key_value_heads"] * head
    attention = hidden * (2 * queries + 2 * keys) + queries * hidden
    joined = 2 * hidden * hidden + 3 * hidden * text["intermediate_size"]
    return attention + joined + 5 * hidden + 2 * head


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_published_sizes_give_the_published_number_of_parameters(file: Path) -> None:
    facts = PUBLISHED[file]
    assert facts["_source"]
    assert facts["_hub"]
    if facts["model_type"] in NOT_CHATS:
        found: int = meta.outline_grounder(
            GrounderConfig(backend="dino", path=facts["_hub"][0])
        ).parameters
    else:
        found = meta.outline_writer(WriterConfig(backend="local", path=facts["_hub"][0])).parameters
    if facts["model_type"] == "qwen3_5":
        found += second_token_layer(facts["text_config"])
    if facts["_parameters"] is not None:
        assert found == facts["_parameters"]


def test_published_figures_in_billions() -> None:
    def billions(name: str) -> float:
        outline = meta.outline_writer(WriterConfig(backend="local", path=name))
        return round(outline.parameters / 1e9, 2)

    assert billions("Qwen/Qwen2-VL-2B-Instruct") == 2.21
    assert billions("Qwen/Qwen2-VL-7B-Instruct") == 8.29
    assert billions("meta-llama/Llama-3.2-11B-Vision-Instruct") == 10.67


@pytest.mark.parametrize("family", tiny_families.FAMILIES)
@pytest.mark.parametrize("targets", [None, ATTENTION])
def test_counts_are_those_of_the_real_model_with_its_adapter(
    family: str, targets: list[str] | None
) -> None:
    model, _ = tiny_families.build(family)
    kind = family_of(model.config)
    facts = json.loads(model.config.to_json_string(use_diff=False))
    outline = meta.outline_chat(family, facts, targets)
    assert outline.parameters == sum(p.numel() for p in model.parameters())
    assert meta.read_outline(family, model, kind, targets) == outline
    wrapped = lora.attach(model, RANK, 8.0, kind.lora_targets(model, targets), 0)
    trained = sum(p.numel() for p in lora.parameters(wrapped).values())
    assert outline.adapter_width * RANK == trained
    assert outline.adapted * 2 == len(lora.parameters(wrapped))


@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")  # 5.17's own
@pytest.mark.filterwarnings("ignore:`hidden_state` is deprecated:FutureWarning")  # likewise
@pytest.mark.parametrize(
    ("family", "checkpointing", "targets"),
    [
        *((family, stored, None) for family in MEASURED for stored in (False, True)),
        *((family, False, ATTENTION) for family in MEASURED),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_are_those_measured(
    dtype: str,
    family: str,
    checkpointing: bool,
    targets: list[str] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without Qwen3.5, whose chunks of 64 tokens outweigh all else at tiny widths: test_plan_peaks
    has it at its own."""
    tiny.require_attention(getattr(torch, dtype))
    writer = saved.writer(family, monkeypatch, getattr(torch, dtype), RANK, checkpointing, targets)
    batch = saved.preferences(ROWS)
    with saved.counting_text(writer.model) as kept:
        loss = writer.dpo_loss(batch, 0.5)
        size = kept.size
    assert loss.requires_grad
    config, _ = saved.configuration(family, monkeypatch)
    outline = meta.outline_chat(family, json.loads(config.to_json_string(use_diff=False)), targets)
    answers = [writer.answer_tokens(text) for text in (saved.CHOSEN, saved.REJECTED)]
    whole = writer.length(batch[0])
    length = whole - 2 if outline.packs else whole - sum(answers) + max(answers) - 1
    work = Work(
        rows=ROWS if outline.packs else 2 * ROWS,
        length=length,
        answered=ROWS * sum(answers),
        rank=RANK,
        width=terms.BYTES[dtype],
        sight=4 * 5 if outline.text.crossing else 0,
    )
    blocks = terms.checkpoints if checkpointing else terms.saved_by_blocks
    lasting = terms.FULL * (
        work.answered * outline.text.vocabulary + work.tokens * outline.text.hidden
    )
    assert blocks(outline.text, work) + lasting == pytest.approx(size, rel=0.2)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_of_ofa_are_those_measured(checkpointing: bool, tmp_path: Path) -> None:
    model = tiny_ofa.model(
        d_model=64,
        encoder_layers=3,
        decoder_layers=3,
        encoder_ffn_dim=256,
        decoder_ffn_dim=256,
        resnet_type="resnet50",
        token_bucket_size=64,
        patch_image_size=160,
        image_bucket_size=42,
    ).train()
    model.set_drop_path(0.2)
    model.set_gradient_checkpointing(checkpointing)
    model.save_pretrained(tmp_path)
    outline = meta.outline_ofa(str(tmp_path))
    ids = torch.full((ROWS, ofa.TEXT_TOKENS), 300)
    ids[0, 30:] = 1  # padding, as batches have
    pictures = torch.rand(ROWS, 3, 160, 160)
    answers = torch.full((ROWS, ofa.ANSWER_TOKENS), 301)
    with saved.counting(model) as kept:
        logits = model(input_ids=ids, patch_images=pictures, decoder_input_ids=answers).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), answers.flatten())
        size = kept.size
    assert loss.requires_grad
    planned = ofa.step(outline, ROWS, 4, checkpointing)
    if checkpointing:  # one layer is recomputed later
        planned -= max(ofa.encoder_layer(outline, ROWS, 4), ofa.decoder_layer(outline, ROWS, 4))
    assert planned == pytest.approx(size, rel=0.2)


def test_ofa_counts_are_those_of_the_real_model(tmp_path: Path) -> None:
    model: OFAModel = tiny_ofa.model()
    model.save_pretrained(tmp_path)
    outline = meta.outline_ofa(str(tmp_path))
    assert outline.parameters == sum(p.numel() for p in model.parameters())
    trunk = sum(p.numel() for p in model.encoder.embed_images.parameters())
    assert outline.trunk_parameters == trunk
    assert outline.trained < outline.parameters


@pytest.mark.parametrize(
    ("size", "millions"),
    [("tiny", 33), ("medium", 93), ("base", 180), ("large", 470), ("huge", 930)],
)
def test_the_five_published_ofa_sizes(size: str, millions: int) -> None:
    outline = meta.outline_grounder(GrounderConfig(backend="ofa", path=f"OFA-Sys/ofa-{size}"))
    assert isinstance(outline, OfaOutline)
    assert outline.parameters / 1e6 == pytest.approx(millions, rel=0.02)  # as OFA's authors round


def test_the_embedded_models_are_read_from_their_folders() -> None:
    writer = meta.outline_writer(WriterConfig())
    grounder = meta.outline_grounder(GrounderConfig())
    assert isinstance(writer, ChatOutline)
    assert writer.by_hand
    assert isinstance(grounder, PlainOutline)
    assert grounder.parameters > 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no config.json here"),
        ("{", "cannot be read as JSON"),
        ("[]", "wanted a JSON object"),
        ('{"model_type": "nonesuch"}', "no known model"),
        ('{"model_type": "bert"}', "is not supported"),
        ("{}", "no known model"),
    ],
)
def test_what_is_no_model_says_so(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=message):
        meta.outline_writer(WriterConfig(backend="local", path=str(tmp_path)))


def test_a_tiny_grounder_without_weights_says_so() -> None:
    with pytest.raises(InputError, match="no checkpoint that can be opened"):
        meta.outline_grounder(GrounderConfig(path="nowhere"))


def test_what_a_plan_assumes_of_the_code_is_so() -> None:
    forms = [BoxText(form, Convention("relative-1000")) for form in get_args(BoxForm)]
    assert max(words.longest for words in forms) == stages.BOX_TOKENS
    assert chat.Resources().cache_bytes == stages.FEATURE_CACHE
    assert chat._CHUNK == stages.PROMPT_BATCHES
    assert qwen2vl.TOWER_PATCHES == stages.TOWER_PATCHES


def test_this_machine_has_memory_and_a_speed() -> None:
    name, free = meta.free_memory("cpu")
    assert (name, free > 1 << 20) == ("cpu", True)
    assert meta.measure_flops("float32", side=128, seconds=0.01) > 1e6
