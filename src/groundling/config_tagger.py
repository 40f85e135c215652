"""What a tagger and its training can be told; `groundling.config_gmner` has the rest of GMNER."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from groundling.config import Count, Fraction, Optimiser, Positive
from groundling.settings import FREE, Section

Dropout = Annotated[float, Field(ge=0, lt=1)]


class TextData(Section):
    """Posts to tag; their pictures are needed only where `tagger.vision` is set."""

    source: str
    """A Twitter-GMNER folder (`txt/`, `xml/`) or a folder of posts, `SPLIT.jsonl`."""
    images: str | None = None
    """Folder of a release's pictures; files of posts name their own."""
    knowledge: str | None = None
    """Folder of words about posts: `SPLIT.jsonl`, or PGIM's `SPLIT.txt` (dev: `valid.txt`)."""


class VisionConfig(Section):
    """How a tagger looks at pictures: words attend to patches, through a gate (UMT)."""

    encoder: str = "cnn"
    """`cnn`, trained from scratch; or folder or hub name of a frozen CLIP, SigLIP or ViT."""
    grid: Count = 8
    """cnn: patches along each side of a picture, of 8 pixels each."""
    width: Count = 64
    """Length of what a word takes from a picture; a multiple of `heads`."""
    heads: Count = 4
    """Heads of the attention to patches (UMT: 12)."""
    hidden: Fraction = 0.1
    """Share of pictures that training hides, so that it learns "no picture" too."""
    cache_mb: Annotated[Count, FREE] = 1024
    """Memory for what was read of pictures; it is read again where that is too little."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> VisionConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        return self


class UncertaintyConfig(Section):
    """Whose probabilities a confidence averages."""

    kind: Literal["marginal", "mc-dropout", "ensemble"] = "marginal"
    """`marginal`: one tagger's; `mc-dropout`: with dropout on; `ensemble`: of several seeds."""
    count: Count = 5
    """mc-dropout: passes over each post; ensemble: taggers, trained one after another."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """mc-dropout: changes what the passes leave out."""


class TaggerConfig(Section):
    """The model that finds mentions in a text (ReFineG: xlm-roberta-large with a CRF)."""

    backend: Literal["encoder", "bilstm", "generative", "spacy"] = "encoder"
    """A pre-trained encoder; from scratch; a BART or T5 that points at words; spaCy as it is."""
    path: str | None = None
    """Folder or hub name of weights (spacy: or package); null is that of `minilm` or `spacy`."""
    head: Literal["crf", "linear"] = "crf"
    """What makes labels of words: a linear chain, or each word by itself."""
    max_length: Annotated[int, Field(ge=8)] = 128
    """encoder, generative: pieces read at once (ReFineG: 128); longer posts go in windows."""
    knowledge: bool = False
    """encoder, generative: whether a post's knowledge is read after it, as far as it fits."""
    characters: bool = False
    """encoder: whether a convolution over each word's characters stands beside the encoder."""
    dropout: Dropout = 0.1
    """Share of the values of each word's vector that training leaves out."""
    word_dropout: Dropout = 0.1
    """encoder, bilstm: share of words whose vector training leaves out (ReFineG: 0.1)."""
    vectors: str | None = None
    """bilstm: word vectors to start from, a word2vec or GloVe text file."""
    word_size: Count = 100
    """bilstm: length of a word's vector."""
    hidden_size: Count = 200
    """bilstm: length of each direction's state."""
    vision: VisionConfig | None = None
    """Whether it looks at the posts' pictures, and how; null reads the text alone."""
    uncertainty: UncertaintyConfig = UncertaintyConfig()
    """Where confidences come from."""
    beams: Count = 1
    """generative: taggings that its search keeps; 1 is greedy (BARTNER, flat entities: 1)."""
    labels: dict[str, str | None] = Field(default={})
    """spacy: a type for a label of the pipeline where it is not the usual one; null drops it."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What matrix products run in; weights are float32 either way."""
    device: Annotated[str, FREE] = "auto"
    """`cpu`, `cuda`, `cuda:1` …; `auto` is a GPU where there is one."""
    batch_size: Annotated[Count, FREE] = 64
    """Posts that run together outside training; results differ by rounding only."""

    @model_validator(mode="after")
    def _can_do_what_is_asked(self) -> TaggerConfig:
        if self.backend not in ("encoder", "bilstm"):
            if self.vision is not None:
                raise ValueError(f"vision: backend {self.backend} does not look at pictures")
            if self.uncertainty.kind != "marginal":
                raise ValueError(f"uncertainty.kind: backend {self.backend} has marginal alone")
        return self

    @property
    def single(self) -> TaggerConfig:
        """The same tagger with nothing averaged, such as a member of an ensemble."""
        return self.model_copy(update={"uncertainty": UncertaintyConfig()})


class TaggerOptimiser(Optimiser):
    """Fine-tuning of a tagger (ReFineG: 15 epochs of batches of 32)."""

    lr: Positive = 1e-5
    """Peak learning rate of the encoder (ReFineG: 1e-5)."""
    head_lr: Positive | None = None
    """Peak learning rate of what turns vectors into labels; null as the encoder's."""
    crf_lr: Positive = 5e-2
    """Peak learning rate of the scores between labels (ReFineG: 5e-2)."""
    batch_size: Count = 32
    """Posts a step (ReFineG: 32)."""
    epochs: Count = 15
    """Passes over the training posts, at most (ReFineG: 15)."""
    warmup: Fraction = 0.1
    """Share of steps that warm up (not stated)."""
    schedule: Literal["cosine", "linear", "constant"] = "linear"
    """How the learning rate goes after the warm-up (not stated)."""


class TaggingConfig(Section):
    """A tagger, from labelled posts to calibrated mentions and their scores."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Changes initial weights, the order of posts and dropout."""
    scheme: Literal["twitter", "ccks"] = "twitter"
    """The entity types."""
    data: TextData
    """Labelled posts in splits `train` and `dev`; others are tagged, and scored too."""
    tagger: TaggerConfig = TaggerConfig()
    """The model."""
    tuning: TaggerOptimiser | None = TaggerOptimiser()
    """Its training on `train`; null takes it as it is."""
    patience: Count | None = 3
    """Epochs without a better F1 on `dev` that end the training; the best epoch counts."""
    evaluate: Annotated[list[str], FREE] = Field(default=["dev", "test"])
    """Splits to tag and score when the training is over."""
    checkpoint_every_s: Annotated[Positive, FREE] = 120.0
    """Seconds between checkpoints within the fit: what a kill can cost. It changes no result."""

    @model_validator(mode="after")
    def _knows_where_knowledge_is(self) -> TaggingConfig:
        if self.tagger.knowledge and self.data.knowledge is None:
            raise ValueError("tagger.knowledge needs data.knowledge: the folder of the words")
        return self

    @model_validator(mode="after")
    def _trains_what_it_averages(self) -> TaggingConfig:
        if self.tagger.uncertainty.kind == "ensemble" and self.tuning is None:
            raise ValueError("an ensemble needs tuning: its members differ by their training")
        return self

    @model_validator(mode="after")
    def _trains_what_can_be_trained(self) -> TaggingConfig:
        if self.tagger.backend == "spacy" and self.tuning is not None:
            raise ValueError("tuning: tagger.backend spacy is not trained here; set tuning to null")
        return self
