"""The page of a survey: the classes, the same finding across guests with what to do, and a table of all guests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from h2k.pages.grouped import anchor, grouped
from h2k.pages.rendering import clean, render

MOST = 500  # changes and notes that the page shows


def survey_page(survey: dict[str, Any], commands: Sequence[str] = ()) -> str:
    """The HTML of a survey (docs/schemas/survey.json); `commands` can be given next."""
    order = {name: number for number, name in enumerate(survey["classes"])}
    anchors = {row["key"]: (anchor(number), clean(row["name"])) for number, row in enumerate(survey["guests"])}
    found = clean({key: value for key, value in survey.items() if key not in ("guests", "groups")})
    guests = [{**clean(row), "anchor": anchors[row["key"]][0], "rank": order.get(row["class"], 0)} for row in survey["guests"]]
    groups = [{**clean(group), "guests": group["guests"]} for group in survey["groups"]]
    return render(
        "survey.html.j2", survey=found, guests=guests, groups=grouped(groups, anchors), commands=clean(commands), most=MOST, scripted=True,
    )  # fmt: skip
