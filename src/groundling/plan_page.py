"""A plan as text for people and as JSON for other programs."""

from __future__ import annotations

from collections.abc import Sequence

from groundling.plan import Plan
from groundling.planning.durations import MEAN_ANSWER
from groundling.planning.page import GIB, count, gib, hours, memory_table
from groundling.planning.stages import PROMPT_TOKENS, Model


def told(plan: Plan, missing: Sequence[str] = ()) -> str:
    """The plan as text; `missing` are inputs that the recipe names and that are not here."""
    device = plan.device
    many = "" if device.count == 1 else f"{device.count} × "
    lines = [f"device: {many}{device.name}, {gib(device.room)} GiB free each", ""]
    lines += [*(_told_model(kind, model) for kind, model in _models(plan).items()), ""]
    lines += memory_table(plan.stages, plan.decides.name, plan.durations)
    total = sum(plan.disk.values())
    parts = ", ".join(f"{name} {gib(size)}" for name, size in plan.disk.items())
    lines += ["", f"disk: {gib(total)} GiB ({parts})", _told_time(plan)]
    lines += [f"note: {note}" for note in notes(plan)]
    return "\n".join([*lines, "", _verdict(plan, missing)])


def _verdict(plan: Plan, missing: Sequence[str]) -> str:
    if not missing:
        return plan.verdict
    first, colon, rest = plan.verdict.partition(":")
    many = "1 input is" if len(missing) == 1 else f"{len(missing)} inputs are"
    return f"{first}, but cannot run here: {many} missing{colon and ';'}{rest}"


def notes(plan: Plan) -> list[str]:
    """What the figures rest on, and what they leave out."""
    pictures = plan.writer.pictures
    assert pictures is not None
    found = [
        f"a picture is at most {pictures.most} tokens ({pictures.told_by}), "
        f"{pictures.mean:.0f} on average; the rest of a prompt {PROMPT_TOKENS}, an answer at "
        f"most {plan.config.max_new_tokens}, {MEAN_ANSWER} on average"
    ]
    if not all(stage.planned for stage in plan.stages):
        found.append(f"activations of {plan.grounder.outline.name} are not counted")
    if plan.device.count > 1:
        found.append(
            "each device holds the models whole; of a batch that is trained on it takes "
            f"1/{plan.device.count}, but it draws, scores and grounds whole batches of its own"
        )
    return found


def _models(plan: Plan) -> dict[str, Model]:
    if plan.direct:
        return {"model": plan.writer}
    return {"writer": plan.writer, "grounder": plan.grounder}


def _told_model(kind: str, model: Model) -> str:
    outline = model.outline
    share = model.trained / outline.parameters
    bits = ", 4 bits" if model.config.load_in_4bit else ""
    return (
        f"{kind:9}{outline.name}: {count(outline.parameters)} parameters "
        f"({model.config.dtype}{bits}), {count(model.trained)} trained ({share:.1%})"
    )


def _told_time(plan: Plan) -> str:
    if plan.device.speed is None:
        return "time: unknown for this device; name one with --device"
    total = hours(sum(plan.durations.values()))
    rest = plan.durations["evaluation"]
    return (
        f"time: about {total}, {hours(rest)} of it evaluation; an estimate from "
        f"{plan.device.speed.stated}"
    )


def as_json(plan: Plan, missing: Sequence[str] = ()) -> dict[str, object]:
    """The plan for other programs; sizes in GiB, times in seconds; `missing` as for `told`."""
    return {
        "verdict": "fits" if plan.fits else "does not fit",
        "told": plan.verdict,
        "changes": plan.changes,
        "changes_suffice": plan.mended,
        "device": {
            "name": plan.device.name,
            "memory_gib": _gib(plan.device.room),
            "devices": plan.device.count,
            "speed": plan.device.speed.stated if plan.device.speed else None,
        },
        "models": {
            kind: {
                "name": model.outline.name,
                "parameters": model.outline.parameters,
                "trainable": model.trained,
            }
            for kind, model in _models(plan).items()
        },
        "stages": [
            {
                "name": stage.name,
                "peak_gib": _gib(stage.peak),
                "parts_gib": {name: _gib(size) for name, size in stage.parts.items()},
                "planned": stage.planned,
                "seconds": plan.durations.get(stage.name),
            }
            for stage in plan.stages
        ],
        "decides": plan.decides.name,
        "peak_gib": _gib(plan.decides.peak),
        "disk_gib": {name: _gib(size) for name, size in plan.disk.items()},
        "seconds": sum(plan.durations.values()) if plan.durations else None,
        "notes": notes(plan),
        "missing": list(missing),
    }


def _gib(size: int) -> float:
    return round(size / GIB, 3)
