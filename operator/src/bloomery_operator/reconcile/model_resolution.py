"""Which model each variant serves: found once and recorded, or followed; and noted in MLflow's registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bloomery_operator.api import InferenceService, TrainingJob
from bloomery_operator.api.common import Manifest
from bloomery_operator.api.inferenceservice import Variant
from bloomery_operator.cluster.kinds import TRAINING_JOBS, Key
from bloomery_operator.domain.served_model import ServedModel, lineage_from_status, model_from_status, recorded_model
from bloomery_operator.domain.verdict import Verdict
from bloomery_operator.manifests.config_map import build_digest_config_map
from bloomery_operator.reconcile.blocked import blocked_by
from bloomery_operator.reconcile.children import create_child
from bloomery_operator.reconcile.context import Context
from bloomery_operator.reconcile.lookups import find_resource, read_storage_secret
from bloomery_operator.status.inferenceservice import model_of
from bloomery_operator.status.traffic import InferenceServiceObservation
from bloomery_operator.status.workloads import DeploymentView


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
            found[revision] = lineage_from_status(noted[revision])
            continue
        told = await context.servers.model(observation.pods.get(revision, ()))
        if told is not None and told.digest is not None:
            await blocked_by(
                create_child(context, service, build_digest_config_map(service, variant, model, told.digest))
            )
            found[revision] = told
    return found


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
    known = (records.get(wanted or ""), model_from_status(service, variant), *records.values())
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
    return model_of(find_resource(context, TRAINING_JOBS, TrainingJob, Key(namespace, name)), name)
