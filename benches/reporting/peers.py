"""Other libraries on the same work, and what the machine's memory system allows at best."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from reporting import plots
from reporting.run import ROOT
from reporting.text import figure, paragraph, picture, table

TITLE = "Beside peers, and beside what the machine allows"
HOW: tuple[str, ...] = (
    "Peers: minima of at least 15 runs, of all contestants in turn (`benches/peers` says who takes part with what).",
)
LEVELS = 3
TABLES = {"exclusive": "s2pt_exclusive", "shared": "s2pt_shared"}
"""Who is ours in the table of one user, and in that of several."""


def measure(quick: bool) -> dict[str, Any]:
    """Run the peers' own program."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "peers.json"
        command = ["cargo", "run", "--release", "--locked", "--", "--json", str(out), *(["--quick"] if quick else [])]
        subprocess.run(command, cwd=ROOT / "benches" / "peers", check=True)
        found: dict[str, Any] = json.loads(out.read_text())
        return found


def rivals(data: dict[str, Any], access: str) -> list[dict[str, Any]]:
    """Who does the same for such a user: peers as they are for one user, anything behind a lock for several."""
    if access == "exclusive":
        return [who for who in data["contestants"] if not who["own"] and not who["lock"] and who["access"] == access]
    return [who for who in data["contestants"] if who["lock"]]


def same_walk(who: dict[str, Any]) -> bool:
    """Whether a contestant walks as many levels as ours in these tables, or has only one shape to offer."""
    return who["levels"] in (0, LEVELS) or not who["id"].removesuffix("+std").removesuffix("+parking_lot").endswith(
        "_4l"
    )


def best(data: dict[str, Any], row: dict[str, Any], access: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Find the fastest rival in a row, with his figures."""
    found = [
        (who, row["results"][who["id"]])
        for who in rivals(data, access)
        if same_walk(who) and "min" in row["results"].get(who["id"], {})
    ]
    return min(found, key=lambda pair: float(pair[1]["min"]), default=None)


def behind(data: dict[str, Any], access: str) -> list[dict[str, Any]]:
    """Rows with ours, the best rival and the limit; without those where ours has no figure."""
    bounds = {(bound["row"], bound["contestant"]): bound for bound in data["bounds"]}
    found = []
    for row in data["rows"]:
        ours = row["results"].get(TABLES[access], {})
        if "min" not in ours:
            continue
        bound, rival = bounds.get((row["id"], TABLES[access])), best(data, row, access)
        found.append(
            {
                "row": row,
                "ours": ours["min"],
                "rival": rival,
                "ratio": rival[1]["min"] / ours["min"] if rival else None,
                "limit": bound["limit_ns"] if bound else None,
                "of_limit": ours["min"] / bound["limit_ns"] if bound else None,
                "chain": bound["chain_ns"] if bound else None,
                "recipe": bound["recipe"] if bound else "",
            }
        )
    return found


def render(data: dict[str, Any]) -> list[str]:
    """Print ours, the best rival and the limit; then everybody, threads, and what the limits are made of."""
    return [
        *paragraph(
            "The same work for everybody: one pool of touched frames, one physical layout, the TLB hook a black box;",
            "times are minima, in the unit of the row. *Faster* is how many times as long the best rival takes. Each",
            "row needs some accesses at least (*both of*): one call after the other overlaps them, and nothing can be",
            "faster than the *limit*; where each step waits for the one before, they take the *chain*.",
        ),
        "",
        "### One user",
        "",
        "Exclusive access (`&mut`), as the peers have it.",
        "",
        *_standings(data, "exclusive"),
        "",
        "### Several users",
        "",
        *paragraph(
            "Shared access beside the best of what a user would write: a peer, a `BTreeMap` or our exclusive table",
            "in a",
            "lock. One thread here, so nobody waits for the lock.",
        ),
        "",
        *_standings(data, "shared"),
        *picture("peers", "Everybody in every row"),
        "### Threads",
        "",
        *_threads(data),
        *picture("threads", "Throughput of two threads"),
        "### Limits",
        "",
        *table(
            ["what", "min, ns>", "median, ns>"],
            [[limit["title"], figure(limit["min"]), figure(limit["median"])] for limit in data["limits"].values()],
        ),
        "",
        *_everybody(data),
    ]


def _standings(data: dict[str, Any], access: str) -> list[str]:
    rows = []
    for found in behind(data, access):
        name, time, faster = "", "", ""
        if found["rival"]:
            who, result = found["rival"]
            name, time = who["title"] + (" \\*" if result["how"] else ""), figure(result["min"])
            faster = f"{found['ratio']:.2f} x" if found["ratio"] >= 1 else f"**{found['ratio']:.2f} x**"
        of_limit = f"{found['of_limit']:.1f} x" if found["of_limit"] else ""
        title, unit = found["row"]["title"], found["row"]["unit"]
        ours, limit, chain = (figure(found[what]) for what in ("ours", "limit", "chain"))
        rows.append([title, unit, ours, time, name, faster, limit, of_limit, chain, found["recipe"]])
    columns = ["operation", "unit", "ours>", "best rival>", "", "faster>", "limit>", "of limit>", "chain>", "both of"]
    noted = ["", "\\* has no such operation; made of its public calls."] if any("\\*" in row[4] for row in rows) else []
    return [*table(columns, rows), *noted]


def _threads(data: dict[str, Any]) -> list[str]:
    """Everybody who can be shared, by throughput; ours first."""
    shown = [who for who in data["contestants"] if who["access"] == "shared" and same_walk(who)]
    rows = []
    for row in data["threads"]:
        for who in shown:
            result = row["results"].get(who["id"], {})
            if "best" in result:
                rows.append(
                    [
                        row["title"] if who is shown[0] else "",
                        f"**{who['title']}**" if who["own"] and not who["lock"] else who["title"],
                        figure(result["alone_best"]),
                        figure(result["best"]),
                        f"{result['ratio_best']:.2f} x",
                    ]
                )
    return table(["what", "who", "alone, million/s>", "together, million/s>", "ratio>"], rows)


def _everybody(data: dict[str, Any]) -> list[str]:
    """All contestants in all rows, folded away."""
    rows = [
        [
            who["title"],
            who["version"],
            str(who["levels"] or ""),
            *(figure(row["results"].get(who["id"], {}).get("min")) for row in data["rows"]),
        ]
        for who in data["contestants"]
    ]
    columns = ["who", "version", "levels>", *(f"{row['id']}, {row['unit']}>" for row in data["rows"])]
    return ["<details><summary>Everybody in every row</summary>", "", *table(columns, rows), "", "</details>"]


def missed(data: dict[str, Any]) -> list[tuple[str, str]]:
    """Rows in which a rival is faster."""
    return [
        (
            f"peers_{access}_{found['row']['id']}",
            f"{found['row']['title']}, {access}, beside {found['rival'][0]['title']}",
        )
        for access in TABLES
        for found in behind(data, access)
        if found["rival"] and found["ratio"] < 1
    ]


def draw(data: dict[str, Any], folder: Path) -> None:
    """Everybody in every row, and the throughput of two threads; of two locks around the same, the faster one."""
    panels = []
    for access, ours in TABLES.items():
        us = next(who for who in data["contestants"] if who["id"] == ours)
        groups = _by_inner([us, *(who for who in rivals(data, access) if same_walk(who))])
        rows = [
            (
                row["title"],
                {name: min(_figures(row, group, "min"), default=None) for name, group in groups.items()},
            )
            for row in data["rows"]
        ]
        panels.append((us["title"], rows, {found["row"]["title"]: found["limit"] for found in behind(data, access)}))
    plots.standings(folder / "peers.svg", panels)
    groups = _by_inner([who for who in data["contestants"] if who["access"] == "shared" and same_walk(who)])
    plots.throughput(
        folder / "threads.svg",
        [
            (
                row["title"],
                [
                    (
                        name,
                        not group[0]["lock"],
                        max(_figures(row, group, "alone_best")),
                        max(_figures(row, group, "best")),
                    )
                    for name, group in groups.items()
                    if _figures(row, group, "best")
                ],
            )
            for row in data["threads"]
        ],
    )


def _by_inner(contestants: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Group contestants who are the same in different locks, under a name for both."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for who in contestants:
        name = f"{who['title'].rpartition(', ')[0]}, in a lock" if who["lock"] else who["title"]
        groups.setdefault(name, []).append(who)
    return groups


def _figures(row: dict[str, Any], group: list[dict[str, Any]], name: str) -> list[float]:
    found = [row["results"].get(who["id"], {}).get(name) for who in group]
    return [value for value in found if value is not None]
