"""Manifests of sample objects, compared with golden YAML."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bloomery_operator.api import InferenceService
from bloomery_operator.api.base import Manifest, Resources
from bloomery_operator.api.trainingjob import TrainedOn
from bloomery_operator.domain.served_model import ServedModel, revision_name
from bloomery_operator.domain.starting_point import StartingPoint
from bloomery_operator.domain.traffic import Backend, Mirror, Traffic
from bloomery_operator.manifests import predict_job, prepare_job, register_job, tensorboard, train_job
from bloomery_operator.manifests.api_keys import build_digests_secret, build_keys_secret
from bloomery_operator.manifests.autoscaler import build_autoscaler
from bloomery_operator.manifests.config_map import build_about_config_map, build_digest_config_map
from bloomery_operator.manifests.deployment import build_deployment
from bloomery_operator.manifests.disruption_budget import build_disruption_budget
from bloomery_operator.manifests.http_route import build_route
from bloomery_operator.manifests.job import build_config, build_job
from bloomery_operator.manifests.pod import container_resources
from bloomery_operator.manifests.retry_policy import build_retry_policy
from bloomery_operator.manifests.service import build_peers_service, build_service
from tests.unit.operator.samples import (
    DIGEST,
    batch_prediction,
    dataset,
    inference_service,
    settings,
    training_job,
)

Golden = Callable[..., None]
VERSION = TrainedOn(name="flowers", version=DIGEST, uri=f"s3://bloomery/datasets/demo/{DIGEST}")
MODEL = ServedModel(
    uri="s3://bloomery/models/demo/flowers/uid/model",
    digest="sha256:" + "d" * 64,
    name="flowers",
    version="4",
    run_id="f" * 32,
    training_job="flowers",
    dataset="flowers",
    dataset_version=DIGEST,
)


def test_preparation_of_a_plain_dataset(golden: Golden) -> None:
    owner = dataset()
    task = prepare_job.build_task(owner, settings())
    golden("prepare", build_config(owner, task), build_job(owner, task, settings()))


def test_preparation_of_a_dataset_with_every_field(golden: Golden) -> None:
    owner = dataset(
        {
            "displayName": "Blumen 花",
            "source": {
                "uri": "pvc://photos/raw",
                "layout": "ImageText",
                "encoding": "gbk",
                "secretRef": {"name": "mine"},
            },
            "append": [
                {"uri": "https://example.com/more.zip", "encoding": "cp949"},
                {"uri": "pvc://photos/roses", "class": "美食/凉皮"},
                {"uri": "s3://captures/shop", "from": "Capture", "trustAbove": 0, "secretRef": {"name": "captures"}},
            ],
            "exclude": ["roses/12*.jpg"],
            "move": [{"image": "美食/凉皮/1.jpg", "class": "tulips"}],
            "rename": {"tulip": "tulips"},
            "classes": ["tulips", "美食/凉皮"],
            "split": {"validation": 0.1, "test": 0.1, "seed": 7},
            "rules": {"check": False, "maxBytes": "1536Ki", "formats": ["png"], "maxAspectRatio": 2.5},
            "shards": {"images": 500},
            "resources": {"requests": {"cpu": 2}, "limits": {"memory": "8Gi"}},
            "podTemplate": {"labels": {"team": "a"}, "tolerations": [{"key": "data", "operator": "Exists"}]},
        },
        annotations={"bloomery.dev/refresh": "2"},
    )
    task = prepare_job.build_task(owner, settings())
    golden("prepare-all-fields", build_config(owner, task), build_job(owner, task, settings()))


def test_prediction_of_a_plain_batch_prediction(golden: Golden) -> None:
    golden("predict", predict_job.build_job(batch_prediction(), MODEL, settings()))


def test_prediction_of_a_batch_prediction_with_every_field(golden: Golden) -> None:
    owner = batch_prediction(
        {
            "model": {"mlflow": "models:/blumen@champion"},
            "source": {
                "uri": "pvc://photos/juni 花.tar.gz",
                "encoding": "gbk",
                "maxArchiveBytes": "2Gi",
                "secretRef": {"name": "photos"},
            },
            "output": {"uri": "s3://mine/out/", "format": "CSV", "folders": True, "secretRef": {"name": "mine"}},
            "parallelism": 4,
            "answer": {"precision": 0.95},
            "engine": "OpenVINO",
            "resources": {"limits": {"nvidia.com/gpu": 1, "memory": "8Gi"}},
            "scratch": "20Gi",
            "queue": "team-a",
            "podTemplate": {"labels": {"team": "a"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]},
            "activeDeadlineSeconds": 7200,
            "backoffLimit": 0,
        }
    )
    with_gpu = settings(serving_gpu_image="example/serving-gpu:1", source_networks="10.0.0.0/8")
    golden("predict-all-fields", predict_job.build_job(owner, MODEL, with_gpu))


def test_training_of_a_plain_training_job(golden: Golden) -> None:
    owner = training_job()
    task = train_job.build_task(owner, [VERSION], None, settings(), stop_token="secret")
    golden("train", build_config(owner, task), build_job(owner, task, settings()))


def test_training_of_a_training_job_with_every_field(golden: Golden) -> None:
    owner = training_job(
        {
            "displayName": "Erste 训练",
            "description": "Wie besprochen.",
            "datasets": [{"name": "flowers", "classes": ["美食/凉皮", "roses"]}, {"name": "more"}],
            "preset": "resnet50",
            "initialModel": {"mlflow": "models:/blumen@champion"},
            "hyperparameters": {
                "batchSize": 16,
                "learningRateSchedule": "20:0.001,30:0.0001",
                "optimizer": "adamw",
                "weightDecay": 0.01,
                "trainable": "Head",
                "balance": "Sampling",
                "mixup": 0.2,
                "ema": 0.999,
                "labelSmoothing": 0,
                "imageSize": 192,
                "augmentation": "Light",
                "horizontalFlip": False,
                "verticalFlip": True,
                "seed": 3,
            },
            "metric": "balanced",
            "resources": {"limits": {"nvidia.com/gpu": 1, "memory": "8Gi"}},
            "scratch": "20Gi",
            "activeDeadlineSeconds": 7200,
            "backoffLimit": 0,
            "earlyStopping": {"patience": 3},
            "checkpoint": {"every": "200steps", "keep": 1},
            "nodes": 2,
            "maxTrainingTime": "1h30m",
            "queue": "team-a",
            "podTemplate": {
                "labels": {"team": "a", "bloomery.dev/trainingjob": "another"},
                "annotations": {"example.com/note": "x"},
                "nodeSelector": {"gpu": "h200"},
                "tolerations": [{"key": "gpu", "operator": "Exists"}],
                "priorityClassName": "high",
            },
            "output": {
                "uri": "s3://mine/out/",
                "logUri": "s3://mine/logs",
                "quantization": "Int8",
                "references": False,
                "registeredModel": "blumen",
                "versionLabel": "1.0",
                "promote": {
                    "alias": "champion",
                    "atLeast": 0.9,
                    "betterThanCurrent": True,
                    "leastGain": 0.01,
                    "confidence": 0.95,
                },
            },
        }
    )
    start = StartingPoint(uri="s3://bloomery/models/demo/base", digest="sha256:" + "e" * 64, origin="blumen/3")
    more = TrainedOn(name="more", version="b" * 64, uri="s3://bloomery/datasets/demo/more")
    task = train_job.build_task(owner, [VERSION, more], start, settings(), stop_token="secret")
    manifests = (build_config(owner, task), build_peers_service(owner, task.command))
    golden("train-all-fields", *manifests, build_job(owner, task, settings()))


def test_later_registration_of_a_training(golden: Golden) -> None:
    owner = training_job()
    golden("register", build_job(owner, register_job.build_task(owner, "0123456789"), settings()))


def test_tensorboard_deployment_and_service(golden: Golden) -> None:
    owner = training_job({"tensorboard": True, "podTemplate": {"nodeSelector": {"pool": "gpu"}}})
    golden("tensorboard", *tensorboard.build_tensorboard(owner, settings()))


def test_deployment_service_and_budget_of_a_variant(golden: Golden) -> None:
    service = inference_service({"v1": 100}, replicas=2)
    (variant,) = service.spec.variants
    golden(
        "serve",
        build_deployment(service, variant, MODEL, settings(kit_image="example/kit:1"), replicas=2),
        build_service(service, variant, MODEL),
        build_disruption_budget(service),
    )


def test_open_service_mounts_no_keys(golden: Golden) -> None:
    cors = {"allowOrigins": ["https://app.example.com", "https://other.example.com:8443"]}
    service = inference_service({"v1": 100}, auth="None", cors=cors)
    (variant,) = service.spec.variants
    model = ServedModel(uri="s3://models/v1")
    golden(
        "serve-open",
        build_deployment(service, variant, model, settings(), replicas=1),
        build_digest_config_map(service, variant, model, "sha256:" + "d" * 64),
        build_about_config_map(service, variant, model),
    )


@pytest.mark.feature("S19")
def test_deployment_of_a_variant_that_captures(golden: Golden) -> None:
    capture = {
        "uri": "s3://captures/$(HOME)",
        "secretRef": {"name": "captures"},
        "percent": 0.5,
        "lowConfidence": 0,
        "perClass": 0,
        "maxPerHour": 1000000,
        "stripMetadata": True,
    }
    service = inference_service({"v1": 100}, capture=capture, feedback={"keys": ["reviewers", "app"]})
    (variant,) = service.spec.variants
    golden("serve-capture", build_deployment(service, variant, MODEL, settings(), replicas=1))


@pytest.mark.feature("S19")
def test_shadow_captures_nothing() -> None:
    shadow = {"name": "v2", "model": {"mlflow": "models:/flowers/5"}, "weight": 0, "mirrorPercent": 10}
    capture = {"uri": "s3://captures", "secretRef": {"name": "captures"}}
    plain, captures = (inference_service(variants=[shadow], **fields) for fields in ({}, {"capture": capture}))

    def built(service: InferenceService) -> Manifest:
        return build_deployment(service, service.spec.variants[0], MODEL, settings(), replicas=1)

    assert built(captures) == built(plain)


def test_deployment_and_autoscaler_of_a_gpu_variant(golden: Golden) -> None:
    resources = {"limits": {"nvidia.com/gpu": 1}}
    metrics = [{"type": "Pods", "pods": {"metric": {"name": "rps"}, "target": {"type": "Value", "averageValue": 50}}}]
    variant = {"name": "v1", "model": {"mlflow": "models:/flowers/4"}, "weight": 100, "resources": resources}
    variant["scratch"] = "40Gi"
    variant["answer"] = {"precision": 0.95}
    variant["engine"] = "OnnxRuntime"
    variant["podTemplate"] = {
        "labels": {"team": "a", "app.kubernetes.io/name": "another"},
        "annotations": {"example.com/note": "x"},
        "nodeSelector": {"gpu": "h200"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "runtimeClassName": "nvidia",
    }
    service = inference_service(
        variants=[variant | {"autoscaling": {"min": 2, "max": 8, "metrics": metrics}}],
        displayName="Blumen 花",
        description="Fünf Arten.",
        strategy="Recreate",
    )
    (scaled,) = service.spec.variants
    golden(
        "serve-gpu-autoscaled",
        build_deployment(service, scaled, MODEL, settings(serving_gpu_image="example/serving-gpu:1"), replicas=None),
        build_autoscaler(service, scaled, MODEL),
    )


def test_dollar_signs_in_user_texts_are_escaped() -> None:
    """Kubernetes puts a variable's value in for ``$(NAME)``, and ``$`` for ``$$``."""
    service = inference_service(displayName="Ca$$h $(MODEL_URI)")
    deployment = build_deployment(service, service.spec.variants[0], MODEL, settings(), replicas=1)
    (server,) = deployment["spec"]["template"]["spec"]["containers"]
    assert {"name": "DISPLAY_NAME", "value": "Ca$$$$h $$(MODEL_URI)"} in server["env"]
    board, _ = tensorboard.build_tensorboard(training_job({"output": {"uri": "s3://b/$(HOME)"}}), settings())
    (container,) = board["spec"]["template"]["spec"]["containers"]
    assert "s3://b/$$(HOME)" in container["args"]


def test_missing_requests_get_the_defaults() -> None:
    default = Resources(requests={"cpu": "100m", "memory": "512Mi"}, limits={"memory": "2Gi"})
    only_gpu = container_resources(Resources(limits={"nvidia.com/gpu": 1}), default=default)
    assert only_gpu == {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"nvidia.com/gpu": "1"}}
    little = container_resources(Resources(requests={"cpu": 2}, limits={"memory": "256Mi"}), default=default)
    assert little == {"requests": {"cpu": "2"}, "limits": {"memory": "256Mi"}}


def test_route_with_mirror_and_retry_policy(golden: Golden) -> None:
    service = inference_service({"v1": 90, "v2": 10, "v3": 0}, path="/blumen")
    names = {v.name: revision_name(service, v, ServedModel(uri=f"s3://models/{v.name}")) for v in service.spec.variants}
    backends = (Backend("v1", names["v1"], 9000), Backend("v2", names["v2"], 1000), Backend("v3", names["v3"], 0))
    traffic = Traffic(backends, names, (Mirror(names["v3"], 25),))
    golden("route", build_route(service, traffic, settings()), build_retry_policy(service))


def test_revision_of_the_longest_names_has_63_characters() -> None:
    service = inference_service({"v" * 16: 100})
    service = service.model_copy(update={"metadata": service.metadata.model_copy(update={"name": "f" * 40})})
    (variant,) = service.spec.variants
    name = revision_name(service, variant, MODEL)
    assert len(name) == 63
    assert name != revision_name(service, variant.model_copy(update={"name": "v" * 15 + "w"}), MODEL)


def test_secrets_of_api_keys(golden: Golden) -> None:
    service = inference_service()
    golden(
        "keys",
        build_keys_secret(service, "of-default"),
        build_digests_secret(service, {"default": "of-default", "alice": "of-alice"}),
    )


@pytest.mark.feature("O6")
def test_platform_ids_and_pull_secrets_reach_every_pod() -> None:
    known = settings(platform_ids=True, pull_secrets="registry,mirror")
    service, images, job = inference_service(), dataset(), training_job()
    deployment = build_deployment(service, service.spec.variants[0], MODEL, known, replicas=1)
    board, _ = tensorboard.build_tensorboard(job, known)
    prepare = build_job(images, prepare_job.build_task(images, known), known)
    train = build_job(job, train_job.build_task(job, [VERSION], None, known, stop_token="secret"), known)
    register = build_job(job, register_job.build_task(job, "0123456789"), known)
    for manifest in (deployment, board, prepare, train, register):
        spec = manifest["spec"]["template"]["spec"]
        assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        assert spec["imagePullSecrets"] == [{"name": "registry"}, {"name": "mirror"}]


@pytest.mark.feature("O6")
def test_other_nodes_need_another_preparation_job_with_the_same_result() -> None:
    plain = prepare_job.build_task(dataset(), settings())
    tolerant = prepare_job.build_task(dataset({"podTemplate": {"tolerations": [{"key": "gpu"}]}}), settings())
    assert plain.hash == tolerant.hash
    assert plain.job_hash != tolerant.job_hash
    empty = prepare_job.build_task(dataset({"podTemplate": {}}), settings())
    assert empty.job_hash == plain.job_hash
