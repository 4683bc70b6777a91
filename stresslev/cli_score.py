"""`stresslev score`: calibrate the account-level risk score on a suite, and a page that shows how well it tells."""

import math
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from stresslev.errors import InputError, Problem

#: What a folder of a calibration consists of.
SCORE_FILES = frozenset({"score.toml", "score.html", "score.json"})

Sets = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. system.assets.BTC.depth_usd=1e8. Repeatable.")]


def score_command(
    what: Annotated[str, typer.Argument(help="Suite or scenario file, or the name of a shipped one.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for score.toml, score.html and score.json.")],
    system: Annotated[str | None, typer.Option("--system", help="System file to use instead of the suite's.")] = None,
    accounts: Annotated[int | None, typer.Option("--accounts", min=1, help="Accounts to sample.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Seed of the sampled book and of the halves.")] = None,
    precision: Annotated[int | None, typer.Option("--precision", help="32 or 64 bits.")] = None,
    correlation: Annotated[float, typer.Option("--correlation", min=0, max=1, help="Between the returns of any two assets.")] = 0.7,
    steepness: Annotated[float, typer.Option("--steepness", min=0, max=10, help="How fast the cap falls with the score.")] = 1.0,
    midpoint: Annotated[float, typer.Option("--midpoint", help="Log-odds of liquidation at which half of the fall is done.")] = 0.0,
    floor: Annotated[float, typer.Option("--floor", min=0.01, max=1, help="Least share of the cap an account keeps.")] = 0.25,
    without: Annotated[list[str], typer.Option("--without", metavar="FEATURE", help="Feature that is to have no weight. Repeatable.")] = [],  # noqa: B006
    set_: Sets = [],  # noqa: B006 (typer reads the default, nobody changes it)
) -> None:
    """Calibrate the risk score of accounts on a suite's scenarios, judged on accounts and scenarios it has not seen."""
    from stresslev import cache, calibration, cli, provenance, results
    from stresslev.config.load import load_plan
    from stresslev.engine.leverage.score import FEATURES
    from stresslev.errors import did_you_mean
    from stresslev.write import folder_atomically

    chosen = {"--correlation": correlation, "--steepness": steepness, "--midpoint": midpoint, "--floor": floor}
    for option, value in chosen.items():
        if not math.isfinite(value):
            raise InputError(option, Problem("value", str(value), "is not a finite number", "give a number"))
    for name in without:
        if name not in FEATURES:
            raise InputError("--without", Problem("feature", name, "is no feature of the score", did_you_mean(name, FEATURES)))
    began = time.perf_counter()
    plan = load_plan(what, system=system, overrides=set_, accounts=accounts, seed=seed, precision=precision)
    response = calibration.Response(correlation=correlation, steepness=steepness, midpoint=midpoint, floor=floor)
    cache.enable()
    with folder_atomically(out, SCORE_FILES) as folder, cli._stoppable() as progress:
        figures = calibration.figures(calibration.calibrate(plan, response, tuple(without), progress))
        attributes = provenance.attributes(plan, time.perf_counter() - began)
        # a run of this command says so itself, whatever calls it
        attributes["command"] = shlex.join(["stresslev", *sys.argv[1:]]) if Path(sys.argv[0]).name == "stresslev" else "stresslev score"
        text = calibration.toml(figures, plan.title)
        results.write_json({"title": plan.title, **figures, "provenance": attributes}, folder / "score.json")
        (folder / "score.toml").write_text(text, encoding="utf-8")
        (folder / "score.html").write_text(page(plan.title, figures, text, attributes), encoding="utf-8")
    for line in text.splitlines():
        if line.startswith("#"):
            typer.echo(line.removeprefix("#").removeprefix(" "))
    typer.echo(f"score: {out / 'score.toml'}, report: {out / 'score.html'}")


_SAMPLE_WORDS = {
    "fitted": "accounts fitted on",
    "held_out": "other accounts",
    "left_out": "other accounts, scenario unseen by the fit",
}


def page(title: str, figures: dict, toml: str, attributes: dict) -> str:
    """`score.html`: one self-contained page. Args: `figures` as `calibration.figures` gives them; `toml` the table they belong to."""
    from itertools import count

    from stresslev.report import frame, sections
    from stresslev.report.markup import tag

    numbers, fit = count(1), figures["fit"]
    lead = (
        f"Fitted on {fit['accounts']:,} accounts ({fit['outcomes']:,} outcomes in {len(figures['scenarios'])} scenarios, "
        f"{fit['liquidated_share']:.1%} of them liquidations) and judged on the other half of the accounts."
    )
    version = f"stresslev {attributes['stresslev_version']}, {frame.created(attributes['created'])}"
    main = tag(
        "main",
        frame.no_script(),
        frame.section(
            "discrimination",
            "Who is told from whom",
            _areas(figures),
            sections.figure(_roc_chart(figures), next(numbers)),
            tag("h3", "Each feature alone, and the score among accounts on the crowd's side: AUC on other accounts"),
            _alone(figures),
        ),
        frame.section(
            "reliability",
            "Are the probabilities right",
            sections.figure(_reliability_chart(figures), next(numbers)),
            _briers(figures),
        ),
        frame.section("score", "The score", _coefficients(figures["score"]), tag("pre", toml)),
        frame.section(
            "made",
            "How this was made",
            tag("pre", attributes["command"], class_="command"),
            tag("p", f"Seed {attributes['seed']}, {attributes['precision']}."),
        ),
    )
    header = tag("header", tag("h1", tag("span", "Risk score of accounts", class_="kicker"), title), tag("p", lead, class_="lead"))
    return frame.page(f"{title}: risk score of accounts", header, main, version, "discrimination")


def _value_words(area: dict) -> str:
    return f"{area['value']:.3f}" if math.isfinite(area["value"]) else "n/a"


def _area_words(area: dict) -> str:
    return _value_words(area) + (f" ({area['low']:.3f} to {area['high']:.3f})" if math.isfinite(area["low"]) else "")


def _areas(figures: dict):
    from stresslev.report.tables import table

    samples = list(figures["brier"])
    rows = [
        [s["title"], f"{s['accounts']:,}", f"{s['liquidated_share']:.1%}", *(_area_words(s["auc"][k]) for k in samples)]
        for s in figures["scenarios"].values()
    ]
    return table(["Scenario", "Accounts judged", "Liquidated", *(f"AUC, {_SAMPLE_WORDS[k]}" for k in samples)], rows)


def _alone(figures: dict):
    from stresslev.report.tables import table

    names = list(figures["score"]["weights"])
    rows = [
        [s["title"], *(_value_words(a) for a in (*(s["auc_of_features_alone"][n] for n in names), s["auc_with_the_crowd"]))]
        for s in figures["scenarios"].values()
    ]
    return table(["Scenario", *names, "the score, on the crowd's side only"], rows)


def _briers(figures: dict):
    from stresslev.report.tables import table

    rows = [[_SAMPLE_WORDS[k], f"{b['score']:.4f}", f"{b['reference']:.4f}", f"{b['skill']:.1%}"] for k, b in figures["brier"].items()]
    return table(["Sample", "Brier score", "Of the base rate", "Skill"], rows)


def _coefficients(score: dict):
    from stresslev.report.tables import table

    rows = [[n, f"{w:.4g}", f"{score['mean'][n]:.4g}", f"{score['scale'][n]:.4g}"] for n, w in score["weights"].items()]
    return table(["Feature", "Weight per standard deviation", "Mean", "Standard deviation"], rows)


def _unit_axes(across: str, up: str) -> dict:
    from stresslev.report import plots

    axis = plots.value_axis(0, 1, "", tickformat=".0%")
    return {"xaxis": axis | {"title": {"text": across}}, "yaxis": axis | {"title": {"text": up}}}


def _diagonal() -> dict:
    from stresslev.report import plots

    ends = [0, 1]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": ends,
        "y": ends,
        "line": {"color": plots.FAINT, "dash": "dot", "width": 1},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _roc_chart(figures: dict):
    from stresslev.report import chart, plots

    data, key = [_diagonal()], []
    for number, s in enumerate(figures["scenarios"].values()):
        colour = plots.PALETTE[number % len(plots.PALETTE)]
        for sample, dash in (("held_out", "solid"), ("left_out", "dash")):
            if sample in s["roc"]:
                words = f"{s['title']}, {_SAMPLE_WORDS[sample]}"
                curve = s["roc"][sample]
                data.append(
                    {
                        "type": "scatter",
                        "mode": "lines",
                        "x": curve["false_positive"],
                        "y": curve["true_positive"],
                        "line": {"color": colour, "width": 1.8, "dash": dash},
                        "name": plots.short(words, 120),
                        "showlegend": False,
                        "hovertemplate": f"%{{y:.1%}} of the liquidated at %{{x:.1%}} of the others<extra>{plots.short(words, 120)}</extra>",
                    }
                )
                key.append(({"solid": "solid", "dash": "dashed"}[dash], colour, words))
    layout = plots.layout(440, top=16, **_unit_axes("share of accounts not liquidated that score above", "share of liquidated accounts above"))
    layout["margin"]["b"] = 60
    caption = "Receiver operating characteristic by scenario, accounts not fitted on. Dashed: by a fit that has not seen the scenario."
    return chart.Chart("Discrimination", "", caption, chart.still(data, layout), key)


def _reliability_chart(figures: dict):
    from stresslev.report import chart, plots

    data, key = [_diagonal()], []
    for colour, (sample, bins) in zip(plots.PALETTE, ((k, b) for k, b in figures["reliability"].items() if k != "fitted"), strict=False):
        observed = [b["observed"] for b in bins]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "x": [b["predicted"] for b in bins],
                "y": observed,
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": [b["high"] - o for b, o in zip(bins, observed, strict=True)],
                    "arrayminus": [o - b["low"] for b, o in zip(bins, observed, strict=True)],
                    "color": colour,
                    "thickness": 1,
                },
                "line": {"color": colour, "width": 1.4},
                "name": _SAMPLE_WORDS[sample],
                "showlegend": False,
                "hovertemplate": f"predicted %{{x:.1%}}, observed %{{y:.1%}}<extra>{_SAMPLE_WORDS[sample]}</extra>",
            }
        )
        key.append(("solid", colour, _SAMPLE_WORDS[sample]))
    layout = plots.layout(440, top=16, **_unit_axes("predicted probability of liquidation", "observed share liquidated"))
    layout["margin"]["b"] = 60
    caption = (
        "All scenarios together, in ten bins of equal count; bars are 95% Wilson intervals for accounts drawn independently. How many accounts a "
    )
    caption += "scenario liquidates is its own affair: a fit that has not seen it can rank its accounts, but not know its level."
    return chart.Chart("Reliability", "", caption, chart.still(data, layout), key)
