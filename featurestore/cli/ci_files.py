"""The pipeline files that `featurestore init --ci` writes."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from featurestore.errors import InvalidRequest

TEMPLATES = Path(__file__).parent / "ci_template"
REQUIREMENTS = "requirements.txt"


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

    Raises `InvalidRequest`, before anything is written, where the pipeline's file exists already.
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
        texts[folder / REQUIREMENTS] = (TEMPLATES / REQUIREMENTS).read_text(encoding="utf-8")
    try:
        for path, content in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"{top} can't be written: {error}") from error
    return list(texts)


def _top(folder: Path) -> Path:
    for place in (folder, *folder.parents):
        if (place / ".git").exists():
            return place
    return folder
