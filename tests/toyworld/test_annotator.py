from __future__ import annotations

import numpy as np

from groundling.toyworld.annotator import write_any, write_expert
from groundling.toyworld.language import means
from groundling.toyworld.scene import draw_scene


def test_an_expert_means_its_target_and_nothing_else() -> None:
    rng = np.random.default_rng(4)
    seen = set()
    for _ in range(250):
        scene = draw_scene(rng, "train")
        for target in scene.referents():
            words = write_expert(scene, target, rng)
            assert means(words, scene) == (target,)
            seen.add(words)
    assert len(seen) > 300  # and does not always say the same


def test_a_loose_observer_says_what_is_true_but_may_leave_it_open() -> None:
    rng = np.random.default_rng(5)
    counts = []
    for _ in range(80):
        scene = draw_scene(rng, "train")
        for target in scene.referents():
            meant = means(write_any(scene, target, rng), scene)
            assert meant is not None
            assert target in meant
            counts.append(len(meant))
    assert 1 in counts
    assert max(counts) > 1
