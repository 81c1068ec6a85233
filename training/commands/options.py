"""Options that several commands share. Nothing here waits for torch: a command's help is made of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, get_args

import typer

from training.train.folds import EACH, WHOLE
from training.train.recipes import RECIPES, LeadPolicy, Recipe, recipe_named

Run = Annotated[Path, typer.Argument(help="Folder of the run; each fold has its own inside.")]
Dataset = Annotated[Path, typer.Option(help="Folder that deepecg-train prepare has written.")]
Bundle = Annotated[Path, typer.Argument(help="Folder of the bundle.")]
PassphraseFile = Annotated[
    Path | None, typer.Option(help="File whose first line is the private key's passphrase, where it has one.")
]
RecipeName = Annotated[str, typer.Option("--recipe", help=f"One of {', '.join(RECIPES)}.")]
Folds = Annotated[
    str,
    typer.Option(
        "--fold",
        help=f"Comma-separated: numbers of folds that are left out for testing, '{EACH}' for one run per fold, "
        f"'{WHOLE}' for a run on every patient.",
    ),
]
Precision = Annotated[str, typer.Option("--precision", help="f32, bf16 or f16 (GPU only); default: the recipe's.")]
Leads = Annotated[
    str, typer.Option("--leads", help=f"One of {', '.join(get_args(LeadPolicy))}; default: the recipe's.")
]
Batch = Annotated[int | None, typer.Option(min=1, help="Over all processes; default: the recipe's.")]
Device = Annotated[str, typer.Option(help="cpu or cuda; with torchrun, one GPU for each process.")]
Threads = Annotated[int, typer.Option(min=1, help="Processor threads.")]


@dataclass(frozen=True, slots=True)
class RecipeChanges:
    """What the command line changes in a recipe."""

    precision: Precision = ""
    leads: Leads = ""
    seed: Annotated[int | None, typer.Option(help="Of everything that is drawn; default: the recipe's.")] = None
    steps: Annotated[int | None, typer.Option(min=1, help="In all; default: as the recipe says.")] = None
    batch: Batch = None
    accumulate: Annotated[int | None, typer.Option(min=1, help="Micro-batches of a step; default: the recipe's.")] = (
        None
    )

    def of(self, name: str) -> Recipe:
        """The recipe of this name, changed so.

        Raises:
            ValueError: there is none of the name, or it cannot be changed so.
        """
        return recipe_named(name, **asdict(self))


@dataclass(frozen=True, slots=True)
class SourceChoice:
    """Which of a dataset's sources are used."""

    sources: Annotated[
        str, typer.Option(help="Comma-separated; default: all that may go into weights that are passed on.")
    ] = ""
    share_alike: Annotated[
        bool, typer.Option("--share-alike", help="Use share-alike sources too: such weights must not be shipped.")
    ] = False


@dataclass(frozen=True, slots=True)
class Hardware:
    """What the work runs on."""

    device: Device = "cpu"
    threads: Threads = 2
