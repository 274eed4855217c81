"""A conversion that is broken at drawn moments goes on to the bytes of an undisturbed one.

``tests/breaker.py`` does it fifty times; ``docs/robustness.md`` has what came of that.
"""

import pytest

from tests import breaker


@pytest.mark.parametrize(
    ("kind", "shares"),
    [("kill", (0.4, 0.95)), ("interrupt", (0.6,)), ("terminate", (0.4,)),
     ("kill a process", (0.5,)), ("kill a worker", (0.5,))],
)  # fmt: skip
def test_breaks(kind, shares, tmp_path, monkeypatch):
    monkeypatch.setattr(breaker, "SHAPE", (64, 128, 128))
    campaign = breaker.Campaign(kind, tmp_path, seed=len(kind))
    found = [campaign.trial(share, f"v{share}", again=0) for share in shares]
    struck = [outcome for trial in found for outcome in trial["breaks"] if outcome["struck"]]
    assert struck
    if kind != "kill a worker":  # another one does its work
        assert any(outcome["code"] for outcome in struck)
        assert any(trial["kept_shards"] for trial in found)
