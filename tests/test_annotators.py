"""Annotators: a made table, tables that are wrong in every way, and the published answers."""

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

import thc_dask as thc
from thc_dask import cli, output
from thc_dask.agreement import contrasts, summary
from thc_dask.agreement.answers import read_answers
from thc_dask.errors import DataError, MissingError, RequestError
from thc_dask.kernels import agreement

REAL = Path(__file__).parents[2] / "shared/data/prasad2020/irr.csv"
CLASSES = ["CTX", "HYP", "STR", "ZI"]
QUICK = {"n_resamples": 50}


def made(n=60, seed=3):
    """Answers of three annotators in two data sets, most of them right, some missing."""
    rng = np.random.default_rng(seed)
    key = rng.integers(len(CLASSES), size=n)
    table = {"dataset": np.repeat([1, 2], n // 2), "item": np.tile(np.arange(n // 2), 2)}
    table["key"] = np.array(CLASSES, object)[key]
    for rater, share in (("ann", 0.7), ("bob", 0.8), ("cyd", 0.9)):
        said = np.where(rng.random(n) < share, key, rng.integers(len(CLASSES), size=n))
        table[rater] = np.array(CLASSES, object)[said]
    frame = pd.DataFrame(table)
    frame.loc[[2, 40], "ann"] = ""
    frame.loc[5, "cyd"] = " NA "
    return frame


@pytest.fixture(scope="module", params=["made", "real"])
def table(request):
    if request.param == "real":
        if not REAL.exists():
            pytest.skip(f"the answers of the raters are not here: {REAL}")
        return pd.read_csv(REAL)
    return made()


@pytest.fixture(scope="module")
def found(table):
    return thc.agreement(table, **QUICK)


def raters_of(table):
    return [c for c in table.columns if c not in ("dataset", "item", "key")]


def answered(table, dataset, *columns):
    """Return the rows of a data set in which the columns hold answers."""
    here = table if dataset == "all" else table[table.dataset.astype(str) == dataset]
    clean = here[list(columns)].apply(lambda c: c.str.strip().replace({"NA": ""}))
    return clean[(clean != "").all(axis=1)]


def test_scores_by_class_are_those_of_scikit_learn(table, found):
    classes = sorted(table.key.unique())
    scores = found["classes"].to_dataset()
    assert scores["dataset"].values.tolist() == ["1", "2", "all"]
    assert scores["region"].values.tolist() == classes
    for d, a in itertools.product(["1", "2", "all"], raters_of(table)):
        rows = answered(table, d, "key", a)
        report = metrics.classification_report(
            rows["key"], rows[a], labels=classes, output_dict=True, zero_division=np.nan
        )
        here = scores.sel(dataset=d, annotator=a)
        for c in classes:
            for ours, theirs in (("precision",) * 2, ("recall",) * 2, ("f1", "f1-score")):
                value = here[ours].sel(region=c).item()
                assert value == pytest.approx(report[c][theirs], nan_ok=True)
                low, high = (here[f"{ours}_{e}"].sel(region=c).item() for e in ("low", "high"))
                note = here[f"{ours}_note"].sel(region=c).item()
                if note == agreement.ALIKE:
                    assert ours == "f1"
                    assert np.isnan([low, high]).all()
                else:
                    assert low <= value <= high
                    assert (low < high) or value != value
            assert here["support"].sel(region=c) == report[c]["support"]


def test_scores_by_annotator_are_those_of_scikit_learn(table, found):
    scores = found["annotators"].to_dataset()
    for d, a in itertools.product(["1", "2", "all"], raters_of(table)):
        rows = answered(table, d, "key", a)
        here = scores.sel(dataset=d, annotator=a)
        assert here["accuracy"] == pytest.approx(metrics.accuracy_score(rows["key"], rows[a]))
        assert here["kappa"] == pytest.approx(metrics.cohen_kappa_score(rows["key"], rows[a]))
        f1 = metrics.f1_score(rows["key"], rows[a], average="macro", zero_division=np.nan)
        assert here["f1_macro"] == pytest.approx(f1)
        assert here["n_items"] == len(rows)
        assert here["n_items"] + here["n_missing"] == len(answered(table, d, "key"))


def test_pairs_confusions_and_mcnemar(table, found):
    raters, classes = raters_of(table), sorted(table.key.unique())
    pairs, tests = found["pairs"].to_dataset(), found["mcnemar"].to_dataset()
    for d, (a, b) in itertools.product(["1", "2", "all"], itertools.combinations(raters, 2)):
        rows = answered(table, d, a, b)
        here = pairs.sel(dataset=d, annotator=a, other=b)
        assert here["kappa"] == pytest.approx(metrics.cohen_kappa_score(rows[a], rows[b]))
        assert here["agreement"] == pytest.approx((rows[a] == rows[b]).mean())
        assert pairs["kappa"].sel(dataset=d, annotator=b, other=a) == here["kappa"]
        rows = answered(table, d, "key", a, b)
        for region in ["all", *classes]:
            part = rows if region == "all" else rows[rows.key == region]
            cross = pd.crosstab(part[a] == part.key, part[b] == part.key)
            cross = cross.reindex(index=[True, False], columns=[True, False], fill_value=0)
            test = tests.sel(dataset=d, annotator=a, other=b, region=region)
            assert test["p"] == pytest.approx(mcnemar(cross, exact=True).pvalue)
            assert test["only_annotator"] == cross.loc[True, False]
            assert test["only_other"] == cross.loc[False, True]
    for a in raters:
        rows = answered(table, "all", "key", a)
        count = found["confusion"]["count"].sel(dataset="all", annotator=a)
        want = metrics.confusion_matrix(rows["key"], rows[a], labels=classes)
        np.testing.assert_array_equal(count.sel(answer=classes), want)


def test_regions_are_held_against_one_another(table, found):
    classes = sorted(table.key.unique())
    tests = found["regions"].to_dataset().sel(dataset="all")
    pairs = list(itertools.combinations(classes, 2))
    for a in raters_of(table):
        rows = answered(table, "all", "key", a)
        right = {c: (part[a] == part.key).sum() for c, part in rows.groupby("key")}
        n = rows.key.value_counts()
        wanted = [
            stats.fisher_exact([[right[c], n[c] - right[c]] for c in pair]).pvalue for pair in pairs
        ]
        here = tests.sel(annotator=a)
        for (c, d), p, holm in zip(
            pairs, wanted, multipletests(wanted, method="holm")[1], strict=True
        ):
            one = here.sel(region=c, other=d)
            assert one["p"] == pytest.approx(p)
            assert one["p_holm"] == pytest.approx(holm)
            assert here["p"].sel(region=d, other=c) == one["p"]
            assert one["p_bh"] >= one["p"]
            assert one["difference"] == pytest.approx(right[c] / n[c] - right[d] / n[d])
            assert one["stars"] == next(
                (m for m, limit in (("***", 1e-3), ("**", 0.01), ("*", 0.05)) if p < limit), "ns"
            )
        upper = np.triu_indices(len(classes), 1)
        found_bh = here["p_bh"].values[upper]
        np.testing.assert_allclose(found_bh, multipletests(wanted, method="fdr_bh")[1])
    together = tests.sel(annotator="all")
    assert np.isfinite(together["p"].values[np.triu_indices(len(classes), 1)]).all()
    assert np.isnan(np.diag(together["p"].values)).all()


def test_all_annotators_together_are_one_when_they_say_the_same():
    """Items are right or wrong then, and with as many of each region it is Fisher's test."""
    table = made()[["key", "cyd"]].replace(" NA ", "ZI").assign(dan=lambda t: t.cyd)
    table = table.groupby("key").head(table.key.value_counts().min())
    tests = thc.agreement(table, **QUICK)["regions"].to_dataset().sel(dataset="all")
    exact, together = (tests["p"].sel(annotator=a).values for a in ("cyd", "all"))
    np.testing.assert_allclose(together, exact, rtol=1e-9)
    assert np.nanmin(exact) < 1


def test_many_items_are_drawn(monkeypatch):
    """Where the exact test would take too long, scipy's draws come close to it."""
    table = made()
    exact = thc.agreement(table, **QUICK)["regions"]["p"]
    monkeypatch.setattr(contrasts, "MOST_STEPS", 0)
    drawn = thc.agreement(table, **QUICK)["regions"]["p"]
    assert not drawn.equals(exact)
    np.testing.assert_allclose(drawn, exact, atol=0.03)


def test_the_same_seed_gives_the_same(table, found):
    again = thc.agreement(table, **QUICK)
    other = thc.agreement(table, seed=1, **QUICK)
    assert found.identical(again)
    assert not np.array_equal(found["classes"]["f1_low"], other["classes"]["f1_low"])
    assert found["classes"]["f1"].equals(other["classes"]["f1"])


def test_it_says_where_it_comes_from(found):
    for name in ("classes", "regions"):
        attrs = found[name].attrs
        assert attrs["software"] == f"thc_dask {thc.__version__}"
        assert attrs["n_resamples"] == 50
        assert attrs["seed"] == 0
        assert len(attrs["sha256"]) == 64


def test_a_missing_answer_may_be_wrong():
    table = made()
    omitted, wrong = (thc.agreement(table, missing=m, **QUICK) for m in ("omit", "wrong"))
    rows = answered(table, "all", "key")
    said = table["ann"]
    here = wrong["annotators"].to_dataset().sel(dataset="all", annotator="ann")
    assert here["accuracy"] == pytest.approx((said == rows.key).mean())
    assert here["accuracy"] < omitted["annotators"].to_dataset().sel(
        dataset="all", annotator="ann"
    )["accuracy"]  # fmt: skip
    assert here["n_items"] == 60
    assert here["n_missing"] == 2
    unanswered = wrong["confusion"]["count"].sel(answer="no answer", dataset="all")
    assert unanswered.sum("region").values.tolist() == [2, 0, 1]
    recall = wrong["classes"]["recall"].sel(dataset="all", annotator="ann")
    for c in CLASSES:
        assert recall.sel(region=c) == pytest.approx((said[table.key == c] == c).mean())
    # who agrees with whom is a matter of answers that are there
    assert wrong["alpha"].equals(omitted["alpha"])


def test_an_item_without_key_counts_for_pairs_alone():
    table = made().replace({"ann": "", "cyd": " NA "}, "CTX")
    table.loc[0, "key"] = ""
    found = thc.agreement(table, **QUICK)
    assert found["annotators"]["n_items"].sel(dataset="all").values.tolist() == [59] * 3
    assert found["alpha"]["n_items"].sel(dataset="all") == 60


def test_what_is_not_defined_is_nan_with_a_note():
    """One class alone in a data set, and a class that nobody ever met."""
    table = pd.DataFrame({
        "dataset": [1] * 4 + [2] * 4,
        "key": ["A"] * 4 + ["A", "A", "B", "B"],
        "ann": ["A"] * 4 + ["A", "B", "B", "B"],
        "bob": ["A"] * 4 + ["A", "A", "B", "A"],
    })  # fmt: skip
    found = thc.agreement(table, classes=["A", "B", "C"], **QUICK)
    first = found["annotators"].to_dataset().sel(dataset="1", annotator="ann")
    assert (first["accuracy"], first["f1_macro"]) == (1, 1)
    assert np.isnan(first["kappa"])
    assert np.isnan(found["alpha"]["alpha"].sel(dataset="1"))
    assert np.isfinite(found["alpha"]["alpha"].sel(dataset="2"))
    never = found["classes"].to_dataset().sel(region="C")
    assert never["support"].values.max() == 0
    assert np.isnan(never["recall"].values).all()
    assert found["mcnemar"]["p"].sel(dataset="1", annotator="ann", other="bob", region="all") == 1
    rows = output.long_table(summary(found))
    noted = rows[rows.note == "not defined here"]
    assert noted.value.isna().all()
    assert rows[rows.note == ""].value.notna().all()
    assert set(noted[noted.measure == "recall"].region) == {"B", "C"}


def certain():
    """Every answer of ann is right; bob errs in the one item of ZI and in one of 29 of CTX."""
    key = ["CTX"] * 29 + ["STR"] * 30 + ["ZI"]
    return pd.DataFrame({"key": key, "ann": key, "bob": ["STR", *key[1:-1], "CTX"]})


def test_draws_that_are_all_alike_pretend_nothing():
    found = thc.agreement(certain(), n_resamples=200, confidence=0.9)
    scores = found["classes"].to_dataset().sel(dataset="all")
    ann = scores.sel(annotator="ann")
    for name, (region, n) in itertools.product(("precision", "recall"), (("CTX", 29), ("STR", 30))):
        here = ann.sel(region=region)
        want = proportion_confint(n, n, alpha=0.1, method="beta")
        assert [here[f"{name}_{e}"].item() for e in ("low", "high")] == pytest.approx(want)
        assert here[f"{name}_note"] == agreement.EXACT
    for name in ("precision", "recall", "f1"):
        assert ann[f"{name}_note"].sel(region="ZI") == agreement.ALONE
        assert np.isnan(ann[f"{name}_low"].sel(region="ZI"))
    assert ann["f1_note"].sel(region="STR") == agreement.ALIKE
    whole = found["annotators"].to_dataset().sel(dataset="all", annotator="ann")
    assert [whole[f"accuracy_{e}"].item() for e in ("low", "high")] == pytest.approx(
        proportion_confint(60, 60, alpha=0.1, method="beta")
    )
    for name in ("f1_macro", "kappa"):
        assert np.isnan([whole[f"{name}_low"].item(), whole[f"{name}_high"].item()]).all()
        assert whole[f"{name}_note"] == agreement.ALIKE
    # What was drawn with both outcomes keeps its interval, and nothing is said of it.
    bob = scores.sel(annotator="bob", region="CTX")
    assert 0 < bob["recall_low"] < bob["recall"] < bob["recall_high"] <= 1
    assert bob["recall_note"] == ""
    rows = output.long_table(summary(found))
    assert (rows[rows.note == ""].low < rows[rows.note == ""].high)[rows.measure != "mcnemar"].all()
    assert "Clopper-Pearson" in found.attrs["interval"]


def test_kappa_and_alpha_of_few_items():
    table = pd.DataFrame({"key": ["A", "A", "B"], "ann": ["A", "A", "A"], "bob": ["A", "A", "B"]})
    found = thc.agreement(table, **QUICK)
    kappa = found["annotators"].to_dataset().sel(dataset="all", annotator="ann")
    assert kappa["kappa"] == 0
    assert np.isnan([kappa["kappa_low"].item(), kappa["kappa_high"].item()]).all()
    assert kappa["kappa_note"] == agreement.ALIKE
    both = thc.agreement(table[["key", "bob"]].assign(ann=table.bob), **QUICK)["alpha"]
    assert (both["alpha"].item(), both["note"].item()) == (1, agreement.ALIKE)
    assert np.isnan([both["low"].item(), both["high"].item()]).all()
    one = table.assign(ann=["B", "", ""])
    found = thc.agreement(one, **QUICK)["pairs"].to_dataset().isel(dataset=0)
    pair = found.sel(annotator="bob", other="ann")
    assert (pair["agreement"].item(), pair["agreement_note"].item()) == (0, agreement.ALONE)


def test_missing_answers_are_told(tmp_path, capsys):
    made().to_csv(tmp_path / "a.csv", index=False)
    found = thc.agreement(tmp_path / "a.csv", **QUICK)
    assert summary(found).attrs["n_missing"] == {"ann": 2, "bob": 0, "cyd": 1}
    line = ["agreement", str(tmp_path / "a.csv"), "--resamples", "50"]
    assert cli.run([*line, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["attrs"]["n_missing"]["ann"] == 2
    assert cli.run(line) == 0
    assert capsys.readouterr().out.endswith("n_missing:\n  ann: 2\n  bob: 0\n  cyd: 1\n")
    assert cli.run([*line, "-o", str(tmp_path / "scores.csv"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_missing"]["cyd"] == 1


def test_who_answered_nothing_of_a_data_set_is_noted():
    table = made()
    table.loc[table.dataset == 2, "ann"] = ""
    rows = output.long_table(summary(thc.agreement(table, **QUICK)))
    silent = rows[(rows.dataset == "2") & ((rows.annotator == "ann") | (rows.other == "ann"))]
    assert set(silent.measure) >= {"mcnemar", "accuracy", "kappa", "agreement", "recall"}
    assert (silent.note != "").all()
    assert (silent.note[silent.measure == "mcnemar"] == "no item counts for both: no test").all()


@pytest.mark.parametrize("missing", ["omit", "wrong"])
def test_an_annotator_without_answers_is_named(tmp_path, capsys, missing):
    table = made().assign(bob="", cyd="NA")
    table.assign(ann="").to_csv(tmp_path / "none.csv", index=False)
    table.to_csv(tmp_path / "some.csv", index=False)
    for name, status, said in (
        ("none", 1, "none.csv holds no answers: ann, bob, cyd are empty"),
        ("some", 2, "some.csv: annotator 'bob' answered nothing; fill in the column, or leave"),
    ):
        line = ["agreement", str(tmp_path / f"{name}.csv"), "--missing", missing]
        assert cli.run(line) == status
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "options", "error", "said"),
    [
        (lambda t: t.drop(columns="key"), {}, RequestError, "no column 'key'; its columns: datas"),
        (lambda t: t, {"key": "truth"}, RequestError, "no column 'truth'"),
        (lambda t: t, {"annotators": ["ann", "eve"]}, RequestError, "no column 'eve'"),
        (lambda t: t, {"annotators": ["ann"]}, RequestError, "1 column of annotators"),
        (lambda t: t, {"annotators": ["ann", "ann"]}, RequestError, "name each column once"),
        (lambda t: t, {"annotators": ["ann", "key"]}, RequestError, "name each column once"),
        (lambda t: t[["key", "ann"]], {}, RequestError, "1 column of annotators"),
        (lambda t: t[:0], {}, DataError, "holds no answers"),
        (lambda t: t.assign(bob="ctx"), {}, RequestError, "line 2: bob says 'ctx', which is no cl"),
        (lambda t: t, {"classes": ["CTX", "ZI"]}, RequestError, "which is no class; known: CTX, Z"),
        (lambda t: t, {"classes": ["CTX"] * 2}, RequestError, "name each once"),
        (lambda t: t.assign(key="CTX", ann="CTX", bob="CTX", cyd="CTX"), {}, RequestError, "fewer"),
        (
            lambda t: t.assign(key="", ann="", bob="", cyd=""),
            {},
            RequestError,
            "'key', the key, is e",
        ),
        (lambda t: t.assign(item=7), {}, DataError, "line 3: dataset 1, item 7 stands there twice"),
        (lambda t: t.rename(columns={"ann": "all"}), {}, RequestError, "'all' cannot be the name"),
        (lambda t: t, {"missing": "maybe"}, RequestError, "give omit or wrong"),
        (lambda t: t, {"confidence": 95}, RequestError, "confidence 95"),
        (lambda t: t, {"n_resamples": 10.5}, RequestError, "n_resamples 10.5: give a whole num"),
        (lambda t: t, {"n_resamples": 8}, RequestError, "n_resamples 8: give a .* of at least 9$"),
        (lambda t: None, {}, RequestError, "answers None: give a CSV file or a pandas table"),
    ],
)
def test_bad_tables(change, options, error, said):
    with pytest.raises(error, match=said):
        thc.agreement(change(made()), **options)


def test_bad_files(tmp_path):
    with pytest.raises(MissingError, match="no such file"):
        thc.agreement(tmp_path / "none.csv")
    for data in (b"", b"\xff\xfe\x00key"):
        (tmp_path / "bad.csv").write_bytes(data)
        with pytest.raises(DataError, match="is no CSV file"):
            thc.agreement(tmp_path / "bad.csv")


def test_the_command(tmp_path, capsys):
    made().to_csv(tmp_path / "answers.csv", index=False)
    line = ["agreement", str(tmp_path / "answers.csv"), "--resamples", "50"]
    assert cli.run(line) == 0
    shown = capsys.readouterr().out
    assert shown.split()[:3] == ["measure", "dataset", "annotator"]
    assert cli.run([*line, "-o", str(tmp_path / "a.csv")]) == 0
    capsys.readouterr()
    rows = pd.read_csv(tmp_path / "a.csv")
    assert list(rows) == [
        "measure", "dataset", "annotator", "other", "region", "value", "low", "high", "p", "n",
        "note",
    ]  # fmt: skip
    assert set(rows.measure) == {
        "accuracy", "f1_macro", "kappa", "agreement", "alpha", "mcnemar", "precision", "recall",
        "f1",
    }  # fmt: skip
    assert cli.run([*line, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert len(printed["rows"]) == len(rows)
    assert printed["attrs"]["n_resamples"] == 50
    for suffix in (".nc", ".zarr", ".json", ".parquet"):
        target = tmp_path / f"regions{suffix}"
        assert cli.run([*line, "--table", "regions", "-o", str(target)]) == 0
        assert target.exists()
    assert cli.run([*line, "--table", "regions", "-o", str(tmp_path / "r.csv")]) == 0
    assert "p_holm" in pd.read_csv(tmp_path / "r.csv")
    capsys.readouterr()
    assert cli.run([*line, "--annotators", "ann"]) == 2
    assert capsys.readouterr().err.startswith("thc agreement: ")


@pytest.mark.skipif(not REAL.exists(), reason=f"the answers of the raters are not here: {REAL}")
def test_what_the_paper_says_of_its_raters():
    """CTX as WM; HYP harder than CTX and STR, whoever answers; E20: WM below 0.8 once."""
    found = thc.agreement(REAL, **QUICK)
    tests = found["regions"].to_dataset().sel(dataset="all")
    for annotator in ("annotator1", "annotator2", "all"):
        p = tests["p"].sel(annotator=annotator)
        assert p.sel(region="CTX", other="WM") > 0.05
        assert p.sel(region="HYP", other="CTX") < 0.05
        assert p.sel(region="HYP", other="STR") < 0.05
    f1 = found["classes"]["f1"].sel(dataset=["1", "2"], region=["CTX", "STR", "WM"])
    below = f1.where(f1 < 0.8).stack(at=f1.dims).dropna("at")
    assert below["at"].values.tolist() == [("1", "annotator1", "WM")]
    assert below.item() == pytest.approx(0.78, abs=0.005)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_what_spreadsheets_put_between_columns(tmp_path, separator):
    rows = ["key,ann,bob", "CTX,CTX,ZI", 'ZI,"ZI",ZI', "CTX,,CTX"]
    path = tmp_path / "a.csv"
    path.write_text("\n".join(row.replace(",", separator) for row in rows) + "\n\n")
    found = read_answers(path)
    assert (found.annotators, found.classes) == (("ann", "bob"), ("CTX", "ZI"))
    assert found.said.tolist() == [[0, 1, -1], [1, 1, 0]]


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        (
            "key,ann,ann\nCTX,CTX,ZI\n",
            RequestError,
            "two columns 'ann'; give each a name of its own",
        ),
        ("key, key,ann\nCTX,CTX,ZI\n", RequestError, "two columns 'key'"),
        ("key,ann,bob\nCTX,CTX,ZI\nZI,ZI\n", DataError, "line 3 has 2 fields, and there are 3"),
        ('key,ann,bob\n"C\nX",CTX,ZI\nZI,ZI,ZI,ZI\n', DataError, "line 4 has 4 fields"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, text, error, said):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(error, match=said):
        read_answers(path)
