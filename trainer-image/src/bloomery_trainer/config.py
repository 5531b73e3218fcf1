"""The configuration document, as the operator (or a person) writes it: camelCase JSON, unknown keys refused.

Sizes are in bytes, times in seconds. ``python -m bloomery_trainer schema`` prints its JSON schema.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from bloomery_model.sources.encoding_names import Encoding
from bloomery_trainer.errors import BadConfig

Uri = Annotated[str, Field(pattern=r"^(s3://[^/]+(/.*)?|file:///.*)$")]
SourceUri = Annotated[str, Field(pattern=r"^(s3://[^/]+(/.*)?|file:///.*|https://[^/]+/.*)$")]
Share = Annotated[float, Field(ge=0, lt=1)]
Format = Literal["jpg", "jpeg", "jpe", "jfif", "png", "bmp", "webp", "gif", "tif", "tiff"]
DEFAULT_FORMATS: tuple[Format, ...] = ("jpg", "jpeg", "jpe", "jfif", "png", "bmp", "webp")
"""File name extensions of the formats that the model server answers."""

Layout = Literal["Auto", "SplitFolders", "Folders", "ImageText"]
Metric = Literal["top1", "top5", "precision", "recall", "f1", "balanced"]


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True)


class Source(_Model):
    """Where the images lie, a folder or a .zip, .tar.gz or .tgz of one (by https only those), and how to read it.

    `encoding` is that of names in the archive and of label texts that do not declare one; left out, it is detected.
    """

    uri: SourceUri
    layout: Layout = "Auto"
    encoding: Encoding | None = None


class Addition(_Model):
    """Later images: into the classes of their own folders, or all into one class, or captures of a service.

    Captures have their true labels. `trust_above` takes those without one, too, as images to train with, if the model's
    score is higher.
    """

    uri: SourceUri
    class_name: str | None = Field(default=None, alias="class")
    encoding: Encoding | None = None
    from_: Literal["Capture"] | None = Field(default=None, alias="from")
    trust_above: Annotated[float, Field(ge=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _fits_captures(self) -> Self:
        if self.from_ is None and self.trust_above is not None:
            raise ValueError("trustAbove is for captures: set from to Capture")
        if self.from_ is not None and self.class_name is not None:
            raise ValueError("captures have classes of their own: leave class out")
        return self


class Move(_Model):
    """One image, by its path below the source, and the class that it belongs to instead of its folder's."""

    image: Annotated[str, Field(min_length=1)]
    class_name: Annotated[str, Field(alias="class", min_length=1)]


class Split(_Model):
    """Shares of the images to hold out; ignored where the folders are split already."""

    validation: Annotated[float, Field(gt=0, lt=1)] = 0.2
    test: Share = 0.0
    seed: int = 0

    @model_validator(mode="after")
    def _leaves_some_to_train(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError("validation and test together must be less than 1")
        return self


class Rules(_Model):
    """What an image and a class must be; `check` false leaves only what training cannot do without."""

    check: bool = True
    min_images_per_class: Annotated[int, Field(ge=1)] = 20
    min_classes: Annotated[int, Field(ge=2)] = 2
    max_classes: Annotated[int, Field(ge=2)] = 1000
    formats: tuple[Format, ...] = DEFAULT_FORMATS
    max_bytes: Annotated[int, Field(ge=1)] = 4 * 1024 * 1024
    max_aspect_ratio: Annotated[float, Field(ge=1)] = 3
    min_side: Annotated[int, Field(ge=1)] = 31
    max_side: Annotated[int, Field(ge=1)] = 4095
    max_archive_bytes: Annotated[int, Field(ge=1)] = 5 * 1024**3
    leaks: Literal["Keep", "DropExact", "DropNear"] = "DropExact"


class Shards(_Model):
    """How images are packed."""

    images: Annotated[int, Field(ge=1)] = 1000


class Output(_Model):
    """The folder in the store that takes what is made."""

    uri: Uri


class PrepareConfig(_Model):
    """Turn a source of images into a versioned, packed dataset."""

    kind: Literal["prepare"]
    name: str
    namespace: str = "default"
    display_name: str | None = None
    description: str | None = None
    source: Source
    append: tuple[Addition, ...] = ()
    exclude: tuple[str, ...] = ()
    move: tuple[Move, ...] = ()
    rename: dict[str, str] = {}
    classes: tuple[str, ...] = ()
    split: Split = Split()
    rules: Rules = Rules()
    shards: Shards = Shards()
    output: Output


class DatasetVersion(_Model):
    """One prepared dataset version; `uri` is its own folder, the one with manifest.json.

    `classes` is the subset to use; empty, all of them.
    """

    name: str
    version: str
    uri: Uri
    classes: tuple[str, ...] = ()


class InitialModel(_Model):
    """What training starts from: a model folder, a weights file, or published weights.

    `weights` is torchvision's name of published weights, or "None" to train from scratch. `origin` says in words
    where the model comes from; `digest` (`sha256:…`), where given, is checked.
    """

    uri: Uri | None = None
    weights: str | None = None
    digest: str | None = None
    origin: str | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.uri is None) == (self.weights is None):
            raise ValueError("give one of uri and weights")
        return self


class PublishedWeights(_Model):
    """Where torchvision's weight files are looked for: the folder `uri` first, then, if allowed, torchvision's server.

    A file in the folder has torchvision's file name, or lies under the preset's name.
    """

    uri: Uri | None = None
    download: bool = True


class Hyperparameters(_Model):
    """The recipe; an absent value is chosen by the preset, the start and the number of images."""

    epochs: Annotated[int | None, Field(ge=1)] = None
    max_steps: Annotated[int | None, Field(ge=1)] = None
    batch_size: Annotated[int | None, Field(ge=1)] = None
    learning_rate: Annotated[float | None, Field(gt=0)] = None
    learning_rate_schedule: str | None = None
    optimizer: Literal["sgd", "adamw"] | None = None
    momentum: Annotated[float | None, Field(ge=0, lt=1)] = None
    weight_decay: Annotated[float | None, Field(ge=0)] = None
    warmup_epochs: Annotated[float | None, Field(ge=0)] = None
    label_smoothing: Annotated[float | None, Field(ge=0, lt=1)] = None
    image_size: Annotated[int | None, Field(ge=32, le=1024)] = None
    augmentation: Literal["TrivialAugment", "Light", "None"] | None = None
    horizontal_flip: bool = True
    vertical_flip: bool = False
    mixup: Annotated[float, Field(ge=0, le=1)] = 0.0
    ema: Annotated[float | None, Field(ge=0, lt=1)] = None
    balance: Literal["None", "Loss", "Sampling"] = "None"
    trainable: Literal["All", "Head"] = "All"
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.epochs is not None and self.max_steps is not None:
            raise ValueError("epochs and maxSteps exclude each other: give one of them")
        if self.learning_rate_schedule is not None:
            _refuse_contradictions(self, parse_schedule(self.learning_rate_schedule))
        return self


def parse_schedule(text: str) -> tuple[tuple[int, float], ...]:
    """Read ``20:0.001,30:0.0001`` as ((20, 0.001), (30, 0.0001)): until epoch 20 one rate, then until 30 another.

    Raises:
        ValueError: it is not of that form, or the epochs do not rise.
    """
    try:
        parts = [part.split(":") for part in text.replace(" ", "").split(",")]
        stages = tuple((int(until), float(rate)) for until, rate in parts)
    except ValueError:
        raise ValueError(f"learningRateSchedule must be like '20:0.001,30:0.0001', not {text!r}") from None
    before = 0
    for until, rate in stages:
        if until <= before:
            raise ValueError("the epochs of learningRateSchedule must rise, from 1 on")
        if not 0 < rate <= 10:
            raise ValueError("the rates of learningRateSchedule must be above 0 and at most 10")
        before = until
    return stages


def _refuse_contradictions(settings: Hyperparameters, stages: tuple[tuple[int, float], ...]) -> None:
    if settings.learning_rate is not None:
        raise ValueError("learningRate and learningRateSchedule exclude each other: give one of them")
    if settings.epochs is not None and settings.epochs != stages[-1][0]:
        raise ValueError(f"learningRateSchedule ends at epoch {stages[-1][0]}, but epochs is {settings.epochs}")


class EarlyStopping(_Model):
    """Ends training when the metric has not risen for so many epochs."""

    patience: Annotated[int, Field(ge=1)] = 5


class Checkpoint(_Model):
    """How often the state is saved, and how many savings are kept; one of the two measures."""

    every_seconds: Annotated[float | None, Field(gt=0)] = None
    every_steps: Annotated[int | None, Field(ge=1)] = None
    keep: Annotated[int, Field(ge=1)] = 2

    @model_validator(mode="after")
    def _one_measure(self) -> Self:
        if self.every_seconds is not None and self.every_steps is not None:
            raise ValueError("everySeconds and everySteps exclude each other: give one of them")
        return self


class Promotion(_Model):
    """When the registry's alias moves to the new version: `at_least` is a value of the job's metric.

    With `better_than_current`, the metric must exceed the current model's by more than `least_gain`, and with
    `confidence` a one-sided paired test must agree at that level.
    """

    alias: str
    at_least: Annotated[float | None, Field(ge=0, le=1)] = None
    better_than_current: bool = False
    least_gain: Annotated[float, Field(ge=0, lt=1)] = 0.0
    confidence: Annotated[float | None, Field(ge=0.5, lt=1)] = None


class Mlflow(_Model):
    """Where the run and the model are recorded; the server's address is $MLFLOW_TRACKING_URI."""

    experiment: str
    registered_model: str
    version_label: str | None = None
    tags: dict[str, str] = {}
    promote: Promotion | None = None


class TrainOutput(_Model):
    """The folder in the store that takes what is made; the log may be kept elsewhere too.

    With `quantization` Int8 the exported model computes in int8, unless that costs more than a point of the metric
    on the held-out images or is not faster. With `references`, held-out images and the model's answers are left beside
    it, so that model servers can compare other engines with them.
    """

    uri: Uri
    log_uri: Uri | None = None
    quantization: Literal["None", "Int8"] = "None"
    references: bool = True


class TrainConfig(_Model):
    """Train a classifier on prepared datasets, evaluate it, write it out and register it.

    Without `initial_model`, training starts from published weights where they can be had, and else from scratch.
    `scratch_bytes` is what the local scratch folder may hold, where less than the file system it is on.

    With several `nodes`, each node runs this with its number in $JOB_COMPLETION_INDEX; they meet at `rendezvous`
    (host:port of node 0).
    """

    kind: Literal["train"]
    name: str
    namespace: str = "default"
    uid: str
    display_name: str | None = None
    description: str | None = None
    datasets: Annotated[tuple[DatasetVersion, ...], Field(min_length=1)]
    preset: str
    initial_model: InitialModel | None = None
    published_weights: PublishedWeights = PublishedWeights()
    evaluate_only: bool = False
    hyperparameters: Hyperparameters = Hyperparameters()
    metric: Metric = "top1"
    early_stopping: EarlyStopping | None = None
    checkpoint: Checkpoint = Checkpoint()
    max_training_seconds: Annotated[float | None, Field(gt=0)] = None
    scratch_bytes: Annotated[int | None, Field(ge=1)] = None
    nodes: Annotated[int, Field(ge=1)] = 1
    rendezvous: str | None = None
    mlflow: Mlflow
    output: TrainOutput

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        start = self.initial_model
        if start is not None and start.weights == "None" and self.hyperparameters.trainable == "Head":
            raise ValueError(
                "hyperparameters.trainable Head needs trained weights to start from, and initialModel.weights is None"
            )
        if self.evaluate_only and (start is None or start.weights == "None"):
            raise ValueError("evaluateOnly needs an initialModel: there is nothing to evaluate")
        if self.evaluate_only and self.output.quantization != "None":
            raise ValueError("output.quantization and evaluateOnly exclude each other: no model is made")
        if self.nodes > 1 and self.rendezvous is None:
            raise ValueError("nodes above 1 need rendezvous, the host:port of node 0")
        return self


Config = Annotated[PrepareConfig | TrainConfig, Field(discriminator="kind")]
_CONFIG: TypeAdapter[PrepareConfig | TrainConfig] = TypeAdapter(Config)


def load(path: Path) -> PrepareConfig | TrainConfig:
    """Read a configuration file; raise BadConfig with a sentence that names the field."""
    try:
        return _CONFIG.validate_json(path.read_bytes())
    except OSError as error:
        raise BadConfig("InvalidConfig", f"cannot read the configuration {path}: {error.strerror}") from error
    except ValidationError as error:
        raise BadConfig("InvalidConfig", f"the configuration {path.name} is wrong: {_words(error)}") from error


def schema() -> str:
    """Return the JSON schema of the document, as stable text."""
    document: dict[str, Any] = _CONFIG.json_schema(by_alias=True)
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def _words(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(_problem(problem["loc"], problem["msg"]) for problem in problems[:5])


def _problem(location: tuple[int | str, ...], message: str) -> str:
    where = ".".join(str(part) for part in location if part not in ("prepare", "train"))
    message = message.removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return f"{where}: {message}" if where else message
