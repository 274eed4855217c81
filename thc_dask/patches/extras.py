"""What goes with patches, if asked for: pictures for annotators, scores of plain classifiers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thc_dask.errors import RequestError
from thc_dask.output import check_target, write_table
from thc_dask.patches.classify import CLASSIFIERS, answer, check_classify, score
from thc_dask.patches.sheets import check_sheet, write_sheet

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Extras:
    """Files to write, None for those that were not asked for."""

    sheet: str | None = None
    """Pictures of what is to be answered."""
    examples: str | None = None
    """Pictures of the train patches, with names."""
    classify: str | None = None
    """Scores of the classifiers."""
    answers: str | None = None
    """Their answers."""

    @property
    def files(self) -> list[str]:
        """Those that were asked for."""
        return [f for f in (self.sheet, self.examples, self.classify, self.answers) if f]

    def check(self, test: float) -> None:
        """Raise RequestError or MissingError, before anything is read, where one cannot be made."""
        for file in filter(None, (self.sheet, self.examples)):
            check_sheet(file)
        for file in filter(None, (self.classify, self.answers)):
            check_target(file)
        if self.examples and not test:
            raise RequestError("examples are the train patches: give --test above 0, or --sheet")
        if self.classify or self.answers:
            check_classify(test)

    def write(self, found: xr.Dataset, seed: int) -> dict[str, Any]:
        """Write them; return the names of the files, and of classifiers how well they did."""
        written: list[str] = []
        if self.sheet:
            written += write_sheet(found, self.sheet)
        if self.examples:
            written += write_sheet(found, self.examples, examples=True)
        facts: dict[str, Any] = {}
        if self.classify or self.answers:
            answers = answer(found, seed)
            scores = score(answers, seed=seed)
            scores = scores.assign_attrs(found.attrs | scores.attrs)
            if self.classify:
                write_table(scores, self.classify)
                written.append(self.classify)
            if self.answers:
                rows = answers.rename_axis("row").to_xarray().drop_vars("row")
                write_table(rows.assign_attrs(found.attrs), self.answers)
                written.append(self.answers)
            facts["accuracy"] = {name: _accuracy(scores, name) for name in CLASSIFIERS}
        return facts | {"written": written}


def _accuracy(scores: xr.Dataset, name: str) -> list[float]:
    """Return accuracy and the ends of its interval."""
    own = scores.isel(dataset=0, region=0).sel(annotator=name)
    return [round(own[f"accuracy{end}"].item(), 3) for end in ("", "_low", "_high")]
