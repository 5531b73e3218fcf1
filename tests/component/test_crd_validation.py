"""Validation by kubectl apply: defaults of a valid spec, and messages for an invalid one."""

from __future__ import annotations

import copy
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import httpx
import pytest
import yaml

from testing.crds import read_schema

if TYPE_CHECKING:
    from testing.api_server import ApiServer

Object: TypeAlias = dict[str, Any]
FieldPath: TypeAlias = tuple[str | int, ...]

API = "bloomery.dev/v1alpha1"


@dataclass(frozen=True)
class Api:
    """The REST API as a strict client such as kubectl uses it, without a process for each request."""

    client: httpx.Client

    def create(self, namespace: str, manifest: Object) -> Object:
        """Create an object that must be accepted; return it as stored."""
        return self._accepted(self.client.post(self._path(namespace, manifest), json=manifest, params=STRICT))

    def replace(self, namespace: str, manifest: Object, *, part: str = "") -> httpx.Response:
        """Replace an object, or a part of it such as /status."""
        path = f"{self._path(namespace, manifest)}/{manifest['metadata']['name']}{part}"
        return self.client.put(path, json=manifest, params=STRICT)

    @staticmethod
    def _path(namespace: str, manifest: Object) -> str:
        return f"/apis/{API}/namespaces/{namespace}/{manifest['kind'].lower()}s"

    @staticmethod
    def _accepted(response: httpx.Response) -> Object:
        assert response.status_code < 300, response.text
        stored: Object = response.json()
        return stored


STRICT = {"fieldValidation": "Strict"}


@pytest.fixture(scope="module")
def api(crds: ApiServer) -> Iterator[Api]:
    """Give the REST API, with our kinds in it."""
    with crds.http() as client:
        yield Api(client)


def dataset(name: str = "flowers", **spec: Any) -> Object:
    """A Dataset that is accepted, with fields of the spec put in."""
    return _object("Dataset", name, {"source": {"uri": "s3://flowers/raw"}} | spec)


def training_job(name: str = "flowers", **spec: Any) -> Object:
    """A TrainingJob that is accepted, with fields of the spec put in."""
    return _object("TrainingJob", name, {"datasets": [{"name": "flowers"}], "preset": "resnet18"} | spec)


def batch_prediction(name: str = "june", **spec: Any) -> Object:
    """A BatchPrediction that is accepted, with fields of the spec put in."""
    needed = {
        "model": {"trainingJob": "flowers"},
        "source": {"uri": "s3://photos/june"},
        "output": {"uri": "s3://photos/predictions"},
    }
    return _object("BatchPrediction", name, needed | spec)


def retraining(name: str = "flowers", *, training: Object | None = None, **spec: Any) -> Object:
    """A Retraining that is accepted with a trigger, with fields of the spec and of its template put in."""
    return _object("Retraining", name, {"template": {"spec": training_job(**(training or {}))["spec"]}} | spec)


def scheduled(**training: Any) -> Object:
    """A Retraining with a schedule, and with fields of its template put in."""
    return retraining(schedule="30 2 * * 1", training=training)


def service(name: str = "flowers", **spec: Any) -> Object:
    """An InferenceService that is accepted, with fields of the spec put in."""
    return _object("InferenceService", name, {"variants": [variant()]} | spec)


def variant(name: str = "v1", *, weight: int = 100, **fields: Any) -> Object:
    """A variant that is accepted, with fields put in."""
    return {"name": name, "model": {"trainingJob": "flowers"}, "weight": weight} | fields


def _object(kind: str, name: str, spec: Object) -> Object:
    return {"apiVersion": API, "kind": kind, "metadata": {"name": name}, "spec": spec}


def hyperparameters(**fields: Any) -> Object:
    """A TrainingJob with these hyperparameters."""
    return training_job(hyperparameters=fields)


NAME_RULE = "metadata.name must have at most 40 characters"
REFUSED: dict[str, tuple[Object, str]] = {
    # Names
    "a name of 41 characters": (dataset("f" * 41), NAME_RULE),
    "a name that begins with a digit": (training_job("4flowers"), NAME_RULE),
    "a name with a dot": (service("flowers.v2"), NAME_RULE),
    "a name that leaves no room for those of trainings": (
        retraining("f" * 30, onNewVersion=True),
        "metadata.name must have at most 29 characters",
    ),
    # Retraining
    "a Retraining without a trigger": (retraining(onNewVersion=False), "spec needs a trigger"),
    "a time zone without a schedule": (retraining(onNewVersion=True, timeZone="UTC"), "spec.timeZone is that of"),
    "a time zone by an offset": (retraining(schedule="0 0 * * *", timeZone="+02:00"), "a name of the IANA database"),
    "a schedule of four fields": (retraining(schedule="30 2 * *  "), "spec.schedule must be five fields"),
    "a schedule of six fields": (retraining(schedule="0 30 2 * * 1"), "spec.schedule must be five fields"),
    "a schedule by a macro": (retraining(schedule="@midnight"), "spec.schedule must be five fields"),
    "a minute too many": (retraining(schedule="60 2 * * *"), "minute 0-59"),
    "a day of no week": (retraining(schedule="0 2 * * 8"), "spec.schedule must be five fields"),
    "a step of nothing": (retraining(schedule="*/0 * * * *"), "spec.schedule must be five fields"),
    "no new images": (retraining(minNewImages=0), "spec.minNewImages"),
    "a training that stops at once": (scheduled(stop=True), "spec.template.spec.stop would end"),
    "trainings that make no model": (
        scheduled(evaluateOnly=True, initialModel={"trainingJob": "base"}),
        "spec.template.spec.evaluateOnly makes no model",
    ),
    "one folder for all trainings": (
        scheduled(output={"uri": "s3://mine/out"}),
        "spec.template.spec.output.uri and logUri would be one folder",
    ),
    "one folder for all logs": (scheduled(output={"logUri": "s3://mine/log"}), "would be one folder"),
    "a model with a mark of aliases": (
        scheduled(output={"registeredModel": "flowers@home"}),
        "must not contain '@'",
    ),
    "a template that no TrainingJob could have": (
        scheduled(hyperparameters={"epochs": 1, "maxSteps": 1}),
        "spec.template.spec.hyperparameters.epochs and spec.template.spec.hyperparameters.maxSteps both",
    ),
    "an unknown field of a template": (scheduled(batch=1), 'unknown field "spec.template.spec.batch"'),
    "a refresh that is no schedule": (
        dataset(refresh={"schedule": "each day"}),
        "spec.refresh.schedule must be five fields",
    ),
    # Unknown fields
    "an unknown field of a Dataset": (dataset(sorce={}), 'unknown field "spec.sorce"'),
    "batch_size for batchSize": (
        hyperparameters(batch_size=16),
        'unknown field "spec.hyperparameters.batch_size"',
    ),
    "an unknown field of a variant": (
        service(variants=[variant(mirror=3)]),
        'unknown field "spec.variants[0].mirror"',
    ),
    # Dataset
    "a move without a class": (dataset(move=[{"image": "a/1.jpg"}]), "spec.move[0].class: Required value"),
    "a move of no image": (
        dataset(move=[{"image": "", "class": "a"}]),
        "spec.move[0].image in body should be at least 1 chars long",
    ),
    "no source": (_object("Dataset", "flowers", {}), "spec.source: Required value"),
    "a file:// source": (dataset(source={"uri": "file:///data"}), "spec.source.uri must begin with s3://"),
    "an archive without its ending": (
        dataset(source={"uri": "https://example.com/flowers"}),
        "spec.source.uri must name a .zip, .tar.gz or .tgz after https://",
    ),
    "a password in an address": (
        dataset(source={"uri": "https://me:secret@example.com/flowers.zip"}),
        "without a user or password",
    ),
    "an http source": (
        dataset(source={"uri": "http://example.com/flowers.zip"}),
        "spec.source.uri must begin with s3://, https:// or pvc://",
    ),
    "a claim without a name": (
        dataset(source={"uri": "pvc:///raw"}),
        "spec.source.uri must name a PersistentVolumeClaim after pvc://",
    ),
    "later images from anywhere": (
        dataset(append=[{"uri": "/data/roses"}]),
        "spec.append[].uri must begin with s3://, https:// or pvc://",
    ),
    "trust without captures": (
        dataset(append=[{"uri": "s3://flowers/more", "trustAbove": 0.99}]),
        "spec.append[].trustAbove is for captures",
    ),
    "captures of one class": (
        dataset(append=[{"uri": "s3://captures", "from": "Capture", "class": "a"}]),
        "captures have classes of their own",
    ),
    "trust that nothing deserves": (
        dataset(append=[{"uri": "s3://captures", "from": "Capture", "trustAbove": 1}]),
        "spec.append[].trustAbove must be less than 1",
    ),
    "later images from elsewhere": (
        dataset(append=[{"uri": "s3://captures", "from": "Feedback"}]),
        'supported values: "Capture"',
    ),
    "an archive of any size": (
        dataset(rules={"maxArchiveBytes": "lots"}),
        "spec.rules.maxArchiveBytes must be a quantity such as 5Gi",
    ),
    "a source without a bucket": (dataset(source={"uri": "s3:///raw"}), "must name a bucket after s3://"),
    "an unknown layout": (
        dataset(source={"uri": "s3://flowers", "layout": "Coco"}),
        'supported values: "Auto", "SplitFolders", "Folders"',
    ),
    "an unknown encoding": (
        dataset(source={"uri": "s3://flowers", "encoding": "ansi"}),
        'supported values: "utf-8", "utf-16le", "utf-16be", "gbk"',
    ),
    "shares that leave nothing to train on": (
        dataset(split={"validation": 0.5, "test": 0.5}),
        "spec.split.validation and spec.split.test must together be less than 1",
    ),
    "no images to choose the best model on": (
        dataset(split={"validation": 0}),
        "spec.split.validation must be more than 0, as the best model is chosen on these images",
    ),
    "a negative share": (dataset(split={"validation": -0.1}), "should be greater than or equal to 0"),
    "more minimum than maximum classes": (
        dataset(rules={"minClasses": 5, "maxClasses": 4}),
        "spec.rules.minClasses must not be greater than spec.rules.maxClasses",
    ),
    "a minimum side above the maximum": (
        dataset(rules={"minSide": 500, "maxSide": 400}),
        "spec.rules.minSide must not be greater than spec.rules.maxSide",
    ),
    "an unknown format": (dataset(rules={"formats": ["heic"]}), 'Unsupported value: "heic"'),
    "a largest file of zero": (
        dataset(rules={"maxBytes": 0}),
        "spec.rules.maxBytes must be a quantity such as 4Mi, more than 0",
    ),
    "a largest file of 2Gi": (dataset(rules={"maxBytes": "2Gi"}), "and at most 1Gi"),
    "a size with a word": (
        dataset(rules={"maxBytes": "4 MB"}),
        "spec.rules.maxBytes must be a quantity such as 4Mi",
    ),
    "a quantity that is none": (
        dataset(resources={"limits": {"cpu": "two"}}),
        "spec.resources.limits.cpu in body should match",
    ),
    "a negative quantity": (
        dataset(resources={"limits": {"cpu": -1}}),
        "spec.resources.limits.cpu in body should be greater than or equal to 0",
    ),
    # TrainingJob
    "an unknown preset": (training_job(preset="vgg16"), 'supported values: "general", "high-precision"'),
    "an unknown metric": (training_job(metric="accuracy"), 'supported values: "top1"'),
    "nine datasets": (training_job(datasets=[{"name": f"d{n}"} for n in range(9)]), "must have at most 8 items"),
    "the same dataset twice": (training_job(datasets=[{"name": "a"}, {"name": "a"}]), "Duplicate value"),
    "a learning rate beside a schedule": (
        hyperparameters(learningRate=0.1, learningRateSchedule="20:0.001"),
        "learningRate and spec.hyperparameters.learningRateSchedule exclude each other",
    ),
    "a schedule that ends at another epoch": (
        hyperparameters(epochs=25, learningRateSchedule="20:0.001, 30:0.0001"),
        "must end at the epoch that spec.hyperparameters.epochs",
    ),
    "a schedule of another form": (
        hyperparameters(learningRateSchedule="0.001"),
        "must be pairs of an epoch and a rate, such as 20:0.001,30:0.0001",
    ),
    "a schedule whose epochs fall": (
        hyperparameters(learningRateSchedule="30:0.001,20:0.0001"),
        "the epochs of spec.hyperparameters.learningRateSchedule must rise",
    ),
    "a schedule with an epoch twice": (
        hyperparameters(learningRateSchedule="20:0.001,20:0.0001"),
        "the epochs of spec.hyperparameters.learningRateSchedule must rise",
    ),
    "a schedule that stands still": (
        hyperparameters(learningRateSchedule="20:0.001,30:0"),
        "the rates of spec.hyperparameters.learningRateSchedule must be above 0 and at most 10",
    ),
    "a schedule with a rate of no number": (
        hyperparameters(learningRateSchedule="20:1e,30:0.1"),
        "must be pairs of an epoch and a rate, such as 20:0.001,30:0.0001",
    ),
    "a warm-up beside a schedule": (
        hyperparameters(learningRateSchedule="20:0.001", warmupEpochs=1),
        "warmupEpochs does not apply to a spec.hyperparameters.learningRateSchedule",
    ),
    "a head to train on nothing": (
        training_job(initialModel={"weights": "None"}, hyperparameters={"trainable": "Head"}),
        "spec.hyperparameters.trainable Head needs trained weights to start from",
    ),
    "an unknown balance": (
        hyperparameters(balance="Loud"),
        'supported values: "None", "Loss", "Sampling"',
    ),
    "nothing to evaluate, in words": (
        training_job(evaluateOnly=True, initialModel={"weights": "None"}),
        "spec.evaluateOnly needs a model with its classes",
    ),
    "a gain over no current version": (
        training_job(output={"promote": {"alias": "champion", "leastGain": 0.01}}),
        "set betterThanCurrent to true, or leave them out",
    ),
    "a test against no current version": (
        training_job(output={"promote": {"alias": "champion", "atLeast": 0.9, "confidence": 0.95}}),
        "set betterThanCurrent to true, or leave them out",
    ),
    "a confidence in percent": (
        training_job(output={"promote": {"alias": "champion", "betterThanCurrent": True, "confidence": 95}}),
        "spec.output.promote.confidence",
    ),
    "a confidence below one half": (
        training_job(output={"promote": {"alias": "champion", "betterThanCurrent": True, "confidence": 0.4}}),
        "spec.output.promote.confidence",
    ),
    "a gain in percent": (
        training_job(output={"promote": {"alias": "champion", "betterThanCurrent": True, "leastGain": 1}}),
        "spec.output.promote.leastGain",
    ),
    "nothing to evaluate": (training_job(evaluateOnly=True), "spec.evaluateOnly needs spec.initialModel"),
    "an int8 model of no training": (
        training_job(evaluateOnly=True, initialModel={"uri": "s3://a/b"}, output={"quantization": "Int8"}),
        "spec.output.quantization must be left out",
    ),
    "two initial models": (
        training_job(initialModel={"trainingJob": "base", "weights": "DEFAULT"}),
        "spec.initialModel needs exactly one of trainingJob, mlflow, uri and weights",
    ),
    "a TensorFlow checkpoint": (
        training_job(initialModel={"uri": "s3://models/inception_v1.ckpt"}),
        "use the output folder or a checkpoint of a TrainingJob",
    ),
    "a job that starts from itself": (
        training_job("again", initialModel={"trainingJob": "again"}),
        "spec.initialModel.trainingJob must be another TrainingJob than this one",
    ),
    "an image too small for the network": (
        training_job(preset="inception-v3", hyperparameters={"imageSize": 64}),
        "spec.hyperparameters.imageSize must be at least 75 with inception-v3",
    ),
    "a queue with a space": (
        training_job(queue="Team A"),
        "spec.queue must be the name of a LocalQueue",
    ),
    "a registry address of another form": (
        training_job(initialModel={"mlflow": "flowers/4"}),
        "spec.initialModel.mlflow must be like models:/flowers/4",
    ),
    "an unequal share for each node": (
        training_job(nodes=3, hyperparameters={"batchSize": 32}),
        "spec.hyperparameters.batchSize is the size over all nodes; make it a multiple of spec.nodes",
    ),
    "a prediction by two models": (
        batch_prediction(model={"trainingJob": "flowers", "uri": "s3://models/flowers"}),
        "spec.model must name exactly one of trainingJob",
    ),
    "a prediction into the images' own folder": (
        batch_prediction(output={"uri": "s3://photos/june/out"}),
        "spec.output.uri must not be in spec.source.uri",
    ),
    "a prediction into a bucket without a folder": (
        batch_prediction(output={"uri": "s3://predictions"}),
        "spec.output.uri must name a bucket and a folder in it",
    ),
    "a prediction as Parquet": (
        batch_prediction(output={"uri": "s3://photos/out", "format": "Parquet"}),
        'supported values: "JSONL", "CSV"',
    ),
    "a prediction of a folder by https": (
        batch_prediction(source={"uri": "https://example.com/photos"}),
        "spec.source.uri must name a .zip, .tar.gz or .tgz after https://",
    ),
    "a prediction of images with labels": (
        batch_prediction(source={"uri": "s3://photos/june", "layout": "ImageText"}),
        'unknown field "spec.source.layout"',
    ),
    "a prediction that follows an alias": (
        batch_prediction(model={"mlflow": "models:/flowers@champion", "update": "Follow"}),
        'unknown field "spec.model.update"',
    ),
    "a prediction with suspend beside a queue": (
        batch_prediction(queue="team-a", suspend=True),
        "with a queue, Kueue decides when the job runs",
    ),
    "suspend beside a queue": (
        training_job(queue="team-a", suspend=True),
        "with a queue, Kueue decides when the job runs",
    ),
    "a checkpoint every so often": (
        training_job(checkpoint={"every": "often"}),
        "spec.checkpoint.every must be a duration such as 5m or 90s, at most 10 years (87600h), or steps such as",
    ),
    "a training time in words": (
        training_job(maxTrainingTime="an hour"),
        "spec.maxTrainingTime must be a duration such as 1h, 90m or 3600s",
    ),
    "an alias that MLflow keeps for itself": (
        training_job(output={"promote": {"alias": "latest"}}),
        "neither latest nor like v1, which MLflow keeps for itself",
    ),
    "an output folder outside of a store": (
        training_job(output={"uri": "file:///out"}),
        "spec.output.uri must begin with s3://, then a bucket and a folder",
    ),
    "no dataset": (training_job(datasets=[]), "spec.datasets"),
    "a dataset version that is neither ordinal nor digest": (
        training_job(datasets=[{"name": "flowers", "version": "latest"}]),
        "spec.datasets[0].version in body should match",
    ),
    "epochs and maxSteps": (hyperparameters(epochs=2, maxSteps=100), "both say how long to train"),
    "momentum with adamw": (
        hyperparameters(optimizer="adamw", momentum=0.9),
        "spec.hyperparameters.momentum belongs to the optimizer sgd",
    ),
    "nothing but warm-up": (
        hyperparameters(epochs=5, warmupEpochs=5),
        "spec.hyperparameters.warmupEpochs must be less than spec.hyperparameters.epochs",
    ),
    "a learning rate of zero": (hyperparameters(learningRate=0), "spec.hyperparameters.learningRate"),
    "no scratch": (training_job(scratch="0"), "spec.scratch must be a quantity such as 5Gi, more than 0"),
    "a model name that MLflow refuses": (
        training_job(output={"registeredModel": "team/flowers"}),
        "spec.output.registeredModel must not contain '/' or ':'",
    ),
    "a model name with a line break": (
        training_job(output={"registeredModel": "flowers\nx-key: 1"}),
        "spec.output.registeredModel must not contain line breaks or other control characters",
    ),
    "a model name with a line separator": (
        training_job(output={"registeredModel": "flowers\u2028"}),
        "spec.output.registeredModel must not contain line breaks or other control characters",
    ),
    **{
        f"an annotation {key} of a trainer's pod": (
            training_job(podTemplate={"annotations": {"example.com/team": "a", key: "x"}}),
            "spec.podTemplate.annotations must not make a pod less confined",
        )
        for key in (
            "container.apparmor.security.beta.kubernetes.io/trainer",
            "seccomp.security.alpha.kubernetes.io/pod",
            "vault.hashicorp.com/agent-inject-command",
        )
    },
    "an annotation for injected secrets of a preparing pod": (
        dataset(podTemplate={"annotations": {"example.com/team": "a", "vault.hashicorp.com/agent-inject": "true"}}),
        "spec.podTemplate.annotations must not make a pod less confined",
    ),
    **{
        f"an annotation {key} of a server's pod": (
            service(variants=[variant("v1", podTemplate={"annotations": {"example.com/team": "a", key: "x"}})]),
            "podTemplate.annotations must not make a pod less confined",
        )
        for key in ("sidecar.istio.io/proxyImage", "k8s.v1.cni.cncf.io/networks", "cdi.k8s.io/gpu")
    },
    # InferenceService
    "no variant": (service(variants=[]), "should have at least 1 items"),
    "weights that sum to 90": (
        service(variants=[variant("v1", weight=80), variant("v2", weight=10)]),
        "the weights of spec.variants must sum to 100 percent",
    ),
    "a variant without a weight": (
        service(variants=[{"name": "v1", "model": {"trainingJob": "flowers"}}]),
        "spec.variants[0].weight: Required value",
    ),
    "eight variants": (
        service(variants=[variant(f"v{n}", weight=30 if n == 0 else 10) for n in range(8)]),
        "must have at most 7 items",
    ),
    "two variants of one name": (
        service(variants=[variant(weight=50), variant(weight=50)]),
        "spec.variants[1]: Duplicate value: ",
    ),
    "a variant's name of 17 characters": (
        service(variants=[variant("v" * 17)]),
        "the name of a variant must have at most 16 characters",
    ),
    "two model sources": (
        service(variants=[variant(model={"trainingJob": "flowers", "uri": "s3://models/flowers"})]),
        "model must name exactly one of trainingJob",
    ),
    "no model source": (service(variants=[variant(model={})]), "model must name exactly one of trainingJob"),
    "a file:// model": (
        service(variants=[variant(model={"uri": "file:///models"})]),
        "model.uri must begin with s3://",
    ),
    "a model that is a whole bucket": (
        service(variants=[variant(model={"uri": "s3://models"})]),
        "model.uri must name a bucket and the model's folder in it",
    ),
    "a model of the registry without a version": (
        service(variants=[variant(model={"mlflow": "flowers"})]),
        "model.mlflow must be like models:/flowers/4",
    ),
    "following a version, which never moves": (
        service(variants=[variant(model={"mlflow": "models:/flowers/4", "update": "Follow"})]),
        "model.update Follow needs an alias in model.mlflow",
    ),
    "a shadow with a share of its own": (
        service(variants=[variant(weight=90), variant("v2", weight=10, mirrorPercent=50)]),
        "so must have weight 0",
    ),
    "two rules for an answer": (
        service(variants=[variant(answer={"minConfidence": 0.7, "precision": 0.95})]),
        "answer must have exactly one of minConfidence",
    ),
    "an unknown engine": (service(variants=[variant(engine="TensorRT")]), 'supported values: "Auto", "OnnxRuntime"'),
    "no rule for an answer": (service(variants=[variant(answer={})]), "answer must have exactly one of minConfidence"),
    "a precision that no model has thresholds for": (
        service(variants=[variant(answer={"precision": 0.85})]),
        "Unsupported value",
    ),
    "a score in percent": (
        service(variants=[variant(answer={"minConfidence": 70})]),
        "should be less than or equal to 1",
    ),
    "replicas beside an autoscaler": (
        service(variants=[variant(replicas=2, autoscaling={"max": 3})]),
        "either replicas or autoscaling, not both",
    ),
    "an autoscaler from 4 to 3": (
        service(variants=[variant(autoscaling={"min": 4, "max": 3})]),
        "autoscaling.min must not be greater than autoscaling.max",
    ),
    "a rollout without room for old and new pods": (
        service(strategy="Recreate", rollout={"steps": [10]}),
        "spec.rollout needs old and new pods at the same time",
    ),
    "an unknown strategy": (service(strategy="BlueGreen"), "Unsupported value"),
    "a variant without room for its model": (
        service(variants=[variant(scratch="0")]),
        "scratch must be a quantity such as 20Gi, more than 0",
    ),
    "a rollout without steps": (service(rollout={"steps": []}), "should have at least 1 items"),
    "steps that do not rise": (
        service(rollout={"steps": [50, 10]}),
        "spec.rollout.steps must rise from step to step",
    ),
    "a step twice": (service(rollout={"steps": [10, 10]}), "spec.rollout.steps must rise from step to step"),
    "a step of 100 percent": (service(rollout={"steps": [100]}), "less than or equal to 99"),
    "an interval of a century": (
        service(rollout={"steps": [10], "interval": "876000h"}),
        "spec.rollout.interval must be a duration such as 2m, 90s or 1h, at most 10 years (87600h)",
    ),
    "an interval in words": (
        service(rollout={"steps": [10], "interval": "soon"}),
        "spec.rollout.interval must be a duration such as 2m",
    ),
    "an abort without a limit": (
        service(rollout={"steps": [10], "abortOn": {"minRequests": 5}}),
        "spec.rollout.abortOn needs errorRate, p99Ratio, confidenceDrop, disagreement or liveAccuracyDrop",
    ),
    "a limit of live accuracy without captures": (
        service(rollout={"steps": [10], "abortOn": {"liveAccuracyDrop": 0.05}}),
        "spec.rollout.abortOn.liveAccuracyDrop needs spec.capture, as feedback is about images that were captured",
    ),
    "a pause at no step": (
        service(rollout={"steps": [10, 50], "pauseAt": [20]}),
        "spec.rollout.pauseAt must name steps, as in {steps: [10, 50], pauseAt: [50]}",
    ),
    "an autoStop after ten years": (service(autoStop="87600h1s"), "at most 10 years (87600h)"),
    "an autoStop that no duration can hold": (service(autoStop="99999999h"), "at most 10 years (87600h)"),
    "an autoStop at once": (service(autoStop="0s"), "spec.autoStop must be a duration such as 1h"),
    "an origin with a path": (service(cors={"allowOrigins": ["https://a.example.com/app"]}), "without a path"),
    "an origin without a scheme": (service(cors={"allowOrigins": ["a.example.com"]}), "spec.cors.allowOrigins"),
    "an origin in capitals": (service(cors={"allowOrigins": ["https://A.example.com"]}), "in small letters"),
    "two origins in one": (service(cors={"allowOrigins": ["https://a.com,https://b.com"]}), "spec.cors.allowOrigins"),
    "an explanation that is no boolean": (service(explain="Always"), "spec.explain"),
    "captures to no bucket": (service(capture={"uri": "s3://"}), "spec.capture.uri must name a bucket after s3://"),
    "captures to a web server": (service(capture={"uri": "https://a/b"}), "spec.capture.uri must name a bucket"),
    "captures that climb": (service(capture={"uri": "s3://captures/a/../b"}), "must have no '//', '.', '..'"),
    "captures to a nameless folder": (service(capture={"uri": "s3://captures/a//b"}), "must have no '//', '.', '..'"),
    "captures of two lines": (service(capture={"uri": "s3://captures/a\nb"}), "spec.capture.uri must"),
    "captures to nowhere": (service(capture={"percent": 5}), "spec.capture.uri: Required value"),
    "a share of more than all": (
        service(capture={"uri": "s3://captures", "percent": 101}),
        "less than or equal to 100",
    ),
    "a low confidence in percent": (
        service(capture={"uri": "s3://captures", "lowConfidence": 60}),
        "less than or equal to 1",
    ),
    "feedback with keys that no service has": (
        service(auth="None", feedback={"keys": ["app"]}),
        "spec.feedback.keys needs keys",
    ),
    "feedback of two keys in one": (
        service(feedback={"keys": ["app,web"]}),
        "spec.feedback.keys must hold names of keys",
    ),
    "feedback of nobody": (service(feedback={"keys": []}), "should have at least 1 items"),
    "cors for no origin": (service(cors={"allowOrigins": []}), "should have at least 1 items"),
    "a path without a slash": (service(path="flowers"), "spec.path must begin with '/'"),
    "a path that ends with a slash": (service(path="/flowers/"), "must not end with '/'"),
    "the root path": (service(path="/"), "spec.path must name something after '/'"),
    "a path that climbs": (service(path="/a/../b"), "spec.path must not contain '..'"),
    "a path with a space": (service(path="/a b"), "spec.path may hold letters"),
    "a path of 201 characters": (service(path="/" + "a" * 200), "200"),
    "an unknown auth": (service(auth="Basic"), 'supported values: "ApiKey", "None"'),
}


@pytest.mark.feature("O2")
@pytest.mark.parametrize("case", REFUSED)
def test_kubectl_apply_refuses_in_words(crds: ApiServer, namespace: str, case: str) -> None:
    manifest, words = REFUSED[case]
    refusal = crds.kubectl("apply", "-n", namespace, "-f", "-", input=manifest)
    assert refusal.returncode != 0, f"accepted: {refusal.stdout}"
    assert words in refusal.stderr


FULL_PREDICTION: Object = {
    "model": {"mlflow": "models:/flowers@champion"},
    "source": {
        "uri": "pvc://photos/june.zip",
        "encoding": "gbk",
        "maxArchiveBytes": "20Gi",
        "secretRef": {"name": "photos"},
    },
    "output": {"uri": "s3://mine/out", "format": "CSV", "folders": True, "secretRef": {"name": "mine"}},
    "parallelism": 8,
    "answer": {"minConfidence": 0.7},
    "engine": "OnnxRuntime",
    "resources": {"limits": {"cpu": "2", "memory": "4Gi"}},
    "scratch": "20Gi",
    "queue": "team-a",
    "podTemplate": {"nodeSelector": {"disk": "ssd"}},
    "activeDeadlineSeconds": 3600,
    "backoffLimit": 2,
    "ttlSecondsAfterFinished": 60,
}
OTHER_PREDICTION: Object = {
    "model": {"uri": "s3://models/flowers"},
    "source": {"uri": "s3://photos/july"},
    "output": {"uri": "s3://mine/other"},
    "parallelism": 4,
    "answer": {"precision": 0.9},
    "engine": "Auto",
    "resources": {"limits": {"cpu": "4"}},
    "scratch": "30Gi",
    "queue": "team-b",
    "podTemplate": {"nodeSelector": {"disk": "hdd"}},
    "activeDeadlineSeconds": 60,
    "backoffLimit": 1,
}

ACCEPTED: dict[str, Object] = {
    "annotations that only turn a sidecar off": training_job(
        podTemplate={"annotations": {"sidecar.istio.io/inject": "false", "example.com/team": "a"}}
    ),
    "a model name in any script with a dot": training_job(output={"registeredModel": "花卉 v1.0 👩‍🌾"}),
    "the smallest Dataset": dataset(),
    "a name of 40 characters": dataset("f" * 40),
    "a name of one character": service("f"),
    "names for people in any script": dataset(displayName="花卉", description="五种花 🌷"),
    "a quantity as a number": dataset(rules={"maxBytes": 4194304}, resources={"limits": {"cpu": 2}}),
    "shares that leave a little": dataset(split={"validation": 0.6, "test": 0.3}),
    "an archive by https": dataset(source={"uri": "https://example.com/flowers.zip?version=2"}),
    "a claim": dataset(source={"uri": "pvc://photos/raw", "layout": "ImageText"}),
    "what came later and what goes": dataset(
        append=[{"uri": "s3://flowers/more"}, {"uri": "s3://flowers/roses.tgz", "class": "美食/凉皮"}],
        exclude=["roses/12*.jpg"],
        move=[{"image": "roses/1.jpg", "class": "tulips"}, {"image": "a.jpg", "class": "美食/凉皮"}],
        rename={"tulip": "tulips"},
        classes=["tulips", "美食/凉皮"],
    ),
    "what production saw": dataset(
        append=[
            {"uri": "s3://captures/shop/flowers", "from": "Capture", "secretRef": {"name": "captures"}},
            {"uri": "s3://captures/shop/flowers", "from": "Capture", "trustAbove": 0.99},
            {"uri": "s3://captures/shop/flowers", "from": "Capture", "trustAbove": 0},
        ],
    ),
    "encodings": dataset(
        source={"uri": "s3://flowers/raw.zip", "encoding": "cp949"},
        append=[{"uri": "s3://flowers/more.zip", "encoding": "shift_jis"}],
    ),
    "a refresh each night": dataset(refresh={"schedule": "0 2 * * *", "timeZone": "Asia/Shanghai"}),
    "a Retraining with all its fields": retraining(
        "f" * 29,
        schedule="*/15,7 8-18/2 1,15 jan-MAR,12 Mon-fri,0",
        timeZone="America/Argentina/Buenos_Aires",
        onNewVersion=True,
        minNewImages=100,
        suspend=True,
        historyLimit=0,
        training={"output": {"promote": {"alias": "champion", "betterThanCurrent": True, "leastGain": 0.01}}},
    ),
    "a Retraining on Sundays by the seventh day": retraining(schedule="0 0 * * 7", timeZone="Etc/GMT+5"),
    "a version by ordinal": training_job(datasets=[{"name": "flowers", "version": 2}]),
    "a version by digest": training_job(datasets=[{"name": "flowers", "version": "3f9c0a1b2c3d4e5f"}]),
    "maxSteps alone": hyperparameters(maxSteps=6000),
    "momentum with sgd": hyperparameters(optimizer="sgd", momentum=0.9, epochs=10, warmupEpochs=2),
    "a schedule with its epochs": hyperparameters(learningRateSchedule="20:0.001, 30:1e-4", epochs=30),
    "a schedule as long as it may be": hyperparameters(learningRateSchedule=",".join(f"{n}:0.1" for n in range(1, 38))),
    "eight datasets": training_job(datasets=[{"name": f"d{n}", "classes": ["美食/凉皮"]} for n in range(8)]),
    "a version by its label": training_job(initialModel={"mlflow": "models:/flowers/1.0"}),
    "a registry's alias": training_job(initialModel={"mlflow": "models:/flowers@champion"}, evaluateOnly=True),
    "a head on published weights": training_job(
        initialModel={"weights": "IMAGENET1K_V2"}, hyperparameters={"trainable": "Head"}
    ),
    "a head on published weights by themselves": hyperparameters(trainable="Head"),
    "from scratch on purpose": training_job(initialModel={"weights": "None"}),
    "a safetensors file to start from": training_job(initialModel={"uri": "s3://mine/resnet18.safetensors"}),
    "unequal classes": training_job(preset="mobilenet-v2", metric="balanced", hyperparameters={"balance": "Loss"}),
    "a gain that must be sure": training_job(
        output={
            "promote": {"alias": "champion", "betterThanCurrent": True, "leastGain": 0.005, "confidence": 0.95},
        }
    ),
    "three nodes with the recipe's batch": training_job(nodes=3),
    "a queue": training_job(queue="team-a", nodes=4),
    "a prediction with every field": batch_prediction(**FULL_PREDICTION),
    "a prediction beside the images": batch_prediction(
        source={"uri": "s3://photos/june/"}, output={"uri": "s3://photos/june-predictions"}
    ),
    "checkpoints by steps": training_job(checkpoint={"every": "200steps"}, maxTrainingTime="1h30m"),
    "a GPU": training_job(resources={"limits": {"cpu": 4, "memory": "8Gi", "nvidia.com/gpu": 1}}),
    "every way to name a model": service(
        variants=[
            variant("v1", weight=60, model={"mlflow": "models:/flowers/4"}),
            variant("v2", weight=20, model={"mlflow": "models:/Blumen 花@champion", "update": "Follow"}),
            variant("v3", weight=20, model={"mlflow": "runs:/" + "a" * 32}),
            variant("v4", weight=0, model={"uri": "s3://models/any"}, mirrorPercent=100),
            variant("v5", weight=0, podTemplate={"tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]}),
        ],
        rollout={"steps": [10, 50], "interval": "0s", "abortOn": {"errorRate": 0.02, "p99Ratio": 1.5}},
        autoStop="1h30m",
        stopped=False,
    ),
    "a rollout that a person lets go on": service(
        rollout={"steps": [10, 50], "pauseAt": [10, 50], "abortOn": {"confidenceDrop": 0.1}}
    ),
    "a service without spare capacity": service(strategy="Recreate", variants=[variant(scratch="20Gi")]),
    "images on tainted nodes": dataset(podTemplate={"tolerations": [{"key": "data", "operator": "Exists"}]}),
    "an engine": service(variants=[variant(engine="OpenVINO")]),
    "answers from a confidence on": service(variants=[variant(answer={"minConfidence": 0.7})]),
    "answers of a precision": service(variants=[variant(answer={"precision": 0.95})]),
    "an autoscaled variant": service(
        variants=[
            variant(autoscaling={"min": 1, "max": 3, "metrics": [{"type": "Resource", "resource": {"name": "cpu"}}]})
        ]
    ),
    "seven variants": service(variants=[variant(f"v{n}", weight=40 if n == 0 else 10, replicas=2) for n in range(7)]),
    "a variant without traffic": service(
        variants=[variant("v1"), variant("v2", weight=0, model={"uri": "s3://models/flowers"})]
    ),
    "a service that captures": service(capture={"uri": "s3://captures"}),
    "a service that captures with limits": service(
        capture={
            "uri": "s3://captures/here/产品/v1.0/",
            "secretRef": {"name": "captures"},
            "percent": 0.5,
            "lowConfidence": 0,
            "perClass": 0,
            "maxPerHour": 1,
            "stripMetadata": True,
        },
        feedback={"keys": ["reviewers", "Key_1.b"]},
    ),
    "a service for ten years": service(autoStop="87600h"),
    "a service that explains": service(explain=True),
    "a service for pages of other origins": service(
        cors={"allowOrigins": ["*", "https://app.example.com", "http://localhost:3000", "http://[::1]:8080"]}
    ),
    "an open service at a deep path": service(path="/team-a/flowers_v1.0", auth="None"),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_kubectl_apply_accepts(crds: ApiServer, namespace: str, case: str) -> None:
    done = crds.kubectl("apply", "-n", namespace, "-f", "-", input=ACCEPTED[case])
    assert done.returncode == 0, done.stderr


def test_defaults_are_filled_in_at_once(api: Api, namespace: str) -> None:
    assert api.create(namespace, dataset())["spec"] == {
        "source": {"uri": "s3://flowers/raw", "layout": "Auto"},
        "split": {"validation": 0.2, "test": 0, "seed": 0},
        "rules": {
            "check": True,
            "minImagesPerClass": 20,
            "minClasses": 2,
            "maxClasses": 1000,
            "formats": ["jpg", "jpeg", "jpe", "jfif", "png", "bmp", "webp"],
            "maxBytes": "4Mi",
            "maxArchiveBytes": "5Gi",
            "maxAspectRatio": 3,
            "minSide": 31,
            "maxSide": 4095,
        },
        "shards": {"images": 1000},
    }
    assert api.create(namespace, training_job())["spec"] == {
        "datasets": [{"name": "flowers"}],
        "preset": "resnet18",
        "hyperparameters": {"trainable": "All", "mixup": 0, "horizontalFlip": True, "seed": 0},
        "metric": "top1",
        "checkpoint": {"every": "5m", "keep": 2},
        "nodes": 1,
        "scratch": "5Gi",
        "backoffLimit": 3,
    }
    assert api.create(namespace, batch_prediction())["spec"] == {
        "model": {"trainingJob": "flowers"},
        "source": {"uri": "s3://photos/june"},
        "output": {"uri": "s3://photos/predictions", "format": "JSONL", "folders": False},
        "parallelism": 1,
        "backoffLimit": 3,
    }
    assert api.create(namespace, service())["spec"] == {
        "replicas": 1,
        "variants": [variant()],
        "auth": "ApiKey",
    }


def test_rules_are_switched_off_with_a_plain_off(crds: ApiServer, namespace: str) -> None:
    text = yaml.safe_dump(dataset(rules={"check": "HERE"})).replace("HERE", "Off")
    done = crds.kubectl("apply", "-n", namespace, "-f", "-", "-o", "jsonpath={.spec.rules.check}", input=text)
    assert (done.returncode, done.stdout) == (0, "false"), done.stderr


# What may not change on a TrainingJob: every field of the schema but the mutable ones, found by walking it.

MUTABLE = {
    "displayName": "Roses",
    "description": "The second one.",
    "ttlSecondsAfterFinished": 61,
    "suspend": True,
    "stop": True,
    "tensorboard": True,
}
FULL: Object = {
    "displayName": "Flowers",
    "description": "The first one.",
    "datasets": [{"name": "flowers", "version": 2, "classes": ["roses", "美食/凉皮"]}],
    "preset": "resnet18",
    "initialModel": {"trainingJob": "base"},
    "evaluateOnly": False,
    "earlyStopping": {"patience": 3},
    "checkpoint": {"every": "90s", "keep": 3},
    "nodes": 2,
    "maxTrainingTime": "1h30m",
    "suspend": False,
    "stop": False,
    "tensorboard": False,
    "managedBy": "example.com/dispatcher",
    "podTemplate": {
        "labels": {"cpu": "a"},
        "annotations": {"cpu": "b"},
        "nodeSelector": {"cpu": "c"},
        "tolerations": [
            {"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoExecute", "tolerationSeconds": 5}
        ],
        "priorityClassName": "high",
        "runtimeClassName": "nvidia",
        "schedulerName": "mine",
    },
    "hyperparameters": {
        "epochs": 10,
        "batchSize": 16,
        "learningRate": 0.01,
        "optimizer": "sgd",
        "momentum": 0.8,
        "weightDecay": 0.001,
        "warmupEpochs": 1,
        "labelSmoothing": 0.2,
        "imageSize": 128,
        "augmentation": "Light",
        "horizontalFlip": False,
        "verticalFlip": True,
        "trainable": "Head",
        "mixup": 0.2,
        "ema": 0.999,
        "balance": "Loss",
        "seed": 7,
    },
    "metric": "f1",
    "resources": {"limits": {"cpu": "2"}, "requests": {"cpu": "1"}},
    "scratch": "6Gi",
    "activeDeadlineSeconds": 600,
    "backoffLimit": 2,
    "ttlSecondsAfterFinished": 60,
    "output": {
        "uri": "s3://mine/out",
        "logUri": "s3://mine/logs",
        "registeredModel": "flowers",
        "versionLabel": "1.0",
        "quantization": "Int8",
        "references": False,
        "promote": {
            "alias": "champion",
            "atLeast": 0.5,
            "betterThanCurrent": True,
            "leastGain": 0.01,
            "confidence": 0.95,
        },
    },
}
# Fields that exclude some of FULL's: what must go, and the value.
INSTEAD: dict[FieldPath, tuple[tuple[FieldPath, ...], Any]] = {
    ("hyperparameters", "maxSteps"): ((("hyperparameters", "epochs"),), 1000),
    ("hyperparameters", "learningRateSchedule"): (
        (("hyperparameters", "epochs"), ("hyperparameters", "learningRate"), ("hyperparameters", "warmupEpochs")),
        "20:0.001,30:0.0001",
    ),
    ("initialModel", "mlflow"): ((("initialModel", "trainingJob"),), "models:/flowers/4"),
    ("initialModel", "uri"): ((("initialModel", "trainingJob"),), "s3://mine/base/model"),
    ("initialModel", "weights"): ((("initialModel", "trainingJob"),), "DEFAULT"),
    ("output", "promote", "betterThanCurrent"): (
        (("output", "promote", "leastGain"), ("output", "promote", "confidence")),
        True,
    ),
    ("queue",): ((("suspend",),), "team-a"),
}


# Without any of them the object is refused, so none can be added.
ONE_OF = {("initialModel",), *(("initialModel", field) for field in ("trainingJob", "mlflow", "uri", "weights"))}


def fields_below(schema: Object, path: FieldPath = ()) -> Iterator[tuple[FieldPath, Object, bool]]:
    """Yield path, schema and whether it is required, of all fields; items at index 0, map entries at cpu."""
    required = schema.get("required", [])
    below: list[tuple[str | int, Object]] = list(schema.get("properties", {}).items())
    below += [("cpu", schema["additionalProperties"])] if "additionalProperties" in schema else []
    for name, field in below:
        yield (*path, name), field, name in required
        yield from fields_below(field, (*path, name))
    if "items" in schema:
        yield from fields_below(schema["items"], (*path, 0))


IMMUTABLE = {
    path: (schema, required)
    for path, schema, required in fields_below(read_schema("trainingjobs"))
    if path[0] not in MUTABLE
}


def whole(path: FieldPath) -> Object:
    """A full spec that has the field."""
    spec = copy.deepcopy(FULL)
    if path in INSTEAD:
        rivals, value = INSTEAD[path]
        for rival in rivals:
            without(spec, rival)
        parent(spec, path)[path[-1]] = value
    return spec


def parent(spec: Object, path: FieldPath) -> Any:
    """The map that holds the field."""
    node: Any = spec
    for key in path[:-1]:
        node = node[key]
    return node


def without(spec: Object, path: FieldPath) -> Object:
    """Take the field out of the spec."""
    del parent(spec, path)[path[-1]]
    return spec


def changed(spec: Object, path: FieldPath, schema: Object) -> Object:
    """Give the field another value that its type allows."""
    holder = parent(spec, path)
    old = holder[path[-1]]
    if "enum" in schema:
        holder[path[-1]] = next(value for value in schema["enum"] if value != old)
    elif isinstance(old, bool):
        holder[path[-1]] = not old
    elif isinstance(old, int | float):
        holder[path[-1]] = old + 1 if isinstance(old, int) else old / 2
    else:
        holder[path[-1]] = {"cpu": "1500m"}.get(str(path[-1]), "7Gi" if path == ("scratch",) else "other")
    return spec


def job(spec: Object) -> Object:
    """A TrainingJob of a name of its own."""
    return _object("TrainingJob", f"job-{secrets.token_hex(4)}", copy.deepcopy(spec))


def replaced(api: Api, namespace: str, before: Object, after: Object) -> httpx.Response:
    """Create a TrainingJob with one spec and try to give it another."""
    stored = api.create(namespace, job(before))
    return api.replace(namespace, stored | {"spec": after})


@pytest.mark.feature("O2")
@pytest.mark.parametrize("path", IMMUTABLE, ids=lambda path: ".".join(map(str, path)))
def test_an_immutable_field_cannot_be_edited_added_or_removed(api: Api, namespace: str, path: FieldPath) -> None:
    schema, required = IMMUTABLE[path]
    refusal = f"spec.{path[0]} cannot be changed"
    leaf = "properties" not in schema and "items" not in schema and "additionalProperties" not in schema
    if leaf:
        edited = replaced(api, namespace, whole(path), changed(whole(path), path, schema))
        assert edited.status_code == 422 and refusal in edited.text, edited.text
    removed = replaced(api, namespace, whole(path), without(whole(path), path))
    assert removed.status_code == 422, removed.text
    assert refusal in removed.text or (required and "Required value" in removed.text), removed.text
    if not required and path not in ONE_OF:
        added = replaced(api, namespace, without(whole(path), path), whole(path))
        assert added.status_code == 422 and refusal in added.text, added.text


@pytest.mark.parametrize("field", MUTABLE)
def test_a_mutable_field_can_be_edited_added_and_removed(api: Api, namespace: str, field: str) -> None:
    absent = without(copy.deepcopy(FULL), (field,))
    for before, after in ((FULL, FULL | {field: MUTABLE[field]}), (FULL, absent), (absent, FULL)):
        done = replaced(api, namespace, before, after)
        assert done.status_code == 200, done.text


@pytest.mark.feature("O2")
@pytest.mark.parametrize("field", sorted(OTHER_PREDICTION))
def test_a_field_of_a_batch_prediction_cannot_be_edited_or_removed(api: Api, namespace: str, field: str) -> None:
    stored = api.create(namespace, batch_prediction(**FULL_PREDICTION))
    others = {key: value for key, value in stored["spec"].items() if key != field}
    refusal = f"spec.{field} cannot be changed"

    edited = api.replace(namespace, stored | {"spec": others | {field: OTHER_PREDICTION[field]}})
    removed = api.replace(namespace, stored | {"spec": others})

    assert edited.status_code == 422 and refusal in edited.text, edited.text
    assert removed.status_code == 422 and (refusal in removed.text or "Required value" in removed.text), removed.text


@pytest.mark.feature("O2")
def test_every_other_field_of_a_batch_prediction_can_be_edited(api: Api, namespace: str) -> None:
    fields = read_schema("batchpredictions")["properties"].keys() - OTHER_PREDICTION.keys()
    stored = api.create(namespace, batch_prediction())

    edited = api.replace(namespace, stored | {"spec": stored["spec"] | {"suspend": True, "ttlSecondsAfterFinished": 1}})

    assert fields == {"suspend", "ttlSecondsAfterFinished"}
    assert edited.status_code == 200, edited.text


# What kubectl shows.

STATUS: dict[str, Object] = {
    "Dataset": {"phase": "Ready", "images": 3670, "classCount": 5},
    "TrainingJob": {
        "phase": "Running",
        "progress": {"epoch": 3, "step": 480, "totalSteps": 6000, "steps": "480/6000", "eta": "11m"},
        "metric": "top1 0.982",
        "model": {"name": "flowers", "version": "4", "display": "flowers/4"},
    },
    "BatchPrediction": {
        "phase": "Running",
        "model": {"display": "flowers/4"},
        "images": 4100,
        "ignoredFiles": 100,
        "progress": {"files": "4200/10000", "imagesPerSecond": 61.5, "eta": "1m34s"},
    },
    "InferenceService": {
        "phase": "Running",
        "replicas": 3,
        "readyReplicas": 3,
        "ready": "3/3",
        "selector": "bloomery.dev/inferenceservice=flowers",
        "traffic": "v1=90 v2=10",
        "url": "http://127.0.0.1:30080/flowers",
    },
}
SHOWN = {
    "datasets": (
        ["NAME", "PHASE", "IMAGES", "CLASSES", "AGE"],
        ["flowers", "Ready", "3670", "5"],
    ),
    "tj": (
        ["NAME", "PHASE", "DATASET", "PRESET", "EPOCH", "STEP", "ETA", "METRIC", "MODEL", "AGE"],
        ["flowers", "Running", "flowers", "resnet18", "3", "480/6000", "11m", "top1 0.982", "flowers/4"],
    ),
    "bp": (
        ["NAME", "PHASE", "MODEL", "PROGRESS", "ETA", "IMAGES", "IGNORED", "AGE"],
        ["june", "Running", "flowers/4", "4200/10000", "1m34s", "4100", "100"],
    ),
    "isvc": (
        ["NAME", "PHASE", "READY", "TRAFFIC", "URL", "AGE"],
        ["flowers", "Running", "3/3", "v1=90 v2=10", "http://127.0.0.1:30080/flowers"],
    ),
}


def test_kubectl_get_reads_like_a_dashboard(crds: ApiServer, api: Api, namespace: str) -> None:
    for manifest in (dataset(), training_job(), service(), batch_prediction()):
        stored = api.create(namespace, manifest)
        done = api.replace(namespace, stored | {"status": STATUS[manifest["kind"]]}, part="/status")
        assert done.status_code == 200, done.text
    for kind, (headings, values) in SHOWN.items():
        lines = crds.kubectl("get", kind, "-n", namespace).stdout.splitlines()
        assert lines[0].split() == headings
        assert lines[1].split()[:-1] == " ".join(values).split()
    everything = crds.kubectl("get", "bloomery", "-n", namespace, "-o", "name").stdout.split()
    assert everything == [
        "batchprediction.bloomery.dev/june",
        "dataset.bloomery.dev/flowers",
        "inferenceservice.bloomery.dev/flowers",
        "trainingjob.bloomery.dev/flowers",
    ]


def test_kubectl_scale_sets_the_replicas(crds: ApiServer, api: Api, namespace: str) -> None:
    stored = api.create(namespace, service())
    api.replace(namespace, stored | {"status": STATUS["InferenceService"]}, part="/status")
    done = crds.kubectl("scale", "isvc/flowers", "--replicas=5", "-n", namespace)
    assert done.returncode == 0, done.stderr
    scale = crds.kubectl("get", "isvc/flowers", "--subresource=scale", "-n", namespace, "-o", "json").stdout
    assert '"replicas": 5' in scale and "bloomery.dev/inferenceservice=flowers" in scale


@pytest.mark.parametrize(
    ("word", "field"),
    {
        "batch_size": "tj.spec.hyperparameters.batchSize",
        "max_number_of_steps": "tj.spec.hyperparameters.maxSteps",
        "学习率": "tj.spec.hyperparameters.learningRate",
        "验证集比例": "datasets.spec.split.validation",
        "权重": "isvc.spec.variants.weight",
        "接口地址": "isvc.spec.path",
    }.items(),
)
def test_kubectl_explain_knows_the_words_of_other_platforms(crds: ApiServer, word: str, field: str) -> None:
    assert word in crds.kubectl("explain", field).stdout
