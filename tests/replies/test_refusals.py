from __future__ import annotations

import numpy as np
import pytest

from groundling.replies import ReplyError, declines, read_expression
from groundling.toyworld.annotator import write_any
from groundling.toyworld.scene import draw_scene

REFUSALS = [
    "I'm sorry, but I can't identify people in images.",
    "I’m sorry, but I cannot help with that.",
    "Sorry, I can't assist with that.",
    "Sorry.",
    "I apologize, but I am unable to identify the person.",
    "Apologies, but this is not possible.",
    "As an AI language model, I do not look at faces.",
    "Unfortunately, I am not able to see the image.",
    "I'm unable to view images.",
    "I must decline.",
    "I don't know who this is.",
    "I don't see a green bounding box.",
    "This violates our content policy.",
    "It is not possible to identify the person.",
    "The man on the left. However, I cannot identify him.",
    "There is no green bounding box in the image.",
    "The image does not contain a green box.",
    "Please provide the image.",
    "N/A",
    "None.",
    "抱歉，我无法识别图片中的人物。",
    "对不起，我不能提供该信息。",
    "我无法确定图像中的人是谁。",
    "作为一个AI语言模型，我没有这个能力。",
    "無法識別圖像中的人。",
    "Es tut mir leid, aber ich kann keine Personen identifizieren.",
    "Leider kann ich das nicht beantworten.",
    "Ich kann Personen auf Bildern nicht identifizieren.",
    "Je suis désolé, mais je ne peux pas identifier les personnes.",
    "Je ne peux pas aider à cela.",
    "Lo siento, pero no puedo identificar a personas en imágenes.",
    "No puedo ayudar con eso.",
    "Mi dispiace, non posso aiutarti.",
    "Sinto muito, mas não posso ajudar.",
    "Het spijt me, dat gaat niet.",
    "К сожалению, я не могу этого сделать.",
    "申し訳ありませんが、画像内の人物を特定することはできません。",
    "죄송하지만 이미지 속 인물을 식별할 수 없습니다.",
    "عذرًا، لا أستطيع المساعدة",
    "\"I'm sorry, but I can't help with that.\"",
    "**Sorry, I can't help with that.**",
]

HONEST = [
    "the man who cannot see the ball",
    "the sign that says sorry",
    "the sign that says “I'm sorry, I can't”",
    "Sorry! board game on the table",
    "the T-shirt with I can't breathe on it",
    "the board with the words I'm with stupid",
    "the child unable to reach the shelf",
    "a woman apologizing to the crowd",
    "the man protesting against the new policy",
    "the person whose face is not visible in the image",
    "the man that does not appear to be smiling in the picture",
    "the green sofa; it is not in the picture's centre",
    "None of the players on the left but the goalkeeper",
    "No. 10, the player in yellow",
    "no smoking sign on the wall",
    "Unfortunate dog in the rain",
    "the AI robot on the right",
    "Nan in the blue coat",
    "I see the man in red",
    "写着“对不起”的牌子",
    "无法识别的标志",
    "左边穿红衣服的男人",
    "der Mann, der den Ball nicht sehen kann",
    "l'homme qui ne peut pas voir le ballon",
    "el hombre que no puede ver la pelota",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_field_e1_refusals_are_no_expressions(text: str) -> None:
    with pytest.raises(ReplyError) as caught:
        read_expression(text)
    assert caught.value.kind == "refused"


@pytest.mark.parametrize("text", HONEST)
def test_field_e1_honest_expressions_pass_as_they_are(text: str) -> None:
    assert read_expression(text) == text


def test_field_e1_absence_in_other_words_is_neither_absent_nor_an_expression() -> None:
    with pytest.raises(ReplyError) as caught:
        read_expression("Neymar does not appear in the picture.")
    assert caught.value.kind == "absent"


def test_what_the_embedded_world_says_is_never_refused_nor_altered() -> None:
    rng = np.random.default_rng(11)
    for _ in range(60):
        scene = draw_scene(rng, "train")
        for target in scene.referents():
            words = write_any(scene, target, rng)
            assert read_expression(words) == words


def test_words_within_a_longer_text_do_not_decline() -> None:
    assert not declines("Posts about football. Fans write that they cannot wait, or are sorry.")
