"""The model of large volumes counts as the planner does, and the page says what it says."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from thc_dask.dispatch import MOST_PER_THREAD, PER_THREAD
from thc_dask.grid import Grid
from thc_dask.store.layout import make_levels, plan_blocks, waves

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))  # its scripts import one another by name

import bench_scaling  # noqa: E402
import scaling_model  # noqa: E402
from scaling_events import Cluster, Wave, simulate  # noqa: E402
from scaling_model import ASSUMED, Rates, forecast, work_of  # noqa: E402

RESULTS = BENCHMARKS / "results" / "2026-11-27-scaling.json"
RATES = Rates(1e7, 0.9, 1e-3, 2e-4, 1500.0, 300.0, 1e-4)


def run(script, *arguments):
    line = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# -- the simulation


@pytest.mark.parametrize("n_workers", [1, 7, 100])
def test_workers_are_busy_where_nothing_else_limits(n_workers):
    made = simulate(Cluster(n_workers, 0.0, 0.0), [Wave(10 * n_workers, 2.0)])
    assert made.seconds == pytest.approx(20.0)
    assert made.busy == pytest.approx(1.0)
    assert made.n_again == 0


def test_a_scheduler_does_one_thing_at_a_time():
    made = simulate(Cluster(1000, 1e-3, 1e-4), [Wave(20_000, 0.1)])
    assert made.seconds == pytest.approx(20.0, rel=0.02)
    assert made.scheduler_busy > 0.98
    assert made.busy < 0.11


def test_a_client_does_one_thing_at_a_time():
    made = simulate(Cluster(1000, 1e-4, 1e-3), [Wave(20_000, 0.1)])
    assert made.seconds == pytest.approx(20.0, rel=0.02)
    assert made.client_busy > 0.98


def test_a_store_takes_so_many_requests():
    made = simulate(Cluster(100, 0.0, 0.0, puts_per_s=50.0), [Wave(1000, 0.1, n_puts=4)])
    assert made.seconds == pytest.approx(1000 * 4 / 50, rel=0.02)


def test_a_wave_waits_for_the_one_before():
    cluster = Cluster(10, 0.0, 0.0)
    one, two = Wave(11, 1.0), Wave(1, 5.0)
    assert simulate(cluster, [one, two]).seconds == pytest.approx(2.0 + 5.0)


@pytest.mark.parametrize("n_workers", [1, 10, 1000])
def test_few_tasks_exist_at_a_time(n_workers):
    made = simulate(Cluster(n_workers, 1e-4, 1e-4), [Wave(20_000, 0.05, 0.3)])
    assert PER_THREAD * n_workers <= made.most_in_flight <= MOST_PER_THREAD * n_workers


def test_what_a_lost_worker_had_is_done_again():
    cluster = Cluster(20, 1e-4, 1e-4, mean_life_s=50.0, restart_s=5.0)
    made = simulate(cluster, [Wave(400, 10.0, 0.2)])
    whole = simulate(replace(cluster, mean_life_s=math.inf), [Wave(400, 10.0, 0.2)])
    assert made.n_again > 20
    assert made.seconds > whole.seconds
    assert made.busy * made.seconds == pytest.approx(whole.busy * whole.seconds, rel=0.1)


def test_the_same_comes_of_the_same():
    cluster, waves_of = Cluster(50, 1e-3, 1e-4, 100.0, 500.0), [Wave(500, 1.0, 0.5, 3)]
    assert simulate(cluster, waves_of) == simulate(cluster, waves_of)


# -- the model


@pytest.mark.parametrize("n_vox", [1e6, 1e8, 5.9e9, 1e11])
def test_counts_are_those_of_the_planner(n_vox):
    work = work_of(n_vox)
    levels = make_levels(Grid(work.shape, (1.0, 1.0, 1.0)))
    assert math.prod(work.shape) == pytest.approx(n_vox, rel=0.01)
    assert work.n_shards == sum(level.n_shards for level in levels)
    planned = [
        plan_blocks(
            wave[0], scaling_model.UNIT, 1, scaling_model.MEMORY_BYTES,
            sink_bytes=scaling_model.SINK_BYTES,
        )
        for wave in waves(levels)
    ]  # fmt: skip
    assert work.n_tasks == tuple(len(plan.boxes) for plan in planned)
    assert work.n_columns == tuple(wave[0].n_shards for wave in waves(levels))
    assert work.n_puts >= work.n_shards + sum(work.n_columns)


def test_more_of_what_limits_makes_it_faster():
    slow = forecast(1e12, 10, RATES)
    assert slow.limit == "cores"
    assert forecast(1e12, 10, replace(RATES, core_vox_per_s=2e7)).seconds < slow.seconds
    line = replace(ASSUMED, core_network_bytes_per_s=1e6)
    assert forecast(1e12, 10, RATES, line).limit == "network"
    assert forecast(1e12, 10, RATES, replace(ASSUMED, puts_per_s=1.0)).limit == "requests"
    assert forecast(1e12, 10, replace(RATES, scheduler_s=100.0)).limit == "scheduler"
    assert forecast(1e12, 10, replace(RATES, client_s=100.0)).limit == "client"


def test_twice_the_workers_take_half_the_time_while_cores_limit():
    a, b = (forecast(1e14, n, RATES) for n in (50, 100))
    assert (a.limit, b.limit) == ("cores", "cores")
    assert (a.seconds - a.tail_s) / (b.seconds - b.tail_s) == pytest.approx(2.0)


def test_price_is_of_cores_and_requests():
    free = replace(ASSUMED, core_hour_usd=0.0)
    made = forecast(1e12, 100, RATES)
    assert made.usd(free) == pytest.approx(made.work.n_puts * ASSUMED.put_usd)
    assert made.usd() - made.usd(free) == pytest.approx(made.core_hours * ASSUMED.core_hour_usd)


@pytest.mark.parametrize("n_vox", [1e12, 1e14])
@pytest.mark.parametrize("n_workers", [10, 1000])
def test_model_and_simulation_agree(n_vox, n_workers):
    from scaling_pages import rates_of, simulated_conversion

    rates = rates_of(json.loads(RESULTS.read_text()))
    modelled = forecast(n_vox, n_workers, rates).seconds
    simulated = simulated_conversion(n_vox, n_workers, rates)
    assert modelled == pytest.approx(simulated, rel=0.2)


# -- what was measured, and the page


def test_pages_say_what_the_model_says():
    for page, tables in bench_scaling.pages(json.loads(RESULTS.read_text())).items():
        text = page.read_text(encoding="utf-8")
        for name, lines in tables.items():
            again = bench_scaling.put_in(text, name, lines)
            assert again == text, f"{name}: bench_scaling.py tables --results {RESULTS.name}"
        assert set(re.findall(r"<!-- end of ([\w ]+) -->", text)) == set(tables)


def test_rates_are_those_measured():
    found = json.loads(RESULTS.read_text())
    made = bench_scaling.rates(found)
    del made["box_bytes"]  # of this process
    assert made == {name: found["rates"][name] for name in made}
    assert set(bench_scaling.PIECES) <= set(found)


def test_tasks_cost_something_in_threads():
    found = run("scaling_tasks.py", "threads", "--n", 3000)
    assert found["n"] == 3000
    assert found["ms_per_task"] > 0


@pytest.mark.parametrize("way", ["thc", "submit"])
def test_a_real_scheduler_takes_fake_workers_for_real(way):
    found = run("scaling_tasks.py", "fake", "--workers", 5, "--n", 60, "--way", way)
    assert found["n"] == 60
    assert found["wall_s"] > 0


def test_fake_workers_take_their_time():
    """Twenty tasks of 50 ms on two workers: half a second at least, whatever else runs."""
    words = ["--workers", 2, "--n", 20, "--seconds", 0.05]
    assert run("scaling_tasks.py", "fake", *words)["wall_s"] > 0.45


def test_columns_are_looked_at_and_cleared():
    found = run("scaling_store.py", "columns", "--n", 36)
    assert found["n"] == 36
    assert found["resume_ms_per_column"] > 0


def test_requests_are_counted():
    from tests import object_storage

    object_storage.program("weed")
    found = run("scaling_store.py", "puts", "--n", 8, "--shards", 2)
    assert found["receipt_16"]["n"] == 8
    assert found["shard_1"]["median_ms"] > found["receipt_1"]["median_ms"]


def test_ways_are_put_side_by_side(tmp_path):
    size = ["--shape", "32,64,96", "--runs", 1, "--input", tmp_path, "--output", tmp_path / "out"]
    found = run("scaling_speed.py", "workers", *size)
    assert set(found["wall_s"]) == {"workers1", "workers2"}
    assert run("scaling_speed.py", "core", *size)["cpu_s"] > 0
    assert list((tmp_path / "out").iterdir()) == []
