"""``deepecg-train``: recordings in, a signed engine bundle out, in steps that each leave their result in a folder."""

from __future__ import annotations

import typer

from training.commands import bundle, data, engines, evaluate, experiment, labels, train, weights

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
app.add_typer(data.app)
app.add_typer(labels.app, name="labels")
app.add_typer(weights.app)
app.add_typer(train.app)
app.add_typer(experiment.app)
app.add_typer(evaluate.app)
app.add_typer(bundle.app)
app.add_typer(engines.app)


def main() -> None:
    """Entry point; an error that a person can mend is one sentence and exit code 2."""
    try:
        app()
    except (ValueError, FileNotFoundError) as error:
        typer.secho(f"deepecg-train: {error}", err=True, fg="red")
        raise SystemExit(2) from error
