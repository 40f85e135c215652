"""Strict settings from YAML: closed to unknown keys, with every problem told at once.

Unknown and repeated keys are errors, never ignored. Numbers in scientific notation may leave out
the dot (`1e-4`), which plain YAML 1.1 would read as text.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from groundling.errors import ConfigError


class Section(BaseModel):
    """Base of every configuration class: frozen, strict about types, closed to unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


C = TypeVar("C", bound=Section)

FREE = "changes no result"
"""Marks a field (`Annotated[..., FREE]`) that a run may be continued with another value of."""


@dataclass(frozen=True, slots=True)
class FreeKeys:
    """Marks a field that is a mapping some of whose keys change no result: see FREE."""

    names: frozenset[str]


_NOUNS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    list[str]: "a list of texts",
    dict[str, str | None]: "a mapping of texts to text or null",
}
_SIGNS = {Gt: ("gt", ">"), Ge: ("ge", "≥"), Lt: ("lt", "<"), Le: ("le", "≤")}


def load_config(
    model: type[C], path: str | Path | None = None, overrides: Mapping[str, object] | None = None
) -> C:
    """Read `model` from a YAML file, with dotted-key `overrides` on top (`{"dpo.lr": 1e-5}`).

    Without a path the overrides stand alone. Raises ConfigError with every problem found.
    """
    source = "configuration" if path is None else str(path)
    raw, problems = ({}, []) if path is None else _read_yaml(Path(path))
    for key, value in (overrides or {}).items():
        _override(raw, key, value, problems)
    try:
        config = model.model_validate(raw)
    except ValidationError as fault:
        problems += [_problem(model, error) for error in fault.errors()]
    if problems:
        raise ConfigError(source, problems)
    return config


def read_overrides(assignments: Sequence[str]) -> dict[str, object]:
    """Parse `KEY=VALUE` words, the value as YAML: `["dpo.lr=1e-5"]` → `{"dpo.lr": 1e-05}`."""
    overrides: dict[str, object] = {}
    problems = []
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not key or not equals or key.count(".") > _DEEPEST:
            problems.append(f"got {_shown(assignment)}; wanted KEY=VALUE, such as dpo.lr=1e-5")
            continue
        try:
            overrides[key] = _value(text)[0]
        except _NO_YAML as fault:
            problems.append(f"{key}: {_shown(text)} is not a YAML value ({_one_line(fault)})")
    if problems:
        raise ConfigError("overrides", problems)
    return overrides


def dump_yaml(config: Section) -> str:
    """The resolved configuration as YAML that `load_config` reads back to an equal object."""
    return yaml.safe_dump(
        config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100
    )


def describe(model: type[Section]) -> str:
    """One entry a field, for `--help`: dotted key, type, default, and its documentation."""
    lines = []
    for key, field in _leaves(model):
        usual = field.get_default(call_default_factory=True)
        default = "required" if field.is_required() else f"default {_shown(usual)}"
        lines.append(f"  {key}: {_type_words(field)} ({default})")
        lines.append(f"      {field.description or ''}".rstrip())
    return "\n".join(lines)


def decisive(model: type[Section], dumped: Mapping[str, Any]) -> dict[str, Any]:
    """What of a dumped configuration decides results: all but what is marked as free."""
    found = {}
    for name, value in dumped.items():
        field = model.model_fields.get(name)
        if field is not None and FREE in field.metadata:
            continue
        if field is not None and isinstance(value, Mapping):
            section = _section(field)
            value = _bound(field, value) if section is None else decisive(section, value)
        found[name] = value
    return found


def _bound(field: FieldInfo, value: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping without its keys that are free."""
    free = {name for mark in field.metadata if isinstance(mark, FreeKeys) for name in mark.names}
    return {name: part for name, part in value.items() if name not in free}


def refuse_idle(section: Section, backend: str, acting: Collection[str]) -> None:
    """Raise ValueError where a field that `backend` does not act on is not at its default.

    For the validators of sections that have a field `backend`; `acting` are its other fields.
    """
    idle = {
        name: getattr(section, name)
        for name, field in type(section).model_fields.items()
        if name not in ("backend", *acting)
        and getattr(section, name) != field.get_default(call_default_factory=True)
    }
    if idle:
        got = ", ".join(f"{name} {_shown(value)}" for name, value in idle.items())
        wanted = ", ".join(acting) or "no such key"
        raise ValueError(f"got {got}; {backend} acts on {wanted}; leave out {', '.join(idle)}")


_DEEPEST = 20
"""Most dots in a key: no settings nest as deep as that."""

_LARGEST_TEXT = 1 << 20
_MOST_NODES = 100_000
"""Most characters of settings, and most values once every alias stands for all that it means."""

_NO_YAML = (yaml.YAMLError, ValueError, RecursionError)
"""What reading YAML raises: dates that are none are ValueError, deep nesting RecursionError."""


def _value(text: str) -> tuple[Any, list[str]]:
    """The value of a YAML text, and its repeated keys. Raises one of _NO_YAML.

    An alias may repeat a part, within bounds that are counted before anything is unfolded; a part
    may not hold itself.
    """
    if len(text) > _LARGEST_TEXT:
        raise ValueError(f"{len(text)} characters; wanted settings of {_LARGEST_TEXT} at most")
    loader = _Loader(text)
    node = loader.get_single_node()
    if node is None:
        return None, []
    if _unfolded(node, {}) > _MOST_NODES:
        raise ValueError(f"aliases unfold to more than {_MOST_NODES} values; write them out")
    return loader.construct_document(node), loader.repeated


def _unfolded(node: yaml.Node, known: dict[int, int]) -> int:
    """Values that a node stands for, aliases unfolded; `known` has 0 for those it is within."""
    if id(node) in known:
        if not known[id(node)]:
            raise ValueError(f"line {node.start_mark.line + 1}: an alias that holds itself")
        return known[id(node)]
    known[id(node)] = 0
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        parts = node.value
    elif isinstance(node, yaml.MappingNode):
        parts = [part for pair in node.value for part in pair]
    known[id(node)] = 1 + sum(_unfolded(part, known) for part in parts)
    return known[id(node)]


def read_yaml(path: Path) -> Any:
    """The value of a YAML file of ours. Raises OSError, and ValueError with what is wrong."""
    try:
        return _value(path.read_text(encoding="utf-8"))[0]
    except _NO_YAML as fault:
        raise ValueError(_one_line(fault)) from fault


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads `1e-4` as a number and notes repeated keys in `repeated`."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.repeated: list[str] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            if isinstance(name, str) and seen.setdefault(name, line) != line:
                self.repeated.append(f"line {line}: {name} is already given on line {seen[name]}")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _read_yaml(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The mapping in a YAML file, and its repeated keys."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as fault:
        raise ConfigError(str(path), ["no such file; name an existing YAML file"]) from fault
    except (OSError, UnicodeDecodeError) as fault:
        raise ConfigError(str(path), [f"cannot be read as UTF-8 text ({fault})"]) from fault
    try:
        raw, repeated = _value(text)
    except _NO_YAML as fault:
        raise ConfigError(str(path), [f"not valid YAML: {_one_line(fault)}"]) from fault
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise ConfigError(str(path), [f"got {_shown(raw)}; wanted `key: value` lines"])
    return raw, repeated


def _override(raw: dict[str, Any], key: str, value: object, problems: list[str]) -> None:
    """Set a dotted key in nested mappings."""
    *parents, last = key.split(".")
    target = raw
    for index, parent in enumerate(parents):
        if target.get(parent) is None:
            target[parent] = {}
        target = target[parent]
        if not isinstance(target, dict):
            above = ".".join(parents[: index + 1])
            problems.append(f"{key}: cannot be set, because {above} is {_shown(target)}")
            return
    target[last] = value


def _problem(model: type[Section], error: Any) -> str:
    """One pydantic error as `KEY: got X; wanted Y`."""
    key = ".".join(str(part) for part in error["loc"])
    got = _shown(error["input"])
    words = str(error["msg"])
    if error["type"] == "extra_forbidden":
        # the value is not told: it may be a secret in the wrong place
        return f"{key}: unknown key; {_suggestion(model, error['loc'])}"
    if error["type"] == "invalid_key":
        return f"{key}: the key is not text; put it in quotes or remove it"
    if error["type"] == "missing":
        return f"{key}: missing; wanted {_wanted(model, key)}"
    if error["type"] == "value_error":
        words = words.removeprefix("Value error, ")
        return f"{key}: {words}" if key else words
    return f"{key}: got {got}; wanted {_wanted(model, key) or words}"


def _wanted(model: type[Section], key: str) -> str:
    """The type of the field at a dotted key, in words; empty where there is no such field."""
    section: type[Section] | None = model
    field = None
    for part in key.split("."):
        field = section.model_fields.get(part) if section else None
        section = _section(field) if field else None
    return _type_words(field) if field else ""


def _suggestion(model: type[Section], loc: tuple[str | int, ...]) -> str:
    """What an unknown key may have meant: a close name here, or the same name elsewhere."""
    *parents, last = [str(part) for part in loc]
    section = model
    for parent in parents:
        section = _section(section.model_fields[parent]) or section
    elsewhere = [key for key, _ in _leaves(model) if key.rpartition(".")[2] == last]
    if elsewhere:
        return f"did you mean {' or '.join(elsewhere)}?"
    close = difflib.get_close_matches(last, section.model_fields, n=1, cutoff=0.6)
    if close:
        return f"did you mean {'.'.join([*parents, close[0]])}?"
    return f"wanted one of {', '.join(section.model_fields)}"


def _leaves(model: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every field that is not itself a section, by dotted key, in order."""
    for name, field in model.model_fields.items():
        section = _section(field)
        if section is None:
            yield prefix + name, field
        else:
            yield from _leaves(section, f"{prefix}{name}.")


def _section(field: FieldInfo) -> type[Section] | None:
    """The section class a field holds, None for a plain value."""
    for kind, _ in _kinds(field.annotation):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None


def _kinds(annotation: Any) -> list[tuple[Any, tuple[Any, ...]]]:
    """The alternatives of an annotation, each with its constraints."""
    if get_origin(annotation) is Annotated:
        kind, *extras = get_args(annotation)
        return [(kind, tuple(extras))]
    if get_origin(annotation) in (Union, UnionType):
        return [found for kind in get_args(annotation) for found in _kinds(kind)]
    return [(annotation, ())]


def _type_words(field: FieldInfo) -> str:
    """A field's type and limits in words: `a number > 0`, `largest | any`, `text or null`."""
    return _words(field.annotation, field.metadata)


def _words(annotation: Any, limits: Sequence[Any] = ()) -> str:
    words = []
    for kind, extras in _kinds(annotation):
        if get_origin(kind) is Literal:
            words.append(" | ".join(str(choice) for choice in get_args(kind)))
        elif get_origin(kind) is list:
            words.append(f"a list of {_words(*get_args(kind))}")
        elif isinstance(kind, type) and issubclass(kind, Section):
            words.append("a section of " + ", ".join(kind.model_fields))
        elif kind is NoneType:
            words.append("null")
        else:
            told = " and ".join(_limits((*extras, *limits)))
            words.append(f"{_NOUNS.get(kind, str(kind))} {told}".rstrip())
    return " or ".join(words)


def _limits(constraints: tuple[Any, ...]) -> list[str]:
    """Bounds as `> 0`, in the order given."""
    found = []
    for constraint in constraints:
        inner = constraint.metadata if isinstance(constraint, FieldInfo) else [constraint]
        for bound in inner:
            name, sign = _SIGNS.get(type(bound), ("", ""))
            if name:
                found.append(f"{sign} {getattr(bound, name)}")
    return found


def _shown(value: object) -> str:
    """A value as a short YAML-like word."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = "…" if isinstance(value, Section) else _SHORT.repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist = 3, 20, 20
_SHORT.maxstring, _SHORT.maxlong, _SHORT.maxother = 200, 60, 200
"""Cuts while it writes: the whole may be longer than memory is."""


def _one_line(fault: Exception) -> str:
    if isinstance(fault, RecursionError):
        return "nested too deeply"
    text = " ".join(str(fault).split())
    return text if len(text) <= 300 else text[:299] + "…"
