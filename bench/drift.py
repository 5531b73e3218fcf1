"""`make bench-drift`: the drift that a model server shows for photographs like those of its reference, and for others.

It needs FLOWERS=… and WEIGHTS=…, as `make bench-calibration` does. A head is fitted on the backbone, and a server of
the model is asked about 2,000 held-out images, drawn with replacement; then about the same ones darkened, and about
handwritten digits, each after the photographs that came before. The last line is one JSON object. It fails where the
drift of photographs reaches the limit of the chart's alerts, or where that of other images does not within 500
requests.
"""

from __future__ import annotations

import io
import json
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from PIL import Image, ImageEnhance
from prometheus_client.parser import text_string_to_metric_families
from sklearn.datasets import load_digits

from bench.calibration import held_out, serving, train_head
from bench.quality import require_photographs
from testing.processes import free_port

ALERT_DRIFT = 0.25
"""Default of `monitoring.alerts.drift`."""
PHOTOGRAPHS = 2000
OTHERS = 500
SAMPLE_REQUESTS = 25
"""Requests between two looks at the metrics."""
KEPT_BRIGHTNESS = 0.6
METRICS = ("bloomery_class_drift", "bloomery_confidence_drift", "bloomery_brightness_drift")

Drift = Mapping[str, float]


def draw_photographs(count: int, seed: int) -> Iterator[bytes]:
    """Yield held-out photographs, drawn with replacement."""
    generator = random.Random(seed)
    paths = [path for path, _ in held_out()]
    for _ in range(count):
        yield generator.choice(paths).read_bytes()


def draw_darkened(count: int, seed: int) -> Iterator[bytes]:
    """Yield such photographs with less light."""
    for data in draw_photographs(count, seed):
        with Image.open(io.BytesIO(data)) as image:
            yield encode(ImageEnhance.Brightness(image.convert("RGB")).enhance(KEPT_BRIGHTNESS))


def draw_digits(count: int, seed: int) -> Iterator[bytes]:
    """Yield handwritten digits."""
    digits = load_digits().images
    for place in random.Random(seed).choices(range(len(digits)), k=count):
        yield encode(Image.fromarray((digits[place] * 15).astype("uint8")).resize((160, 160)))


def encode(image: Image.Image) -> bytes:
    """Return an image as a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


KINDS: Mapping[str, Callable[[int, int], Iterator[bytes]]] = {"darkened": draw_darkened, "digits": draw_digits}


def read_drift(url: str) -> Drift:
    """Return the drift gauges of a server, by their names."""
    text = httpx.get(f"{url}/metrics", timeout=30).raise_for_status().text
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {sample.name: sample.value for sample in samples if sample.name in METRICS}


def ask(url: str, metrics_url: str, images: Iterator[bytes]) -> list[Drift]:
    """Send images; return the drift after each ``SAMPLE_REQUESTS``."""
    looks = []
    with httpx.Client(base_url=url, timeout=60) as client:
        for number, data in enumerate(images, start=1):
            client.post("/predict", content=data).raise_for_status()
            if number % SAMPLE_REQUESTS == 0:
                looks.append(read_drift(metrics_url))
    return looks


def first_alert(looks: Sequence[Drift]) -> dict[str, int | None]:
    """Return, for each gauge, the number of requests after which it was first above the limit."""
    return {
        name: next(
            (place * SAMPLE_REQUESTS for place, look in enumerate(looks, start=1) if look.get(name, 0) > ALERT_DRIFT),
            None,
        )
        for name in METRICS
    }


def measure(model: Path, scratch: Path) -> dict[str, Any]:
    """Return the highest drift of photographs, and the requests until other images raise an alert."""
    figures: dict[str, Any] = {}
    for kind, draw in KINDS.items():
        port, metrics_port = free_port(), free_port()
        settings = {
            "MODEL_URI": f"file://{model}",
            "MODEL_DIR": tempfile.mkdtemp(dir=scratch),
            "PORT": str(port),
            "METRICS_PORT": str(metrics_port),
        }
        with serving([], port, scratch / f"{kind}.log", **settings) as url:
            metrics_url = f"http://127.0.0.1:{metrics_port}"
            looks = ask(url, metrics_url, draw_photographs(PHOTOGRAPHS, seed=len(figures)))
            highest = {name: max(look.get(name, 0.0) for look in looks) for name in METRICS}
            alerts = first_alert(ask(url, metrics_url, draw(OTHERS, seed=len(figures))))
        figures[kind] = {"photographs": highest, "requestsUntilAlert": alerts}
        print(f"{kind}: {figures[kind]}", flush=True)
    return figures


def shortcomings(figures: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each figure that is not as it should be."""
    return [
        *(
            f"{name} reaches {value:.3f} for photographs like those of the reference"
            for figure in figures.values()
            for name, value in figure["photographs"].items()
            if value > ALERT_DRIFT
        ),
        *(
            f"{kind}: no gauge is above {ALERT_DRIFT} within {OTHERS} requests"
            for kind, figure in figures.items()
            if not any(figure["requestsUntilAlert"].values())
        ),
    ]


def main() -> None:
    """Print, as the last line, one JSON object; exit with 1 where a figure is not as it should be."""
    require_photographs()
    with tempfile.TemporaryDirectory(prefix="bench-drift-") as name:
        scratch = Path(name)
        figures = measure(train_head(scratch) / "model", scratch)
    faults = shortcomings(figures)
    print(json.dumps({**figures, "faults": faults}))
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
