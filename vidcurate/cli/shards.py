"""`vidcurate inspect` and `vidcurate index`: what shards hold, and an index for those of others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidcurate.cli.output import print_error, print_json, print_table, printable
from vidcurate.cli.recipes import Json
from vidcurate.cli.summary import count
from vidcurate.errors import RunDirectoryError, UserError

if TYPE_CHECKING:
    from vidcurate.shards.inspection import Inspection, SampleFacts
    from vidcurate.shards.verify import Problem

_SHOWN = 20


def inspect(
    path: Annotated[
        str,
        typer.Argument(
            metavar="DIR|SHARD",
            help="OUT, OUT/shards/SELECTION, any folder that has an index, or one tar.",
        ),
    ],
    check: Annotated[
        bool,
        typer.Option("--verify", help="Read all shards and check names, sizes and checksums."),
    ] = False,
    sheet: Annotated[
        Path | None,
        typer.Option("--sheet", metavar="FILE", help="Draw a contact sheet: .jpg, .png or .webp."),
    ] = None,
    json: Json = False,
) -> None:
    """Show what packed shards hold; check them; draw a picture of some samples of each bucket.

    With --verify each problem is listed and the exit status is 1 where there is one.
    """
    from vidcurate.shards.inspection import index_of_shard, left_out, local, packed

    place = local(path)
    folders: list[tuple[Path, str | None]] = []
    if place.is_file():
        if place.suffix.lower() != ".tar":
            raise UserError(f"{place} is no .tar: give a shard, or the folder of its selection")
        found = index_of_shard(place)
        folders += [found] if found else []
        said: dict[str, Any] = {"samples": _shard(place, has_index=found is not None, json=json)}
        if found:
            said["left_out"] = left_out(*found)
            _print_left_out(said["left_out"])
    else:
        folders += [(folder, None) for folder in packed(place)]
        if sheet is not None and len(folders) > 1:
            names = ", ".join(str(folder) for folder, _ in folders)
            raise UserError(f"--sheet draws one selection: name one of {names}")
        said = {"selections": list(_selections([f for f, _ in folders], check=check, json=json))}
    problems: list[dict[str, Any]] = []
    if sheet is not None:
        said["sheet"] = _draw(place, folders, sheet, json=json)
    if check:
        problems = [asdict(problem) for problem in _checked(place, folders, json=json)]
        said["problems"] = problems
    elif not folders:  # what of a bare tar is not in the list
        said["problems"] = [asdict(problem) for problem in _form(place)]
    if json:
        print_json(said)
    if problems:
        raise typer.Exit(1)


def index(
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="A folder of tars, by webdataset or others.")
    ],
    to: Annotated[
        str | None,
        typer.Option("--to", help="Write the index there, with links to the tars; default DIR."),
    ] = None,
    val: Annotated[
        str, typer.Option("--val", help="Share of videos for validation, such as 1%.")
    ] = "0%",
    force: Annotated[
        bool, typer.Option("--force", help="Replace an index that pack made.")
    ] = False,
    json: Json = False,
) -> None:
    """Index tars that others made, so that vidcurate's reader streams them.

    Writes index.json and index/*.parquet; tars stay as they are. Read are tars in the form of
    WebDataset: webdataset's, video2dataset's, or our own without their index.
    """
    from vidcurate.cli.progress import working
    from vidcurate.report.format import size
    from vidcurate.shards.foreign import index_tars
    from vidcurate.units import parse_share

    try:
        share = parse_share(val)
    except ValueError as error:
        raise UserError(f"--val {val}: {error}") from error
    with working("index") as show:
        report = index_tars(
            folder,
            to=to,
            val=share,
            force=force,
            progress=lambda done, total, samples: show(
                f"{count(samples, 'sample')}, {size(done)} of {size(total)}", done, total
            ),
        )
    if json:
        print_json(asdict(report))
        return
    shards = count(report.shards, "shard")
    typer.echo(f"{count(report.samples, 'sample')} in {shards}, {size(report.bytes)}")
    if report.renamed:
        typer.echo(
            f"{report.renamed} of them have a key that another shard has, too: their id is "
            "SHARD#KEY"
        )
    typer.echo(f"index: {report.folder / 'index.json'}")
    _print_left_out({f["clip_id"]: f["message"] for f in report.failures})


def _print_left_out(failures: Mapping[str, str]) -> None:
    for where, message in list(failures.items())[:_SHOWN]:
        print_error(f"not in the index: {where}: {message}")
    if len(failures) > _SHOWN:
        print_error(f"and {len(failures) - _SHOWN} more: index.json names all (failures)")


def _shard(tar: Path, *, has_index: bool, json: bool) -> list[dict[str, Any]]:
    from vidcurate.shards.inspection import inspect_shard

    samples = inspect_shard(tar)
    if not json:
        _print_samples(tar, samples, has_index=has_index)
    return [asdict(sample) for sample in samples]


def _selections(folders: list[Path], *, check: bool, json: bool) -> Iterator[dict[str, Any]]:
    from vidcurate.shards.inspection import inspect_selection

    for i, folder in enumerate(folders):
        try:
            about = inspect_selection(folder)
        except RunDirectoryError:
            if not check:  # which tells of it
                raise
            continue
        if not json:
            if i:
                typer.echo("")
            _print_selection(about)
        yield asdict(about)


def _draw(
    place: Path, folders: list[tuple[Path, str | None]], sheet: Path, *, json: bool
) -> dict[str, Any]:
    from vidcurate.shards.contact_sheet import contact_sheet

    if not folders:
        raise UserError(f"no index names {place}: vidcurate index {place.parent} first")
    ((folder, only),) = folders
    drawn = contact_sheet(folder, sheet, only=only)
    if not json:
        shown = f"{count(drawn.samples, 'sample')} of {count(drawn.buckets, 'bucket')}"
        typer.echo(f"\ncontact sheet of {shown}: {drawn.path}")
    for sample, reason in drawn.missing.items():
        print_error(f"no picture of {sample}: {reason}")
    return asdict(drawn)


def _checked(
    place: Path, folders: list[tuple[Path, str | None]], *, json: bool
) -> Iterator[Problem]:
    """Each problem, printed as it is found."""
    from vidcurate.cli.progress import working
    from vidcurate.report.format import size
    from vidcurate.shards.verify import verify

    found = 0
    if not folders:
        for problem in _form(place):
            found += 1
            yield problem
        if not json:
            typer.echo("\nthere is no index and no checksum to compare: only its form was checked")
    for folder, only in folders:
        with working("verify") as show:
            for problem in verify(
                folder,
                only=only,
                progress=lambda done, total: show(f"{size(done)} of {size(total)}", done, total),
            ):
                found += 1
                _print_problem(folder, problem)
                yield problem
    if not json:
        typer.echo(f"\nverified: {'no problems' if not found else count(found, 'problem')}")


def _form(tar: Path) -> Iterator[Problem]:
    """What is wrong with the form of a tar that no index names, printed as it is found."""
    from vidcurate.shards.verify import verify_tar

    for problem in verify_tar(tar):
        _print_problem(tar.parent, problem)
        yield problem


def _print_problem(folder: Path, problem: Problem) -> None:
    where = str(folder / problem.shard) if problem.shard else str(folder)
    if problem.sample_id:
        where += f", sample {problem.sample_id}"
    if problem.offset is not None:
        where += f", byte {problem.offset}"
    print_error(f"{where}: {problem.reason}")


def _print_selection(about: Inspection) -> None:
    from vidcurate.report import format

    typer.echo(printable(f"{about.selection}  {about.folder}"))
    length = format.span(60 * about.minutes)
    rows = [
        ("samples", f"{about.samples:,} of {count(about.videos, 'video')}, {length}"),
        ("shards", f"{about.shards:,}, {format.size(about.bytes)}"),
        ("split", _counts(about.splits)),
        ("captions", _counts(about.captions) or "none"),
        ("with sound", f"{about.sound:,}"),
    ]
    if about.vfr:
        rows.append(("variable rate", f"{about.vfr:,}"))
    if about.failures or about.no_bucket:
        what = "left out by the index" if about.is_foreign else "could not be packed"
        text = f"{about.failures:,} {what}, {about.no_bucket:,} without a bucket"
        rows.append(("not here", text))
    makers = "; ".join(" ".join(f"{k} {v}" for k, v in made.items()) for made in about.made_by)
    if about.derived is not None:
        vae, tower = about.derived["vae"], about.derived["text"] or {}
        kind = about.derived["settings"].get("dtype")
        name = vae.get("name") or "pixels"
        rows.append(("latents", f"{name}, {vae.get('channels')} channels, {kind}"))
        rows.append(("text", tower.get("name") or "none"))
    done = "precached" if about.derived else "indexed" if about.is_foreign else "packed"
    rows.append((f"{done} by", makers))
    if about.chosen is not None:  # as a recipe can have it
        rows.append(("auto buckets", dumps(about.chosen)))
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        typer.echo(printable(f"  {name.ljust(width)}  {text}"))
    typer.echo("")
    print_table(
        ["bucket", "size", "frames", "samples", "length", "bytes", "shards"],
        [
            (
                b.name,
                f"{b.width}x{b.height}" if b.width else "own",
                b.frames or "own",
                f"{b.samples:,}",
                format.span(60 * b.minutes),
                format.size(b.bytes),
                f"{b.shards:,}",
            )
            for b in about.buckets
        ],
    )
    if about.scores:
        typer.echo("")
        print_table(
            ["score", "samples", "lowest", "median", "highest"],
            [
                (name, f"{s.samples:,}", *map(format.value, (s.low, s.median, s.high)))
                for name, s in about.scores.items()
            ],
        )


def _counts(counts: Any) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in counts.items())


def _print_samples(shard: Path, samples: list[SampleFacts], *, has_index: bool) -> None:
    from vidcurate.report import format

    typer.echo(f"{shard}  {count(len(samples), 'sample')}{'' if has_index else ', no index'}\n")
    columns = ["sample", "size", "frames", "fps", "seconds", "bytes", "members", "split", "caption"]
    rows = []
    for sample in samples:
        known = sample.n_frames is not None
        rows.append(
            (
                sample.sample_id,
                f"{sample.width}x{sample.height}" if known else None,
                sample.n_frames,
                f"{sample.fps:.4g}" if known else None,
                f"{sample.seconds:.2f}" if known else None,
                format.size(sum(size for _, size in sample.members.values())),
                " ".join(sample.members),
                sample.split,
                sample.caption,
            )
        )
    print_table(columns, rows)
