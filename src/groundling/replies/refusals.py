"""Words that decline or evade, in several languages.

Expressions speak of what is seen, in the third person. What declines speaks of itself, at the
beginning or in a sentence of its own, so "the man who cannot see the ball" and "the sign that says
sorry" are none; what stands in quotation marks within a text is a sign's word, not the model's.
"""

from __future__ import annotations

import re

_ENGLISH_VERBS = (
    r"identify|recogni[sz]e|name|determine|tell|provide|help|assist|say|see|view|describe|comply|"
    r"generate|give|answer|fulfil?l|process|access|analy[sz]e|discuss|engage|create|continue|do|"
    r"find|locate|confirm|share|reveal|offer|respond|support|make|write|complete|detect|observe"
)
_DECLINES = (
    # English
    r"(?:^|[.!?;,] )(?:i'm|i am|we're|we are) (?:so |very |really |terribly |truly )?sorry\b",
    r"^(?:so |very )?sorry(?:[,.!;:]? (?:but|i|i'm|we|about|for|this|that|no)\b|[.!]?$)",
    r"^(?:my |please accept my )?apolog(?:ies|y)\b|^i (?:must )?apologi[sz]e\b|^forgive me\b",
    r"(?:^|[.!?;:,] |\b(?:but|however|unfortunately|as|that) )i (?:really |simply |just )?"
    r"(?:can't|cannot|can not|couldn't|could not|am unable|am not able|am not allowed|"
    r"am not permitted|won't|will not|must decline|have to decline|decline|do not|don't|"
    r"would rather not|prefer not|am not comfortable|am not going|am not in a position)"
    rf"\b(?: to)?(?: (?:be able|really|actually|reliably|accurately|currently|directly) ?(?:to)?)?"
    rf"(?: (?:{_ENGLISH_VERBS}|have|feel|know|think)\b|[,.!]|$)",
    r"(?:^|[.!?;:,] |\b(?:but|however|unfortunately) )i'm (?:unable|not able|not allowed|"
    r"not permitted|not comfortable|not going|not in a position|not sure|not programmed)\b",
    r"^as an? (?:ai|a\.i\.|artificial|large|language|visual|text|multimodal)\b",
    r"\bi(?:'m| am) (?:just |only )?an? (?:ai|artificial|large language|language model)\b",
    r"^unfortunately,? (?:i|we|it|there|this|that|the image|no)\b",
    r"^(?:it is|it's|it isn't|it is not) (?:not )?(?:possible|impossible|unclear|appropriate)\b",
    r"^(?:unable|not able|impossible) to\b|^cannot (?:identify|determine|answer|comply|provide)\b",
    r"\b(?:violat\w+|against) (?:our|my|the|openai's) (?:content|usage|safety|community|use) "
    r"(?:polic(?:y|ies)|guidelines|standards)\b|^(?:this|that|the|your) request (?:goes|violat)",
    # Chinese
    r"^(?:我)?(?:非常|很|十分|真的|实在)?(?:抱歉|抱歉地|对不起|對不起|不好意思|遗憾)",
    r"(?:^|[。，,！!；;])(?:但是?|不过|因此|所以)?(?:我|本模型|本助手)(?:目前|现在|暂时|也|并)?"
    r"(?:无法|無法|不能|不可以|没办法|没有办法|没有能力|不便|不会|拒绝)",
    r"^(?:无法|無法|不能)(?:识别|識別|确定|確定|提供|回答|辨认|判断|描述|协助|满足)(?!的)",
    r"^(?:很遗憾|作为(?:一个|一名)?(?:ai|人工智能|语言模型|大型))",
    # German
    r"^(?:es )?tut mir (?:sehr |wirklich |aufrichtig )?leid|^(?:entschuldigung|verzeihung)\b",
    r"^leider (?:kann|darf|bin|ist|habe|war)\b|^ich bitte um (?:entschuldigung|verständnis)",
    r"(?:^|[.!?;,] |\b(?:aber|jedoch) )ich (?:kann|darf|werde|möchte|bin|habe)\b[^.!?]{0,60}?"
    r"\b(?:nicht|keine?n?|außerstande)\b",
    r"^als (?:ki|ai|sprachmodell|künstliche)\b",
    # French
    r"^(?:je suis |nous sommes )?(?:vraiment |sincèrement )?(?:désolée?s?|navrée?s?)\b",
    r"^(?:je m'excuse|excusez[- ]moi|toutes mes excuses|malheureusement,? (?:je|il))\b",
    r"(?:^|[.!?;,] |\bmais )je ne (?:peux|puis|suis|saurais|vois|parviens|dispose|connais)\b",
    r"^en tant qu(?:e|')[ ]?(?:ia|intelligence|modèle|assistant)",
    # Spanish
    r"^lo (?:siento|lamento)\b|^(?:mis )?disculp(?:a|e|as|en)\b|^perd[oó]n(?:,|e\b|a\b|\.|$)",
    r"(?:^|[.!?;,] |\bpero )(?:yo )?no (?:puedo|podemos|me es posible|soy capaz|estoy en|tengo "
    r"(?:la )?(?:capacidad|permitido|acceso))\b",
    r"^(?:lamentablemente|desafortunadamente),? (?:no|yo)\b|^como (?:modelo|ia|inteligencia)\b",
    # Italian, Portuguese, Dutch
    r"^(?:mi (?:dispiace|scuso)|spiacente|purtroppo,? non)\b|(?:^|[.,] |\bma )non (?:posso|sono in"
    r" grado|riesco)\b",
    r"^(?:sinto muito|lamento|desculpe|infelizmente,? (?:não|eu))\b|(?:^|[.,] |\bmas )(?:eu )?não "
    r"(?:posso|consigo|sou capaz)\b",
    r"^(?:het )?spijt me\b|^helaas (?:kan|mag)\b",
    r"(?:^|[.,] |\bmaar )ik kan\b[^.]{0,40}\b(?:niet|geen)\b",
    # Russian, Japanese, Korean, Arabic
    r"^(?:к сожалению|извините|простите|прошу прощения)\b",
    r"(?:^|[.,] |\bно )я не (?:могу|способ|умею)",
    r"^(?:大変|誠に)?(?:申し訳|すみません|すいません|ごめんなさい)",
    r"(?:識別|特定|お答え|回答|提供|認識)[^。]{0,10}(?:できません|出来ません|できかねます)",
    r"^(?:죄송|미안)|(?:식별|확인|제공|답변)[^.]{0,10}(?:수 없|드릴 수 없)",
    r"^(?:عذر|آسف|أعتذر|للأسف)",
)
_EVADES = (
    r"^there (?:is|are|'s|isn't|aren't|does not|doesn't) (?:no|not|any|appear to be no)\b",
    r"^no (?:visible |green |bounding |clear |such |specific )*(?:box|boxes|entity|person|image|"
    r"information|description|expression|object)\b",
    r"^the (?:provided |given )?(?:image|picture|photo) (?:(?:does not|doesn't) (?:contain|show|"
    r"have|include|provide|appear|seem)|cannot be|is missing|appears to be (?:missing|empty))\b",
    r"^(?:please|could you|can you|would you)\b[^.]{0,40}\b(?:provide|upload|share|attach|clarify|"
    r"specify)\b",
    r"^(?:n/?a|none|null|nil|nothing|unknown|undefined|no answer|not applicable|not available|"
    r"not visible|无|没有|未知|keine|aucune?|ninguno|nan)[.!。]?$",
)
_DENIES = re.compile(
    r"^(?!.*\b(?:who|whose|that|which|where|with)\b).*"
    r"\b(?:does not|doesn't|do not|is not|isn't|are not|cannot be|can't be|is nowhere)\s+"
    r"(?:(?:appear|visible|shown|present|depicted|seen|pictured)\b.*"
    r"\b(?:image|picture|photo|photograph)\b|in (?:the|this) (?:image|picture|photo)\W*$)",
    re.I,
)
_DECLINING = re.compile("|".join(f"(?:{one})" for one in _DECLINES), re.I)
_EVADING = re.compile("|".join(f"(?:{one})" for one in _EVADES), re.I)
_QUOTED = re.compile(r"“[^”]*”|\"[^\"]*\"|«[^»]*»|「[^」]*」|(?<!\w)'[^']*'(?!\w)")
_APOSTROPHES = str.maketrans({"’": "'", "ʼ": "'", "`": "'", "´": "'", "—": ",", "–": ","})


def declines(text: str) -> bool:
    """Whether a text says that its author cannot or will not answer.

    >>> declines("I'm sorry, but I can't identify people in images.")
    True
    >>> declines("the sign that says sorry")
    False
    """
    return _DECLINING.search(_plain(text)) is not None


def evades(text: str) -> bool:
    """Whether a text speaks of missing things instead of what was asked for."""
    return _EVADING.search(_plain(text)) is not None


def denies(text: str) -> bool:
    """Whether a text says, in words other than the fixed sentence, that something is not there."""
    return _DENIES.search(_plain(text)) is not None


def _plain(text: str) -> str:
    """A text in one line from its first word on, its apostrophes alike, quoted words left out."""
    line = " ".join(text.translate(_APOSTROPHES).split())
    return re.sub(r"^[^\w(]+", "", _QUOTED.sub("…", line))
