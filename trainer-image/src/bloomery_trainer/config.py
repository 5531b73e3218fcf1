"""The configuration document, as the operator (or a person) writes it: camelCase JSON, unknown keys refused.

Sizes are in bytes, times in seconds. `python -m bloomery_trainer schema` prints its JSON schema.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from bloomery_trainer.errors import BadConfig

Uri = Annotated[str, Field(pattern=r"^(s3://[^/]+(/.*)?|file:///.*)$")]
Share = Annotated[float, Field(ge=0, lt=1)]
Format = Literal["jpg", "jpeg", "png", "bmp", "gif", "tif", "tiff", "webp"]
Metric = Literal["top1", "top5", "precision", "recall", "f1"]
PresetName = Literal["resnet18", "resnet50"]


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True)


class Source(_Model):
    """Where the images lie, and how their folders are to be read."""

    uri: Uri
    layout: Literal["Auto", "SplitFolders", "Folders"] = "Auto"


class Split(_Model):
    """Shares of each class to hold out, each rounded down; ignored where the folders are split already."""

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
    formats: tuple[Format, ...] = ("jpg", "jpeg", "png", "bmp")
    max_bytes: Annotated[int, Field(ge=1)] = 4 * 1024 * 1024
    max_aspect_ratio: Annotated[float, Field(ge=1)] = 3
    min_side: Annotated[int, Field(ge=1)] = 31
    max_side: Annotated[int, Field(ge=1)] = 4095


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
    source: Source
    split: Split = Split()
    rules: Rules = Rules()
    shards: Shards = Shards()
    output: Output


class DatasetVersion(_Model):
    """One prepared dataset version; `uri` is its own folder, the one with manifest.json."""

    name: str
    version: str
    uri: Uri


class Hyperparameters(_Model):
    """What is absent takes the preset's default."""

    epochs: Annotated[int | None, Field(ge=1)] = None
    max_steps: Annotated[int | None, Field(ge=1)] = None
    batch_size: Annotated[int, Field(ge=1)] = 32
    learning_rate: Annotated[float | None, Field(gt=0)] = None
    optimizer: Literal["sgd", "adamw"] | None = None
    momentum: Annotated[float | None, Field(ge=0, lt=1)] = None
    weight_decay: Annotated[float | None, Field(ge=0)] = None
    warmup_epochs: Annotated[float | None, Field(ge=0)] = None
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    image_size: Annotated[int, Field(ge=32, le=1024)] = 224
    augmentation: Literal["TrivialAugment", "Light", "None"] | None = None
    horizontal_flip: bool = True
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.epochs is not None and self.max_steps is not None:
            raise ValueError("epochs and maxSteps exclude each other: give one of them")
        return self


class Mlflow(_Model):
    """Where the run and the model are recorded; the server's address is $MLFLOW_TRACKING_URI."""

    experiment: str
    registered_model: str
    version_label: str | None = None
    tags: dict[str, str] = {}


class TrainConfig(_Model):
    """Train a classifier on a prepared dataset, evaluate it, write it out and register it."""

    kind: Literal["train"]
    name: str
    namespace: str = "default"
    uid: str
    display_name: str | None = None
    description: str | None = None
    dataset: DatasetVersion
    preset: PresetName
    hyperparameters: Hyperparameters = Hyperparameters()
    metric: Metric = "top1"
    mlflow: Mlflow
    output: Output


Config = Annotated[PrepareConfig | TrainConfig, Field(discriminator="kind")]
_CONFIG: TypeAdapter[PrepareConfig | TrainConfig] = TypeAdapter(Config)


def load(path: Path) -> PrepareConfig | TrainConfig:
    """Reads a configuration file; raises BadConfig with a sentence that names the field."""
    try:
        return _CONFIG.validate_json(path.read_bytes())
    except OSError as error:
        raise BadConfig("InvalidConfig", f"cannot read the configuration {path}: {error.strerror}") from error
    except ValidationError as error:
        raise BadConfig("InvalidConfig", f"the configuration {path.name} is wrong: {_words(error)}") from error


def schema() -> str:
    """The JSON schema of the document, as stable text."""
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
