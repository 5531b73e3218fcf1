"""Which model each variant serves: found once and recorded, or followed; and noted in MLflow's registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bloomery_operator.api import InferenceService, TrainingJob
from bloomery_operator.api.common import Manifest
from bloomery_operator.api.inferenceservice import Variant
from bloomery_operator.cluster.kinds import CONFIG_MAPS, DEPLOYMENTS, INFERENCE_SERVICES, TRAINING_JOBS, ObjectKey
from bloomery_operator.reconcile.context import Context, create_owned, find, read_storage_secret
from bloomery_operator.resources.metadata import SERVED_TAG
from bloomery_operator.resources.serve import ServedModel, build_pin, noted_model, origin_of, recorded_model
from bloomery_operator.status.inferenceservice import model_of
from bloomery_operator.status.traffic import InferenceServiceObservation
from bloomery_operator.status.verdicts import Verdict
from bloomery_operator.status.workload import DeploymentView


@dataclass(frozen=True)
class ResolvedModels:
    """For each variant its model or what it waits for; and why an alias can not be followed just now."""

    models: Mapping[str, ServedModel | Verdict]
    trouble: Verdict | None = None


async def resolve_models(
    context: Context, service: InferenceService, deployments: Sequence[Manifest]
) -> ResolvedModels:
    """Find each variant's model; what was found before for the same words stays, unless it is followed."""
    models: dict[str, ServedModel | Verdict] = {}
    trouble: Verdict | None = None
    for variant in service.spec.variants:
        recorded = _recorded(service, variant, deployments)
        if recorded is not None and not variant.model.follows:
            models[variant.name] = recorded
            continue
        found = await _find(context, service, variant)
        if isinstance(found, Verdict) and recorded is not None:
            trouble = trouble or found
        # A registry that does not answer, or an alias that is gone, takes nothing off the air.
        models[variant.name] = recorded if isinstance(found, Verdict) and recorded is not None else found
    return ResolvedModels(models, trouble)


async def found_models(context: Context, observation: InferenceServiceObservation) -> dict[str, ServedModel]:
    """Pin each model that came without a digest to the one that its first pod found; return what is known, by revision.

    Asked once: the status keeps it.
    """
    service, found = observation.service, {}
    noted = {status.revision: status for status in service.status.variants if status.digest is not None}
    for variant in service.spec.variants:
        model, revision = observation.models[variant.name], observation.wanted[variant.name]
        if isinstance(model, Verdict) or model.digest is not None or revision is None:
            continue
        if revision in noted:
            found[revision] = origin_of(noted[revision])
            continue
        told = await context.servers.model(observation.pods.get(revision, ()))
        if told is not None and told.digest is not None:
            await create_owned(context, service, build_pin(service, variant, model, told.digest), CONFIG_MAPS)
            found[revision] = told
    return found


async def note_served(context: Context, observation: InferenceServiceObservation) -> None:
    """Tag the model versions that the service serves with its name and variants, and take the tag off the others.

    What is noted already stands in an annotation of the Deployment, so that MLflow is only told of changes.
    """
    notes: dict[tuple[str, str], list[str]] = {}
    for variant in observation.service.spec.variants:
        version = _version(observation.models[variant.name])
        if version is not None and observation.wanted[variant.name] in observation.ready:
            notes.setdefault(version, []).append(variant.name)
    service = observation.service.metadata
    for variant in observation.service.spec.variants:
        version = _version(observation.models[variant.name])
        deployment = observation.deployments.get(observation.wanted[variant.name] or "")
        # Another variant may serve the same version already, while this one is still to be deployed.
        if version not in notes or version is None or deployment is None:
            continue
        variants = ",".join(notes[version])
        if deployment.served_tag == variants:
            continue
        environment = await read_storage_secret(context, service.namespace)
        told = await context.registry.tag_served(
            environment, version, service=f"{service.namespace}/{service.name}", variants=variants
        )
        if told:
            await context.cluster.annotate(
                DEPLOYMENTS, ObjectKey(service.namespace, deployment.name), {SERVED_TAG: variants}
            )


async def forget_served(context: Context, namespace: str) -> None:
    """Take the tags of services that are gone, or that serve other versions by now, off the namespace's models."""
    environment = await read_storage_secret(context, namespace)
    for service, version in await context.registry.list_served(environment, namespace):
        if version not in _served_versions(context, service):
            await context.registry.tag_served(environment, version, service=service, variants="")


def _served_versions(context: Context, service: str) -> set[tuple[str, str]]:
    """Return the model versions that a service has Deployments of, the retired ones not counted."""
    namespace, _, name = service.partition("/")
    known = find(context, INFERENCE_SERVICES, InferenceService, ObjectKey(namespace, name))
    if known is None:
        return set()
    manifests = context.object_cache.controlled_by(DEPLOYMENTS, namespace, known.metadata.uid)
    in_use = [m for m in manifests if DeploymentView.of(m).retired_at is None]
    models = (recorded_model(m["metadata"].get("annotations", {})) for m in in_use)
    return {version for model in models if model is not None and (version := _version(model)) is not None}


def _version(model: ServedModel | Verdict) -> tuple[str, str] | None:
    if isinstance(model, Verdict) or model.name is None or model.version is None:
        return None
    return model.name, model.version


def _recorded(service: InferenceService, variant: Variant, deployments: Sequence[Manifest]) -> ServedModel | None:
    """Return the model that was last found for the variant's words: its Deployment knows it, or where that is gone the
    status, or a former Deployment.
    """
    wanted = next((status.revision for status in service.status.variants if status.name == variant.name), None)
    newest_first = sorted(
        (manifest for manifest in deployments if DeploymentView.of(manifest).variant == variant.name),
        key=lambda manifest: str(manifest["metadata"].get("creationTimestamp", "")),
        reverse=True,
    )
    records = {
        manifest["metadata"]["name"]: recorded_model(manifest["metadata"].get("annotations", {}), variant)
        for manifest in newest_first
    }
    known = (records.get(wanted or ""), noted_model(service, variant), *records.values())
    return next((model for model in known if model is not None), None)


async def _find(context: Context, service: InferenceService, variant: Variant) -> ServedModel | Verdict:
    namespace, source = service.metadata.namespace, variant.model
    if source.uri is not None:
        return ServedModel(uri=source.uri.rstrip("/"))
    if source.mlflow is not None:
        environment = await read_storage_secret(context, namespace)
        found = await context.registry.find(environment, source.mlflow)
        if isinstance(found, Verdict) or found.training_job is None:
            return found
        return replace(found, training_job=found.training_job.removeprefix(f"{namespace}/"))
    name = source.training_job or ""
    return model_of(find(context, TRAINING_JOBS, TrainingJob, ObjectKey(namespace, name)), name)
