"""``python -m s2pt.lab``: fit the cover letter's machine again, and print what ``data/fitted.json`` keeps."""

from __future__ import annotations

import json

import numpy as np

from s2pt.lab.fit import FITTED_COSTS, fit, letter_seconds
from s2pt.lab.letter import figures


def main() -> None:
    """Fit, judge by the figures that were not fitted, print."""
    given = figures()
    found = fit(given)
    times = letter_seconds(found.costs, given)
    held = [np.log(time / figure.seconds) for time, figure in zip(times, given, strict=True) if not figure.fitted]
    document = {
        "costs": {name: round(getattr(found.costs, name), 4) for name in FITTED_COSTS},
        "covariance_of_logs": found.covariance.round(6).tolist(),
        "model_error": round(float(np.sqrt(np.mean(np.square(held)))), 4),
    }
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
