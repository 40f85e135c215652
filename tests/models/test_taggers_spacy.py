"""The spaCy tagger: labels without spaCy, pipelines made here where spaCy is installed."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_taggers import POSTS, config, gold, post, spans

from groundling import tagging
from groundling.config_gmner import RefinegConfig, TaggingConfig
from groundling.data.jsonl import write_posts
from groundling.errors import ConfigError, InputError
from groundling.fitted import open_fitted
from groundling.models.registry import open_tagger
from groundling.models.taggers import spacy_pipeline
from groundling.models.taggers.ontonotes import USUAL, types_of_labels
from groundling.models.taggers.spacy_pipeline import PACKAGE, SpacyTagger
from groundling.records import CCKS, TWITTER, Post
from groundling.settings import load_config

RECIPES = Path(__file__).parents[2] / "recipes" / "gmner"
needs_spacy = pytest.mark.skipif(
    find_spec("spacy") is None, reason="spaCy is not installed (the extra `spacy`)"
)
needs_package = pytest.mark.skipif(
    find_spec("spacy") is None or find_spec(PACKAGE) is None,
    reason=f"{PACKAGE} is not installed (the extra `spacy`)",
)


# ------------------------------------------------------------------------------- without spaCy


def test_labels_of_ontonotes_have_their_usual_types_and_numbers_none() -> None:
    labels = ["PERSON", "GPE", "FAC", "ORG", "NORP", "WORK_OF_ART", "CARDINAL", "DATE"]
    assert types_of_labels(labels, TWITTER, {}) == {
        "PERSON": "PER",
        "GPE": "LOC",
        "FAC": "LOC",
        "ORG": "ORG",
        "NORP": "MISC",
        "WORK_OF_ART": "MISC",
    }
    assert set(USUAL.values()) == set(TWITTER.types)


def test_labels_that_are_types_stand_for_themselves_and_changes_count_first() -> None:
    assert types_of_labels(["PER", "other", "Misc"], TWITTER, {}) == {
        "PER": "PER",
        "other": "MISC",
        "Misc": "MISC",
    }
    changes = {"NORP": "ORG", "FAC": None, "DATE": "MISC"}
    labels = ["NORP", "FAC", "DATE", "GPE"]
    assert types_of_labels(labels, TWITTER, changes) == {
        "NORP": "ORG",
        "DATE": "MISC",
        "GPE": "LOC",
    }
    assert types_of_labels(["GPE", "PRODUCT"], CCKS, {"GPE": "location"}) == {"GPE": "location"}


def test_labels_that_do_not_fit_are_told() -> None:
    with pytest.raises(InputError, match="no label PERSN; it has GPE, PERSON"):
        types_of_labels(["PERSON", "GPE"], TWITTER, {"PERSN": "PER"})
    with pytest.raises(InputError, match=r"labels\.GPE: got place; scheme twitter has PER, LOC"):
        types_of_labels(["GPE"], TWITTER, {"GPE": "place"})
    with pytest.raises(InputError, match=r"no label .* \(GPE\) stands for a type of scheme ccks"):
        types_of_labels(["GPE"], CCKS, {})


def test_training_is_refused_before_anything_is_read() -> None:
    given: dict[str, object] = {"data.source": "x", "tagger.backend": "spacy"}
    with pytest.raises(ConfigError, match=r"tagger\.backend spacy is not trained here; set tuning"):
        load_config(TaggingConfig, None, given)
    assert load_config(TaggingConfig, RECIPES / "spacy.yaml").tuning is None
    refineg: dict[str, object] = {"data.toyworld": {}, "simulator": {}, "tagger.backend": "spacy"}
    with pytest.raises(ConfigError, match=r"tagger\.backend: spacy is not trained here; choose"):
        load_config(RefinegConfig, None, refineg)


def test_what_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spacy_pipeline, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"spaCy is not installed; run pip .*groundling\[spacy\]"):
        open_tagger(config(backend="spacy"), TWITTER)
    monkeypatch.setattr(spacy_pipeline, "find_spec", lambda name: name == "spacy" or None)
    with pytest.raises(InputError, match=f"the pipeline {PACKAGE} is not installed"):
        open_tagger(config(backend="spacy"), TWITTER)


def test_a_confidence_is_the_product_of_the_moves_softmax() -> None:
    names = ["B-PERSON", "L-PERSON", "O"]
    scores = np.array([[1.0, -np.inf, 2.0], [-np.inf, 0.5, -np.inf], [3.0, -np.inf, 3.0]])
    path = spacy_pipeline._Path(names, scores, [0, 1, 2])
    part = path.part(0, 2, "PERSON")
    assert part is not None
    assert part.confidence(1.0) == pytest.approx(np.e / (np.e + np.e**2))
    assert part.confidence(2.0) == pytest.approx(np.e**0.5 / (np.e**0.5 + np.e))
    assert path.part(0, 2, "ORG") is None
    assert path.part(1, 2, "PERSON") is None


# ---------------------------------------------------------------------------------- with spaCy


def learned(path: Path) -> Path:
    """A pipeline that learnt POSTS by heart, of labels of OntoNotes."""
    import spacy
    from spacy.tokens import Doc, Span
    from spacy.training import Example

    spacy.util.fix_random_seed(0)
    nlp = spacy.blank("en")
    recogniser = nlp.add_pipe("ner")
    ontonotes = {"PER": "PERSON", "LOC": "GPE", "ORG": "ORG", "MISC": "EVENT"}
    examples = []
    for one in POSTS:
        doc = Doc(nlp.vocab, words=list(one.tokens))
        doc.ents = [Span(doc, e.start, e.end, ontonotes[e.type]) for e in one.entities]
        examples.append(Example(Doc(nlp.vocab, words=list(one.tokens)), doc))
    for label in ontonotes.values():
        recogniser.add_label(label)
    optimiser = nlp.initialize(lambda: examples)
    for _ in range(25):
        nlp.update(examples, sgd=optimiser, drop=0.0)
    nlp.meta["name"], nlp.meta["version"] = "by_heart", "1.0"
    nlp.to_disk(path)
    return path


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learned(tmp_path_factory.mktemp("spacy") / "by-heart")


def tagger_of(path: Path, **changes: Any) -> SpacyTagger:
    tagger = open_tagger(config(backend="spacy", path=str(path), **changes), TWITTER)
    assert isinstance(tagger, SpacyTagger)
    return tagger


@needs_spacy
def test_entities_come_with_the_probability_of_their_moves(pipeline: Path) -> None:
    tagger = tagger_of(pipeline)
    found = tagger.tag([Post("e", ()), *POSTS, Post("f", ())])
    assert list(map(spans, found)) == [[], *gold(POSTS), []]
    sure = [one.confidence for mentions in found for one in mentions]  # type: ignore[union-attr]
    assert all(value is not None and 0.5 < value <= 1 for value in sure)
    tagger.temperature = 3.0
    humble = [one.confidence for mentions in tagger.tag(POSTS) for one in mentions]  # type: ignore
    assert all(b < a for a, b in zip(sure, humble, strict=True))
    assert tagger.tag([]) == []
    assert tagger.tag([Post("e", ())]) == [[]]


@needs_spacy
def test_posts_do_not_depend_on_the_company(pipeline: Path) -> None:
    odd = Post("odd", ("Paul", "", "\u200b", "\ufffd", " ", "York"))
    tagger = tagger_of(pipeline, batch_size=3)
    together = tagger.tag([*POSTS, odd])
    alone = [tagger.tag([one])[0] for one in (*POSTS, odd)]
    assert list(map(spans, together)) == list(map(spans, alone))
    for one, other in zip(together, alone, strict=True):
        assert [m.confidence for m in one] == pytest.approx(  # type: ignore[union-attr]
            [m.confidence for m in other],  # type: ignore[union-attr]
            abs=1e-5,
        )


@needs_spacy
def test_calibration_keeps_mentions_and_makes_an_overconfident_pipeline_humbler(
    pipeline: Path,
) -> None:
    tagger = tagger_of(pipeline)
    muddled = [Post(one.id, one.tokens, one.entities[i % 2 :]) for i, one in enumerate(POSTS)]
    before = tagger.tag(POSTS)
    tagger.calibrate(muddled)
    assert tagger.temperature > 1
    assert list(map(spans, tagger.tag(POSTS))) == list(map(spans, before))


@needs_spacy
def test_other_components_have_no_confidence_and_words_stay_as_they_are(tmp_path: Path) -> None:
    import spacy

    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "ORG", "pattern": [{"TEXT": "don't-stop"}, {"TEXT": "Inc."}]}])
    nlp.to_disk(tmp_path / "rules")
    tagger = tagger_of(tmp_path / "rules")
    (mentions,) = tagger.tag([post("we don't-stop Inc. here")])
    assert isinstance(mentions, list)
    assert [(m.start, m.end, m.type, m.confidence) for m in mentions] == [(1, 3, "ORG", None)]
    tagger.calibrate([post("we don't-stop/ORG Inc./ORG here"), post("don't-stop Inc.")])
    assert tagger.temperature == 1
    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(InputError, match="no component of this pipeline finds entities"):
        tagger_of(tmp_path / "blank")


@needs_spacy
def test_labels_may_be_changed(pipeline: Path) -> None:
    tagger = tagger_of(pipeline, labels={"GPE": "MISC", "ORG": None})
    found = tagger.tag(POSTS[:1] + POSTS[3:4])
    assert list(map(spans, found)) == [[(0, 1, "PER"), (2, 4, "MISC")], []]


@needs_spacy
def test_a_saved_tagger_answers_as_before_and_knows_its_pipeline(
    pipeline: Path, tmp_path: Path
) -> None:
    import spacy

    moved = tmp_path / "pipeline"
    spacy.load(pipeline).to_disk(moved)
    tagger = tagger_of(moved, labels={"ORG": None})
    tagger.temperature = 1.7
    tagger.save(tmp_path / "t")
    again = open_tagger(config(backend="spacy"), TWITTER, tmp_path / "t")
    assert again.temperature == 1.7
    assert again.tag(POSTS) == tagger.tag(POSTS)
    with pytest.raises(InputError, match="finds PER, LOC, ORG, MISC; scheme ccks has"):
        open_tagger(config(backend="spacy"), CCKS, tmp_path / "t")
    meta = json.loads((moved / "meta.json").read_text())
    (moved / "meta.json").write_text(json.dumps({**meta, "version": "2.0"}))
    with pytest.raises(InputError, match=r"made of en by_heart 1\.0, but .* is now .* 2\.0"):
        open_tagger(config(backend="spacy"), TWITTER, tmp_path / "t")
    (tmp_path / "t" / "pipeline.json").unlink()
    with pytest.raises(InputError, match="not a pipeline's name"):
        open_tagger(config(backend="spacy"), TWITTER, tmp_path / "t")


@needs_spacy
def test_what_is_no_pipeline_and_training_are_told(pipeline: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pipeline of spaCy that can be opened"):
        tagger_of(tmp_path / "nothing here")
    tagger = tagger_of(pipeline)
    for refused in (tagger.trainable, tagger.module, lambda: tagger.loss(POSTS)):
        with pytest.raises(InputError, match="it is not trained here; set tuning to null"):
            refused()


@needs_spacy
def test_a_run_takes_it_as_it_is_and_fits_its_confidences(pipeline: Path, tmp_path: Path) -> None:
    for split in ("train", "dev"):
        write_posts(tmp_path / f"{split}.jsonl", POSTS)
    given = {"data.source": str(tmp_path), "tagger.path": str(pipeline), "evaluate": ["dev"]}
    recipe = load_config(TaggingConfig, RECIPES / "spacy.yaml", given)
    told = tagging.run_tagging(recipe, tmp_path / "run", quiet=True)
    assert told["fit"] == {"dev_mner_f1": [], "best_epoch": 0, "temperature": 1.0}
    assert told["scores"]["dev"]["rules"]["span"]["mner"]["f1"] == 100
    assert told["scores"]["dev"]["confidence"]["calibrated"]["answers"] == sum(
        map(len, gold(POSTS))
    )
    assert open_fitted(tmp_path / "run")[0].tag(POSTS) == tagger_of(pipeline).tag(POSTS)


@needs_package
def test_the_packaged_pipeline_knows_the_world() -> None:
    tagger = open_tagger(config(backend="spacy"), TWITTER)
    (mentions,) = tagger.tag([post("Barack Obama met Angela Merkel in Berlin on Monday")])
    assert spans(mentions) == [(0, 2, "PER"), (3, 5, "PER"), (6, 7, "LOC")]
    assert all(one.confidence is not None for one in mentions)  # type: ignore[union-attr]
