"""The pipeline files that `featurestore init --ci` writes."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

import featurestore
from featurestore.config import Settings, load_settings
from featurestore.errors import InvalidRequest

TEMPLATES = Path(__file__).parent / "ci_template"
REQUIREMENTS = "requirements.txt"
SHARED_REGISTRY = "postgres"
"""The extra that pipelines need whatever the settings say, for one that they share is named by a
secret of theirs."""
_EXTRAS = {"redis": "redis", "rediss": "redis", "s3": "s3"}
"""By the schemes of URLs, without what follows a `+`."""


class Pipeline(Enum):
    """Whose pipelines are known."""

    GITHUB = "github"
    GITLAB = "gitlab"

    @property
    def file(self) -> str:
        """Where the pipeline stands, from the top of the repository of code."""
        return {"github": ".github/workflows/featurestore.yml", "gitlab": ".gitlab-ci.yml"}[
            self.value
        ]


def write_pipeline(folder: Path, pipeline: Pipeline) -> list[Path]:
    """Write the pipeline of the feature repository in `folder` at the top of the repository of code
    that it is in (itself, where it is in none), and `requirements.txt` where there is none.

    Raises `InvalidRequest`, before anything is written, where the pipeline's file exists already,
    and `InvalidSettings`.
    """
    folder = folder.resolve()
    top = _top(folder)
    target = top / pipeline.file
    if target.exists():
        raise InvalidRequest(f"{target} exists already; nothing was written. Move it away first")
    below = folder.relative_to(top).as_posix()
    text = (TEMPLATES / f"{pipeline.value}.yml").read_text(encoding="utf-8")
    texts = {target: text.replace("{folder}", below)}
    if not (folder / REQUIREMENTS).exists():
        needs = (TEMPLATES / REQUIREMENTS).read_text(encoding="utf-8")
        needs = needs.replace("{extras}", ",".join(extras_of(load_settings(folder))))
        texts[folder / REQUIREMENTS] = needs.replace("{version}", featurestore.__version__)
    try:
        for path, content in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"{top} can't be written: {error}") from error
    return list(texts)


def extras_of(settings: Settings) -> list[str]:
    """The extras that a pipeline of a repository with these settings needs to be installed."""
    urls = (settings.online.url, settings.offline.path)
    schemes = {url.partition(":")[0].partition("+")[0] for url in urls}
    return sorted({SHARED_REGISTRY, *(_EXTRAS[s] for s in schemes if s in _EXTRAS)})


def _top(folder: Path) -> Path:
    for place in (folder, *folder.parents):
        if (place / ".git").exists():
            return place
    return folder
