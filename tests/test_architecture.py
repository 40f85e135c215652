"""Imports point one way; heavy libraries stay where they belong; files stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import groundling

ROOT = Path(groundling.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

GROUPS = {
    "errors": "errors",
    "strict_json": "errors",
    "records": "records",
    **dict.fromkeys(
        (
            "atomic",
            "config",
            "config_gmner",
            "config_tagger",
            "config_knowledge",
            "drawing",
            "images",
            "journal",
            "meeting",
            "progress",
            "provenance",
            "rundir",
            "settings",
            "shared_files",
            "stage",
            "team",
        ),
        "ground",
    ),
    **dict.fromkeys(
        (
            "calibration",
            "knowledge_prompt",
            "losses",
            "metrics",
            "preferences",
            "prompts",
            "refinement",
            "replies",
            "rewards",
            "routing",
            "selection",
            "synthesis",
        ),
        "steps",
    ),
    **dict.fromkeys(("data", "scoring", "models", "planning", "toyworld", "cli", "server"), None),
    "__main__": "cli",
    **dict.fromkeys(("asking", "infer", "train"), "loops"),
    **dict.fromkeys(
        (
            "ablate",
            "ablation_report",
            "answers",
            "assistants",
            "baselines",
            "collect",
            "corpus",
            "direct",
            "evaluate",
            "examples",
            "experts",
            "export",
            "gmner",
            "ground",
            "grounding_ways",
            "groundings",
            "in_context",
            "inputs",
            "isr",
            "knowledge",
            "learnable",
            "outlook",
            "plan",
            "plan_page",
            "policy_check",
            "refineg",
            "report",
            "refine",
            "rounds",
            "screening",
            "synthesise",
            "fitted",
            "tagging",
            "tune",
            "workbench",
        ),
        "flows",
    ),
}
"""Group of each top-level module; None for a package, which is a group of its own name."""

_BELOW = {"errors", "records", "ground", "steps"}
MAY_IMPORT = {
    "package": set[str](),
    "errors": set[str](),
    "records": {"errors"},
    "ground": {"package", "errors", "records", "ground"},
    "steps": {"errors", "records", "steps"},
    "data": {*_BELOW, "data"},
    "scoring": {*_BELOW, "data", "scoring"},
    "base": {"errors", "records", "ground"},
    "planning": {*_BELOW, "planning"},
    "models": {*_BELOW, "base", "models"},
    "loops": {*_BELOW, "base"},
    "toyworld": {*_BELOW, "data", "toyworld"},
    "pretraining": {*_BELOW, "data", "toyworld", "pretraining", "base", "models", "loops"},
    "flows": {*_BELOW, "data", "scoring", "base", "registry", "loops", "planning", "toyworld"}
    | {"flows"},
    "registry": {"errors", "records", "ground", "base", "models", "planning"},
    "cli": {*_BELOW, "package", "data", "scoring", "base", "registry", "loops", "toyworld"}
    | {"flows", "cli", "server"},
    "server": {*_BELOW, "data", "base", "registry", "loops", "toyworld", "flows", "server"},
}
"""Which groups a module of a group may import. Flows see backends only through the base and the
table of names (`groundling.models.registry`)."""

BACKENDS = {"api", "detectors", "local", "ofa", "qwen", "taggers", "tiny", "vllm_sampler"}
"""Modules of `models` that are whole backends; only the registry imports them."""

HEAVY = {
    "torch": {"models", "base", "registry", "pretraining", "losses", "train", "meeting", "team"},
    "transformers": {"models", "pretraining", "groundling.models.meta"},
    "peft": {"models"},
    "safetensors": {"models", "pretraining", "train"},
    "accelerate": {"team"},
    "ray": {"infer"},
    "httpx": {"groundling.models.api.transport"},
    "httpcore": {"groundling.models.api.transport"},
    "spacy": {"groundling.models.taggers.spacy_pipeline"},
    "vllm": {"groundling.models.vllm_sampler"},
}
"""Groups or modules in which a library may be imported at all."""


def module_of(path: Path) -> str:
    """`groundling.data.gmner` for its file."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def group_of(module: str) -> str:
    """The group of a module; fails for one that nobody has placed."""
    top, name, *_ = [*module.split(".")[1:], "", ""]
    if not top:
        return "package"
    assert top in GROUPS, f"{module}: say in GROUPS where this module belongs"
    if module == "groundling.models.ofa.convert":
        return "registry"  # what a command may ask of this backend
    if top == "models" and name in ("", "base", "registry", "endpoints", "meta"):
        return "base" if name == "base" else "registry"
    if top == "toyworld" and (
        name.startswith("pretrain_") or name in ("writer_parts", "introduction")
    ):
        return "pretraining"
    return GROUPS[top] or top


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, function bodies included, type checking left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            skipped |= {inner for part in node.body for inner in ast.walk(part)}
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            module = node.module or ""
            for alias in node.names:
                assert alias.name != "*", f"{path.name}: import * from {module}"
                full = f"{module}.{alias.name}"
                yield full if _is_module(full) else module


def _is_module(name: str) -> bool:
    path = ROOT.parent.joinpath(*name.split("."))
    return name.startswith("groundling") and (path.with_suffix(".py").exists() or path.is_dir())


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_point_one_way(path: Path) -> None:
    module = module_of(path)
    group = group_of(module)
    allowed = MAY_IMPORT[group] | {group}
    for imported in imports(path):
        if imported.split(".")[0] == "groundling":
            assert group_of(imported) in allowed, f"{module} ({group}) imports {imported}"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_backends_do_not_know_each_other(path: Path) -> None:
    module = module_of(path)
    if group_of(module) != "models":
        return
    others = {f"groundling.models.{name}" for name in BACKENDS} - {module}
    assert not others & set(imports(path))


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_heavy_libraries_stay_where_they_belong(path: Path) -> None:
    module = module_of(path)
    places = {group_of(module), module.rpartition(".")[2], module}
    for imported in imports(path):
        library = imported.split(".")[0]
        assert places & HEAVY.get(library, places), f"{module} imports {library}"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("name", ["utils", "helpers", "common", "misc"])
def test_no_drawers(name: str) -> None:
    assert not list(ROOT.rglob(f"{name}.py"))


LIGHT = """
import contextlib, io, sys
from groundling.cli import COMMANDS, main
for words in [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main(words)
    assert out.getvalue().strip(), words
print(sorted({name.split(".")[0] for name in sys.modules} & {HEAVY}))
"""


def test_help_imports_nothing_heavy() -> None:
    heavy = set(HEAVY) | {"numpy", "scipy", "pyarrow", "PIL"}
    done = subprocess.run(
        [sys.executable, "-c", LIGHT.replace("{HEAVY}", repr(heavy))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_ground_floor_imports_no_torch() -> None:
    modules = [m for m in map(module_of, FILES) if group_of(m) in {"ground", "records", "errors"}]
    code = f"import sys, {', '.join(modules)}, groundling.infer; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
