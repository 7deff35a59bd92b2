"""What the page (`featurestore ui`) takes to answer, with 5,000 features.

    python benchmarks/bench_page.py [--quick] [--json FILE]

A repository of 500 views of ten features, applied, with a ledger, training sets, runs and models in
numbers, on SQLite. Times are those of the application, without a network; the median of several
requests, after one to warm up.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from fastapi.testclient import TestClient
from results import Result, median_s, parser, report

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from web_crowd import FEATURES_PER_VIEW, Size, crowd

from featurestore.config import load_settings
from featurestore.web.app import build_app
from featurestore.web.site import Site

SIZE = Size(views=500, ledger_runs=20, sets=300, runs=500, models=300)
SIZE_QUICK = Size(views=50, ledger_runs=5, sets=30, runs=50, models=30)
ASKED, ASKED_QUICK = 11, 3
PAGE_MS, SEARCH_MS = 100, 50
"""What a page, and an answer to each letter that is typed, may take."""
NEWEST_RUN = f"{SIZE_QUICK.runs - 1:032x}"
PAGES = {
    "catalogue": "/",
    "view": "/views/view7",
    "service": "/services/service10",
    "source": "/sources/source3",
    "entity": "/entities/user",
    "graph of all": "/api/graph",
    "graph of all, with features": "/api/graph?features=true",
    "graph around a view": "/api/graph?focus=view:view7",
    "training sets": "/training-sets",
    "training set": "/training-sets/set0",
    "runs": "/runs",
    "runs, searched": "/runs?search=metrics.loss < 2 and params.depth = 3",
    "run": f"/runs/{NEWEST_RUN}",
    "models": "/models",
    "model": "/models/model0",
    "plan": "/plan",
}
SEARCHES = {
    "a name": "/?q=view17",
    "words and an owner": "/?q=number 3 team7@example.org",
    "nothing": "/?q=no such thing",
    "as JSON": "/api/search?q=view17_3",
}
QUESTIONS = {
    "impact": "/api/impact?target=source0.number1",
    "who-uses": "/api/who-uses?target=view0:view0_1",
    "lineage": "/api/lineage?target=view0:view0_1",
    "freshness": "/api/freshness?service=service0",
}
PART = {"x-part": "results"}
"""What the page asks for while somebody types."""


def main() -> None:
    asked = parser(__doc__).parse_args()
    size, times = (SIZE_QUICK, ASKED_QUICK) if asked.quick else (SIZE, ASKED)
    setting = f"{size.views * FEATURES_PER_VIEW:,} features"
    found = []
    with (
        tempfile.TemporaryDirectory(prefix="fs_bench_") as folder,
        Site(load_settings(crowd(Path(folder) / "repo", size))) as site,
    ):
        client = TestClient(build_app(site, hosts=("*",)))

        def measure(path: str, headers: dict[str, str]) -> float:
            def get() -> None:
                client.get(path, headers=headers).raise_for_status()

            get()
            return median_s(get, times) * 1000

        for kind, paths, headers, limit in (
            ("page", PAGES, {}, PAGE_MS),
            ("search", SEARCHES, PART, SEARCH_MS),
            ("question", QUESTIONS, {}, PAGE_MS),
        ):
            found += [
                Result(
                    job=f"{kind}: {name}",
                    setting=setting,
                    ours=measure(path, headers),
                    unit="ms",
                    higher_is_better=False,
                    limit=limit,
                )
                for name, path in paths.items()
            ]
    report(found, asked)


if __name__ == "__main__":
    main()
